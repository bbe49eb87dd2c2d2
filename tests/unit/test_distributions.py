import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from gymnax.environments import spaces
from jax.test_util import check_grads

from purerl import distributions
from purerl.distributions import beta, categorical, for_space, hybrid, joint, normal, parameterised, point, tanh_normal
from purerl.envs import Parameterised

P = jnp.array([0.4, -0.3, -0.5, 0.2])  # two dimensions: means, then log deviations
CASES = {
    "categorical": (categorical(4), P),
    "normal": (normal(-2.0, 6.0, (2,)), P),
    "unbounded": (normal(shape=(2,)), P),
    "tanh_normal": (tanh_normal(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), (2,)), P),
    "clipped": (tanh_normal(-1.0, 3.0, (2,), False, log_scale=(-0.25, 0.1)), P),
    "beta": (beta(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), (2,)), 3 * P),
    "joint": (
        joint({"kind": categorical(3), "rest": (normal(0.0, 1.0), point(0.0, 2.0))}),
        jnp.concatenate([P, P[:2]]),
    ),
    "parameterised": (parameterised((normal(0.0, 1.0), categorical(3))), jnp.concatenate([P, P[:3]])),
}


def leading(action):
    """The shape of the leaf of an action that has the fewest axes."""
    return min((x.shape for x in jax.tree.leaves(action)), key=len)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_entropy_and_kl_are_those_of_the_samples(case, key):
    pi, p = case
    q = p[::-1] * 0.5
    many = 200_000
    x, log_p = pi.draw(key, jnp.broadcast_to(p, (many, *p.shape)))
    np.testing.assert_allclose(pi.log_prob(p[None].repeat(many, 0), x), log_p, atol=2e-2)
    log_q = pi.log_prob(q[None].repeat(many, 0), x)
    for exact, estimate in ((pi.entropy(p), -log_p), (pi.kl(p, q), log_p - log_q)):
        error = 5 * estimate.std() / math.sqrt(many)
        assert abs(exact - estimate.mean()) < error + 1e-4
    assert abs(pi.kl(p, p)) < 1e-6


def test_any_leading_axes(case, key):
    pi, p = case
    for lead in ((), (5,), (2, 5)):
        many = jnp.broadcast_to(p, (*lead, *p.shape))
        action = pi.sample(key, many)
        for f in (pi.log_prob(many, action), pi.entropy(many), pi.kl(many, many)):
            assert f.shape == lead
        assert jax.tree.map(jnp.shape, pi.mode(many)) == jax.tree.map(jnp.shape, action)
    keys = jax.random.split(key, 5)
    assert leading(jax.vmap(pi.sample)(keys, jnp.broadcast_to(p, (5, *p.shape))))[0] == 5


def test_gradients(case):
    pi, p = case
    q = p * 0.5
    action = pi.mode(q)
    for f in (lambda p: pi.log_prob(p, action), pi.entropy, lambda p: pi.kl(p, q)):
        check_grads(f, (p,), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)


def test_categorical_against_scipy(key):
    p = scipy.special.softmax(np.asarray(P, np.float64))
    pi = categorical(4)
    np.testing.assert_allclose(jax.vmap(lambda a: pi.log_prob(P, a))(jnp.arange(4)), np.log(p), rtol=1e-5)
    np.testing.assert_allclose(pi.entropy(P), scipy.stats.entropy(p), rtol=1e-5)
    np.testing.assert_allclose(pi.kl(P, -P), scipy.stats.entropy(p, scipy.special.softmax(-np.asarray(P))), rtol=1e-5)
    counts = np.bincount(pi.sample(key, jnp.broadcast_to(P, (20_000, 4))), minlength=4)
    assert scipy.stats.chisquare(counts, 20_000 * p).pvalue > 1e-4
    assert pi.mode(P) == 0


def test_a_masked_action_never_happens_and_nothing_becomes_nan(key):
    pi, p = categorical(3), jnp.array([0.0, -jnp.inf, 1.0])
    assert not (pi.sample(key, jnp.broadcast_to(p, (10_000, 3))) == 1).any()
    assert np.isfinite([pi.entropy(p), pi.kl(p, p)]).all()
    assert np.isfinite(jax.grad(lambda x: pi.entropy(jnp.where(jnp.isinf(p), p, x)))(p)).all()


def test_extreme_logits_stay_finite():
    pi, p = categorical(2), jnp.array([1e4, -1e4])
    assert np.isfinite([pi.entropy(p), pi.log_prob(p, 1), pi.kl(p, -p)]).all()
    assert np.isfinite(jax.grad(pi.entropy)(p)).all()


