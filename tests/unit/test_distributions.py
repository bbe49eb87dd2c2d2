import math
from functools import cache

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from gymnax.environments import spaces

import purerl
from purerl import build, distributions
from purerl.distributions import (
    bernoulli,
    beta,
    categorical,
    deterministic,
    for_space,
    hybrid,
    joint,
    multi_categorical,
    normal,
    parameterised,
    tanh_normal,
)
from purerl.envs import Parameterised
from purerl.envs.spaces import MultiBinary, MultiDiscrete

P = jnp.array([0.4, -0.3, -0.5, 0.2])  # two dimensions: means, then log deviations
CASES = {
    "categorical": (categorical(4), P),
    "normal": (normal(-2.0, 6.0, (2,)), P),
    "unbounded": (normal(shape=(2,)), P),
    "tanh_normal": (tanh_normal(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), (2,)), P),
    "clipped": (tanh_normal(-1.0, 3.0, (2,), False, log_scale=(-0.25, 0.1)), P),
    "beta": (beta(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), (2,)), 3 * P),
    "joint": (
        joint({"kind": categorical(3), "rest": (normal(0.0, 1.0), deterministic(0.0, 2.0))}),
        jnp.concatenate([P, P[:2]]),
    ),
    "multi_categorical": (multi_categorical([[2, 3], [1, 2]]), jnp.concatenate([P, -P])),
    "bernoulli": (bernoulli((2, 2)), P),
    "parameterised": (parameterised((normal(0.0, 1.0), categorical(3))), jnp.concatenate([P, P[:3]])),
}


def leading(action):
    """The shape of the leaf of an action that has the fewest axes."""
    return min((x.shape for x in jax.tree.leaves(action)), key=len)


MANY = 20_000


@cache
def measured(name):
    """What the tests ask of a distribution, by one program."""
    pi, p = CASES[name]
    q = p[::-1] * 0.5
    action = pi.mode(p * 0.5)
    other = p * 0.5
    of_p = [lambda p: pi.log_prob(p, action), pi.entropy, lambda p: pi.kl(p, other)]

    @jax.jit
    def program(key, p, q):
        x, log_p = pi.sample_and_log_prob(key, jnp.broadcast_to(p, (MANY, *p.shape)))
        log_prob, log_q = (pi.log_prob(jnp.broadcast_to(y, (MANY, *p.shape)), x) for y in (p, q))
        near = p + 1e-2 * jnp.concatenate([jnp.eye(p.size), -jnp.eye(p.size)])
        slopes = [(jax.grad(f)(p), jax.vmap(f)(near)) for f in of_p]
        exact = {"entropy": pi.entropy(p), "kl": pi.kl(p, q), "kl of itself": pi.kl(p, p), "mode": pi.mode(p)}
        return (x, log_p, log_prob, log_q), exact, slopes

    return jax.tree.map(np.asarray, program(jax.random.key(0), p, q))


@pytest.mark.parametrize("name", CASES)
def test_entropy_and_kl_are_those_of_the_samples(name):
    (_, log_p, log_prob, log_q), given, _ = measured(name)
    np.testing.assert_allclose(log_prob, log_p, atol=2e-2)
    for exact, estimate in ((given["entropy"], -log_p), (given["kl"], log_p - log_q)):
        error = 5 * estimate.std() / math.sqrt(MANY)
        assert abs(exact - estimate.mean()) < error + 1e-4
    assert abs(given["kl of itself"]) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_any_leading_axes(name, key):
    pi, p = CASES[name]
    shapes = lambda f, *args: jax.tree.map(jnp.shape, jax.eval_shape(f, *args))
    for lead in ((), (5,), (2, 5)):
        many = jnp.broadcast_to(p, (*lead, *p.shape))
        action = jax.eval_shape(pi.sample, key, many)
        for f, *args in ((pi.log_prob, many, action), (pi.entropy, many), (pi.kl, many, many)):
            assert shapes(f, *args) == lead
        assert shapes(pi.mode, many) == jax.tree.map(jnp.shape, action)
    keys = jax.random.split(key, 5)
    drawn = jax.eval_shape(jax.vmap(pi.sample), keys, jnp.broadcast_to(p, (5, *p.shape)))
    assert leading(drawn)[0] == 5


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    _, _, slopes = measured(name)
    for slope, near in slopes:
        above, below = np.split(near, 2)
        np.testing.assert_allclose(slope, (above - below) / 2e-2, rtol=2e-2, atol=2e-2)


