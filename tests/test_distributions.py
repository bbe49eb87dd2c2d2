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
from purerl.distributions import categorical, for_space, normal, tanh_normal

P = jnp.array([0.4, -0.3, -0.5, 0.2])  # two dimensions: means, then log deviations
CASES = {
    "categorical": (categorical(4), P),
    "normal": (normal(-2.0, 6.0, (2,)), P),
    "unbounded": (normal(shape=(2,)), P),
    "tanh_normal": (tanh_normal(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), (2,)), P),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_entropy_and_kl_are_those_of_the_samples(case, key):
    pi, p = case
    q = p[::-1] * 0.5
    x = pi.sample(key, jnp.broadcast_to(p, (200_000, *p.shape)))
    log_p, log_q = pi.log_prob(p[None].repeat(len(x), 0), x), pi.log_prob(q[None].repeat(len(x), 0), x)
    for exact, estimate in ((pi.entropy(p), -log_p), (pi.kl(p, q), log_p - log_q)):
        error = 5 * estimate.std() / math.sqrt(len(x))
        assert abs(exact - estimate.mean()) < error + 1e-4
    assert abs(pi.kl(p, p)) < 1e-6


def test_any_leading_axes(case, key):
    pi, p = case
    for lead in ((), (5,), (2, 5)):
        many = jnp.broadcast_to(p, (*lead, *p.shape))
        action = pi.sample(key, many)
        for f in (pi.log_prob(many, action), pi.entropy(many), pi.kl(many, many)):
            assert f.shape == lead
        assert pi.mode(many).shape == action.shape
    keys = jax.random.split(key, 5)
    assert jax.vmap(pi.sample)(keys, jnp.broadcast_to(p, (5, *p.shape))).shape[0] == 5


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
        for_space(spaces.Tuple([spaces.Discrete(2)]))
    with pytest.raises(ValueError, match="bounds must be finite"):
        for_space(spaces.Box(0.0, jnp.inf, (2,)), box=tanh_normal)
    with pytest.raises(ValueError, match="low must be less than high"):
        normal(1.0, 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        categorical(0)
