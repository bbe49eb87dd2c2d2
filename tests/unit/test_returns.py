import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl.returns import gae, lambda_returns, n_step


@st.composite
def blocks(draw):
    """A block with random, none, or only ends; T = 1 included. Its shape is one of three: each is a program."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(1,), (2, 3), (7, 2, 2)]))
    probability = draw(st.sampled_from([0.0, 0.3, 1.0]))
    ends = [rng.random(shape) < draw(st.sampled_from([0.0, probability])) for _ in range(2)]
    floats = [rng.normal(size=shape) for _ in range(3)]
    return *floats, *ends, draw(st.sampled_from([0.0, 0.9, 1.0])), draw(st.sampled_from([0.0, 0.5, 1.0]))


def in_float64(program, *args):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, program(*args))


@jax.jit
def every_return(reward, value, next_value, terminated, truncated, gamma, lam):
    arguments = reward, next_value, terminated, truncated, gamma
    return {
        "gae": gae(reward, value, next_value, terminated, truncated, gamma, lam),
        "lambda": lambda_returns(*arguments, lam), "n": [n_step(*arguments, n) for n in (1, 3)],
    }  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(blocks())
def test_against_the_equations(block):
    reward, _value, next_value, terminated, truncated, gamma, lam = block
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    got = in_float64(every_return, *block)
    close(got["gae"], reference.gae(*block))
    arguments = reward, next_value, terminated, truncated, gamma
    close(got["lambda"], reference.lambda_returns(*arguments, lam))
    for n, x in zip((1, 3), got["n"], strict=True):
        close(x, reference.n_step(*arguments, n))


@pytest.fixture
def block():
    rng = np.random.default_rng(1)
    floats = rng.normal(size=(2, 6, 4)).astype(np.float32)
    ends = rng.random((2, 6, 4)) < 0.25
    return *floats, *ends


def test_identities(block):
    @jax.jit
    def of(reward, next_value, terminated, truncated):
        value = jnp.roll(next_value, 1, axis=0)
        ends = terminated, truncated
        own = reward, next_value, *ends, 0.9
        one = reward + 0.9 * jnp.where(terminated, 0, next_value)
        lambda_return = lambda_returns(*own, 0.7)
        return [
            # GAE is the λ-return less the value where V(s'ₜ) = V(sₜ₊₁) inside of episodes
            (gae(reward, value, next_value, *ends, 0.9, 0.7) + value, lambda_return),
            (lambda_returns(*own, 0.0), one),
            (n_step(*own, 1), one),
            (lambda_returns(*own, 1.0), n_step(*own, 6)),
            (gae(reward, value, next_value, *ends, 0.9, 0.0), one - value),
            (lambda_returns(*own, jnp.full((6, 4), 0.7)), lambda_return),
        ]

    for left, right in of(*block):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_an_episode_end_separates(block):
    """Each episode's advantages are those of the episode alone."""
    reward, next_value, _, _ = block
    value = next_value + 1
    of = jax.jit(lambda *block: gae(*block, 0.9, 0.8))
    no = np.zeros((6, 4), bool)
    end = no.copy()
    end[2] = True
    for ends in ((end, no), (no, end)):
        whole = reward, value, next_value, *ends
        parts = [of(*(x[s] for x in whole)) for s in (slice(0, 3), slice(3, 6))]
        np.testing.assert_allclose(of(*whole), np.concatenate(parts), atol=1e-6)


def test_truncation_bootstraps_and_termination_wins():
    # the last: a value of a state that is never reached, even NaN, has no effect
    next_value = np.array([[10.0, 10.0, 10.0, np.nan]])
    terminated, truncated = np.array([[0, 1, 1, 1], [1, 0, 1, 0]], bool)[:, None]
    one = np.ones((1, 4))
    got = jax.jit(lambda *block: gae(*block, 0.5, 0.9))(one, 0 * one, next_value, terminated, truncated)
    np.testing.assert_array_equal(got, [[6.0, 1.0, 1.0, 1.0]])


def check_gradients(function, *at):
    """The gradient of a sum with random weights against central differences, in float64 and one program."""
    leaves, structure = jax.tree.flatten(at)
    rng = np.random.default_rng(0)
    directions = [jax.tree.map(lambda x: rng.normal(size=x.shape), leaves) for _ in range(3)]

    def program(leaves):
        of = lambda leaves: sum((jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x).sum()
                                for x in jax.tree.leaves(function(*structure.unflatten(leaves))))  # fmt: skip
        move = lambda d, step: [x + step * y for x, y in zip(leaves, d, strict=True)]
        slope, eps = jax.grad(of)(leaves), 1e-5
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *directions)
        numeric = jax.vmap(lambda d: (of(move(d, eps)) - of(move(d, -eps))) / (2 * eps))(stacked)
        return jax.vmap(lambda d: sum((x * y).sum() for x, y in zip(slope, d, strict=True)))(stacked), numeric

    np.testing.assert_allclose(*in_float64(jax.jit(program), [np.asarray(x, np.float64) for x in leaves]), rtol=1e-6)


def test_gradients_are_right(block):
    reward, next_value, *ends = block
    three = lambda r, v: (
        gae(r, v, v, *ends, 0.9, 0.7),
        lambda_returns(r, v, *ends, 0.9, 0.7),
        n_step(r, v, *ends, 0.9, 3),
    )
    check_gradients(three, reward, next_value)


def test_bad_input(block):
    reward, next_value, terminated, truncated = block
    with pytest.raises(ValueError, match=r"gae: shapes must be equal, got reward \(6, 4\), value \(4,\)"):
        gae(reward, next_value[0], next_value, terminated, truncated, 0.9, 0.9)
    with pytest.raises(ValueError, match="lambda_returns: shapes must be equal"):
        lambda_returns(reward, next_value[:3], terminated, truncated, 0.9, 0.9)
    for n in (0, -1, 1.0):
        with pytest.raises(ValueError, match=f"n is {n}"):
            n_step(*block, 0.9, n)