def test_categorical_against_scipy(key):
    p = scipy.special.softmax(np.asarray(P, np.float64))
    pi = categorical(4)

    @jax.jit
    def of(key, logits):
        log_probs = jax.vmap(lambda a: pi.log_prob(logits, a))(jnp.arange(4))
        drawn = pi.sample(key, jnp.broadcast_to(logits, (20_000, 4)))
        return log_probs, pi.entropy(logits), pi.kl(logits, -logits), drawn, pi.mode(logits)

    log_probs, entropy, kl, drawn, mode = of(key, P)
    np.testing.assert_allclose(log_probs, np.log(p), rtol=1e-5)
    np.testing.assert_allclose(entropy, scipy.stats.entropy(p), rtol=1e-5)
    np.testing.assert_allclose(kl, scipy.stats.entropy(p, scipy.special.softmax(-np.asarray(P))), rtol=1e-5)
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=4), 20_000 * p).pvalue > 1e-4
    assert mode == 0


def test_a_masked_action_never_happens_and_nothing_becomes_nan(key):
    pi, p = categorical(3), np.array([0.0, -np.inf, 1.0], np.float32)

    @jax.jit
    def of(key):
        slope = jax.grad(lambda x: pi.entropy(jnp.where(np.isinf(p), p, x)))(p)
        return pi.sample(key, jnp.broadcast_to(p, (10_000, 3))), pi.entropy(p), pi.kl(p, p), slope

    drawn, *rest = of(key)
    assert not (np.asarray(drawn) == 1).any()
    assert all(np.isfinite(x).all() for x in rest)


def test_extreme_logits_stay_finite():
    pi, p = categorical(2), jnp.array([1e4, -1e4])
    of = jax.jit(lambda p: (pi.entropy(p), pi.log_prob(p, 1), pi.kl(p, -p), jax.grad(pi.entropy)(p)))
    assert all(np.isfinite(x).all() for x in of(p))


def test_normal_is_in_the_actions_own_units():
    pi = normal(-2.0, 6.0, (2,))
    mean, std = 2 + 4 * np.asarray(P[:2]), 4 * np.exp(P[2:])
    x = np.array([1.0, -3.0], np.float32)
    mode, log_prob, entropy = jax.jit(lambda p: (pi.mode(p), pi.log_prob(p, x), pi.entropy(p)))(P)
    np.testing.assert_allclose(mode, mean, rtol=1e-6)
    np.testing.assert_allclose(log_prob, scipy.stats.norm(mean, std).logpdf(x).sum(), rtol=1e-5)
    np.testing.assert_allclose(entropy, scipy.stats.norm(mean, std).entropy().sum(), rtol=1e-5)


def log_probs_and_entropy(pi):
    """The program `(p [2], x [M, 1]) -> log-probabilities [M] and the entropy`."""
    return jax.jit(lambda p, x: (pi.log_prob(jnp.broadcast_to(p, (len(x), 2)), x), pi.entropy(p)))


def test_tanh_normal_density_integrates_to_one_in_the_actions_units():
    edge = np.linspace(-2, 6, 400_001)
    x = np.float32((edge[1:] + edge[:-1]) / 2)[:, None]
    log_probs, entropy = log_probs_and_entropy(tanh_normal(-2.0, 6.0, (1,)))(np.float32([0.5, -0.2]), x)
    density = np.exp(np.asarray(log_probs, np.float64))
    assert abs(density.sum() * (edge[1] - edge[0]) - 1) < 1e-3
    positive = density > 0
    integral = -(density[positive] * np.log(density[positive])).sum() * (edge[1] - edge[0])
    assert abs(integral - entropy) < 1e-3


