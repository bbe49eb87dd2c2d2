import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from purerl.returns import gae, lambda_returns, n_step

SHAPES = ["reward", "next_value", "terminated", "truncated"]


@st.composite
def blocks(draw):
    """A block with random, none, or only ends; T = 1 included."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.sampled_from([1, 2, 7])), *draw(st.sampled_from([(), (3,), (2, 2)])))
    probability = draw(st.sampled_from([0.0, 0.3, 1.0]))
    ends = [rng.random(shape) < draw(st.sampled_from([0.0, probability])) for _ in range(2)]
    floats = [rng.normal(size=shape) for _ in range(3)]
    return *floats, *ends, draw(st.sampled_from([0.0, 0.9, 1.0])), draw(st.sampled_from([0.0, 0.5, 1.0]))


def in_float64(function, *args):
    with jax.enable_x64(True):
        return np.asarray(function(*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args)))


@settings(deadline=None, max_examples=15)
@given(blocks())
def test_against_the_equations(block):
    reward, _value, next_value, terminated, truncated, gamma, lam = block
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    close(in_float64(gae, *block), reference.gae(*block))
    arguments = reward, next_value, terminated, truncated, gamma
    close(in_float64(lambda_returns, *arguments, lam), reference.lambda_returns(*arguments, lam))
    for n in (1, 3):
        close(in_float64(n_step, *arguments, n), reference.n_step(*arguments, n))


@pytest.fixture
def block():
    rng = np.random.default_rng(1)
    floats = [jnp.asarray(rng.normal(size=(6, 4)), jnp.float32) for _ in range(2)]
    ends = [jnp.asarray(rng.random((6, 4)) < 0.25) for _ in range(2)]
    return *floats, *ends


def test_identities(block):
    reward, next_value, terminated, truncated = block
    value = jnp.roll(next_value, 1, axis=0)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    advantage = gae(reward, value, next_value, terminated, truncated, 0.9, 0.7)
    # GAE is the λ-return less the value where V(s'ₜ) = V(sₜ₊₁) inside of episodes
    close(advantage + value, lambda_returns(reward, next_value, terminated, truncated, 0.9, 0.7))
    one = reward + 0.9 * jnp.where(terminated, 0, next_value)
    close(lambda_returns(*block, 0.9, 0.0), one)
    close(n_step(*block, 0.9, 1), one)
    close(lambda_returns(*block, 0.9, 1.0), n_step(*block, 0.9, 6))
    close(gae(reward, value, next_value, terminated, truncated, 0.9, 0.0), one - value)
    close(lambda_returns(*block, 0.9, jnp.full((6, 4), 0.7)), lambda_returns(*block, 0.9, 0.7))


def test_an_episode_end_separates(block):
    """Each episode's advantages are those of the episode alone."""
    reward, next_value, _, _ = block
    value = next_value + 1
    for end in ("terminated", "truncated"):
        ends = dict(terminated=jnp.zeros((6, 4), bool), truncated=jnp.zeros((6, 4), bool))
        ends[end] = ends[end].at[2].set(True)
        whole = gae(reward, value, next_value, **ends, gamma=0.9, lam=0.8)
        parts = [
            gae(
                *(x[s] for x in (reward, value, next_value)),
                **{k: x[s] for k, x in ends.items()},
                gamma=0.9,
                lam=0.8,
            )
            for s in (slice(0, 3), slice(3, 6))
        ]
        np.testing.assert_allclose(whole, jnp.concatenate(parts), atol=1e-6)


def test_truncation_bootstraps_and_termination_wins():
    one, yes, no = jnp.ones(1), jnp.ones(1, bool), jnp.zeros(1, bool)
    assert gae(one, 0 * one, 10 * one, no, yes, 0.5, 0.9) == 6.0
    assert gae(one, 0 * one, 10 * one, yes, no, 0.5, 0.9) == 1.0
    assert gae(one, 0 * one, 10 * one, yes, yes, 0.5, 0.9) == 1.0
    # a value of a state that is never reached, even NaN, has no effect
    assert gae(one, 0 * one, jnp.nan * one, yes, no, 0.5, 0.9) == 1.0


def test_gradients_are_right(block):
    reward, next_value, terminated, truncated = block
    for f in (
        lambda r, v: gae(r, v, v, terminated, truncated, 0.9, 0.7),
        lambda r, v: lambda_returns(r, v, terminated, truncated, 0.9, 0.7),
        lambda r, v: n_step(r, v, terminated, truncated, 0.9, 3),
    ):
        with jax.enable_x64(True):
            arguments = jnp.asarray(reward, jnp.float64), jnp.asarray(next_value, jnp.float64)
            check_grads(f, arguments, order=1, modes=["rev"])


def test_bad_input(block):
    reward, next_value, terminated, truncated = block
    with pytest.raises(ValueError, match=r"gae: shapes must be equal, got reward \(6, 4\), value \(4,\)"):
        gae(reward, next_value[0], next_value, terminated, truncated, 0.9, 0.9)
    with pytest.raises(ValueError, match="lambda_returns: shapes must be equal"):
        lambda_returns(reward, next_value[:3], terminated, truncated, 0.9, 0.9)
    for n in (0, -1, 1.0):
        with pytest.raises(ValueError, match=f"n is {n}"):
            n_step(*block, 0.9, n)