def test_normal_is_in_the_actions_own_units():
    pi = normal(-2.0, 6.0, (2,))
    mean, std = 2 + 4 * np.asarray(P[:2]), 4 * np.exp(P[2:])
    x = jnp.array([1.0, -3.0])
    np.testing.assert_allclose(pi.mode(P), mean, rtol=1e-6)
    np.testing.assert_allclose(pi.log_prob(P, x), scipy.stats.norm(mean, std).logpdf(x).sum(), rtol=1e-5)
    np.testing.assert_allclose(pi.entropy(P), scipy.stats.norm(mean, std).entropy().sum(), rtol=1e-5)


def test_tanh_normal_density_integrates_to_one_in_the_actions_units():
    pi, p = tanh_normal(-2.0, 6.0, (1,)), jnp.array([0.5, -0.2])
    edge = np.linspace(-2, 6, 400_001)
    x = jnp.asarray((edge[1:] + edge[:-1]) / 2)[:, None]
    density = np.exp(np.asarray(pi.log_prob(jnp.broadcast_to(p, (len(x), 2)), x), np.float64))
    assert abs(density.sum() * (edge[1] - edge[0]) - 1) < 1e-3
    positive = density > 0
    entropy = -(density[positive] * np.log(density[positive])).sum() * (edge[1] - edge[0])
    assert abs(entropy - pi.entropy(p)) < 1e-3


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (2.0, -1.0), (-1.0, 0.5), (4.0, -3.0)])
def test_tanh_normal_entropy_against_a_fine_integral(mean, log_std):
    u = np.linspace(mean - 12 * math.exp(log_std), mean + 12 * math.exp(log_std), 2_000_001)
    weight = scipy.stats.norm(mean, math.exp(log_std)).pdf(u) * (u[1] - u[0])
    slope = 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
    expected = scipy.stats.norm(mean, math.exp(log_std)).entropy() + (weight * slope).sum()
    got = tanh_normal(-1.0, 1.0, (1,)).entropy(jnp.array([mean, log_std]))
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_tanh_normal_stays_inside_and_finite_when_saturated(key):
    pi, p = tanh_normal(-2.0, 2.0, (1,)), jnp.array([50.0, 1.0])
    x = pi.sample(key, jnp.broadcast_to(p, (1000, 2)))
    assert (jnp.abs(x) <= 2).all()
    value, slope = jax.value_and_grad(lambda p: pi.log_prob(jnp.broadcast_to(p, (1000, 2)), x).sum())(p)
    assert np.isfinite(value) and np.isfinite(slope).all() and np.isfinite(pi.entropy(p))


@pytest.mark.parametrize("mean, log_std", [(6.5, 0.0), (-7.5, -1.0), (9.0, 1.0)])
def test_tanh_normal_at_the_bounds_has_the_probability_of_what_is_beyond(mean, log_std):
    pi, p = tanh_normal(-1.0, 3.0, (1,)), jnp.array([mean, log_std])
    edge = np.tanh(np.linspace(-6.99, 6.99, 200_001))  # fine where tanh is flat
    x = 1 + (edge[1:] + edge[:-1])
    log_prob = jax.vmap(lambda x: pi.log_prob(p, x))(jnp.float32(x)[:, None])
    inside = (np.exp(np.asarray(log_prob, np.float64)) * 2 * np.diff(edge)).sum()
    atoms = np.exp([pi.log_prob(p, jnp.array([bound])).item() for bound in (-1.0, 3.0)])
    beyond = scipy.stats.norm(mean, math.exp(log_std))
    np.testing.assert_allclose(atoms, [beyond.cdf(-7), beyond.sf(7)], rtol=1e-5, atol=1e-30)
    assert abs(inside + atoms.sum() - 1) < 0.02


def test_tanh_normal_far_outside_tells_a_policy_from_one_beside_it():
    """The action is at the bound whatever u was; read off as one u, it made log-ratios of thousands, and NaN of PPO."""
    pi, x = tanh_normal(-1.0, 1.0, (1,), free_scale=False), jnp.array([1.0])
    slope = jax.grad(pi.log_prob)(jnp.array([40.0, -5.0]), x)
    assert pi.log_prob(jnp.array([40.0, -5.0]), x) == 0 and not slope.any()
    low = pi.log_prob(jnp.array([6.0, -20.0]), x)  # a hundred million σ away
    assert np.isfinite(low) and np.isfinite(jax.grad(pi.log_prob)(jnp.array([6.0, -20.0]), x)).all()


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, np.inf), (-np.inf, 3.0), (-np.inf, np.inf)])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_for_space_takes_a_box_of_any_bounds_and_shape(low, high, shape, key):
    space = spaces.Box(jnp.full(shape, low), jnp.full(shape, high), shape)
    pi = for_space(space)
    p = jnp.zeros((7, pi.num_params))
    action = pi.sample(key, p)
    assert action.shape == (7, *shape) and action.dtype == jnp.float32
    assert pi.num_params == 2 * math.prod(shape) and pi.log_prob(p, action).shape == (7,)
    clipped = distributions.clip_to_space(space, 100 * action)
    assert ((clipped >= low) & (clipped <= high)).all()