entropy_of_tanh_normal = jax.jit(tanh_normal(-1.0, 1.0, (1,)).entropy)
at_bounds = log_probs_and_entropy(tanh_normal(-1.0, 3.0, (1,)))


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (2.0, -1.0), (-1.0, 0.5), (4.0, -3.0)])
def test_tanh_normal_entropy_against_a_fine_integral(mean, log_std):
    u = np.linspace(mean - 12 * math.exp(log_std), mean + 12 * math.exp(log_std), 2_000_001)
    weight = scipy.stats.norm(mean, math.exp(log_std)).pdf(u) * (u[1] - u[0])
    slope = 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
    expected = scipy.stats.norm(mean, math.exp(log_std)).entropy() + (weight * slope).sum()
    got = entropy_of_tanh_normal(np.float32([mean, log_std]))
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_tanh_normal_stays_inside_and_finite_when_saturated(key):
    pi, p = tanh_normal(-2.0, 2.0, (1,)), jnp.array([50.0, 1.0])

    @jax.jit
    def of(key, p):
        x = pi.sample(key, jnp.broadcast_to(p, (1000, 2)))
        total = lambda p: pi.log_prob(jnp.broadcast_to(p, (1000, 2)), x).sum()
        return x, (*jax.value_and_grad(total)(p), pi.entropy(p))

    x, rest = of(key, p)
    assert (np.abs(x) <= 2).all()
    assert all(np.isfinite(y).all() for y in rest)


@pytest.mark.parametrize("mean, log_std", [(6.5, 0.0), (-7.5, -1.0), (9.0, 1.0)])
def test_tanh_normal_at_the_bounds_has_the_probability_of_what_is_beyond(mean, log_std):
    edge = np.tanh(np.linspace(-6.99, 6.99, 200_001))  # fine where tanh is flat
    x = np.concatenate([1 + (edge[1:] + edge[:-1]), [-1.0, 3.0]])
    probs = np.exp(np.asarray(at_bounds(np.float32([mean, log_std]), np.float32(x)[:, None])[0], np.float64))
    inside, atoms = (probs[:-2] * 2 * np.diff(edge)).sum(), probs[-2:]
    beyond = scipy.stats.norm(mean, math.exp(log_std))
    np.testing.assert_allclose(atoms, [beyond.cdf(-7), beyond.sf(7)], rtol=1e-5, atol=1e-30)
    assert abs(inside + atoms.sum() - 1) < 0.02


def test_tanh_normal_far_outside_tells_a_policy_from_one_beside_it():
    """The action is at the bound whatever u was; read off as one u, it made log-ratios of thousands, and NaN of PPO."""
    pi, x = tanh_normal(-1.0, 1.0, (1,), free_scale=False), np.ones(1, np.float32)
    of = jax.jit(jax.value_and_grad(lambda p: pi.log_prob(p, x)))
    value, slope = of(jnp.array([40.0, -5.0]))
    assert value == 0 and not np.asarray(slope).any()
    low, slope = of(jnp.array([6.0, -20.0]))  # a hundred million σ away
    assert np.isfinite(low) and np.isfinite(slope).all()


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, np.inf), (-np.inf, 3.0), (-np.inf, np.inf)])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_for_space_takes_a_box_of_any_bounds_and_shape(low, high, shape, key):
    space = spaces.Box(np.full(shape, low), np.full(shape, high), shape)
    pi = for_space(space)
    p = jnp.zeros((7, pi.num_params))
    action = jax.eval_shape(pi.sample, key, p)
    assert action.shape == (7, *shape) and action.dtype == jnp.float32
    assert pi.num_params == 2 * math.prod(shape) and jax.eval_shape(pi.log_prob, p, action).shape == (7,)
    far = 100 * np.random.default_rng(0).normal(size=(7, *shape)).astype(np.float32)
    clipped = np.asarray(distributions.clip_to_space(space, far))
    assert ((clipped >= low) & (clipped <= high)).all()
    np.testing.assert_array_equal(clipped, np.clip(far, low, high))


