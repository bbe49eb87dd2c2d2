import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import losses


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(4)]


def test_against_the_equations(data):
    a, b, c, _d = (np.asarray(x, np.float64) for x in data)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    close(losses.policy_gradient(*data[:2]), -a * b)
    close(losses.squared(*data[:2]), (a - b) ** 2 / 2)
    for x, y, ratio in zip(losses.ppo_clip(*data[:2], 0.2).ravel(), b.flat, np.exp(a).flat, strict=True):
        close(x, -min(ratio * y, min(max(ratio, 0.8), 1.2) * y))
    moved = np.array([old + min(max(v - old, -0.3), 0.3) for v, old in zip(a.flat, b.flat, strict=True)])
    expected = [max((v - g) ** 2, (m - g) ** 2) / 2 for v, m, g in zip(a.flat, moved, c.flat, strict=True)]
    close(losses.clipped_value(*data[:3], 0.3).ravel(), expected)


def test_ppo_at_ratio_one_has_the_policy_gradient(data):
    log_prob, advantage = data[:2]
    ppo = jax.grad(lambda x: losses.ppo_clip(x - log_prob, advantage, 0.2).sum())(log_prob)
    plain = jax.grad(lambda x: losses.policy_gradient(x, advantage).sum())(log_prob)
    np.testing.assert_allclose(ppo, plain, rtol=1e-6)


def test_ppo_stops_where_the_ratio_has_moved_far_enough():
    slope = jax.vmap(jax.grad(lambda x, a: losses.ppo_clip(x, a, 0.2)))
    far, advantage = jnp.log(jnp.array([1.5, 1.5, 0.5, 0.5])), jnp.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(slope(far, advantage), [0.0, 1.5, -0.5, 0.0], atol=1e-6)


def test_masked_mean_and_standardize(data):
    x, valid = data[0], data[1] > 0
    kept = np.asarray(x)[np.asarray(valid)]
    np.testing.assert_allclose(losses.masked_mean(x, valid), kept.mean(), rtol=1e-5)
    standard = np.asarray(losses.standardize(x, valid))[np.asarray(valid)]
    np.testing.assert_allclose(standard, (kept - kept.mean()) / (kept.std() + 1e-8), rtol=1e-4)
    poisoned = jnp.where(valid, x, jnp.nan)
    assert losses.masked_mean(poisoned, valid) == losses.masked_mean(x, valid)
    assert np.isfinite(jax.grad(lambda x: losses.masked_mean(jnp.where(valid, x, 0) ** 2, valid))(x)).all()
    assert losses.masked_mean(x, jnp.zeros_like(valid)) == 0


@pytest.mark.parametrize("count", [1, 4])
def test_constant_advantages_are_finite_and_so_is_their_gradient(count):
    x, valid = jnp.full(count, 3.0), jnp.ones(count, bool)
    np.testing.assert_array_equal(losses.standardize(x, valid), jnp.zeros(count))
    assert np.isfinite(jax.grad(lambda x: losses.standardize(x, valid).sum())(x)).all()


@pytest.mark.parametrize("name", ["policy_gradient", "squared", "masked_mean"])
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: shapes must be equal, got .*\(3, 1\).*\(3,\)"):
        getattr(losses, name)(jnp.ones((3, 1)), jnp.ones(3))