def test_for_space_takes_discrete_and_refuses_the_rest():
    assert for_space(spaces.Discrete(5)).num_params == 5
    assert for_space(spaces.Box(-1.0, 1.0, (2,)), box=tanh_normal).num_params == 4
    with pytest.raises(ValueError, match="allowed are Discrete, Box, and Dict and Tuple"):
        for_space(spaces.Tuple([spaces.Space()]))
    with pytest.raises(ValueError, match="bounds must be finite"):
        for_space(spaces.Box(0.0, jnp.inf, (2,)), box=tanh_normal)
    with pytest.raises(ValueError, match="low must be less than high"):
        normal(1.0, 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        categorical(0)


def test_beta_against_scipy(key):
    low, high, p = np.array([-1.0, 0.0]), np.array([1.0, 10.0]), 3 * np.asarray(P, np.float64)
    pi = beta(low, high, (2,))
    a, b = 1 + np.logaddexp(0, p[:2]), 1 + np.logaddexp(0, p[2:])
    exact = scipy.stats.beta(a, b, low, high - low)
    x = np.asarray(pi.sample(key, jnp.broadcast_to(3 * P, (20_000, 4))))
    for axis in (0, 1):
        one = scipy.stats.beta(a[axis], b[axis], low[axis], high[axis] - low[axis])
        assert scipy.stats.kstest(x[:, axis], one.cdf).pvalue > 1e-4
    np.testing.assert_allclose(pi.log_prob(jnp.broadcast_to(3 * P, (20_000, 4)), x), exact.logpdf(x).sum(-1), atol=1e-3)
    np.testing.assert_allclose(pi.entropy(3 * P), exact.entropy().sum(), rtol=1e-4)
    np.testing.assert_allclose(pi.mode(3 * P), low + (high - low) * (a - 1) / (a + b - 2), rtol=1e-4)


def test_extreme_parameters_of_beta_stay_finite():
    pi = beta(-1.0, 1.0)
    for p in (jnp.array([-200.0, -200.0]), jnp.array([500.0, -200.0])):
        for x in (-1.0, 0.3, 1.0):
            value, slope = jax.value_and_grad(lambda p: pi.log_prob(p, jnp.array([x])))(p)
            assert np.isfinite(value) and np.isfinite(slope).all()
        assert np.isfinite([pi.entropy(p), *pi.mode(p)]).all()


def test_a_joint_is_the_sum_of_its_parts(key):
    parts = {"kind": categorical(3), "rest": (normal(0.0, 1.0), beta(0.0, 2.0))}
    pi = joint(parts)
    assert (pi.num_params, pi.num_free) == (7, 1)  # the normal's deviation is free, and comes last
    p = jnp.array([0.1, 0.2, 0.3, 0.5, -0.4, 0.7, -1.0])
    own = {"kind": p[:3], "rest": (p[jnp.array([3, 6])], p[4:6])}
    action = pi.sample(key, p)
    assert set(action) == {"kind", "rest"} and len(action["rest"]) == 2
    each = [parts["kind"], *parts["rest"]], [own["kind"], *own["rest"]], [action["kind"], *action["rest"]]
    np.testing.assert_allclose(
        pi.log_prob(p, action), sum(d.log_prob(q, a) for d, q, a in zip(*each, strict=True)), rtol=1e-6
    )
    np.testing.assert_allclose(pi.entropy(p), sum(d.entropy(q) for d, q in zip(*each[:2], strict=True)), rtol=1e-6)
    legal = {"kind": jnp.array([False, True, False])}
    assert pi.mode(pi.mask(p, legal))["kind"] == 1 and pi.mode(p)["kind"] == 2
    np.testing.assert_allclose(pi.mask(p, legal)[3:], p[3:])
    with pytest.raises(ValueError, match=r"joint: parts is \{'kind': 3\}"):
        joint({"kind": 3})


@pytest.mark.parametrize("make", [joint, parameterised])
def test_parts_are_drawn_independently(make, key):
    pi = make((normal(), normal(), categorical(2)))
    p = jnp.zeros((10_000, pi.num_params))
    for draw in (pi.sample, lambda key, p: pi.draw(key, p)[0]):
        action = draw(key, p)
        parts = action["parameters"] if make is parameterised else action
        drawn = [x.reshape(len(p)) for x in (*parts, *([action["choice"]] if make is parameterised else []))]
        assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.05


def test_a_parameterised_space_has_as_many_kinds_as_branches(key):
    space = Parameterised([spaces.Box(0.0, 1.0, (1,)), spaces.Box(0.0, 2.0, (2,))])
    actions = jax.vmap(space.sample)(jax.random.split(key, 200))
    assert np.unique(actions["choice"]).tolist() == [0, 1]
    assert jax.tree.map(jnp.shape, actions["parameters"]) == ((200, 1), (200, 2))
    pi = for_space(space)
    assert np.isfinite(pi.log_prob(jnp.zeros((200, pi.num_params)), actions)).all()


def test_parameters_count_only_if_their_kind_is_chosen():
    pi = parameterised((normal(0.0, 1.0), normal(0.0, 1.0)))
    p = jnp.array([0.3, -0.2, 0.5, 0.1, -1.0, 0.4])  # logits, means, deviations
    at = lambda k, x, y: {"choice": jnp.int32(k), "parameters": (jnp.array([x]), jnp.array([y]))}
    assert pi.log_prob(p, at(0, 0.2, 0.9)) == pi.log_prob(p, at(0, 0.2, 0.1))
    assert pi.log_prob(p, at(1, 0.2, 0.9)) != pi.log_prob(p, at(1, 0.2, 0.1))
    probs = jax.nn.softmax(p[:2])
    each = jnp.array([normal(0.0, 1.0).entropy(q) for q in (p[jnp.array([2, 4])], p[jnp.array([3, 5])])])
    np.testing.assert_allclose(pi.entropy(p), categorical(2).entropy(p[:2]) + (probs * each).sum(), rtol=1e-6)


NESTED = spaces.Dict(
    {
        "kind": spaces.Discrete(3),
        "more": spaces.Tuple([spaces.Box(-1.0, 3.0, (2,)), spaces.Discrete(2), spaces.Box(0.0, 1.0, ())]),
    }
)


def test_every_space_has_a_policy(key):
    pi = for_space(NESTED)
    action = pi.sample(key, jnp.zeros((4, pi.num_params)))
    assert jax.tree.map(jnp.shape, action) == {"kind": (4,), "more": ((4, 2), (4,), (4,))}
    pi = for_space(spaces.Tuple([Parameterised([spaces.Box(0.0, 1.0, (1,))] * 2), spaces.Discrete(2)]), box=beta)
    assert pi.sample(key, jnp.zeros(pi.num_params))[0].keys() == {"choice", "parameters"}
    clipped = distributions.clip_to_space(NESTED, {"kind": 1, "more": (jnp.array([-9.0, 9.0]), 1, jnp.array(7.0))})
    assert clipped["more"][0].tolist() == [-1.0, 3.0] and clipped["more"][2] == 1.0 and clipped["kind"] == 1
    with pytest.raises(ValueError, match=r"branches is \(\); there must be at least one"):
        Parameterised(())


def test_a_hybrid_takes_actions_apart_and_together(key):
    pi = hybrid(NESTED, point)
    assert (pi.choice.num_params, pi.continuous.num_params) == (6, 3)
    np.testing.assert_array_equal(pi.half, [2.0, 2.0, 0.5])
    k, x = jnp.array([0, 3, 5]), jax.random.uniform(key, (3, 3))
    action = pi.join(k, x)
    assert action["kind"].tolist() == [0, 1, 2] and action["more"][1].tolist() == [0, 1, 1]
    again = pi.split(action)
    np.testing.assert_array_equal(again[0], k)
    np.testing.assert_array_equal(again[1], x)
    legal = {"kind": jnp.array([[True, False, True]]), "more": (None, jnp.array([[False, True]]))}
    assert jnp.isfinite(pi.mask(jnp.zeros((1, 9)), legal))[0, :6].tolist() == [False, True, False, False, False, True]
    only = hybrid(spaces.Discrete(4))
    assert only.join(jnp.array([2]), jnp.zeros((1, 0))).tolist() == [2] and only.half.size == 0
    assert hybrid(spaces.Box(-1.0, 1.0, (2,))).choice.num_params == 1
    with pytest.raises(ValueError, match=r"hybrid: bounds must be finite"):
        hybrid(spaces.Box(-jnp.inf, 1.0, (2,)))


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"action_mask has shape \(2,\); it must be that of the logits, \(3,\)"):
        distributions.mask_logits(jnp.zeros(3), jnp.array([True, False]))