def test_for_space_takes_discrete_and_refuses_the_rest():
    assert for_space(spaces.Discrete(5)).num_params == 5
    assert for_space(spaces.Box(-1.0, 1.0, (2,)), box=tanh_normal).num_params == 4
    with pytest.raises(ValueError, match="allowed are Discrete, MultiDiscrete, MultiBinary, Box, and Dict and Tuple"):
        for_space(spaces.Tuple([spaces.Space()]))
    with pytest.raises(ValueError, match="bounds must be finite"):
        for_space(spaces.Box(0.0, jnp.inf, (2,)), box=tanh_normal)
    for call in (lambda: normal(1.0, 1.0), lambda: for_space(spaces.Box(1.0, 1.0, (2,)), box=tanh_normal)):
        with pytest.raises(ValueError, match="low must be less than high"):
            call()
    with pytest.raises(ValueError, match="at least 1"):
        categorical(0)


def test_beta_against_scipy():
    low, high, p = np.array([-1.0, 0.0]), np.array([1.0, 10.0]), 3 * np.asarray(P, np.float64)
    a, b = 1 + np.logaddexp(0, p[:2]), 1 + np.logaddexp(0, p[2:])
    exact = scipy.stats.beta(a, b, low, high - low)
    (x, _, log_prob, _), given, _ = measured("beta")
    x, log_prob = x[:20_000], log_prob[:20_000]
    for axis in (0, 1):
        one = scipy.stats.beta(a[axis], b[axis], low[axis], high[axis] - low[axis])
        assert scipy.stats.kstest(x[:, axis], one.cdf).pvalue > 1e-4
    np.testing.assert_allclose(log_prob, exact.logpdf(x).sum(-1), atol=1e-3)
    np.testing.assert_allclose(given["entropy"], exact.entropy().sum(), rtol=1e-4)
    np.testing.assert_allclose(given["mode"], low + (high - low) * (a - 1) / (a + b - 2), rtol=1e-4)


def test_extreme_parameters_of_beta_stay_finite():
    pi = beta(-1.0, 1.0)
    of_action = jax.vmap(lambda p, x: jax.value_and_grad(pi.log_prob)(p, x[None]), (None, 0))
    of = jax.jit(jax.vmap(lambda p, x: (of_action(p, x), pi.entropy(p), pi.mode(p)), (0, None)))
    found = of(jnp.array([[-200.0, -200.0], [500.0, -200.0]]), jnp.array([-1.0, 0.3, 1.0]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_a_joint_is_the_sum_of_its_parts(key):
    parts = {"kind": categorical(3), "rest": (normal(0.0, 1.0), normal(0.0, 2.0, free_scale=False))}
    pi = joint(parts)
    assert (pi.num_params, pi.num_free) == (7, 1)  # the first normal's deviation is free, and comes last
    p = np.float32([0.1, 0.2, 0.3, 0.5, -0.4, 0.7, -1.0])
    own = [p[:3], p[[3, 6]], p[4:6]]
    legal = {"kind": np.array([False, True, False])}

    @jax.jit
    def of(key, p):
        action = pi.sample(key, p)
        each = [parts["kind"], *parts["rest"]]
        log_prob = sum(d.log_prob(q, a) for d, q, a in zip(each, own, jax.tree.leaves(action), strict=True))
        entropy = sum(d.entropy(q) for d, q in zip(each, own, strict=True))
        modes = pi.mode(p)["kind"], pi.mode(pi.mask(p, legal))["kind"]
        return action, (pi.log_prob(p, action), log_prob), (pi.entropy(p), entropy), modes, pi.mask(p, legal)

    action, log_probs, entropies, modes, masked = of(key, p)
    assert set(action) == {"kind", "rest"} and len(action["rest"]) == 2
    np.testing.assert_allclose(*log_probs, rtol=1e-6)
    np.testing.assert_allclose(*entropies, rtol=1e-6)
    assert modes == (2, 1)
    np.testing.assert_allclose(masked[3:], p[3:])
    with pytest.raises(ValueError, match=r"joint: parts is \{'kind': 3\}"):
        joint({"kind": 3})
    with pytest.raises(ValueError, match=r"joint: parts is \{\}; it must be a nesting of dicts and tuples"):
        joint({})


@pytest.mark.parametrize("make", [joint, parameterised])
def test_parts_are_drawn_independently(make, key):
    pi = make((normal(), normal(), categorical(2)))
    p = jnp.zeros((10_000, pi.num_params))
    for action in jax.jit(lambda key, p: (pi.sample(key, p), pi.sample_and_log_prob(key, p)[0]))(key, p):
        parts = action["parameters"] if make is parameterised else action
        drawn = [x.reshape(len(p)) for x in (*parts, *([action["choice"]] if make is parameterised else []))]
        assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.05


def test_a_parameterised_space_has_as_many_kinds_as_branches(key):
    space = Parameterised([spaces.Box(0.0, 1.0, (1,)), spaces.Box(0.0, 2.0, (2,))])
    pi = for_space(space)

    @jax.jit
    def of(keys):
        actions = jax.vmap(space.sample)(keys)
        return actions, pi.log_prob(jnp.zeros((200, pi.num_params)), actions)

    actions, log_prob = of(jax.random.split(key, 200))
    assert np.unique(actions["choice"]).tolist() == [0, 1]
    assert jax.tree.map(jnp.shape, actions["parameters"]) == ((200, 1), (200, 2))
    assert np.isfinite(log_prob).all()


def test_parameters_count_only_if_their_kind_is_chosen():
    pi = parameterised((normal(0.0, 1.0), normal(0.0, 1.0)))
    p = np.float32([0.3, -0.2, 0.5, 0.1, -1.0, 0.4])  # logits, means, deviations
    at = lambda k, x, y: {"choice": np.int32(k), "parameters": (np.float32([x]), np.float32([y]))}
    log_prob = jax.jit(lambda action: pi.log_prob(p, action))
    assert log_prob(at(0, 0.2, 0.9)) == log_prob(at(0, 0.2, 0.1))
    assert log_prob(at(1, 0.2, 0.9)) != log_prob(at(1, 0.2, 0.1))

    def by_hand(p):
        each = jnp.stack([normal(0.0, 1.0).entropy(q) for q in (p[jnp.array([2, 4])], p[jnp.array([3, 5])])])
        return pi.entropy(p), categorical(2).entropy(p[:2]) + (jax.nn.softmax(p[:2]) * each).sum()

    np.testing.assert_allclose(*jax.jit(by_hand)(p), rtol=1e-6)
    legal = np.array([False, True])
    for given in (legal, {"choice": legal}):  # of the kinds; their parameters stay as they are
        np.testing.assert_array_equal(pi.mask(p, given), [-np.inf, *p[1:]])


NESTED = spaces.Dict(
    {
        "kind": spaces.Discrete(3),
        "more": spaces.Tuple([spaces.Box(-1.0, 3.0, (2,)), spaces.Discrete(2), spaces.Box(0.0, 1.0, ())]),
    }
)


def test_every_space_has_a_policy(key):
    pi = for_space(NESTED)
    action = jax.eval_shape(pi.sample, key, jnp.zeros((4, pi.num_params)))
    assert jax.tree.map(jnp.shape, action) == {"kind": (4,), "more": ((4, 2), (4,), (4,))}
    pi = for_space(spaces.Tuple([Parameterised([spaces.Box(0.0, 1.0, (1,))] * 2), spaces.Discrete(2)]), box=beta)
    assert jax.eval_shape(pi.sample, key, jnp.zeros(pi.num_params))[0].keys() == {"choice", "parameters"}
    clipped = distributions.clip_to_space(NESTED, {"kind": 1, "more": (np.array([-9.0, 9.0]), 1, np.array(7.0))})
    assert clipped["more"][0].tolist() == [-1.0, 3.0] and clipped["more"][2] == 1.0 and clipped["kind"] == 1
    with pytest.raises(ValueError, match=r"branches is \(\); there must be at least one"):
        Parameterised(())


def test_spaces_of_gymnasium_are_what_they_say(key):
    """MultiBinary is bits and not one choice; choices begin at `start`; OneOf is not a Tuple."""
    one, bits = gymnasium.spaces.Discrete(3, start=5), gymnasium.spaces.MultiBinary(3)
    several = gymnasium.spaces.MultiDiscrete([2, 3], start=[1, -7])
    for space, lowest in ((one, 5), (bits, [0, 0, 0]), (several, [1, -7])):
        pi = for_space(space)
        action = distributions.clip_to_space(space, pi.mode(jnp.zeros(pi.num_params)))
        assert action.dtype == jax.dtypes.canonicalize_dtype(space.dtype) and action.tolist() == lowest
        assert space.contains(np.asarray(action, space.dtype))
    assert for_space(bits).num_params == 3 and hybrid(one).choice.num_params == 3
    for space in (bits, several, gymnasium.spaces.Dict({"a": bits, "b": one})):
        with pytest.raises(ValueError, match=r"hybrid: the space has Multi"):
            hybrid(space)
        with pytest.raises(ValueError, match=r"dqn is for discrete actions"):
            build.agent(purerl.dqn, space)
    assert (3, 64) in shapes_of(build.agent(purerl.dqn, one))
    with pytest.raises(ValueError, match=r"no distribution for the space OneOf"):
        for_space(gymnasium.spaces.OneOf([one, one]))


def shapes_of(agent):
    """The shapes of a Q-learning agent's parameters."""
    state = jax.eval_shape(lambda key: agent(purerl.DQN()).init(key, jnp.zeros((1, 2))), jax.random.key(0))
    return [x.shape for x in jax.tree.leaves(state.params)]


def test_the_environment_gets_the_declared_dtype():
    whole = spaces.Dict({"a": spaces.Box(0, 10, (3,), jnp.uint8), "b": spaces.Box(-1.0, 1.0, (), jnp.float16)})
    action = distributions.clip_to_space(whole, {"a": jnp.array([-3.0, 2.6, 99.0]), "b": jnp.array(0.25)})
    assert action["a"].dtype == jnp.uint8 and action["a"].tolist() == [0, 3, 10] and action["b"].dtype == jnp.float16
    wide = gymnasium.spaces.Box(-(2**62), 2**62, (2,), np.int64)
    assert distributions.clip_to_space(wide, jnp.array([2.6, -999.0])).tolist() == [3, -999]


def test_a_hybrid_takes_actions_apart_and_together():
    pi = hybrid(NESTED, deterministic)
    assert (pi.choice.num_params, pi.continuous.num_params) == (6, 3)
    np.testing.assert_array_equal(pi.half, [2.0, 2.0, 0.5])
    k, x = np.array([0, 3, 5]), np.random.default_rng(0).random((3, 3)).astype(np.float32)
    legal = {"kind": np.array([[True, False, True]]), "more": (None, np.array([[False, True]]))}

    @jax.jit
    def of(k, x):
        action = pi.join(k, x)
        return action, pi.split(action), pi.mask(jnp.zeros((1, 9)), legal)

    action, again, masked = of(k, x)
    assert action["kind"].tolist() == [0, 1, 2] and action["more"][1].tolist() == [0, 1, 1]
    np.testing.assert_array_equal(again[0], k)
    np.testing.assert_array_equal(again[1], x)
    assert np.isfinite(masked)[0, :6].tolist() == [False, True, False, False, False, True]
    some = pi.mask(jnp.zeros((1, 9)), {"kind": legal["kind"]})  # of two parts, one has a mask
    assert np.isfinite(some)[0].tolist() == [True, True, False, False] + [True] * 5
    only = hybrid(spaces.Discrete(4))
    assert only.join(jnp.array([2]), jnp.zeros((1, 0))).tolist() == [2] and only.half.size == 0
    assert hybrid(spaces.Box(-1.0, 1.0, (2,))).choice.num_params == 1
    with pytest.raises(ValueError, match=r"hybrid: bounds must be finite"):
        hybrid(spaces.Box(-jnp.inf, 1.0, (2,)))


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"action_mask has shape \(2,\); it must be that of the logits, \(3,\)"):
        distributions.mask_logits(jnp.zeros(3), jnp.array([True, False]))


# --- edges of the range, in float32 -------------------------------------------------------------------------------


def test_tanh_normal_entropy_over_its_whole_range():
    """Values and gradients against a fine integral: closer than 3e-5 for log σ in [-20, 4], μ in [-10, 10]."""
    of = jax.jit(jax.vmap(jax.value_and_grad(tanh_normal(-1.0, 1.0, (1,)).entropy)))
    means, scales = [-10, -3, -0.3, 0, 0.3, 1, 5, 10], [-20, -5, -2, -1, 0, 0.5, 1, 2, 3, 4]
    p = np.float32([(m, scale) for m in means for scale in scales])
    got = of(p)
    z = np.linspace(-12, 12, 100_001)
    weight = scipy.stats.norm.pdf(z) * (z[1] - z[0])
    for i, (mean, log_std) in enumerate(p.astype(np.float64)):
        u = mean + np.exp(log_std) * z
        entropy = log_std + 0.5 * (1 + np.log(2 * np.pi))
        entropy -= 2 * (weight * (np.logaddexp(u, -u) - np.log(2))).sum()
        of_mean, of_scale = -2 * (weight * np.tanh(u)).sum(), 1 - 2 * (weight * np.tanh(u) * np.exp(log_std) * z).sum()
        np.testing.assert_allclose(got[0][i], entropy, rtol=3e-7, atol=3e-6)
        np.testing.assert_allclose(got[1][i], [of_mean, of_scale], rtol=1e-6, atol=8e-6)
    values = {tuple(row): (value, slope) for row, value, slope in zip(p.tolist(), *got, strict=True)}
    assert abs(values[0.0, 2.0][0] + 7.0743) < 1e-4
    assert abs(values[np.float32(0.3).item(), 2.0][1][0] + 0.064) < 1e-3


def test_categorical_kl_where_a_probability_is_0_in_float32():
    pi = categorical(2)
    p = np.float32([[0, -104], [0, -104], [0, -np.inf], [0, 0], [0, -80]])
    q = np.float32([[0, -np.inf], [0, -104], [0, -104], [0, -np.inf], [0, -90]])
    kl, slope = jax.jit(jax.vmap(jax.value_and_grad(pi.kl, 1)))(p, q)
    np.testing.assert_array_equal(kl, [0, 0, 0, np.inf, kl[4]])
    assert abs(kl[4]) < 1e-7 and np.isfinite(np.asarray(slope)[[0, 1, 2, 4]]).all()


@pytest.mark.parametrize("shape", [2, (0,), (-1,), (2.5,)])
def test_bits_have_a_shape(shape):
    with pytest.raises(ValueError, match=r"bernoulli: shape is .*; it must be a tuple of positive ints"):
        bernoulli(shape)


def test_bits_of_any_odds():
    pi, p = bernoulli((1,)), np.float32([[-np.inf], [-200], [-20], [-1], [0], [1], [20], [200], [np.inf]])
    entropy, log_one, kl = jax.jit(lambda p: (pi.entropy(p), pi.log_prob(p, jnp.ones((9, 1), int)), pi.kl(p, p)))(p)
    x = p[:, 0].astype(np.float64)
    one, zero = scipy.special.log_expit(x), scipy.special.log_expit(-x)
    expected = scipy.special.entr(np.exp(one)) + scipy.special.entr(np.exp(zero))
    np.testing.assert_allclose(log_one, one, rtol=1e-6, atol=1e-38)
    np.testing.assert_allclose(entropy, expected, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(kl, np.zeros(9))
    slope = jax.jit(jax.grad(lambda p: pi.entropy(p).sum()))(p[1:-1])
    assert np.isfinite(slope).all()


def test_several_choices_are_those_of_each(key):
    pi, parts = multi_categorical([2, 3]), joint((categorical(2), categorical(3)))
    p, q = np.float32([0.1, 0.5, -1, 2, 0.3]), np.float32([1, 0, 0, -0.5, 0.25])
    legal = np.array([False, True, False, False, False])  # of the second choice nothing: all

    @jax.jit
    def of(key, p):
        both = [(d.entropy(p), d.kl(p, q), d.log_prob(p, a)) for d, a in ((pi, np.array([1, 2])), (parts, (1, 2)))]
        masked = pi.mask(p, legal)
        return both, masked, pi.sample(key, jnp.broadcast_to(masked, (500, 5)))

    both, masked, drawn = of(key, p)
    np.testing.assert_allclose(*both, rtol=1e-6)
    np.testing.assert_array_equal(masked, [-np.inf, *p[1:]])
    drawn = np.asarray(drawn)
    assert (drawn[:, 0] == 1).all() and set(drawn[:, 1]) <= {0, 1, 2}
    with pytest.raises(ValueError, match="action_mask has shape"):
        pi.mask(p, legal[:2])
    for counts in ([], [0], [1.5]):
        with pytest.raises(ValueError, match="multi_categorical: counts"):
            multi_categorical(counts)


def test_for_space_takes_multi_discrete_and_multi_binary(key):
    class Of:  # as gymnasium has them
        def __init__(self, **about):
            vars(self).update(about)

    both = spaces.Dict({"a": MultiDiscrete([[2, 3]]), "b": MultiBinary(3)})
    for space, num_params, shape in (
        (MultiDiscrete([[2, 3]]), 5, (1, 2)),
        (MultiBinary((2, 2)), 4, (2, 2)),
        (Of(nvec=np.array([4, 4]), shape=(2,)), 8, (2,)),
        (Of(n=5, shape=(5,)), 5, (5,)),
    ):
        pi = for_space(space)
        action = jax.eval_shape(pi.sample, key, jnp.zeros((7, num_params)))
        assert pi.num_params == num_params and action.shape == (7, *shape) and action.dtype == jnp.int32
        if not isinstance(space, Of):
            draw = jax.jit(
                lambda key, pi=pi, space=space: (space.sample(key), pi.sample(key, jnp.zeros(pi.num_params)))
            )
            x, of_policy = draw(key)
            assert space.contains(x) and not space.contains(x + 5) and x.shape == shape and space.contains(of_policy)
    assert for_space(both).num_params == 8 and for_space(Of(n=5, shape=())).num_params == 5
    with pytest.raises(ValueError, match="hybrid: the space has"):
        hybrid(both)
    assert distributions.clip_to_space(Of(n=5, shape=()), np.int16(3)).dtype == np.int16  # no dtype is declared
    for wrong, said in (
        (lambda: MultiDiscrete([0]), r"nvec is \[0\]; it must be ints of at least 1"),
        (lambda: MultiDiscrete([]), r"nvec is \[\]; it must be ints of at least 1"),
        (lambda: MultiBinary(0), "n is 0; it must be an int of at least 1 or a shape"),
        (lambda: MultiBinary(()), r"n is \(\); it must be an int of at least 1 or a shape"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
