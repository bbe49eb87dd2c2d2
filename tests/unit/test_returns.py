import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import purerl
from purerl import returns
from purerl.core import Rollout, Transition
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


def lambda_n_step(reward, next_value, terminated, truncated, gamma, n, lam):
    """The recursion from its definition, one step at a time."""

    def g(t, k):
        later = next_value[t]
        if k > 1 and t + 1 < len(reward) and not (terminated[t] or truncated[t]):
            later = (1 - lam[t]) * later + lam[t] * g(t + 1, k - 1)
        return reward[t] + (0.0 if terminated[t] else gamma * later)

    return np.array([g(t, n) for t in range(len(reward))])


def test_n_step_with_lambda():
    rng = np.random.default_rng(0)
    (reward, next_value), lam = rng.normal(size=(2, 9)), rng.random(9)
    terminated, truncated = rng.random((2, 9)) < 0.15
    block = reward, next_value, terminated, truncated, 0.9

    @jax.jit
    def of(*block):
        several = [n_step(*block, n, lam) for n in (1, 3, 9)]
        return several, (n_step(*block, 9, 0.7), lambda_returns(*block, 0.7)), n_step(*block, 3, 0.0)

    several, whole, at_0 = in_float64(of, *block)
    for n, got in zip((1, 3, 9), several, strict=True):
        np.testing.assert_allclose(got, lambda_n_step(*block, n, lam), rtol=1e-12)
    np.testing.assert_allclose(*whole, rtol=1e-12)
    one = reward + 0.9 * np.where(terminated, 0, next_value)
    np.testing.assert_allclose(at_0, one, rtol=1e-12)


# Of a block of three steps: reward, log ratio, value, value of the successor, γ and λ, to one number a step.
EVERY_RETURN = {
    "gae": lambda r, p, v, n, y, x, g, lam: returns.gae(r, v, n, y, x, g, lam),
    "lambda_returns": lambda r, p, v, n, y, x, g, lam: returns.lambda_returns(r, n, y, x, g, lam),
    "monte_carlo": lambda r, p, v, n, y, x, g, lam: returns.monte_carlo(r, n, y, x, g),
    "q_lambda": lambda r, p, v, n, y, x, g, lam: returns.q_lambda(r, jnp.stack([n, n - 1], -1), y, x, g, lam),
    "watkins": lambda r, p, v, n, y, x, g, lam: returns.q_lambda(
        r, jnp.stack([n, n - 1], -1), y, x, g, lam, jnp.zeros(r.shape, jnp.int32)
    ),
    "n_step": lambda r, p, v, n, y, x, g, lam: returns.n_step(r, n, y, x, g, 2, lam),
    "retrace": lambda r, p, v, n, y, x, g, lam: returns.retrace(p, r, v, n, y, x, g, lam),
    "tree_backup": lambda r, p, v, n, y, x, g, lam: returns.tree_backup(jnp.exp(p), r, v, n, y, x, g, lam),
    "vtrace": lambda r, p, v, n, y, x, g, lam: sum(returns.vtrace(p, r, v, n, y, x, g, lam)),
    "eligibility_traces": lambda r, p, v, n, y, x, g, lam: returns.eligibility_traces(v[..., None], y, x, g, lam)[
        ..., 0
    ],
    "in_passes": lambda r, p, v, n, y, x, g, lam: returns.discounted_sums(
        r, jnp.where(y | x, 0.0, g * lam), in_passes=True
    ),
}


@pytest.mark.parametrize("name", EVERY_RETURN)
def test_what_is_stopped_has_no_effect_even_nan(name):
    """No bit of values and gradients depends on a value behind a termination, nor a value on another episode."""
    f, no = EVERY_RETURN[name], np.zeros(3, bool)
    r, p, v, n = np.float32([[1, 2, 3], [-0.1, -0.2, -0.3], [0.5, 0.25, 2], [1, 3, 2]])
    end, first = np.array([False, True, False]), np.arange(3) < 2
    if name == "eligibility_traces":  # looks back
        first = np.arange(3) > 1

    def total(floats, terminated, truncated):
        return jnp.where(first, f(*floats[:4], terminated, truncated, *floats[4:]), 0.0).sum()

    program = jax.jit(jax.vmap(jax.value_and_grad(total), (0, None, None)))
    dirty = [(r, p, v, n)]
    for bad in np.float32([np.nan, np.inf, -np.inf]):
        dirty.append((r, p, v, np.where(end, bad, n)))
    for bad in np.float32([np.nan, np.inf, -np.inf]):
        dirty.append([np.where(first, x, bad) for x in (r, p, v, n)])
    many = [np.stack(x) for x in zip(*dirty, strict=True)]
    amount = lambda x: np.full(len(dirty), x, np.float32)
    value, slopes = program((*many, amount(0.9), amount(0.8)), end, no)
    for x in (value, *(slope[:4] for slope in slopes)):
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
    # at γ = λ = 0 the slopes are those of small numbers
    at = lambda g: [x[0] for x in program((*many, amount(g), amount(g)), no, no)[1][4:]]
    np.testing.assert_allclose(at(0.0), at(1e-5), rtol=1e-3, atol=1e-3)


def test_monte_carlo_reads_values_only_where_it_must():
    nan, no = np.float32([np.nan, np.inf, 4.0]), np.zeros(3, bool)
    assert jax.jit(returns.monte_carlo)(np.ones(3), nan, no, no, 0.5).tolist() == [2.25, 2.5, 3.0]


def test_vtrace_with_a_clip_of_its_own_for_the_policy():
    rng = np.random.default_rng(0)
    log_ratio, reward, value, next_value = rng.normal(size=(4, 6))
    terminated, truncated = rng.random((2, 6)) < 0.2
    args = log_ratio, reward, value, next_value, terminated, truncated, 0.9, 0.8, 2.0, 1.0
    three = jax.jit(lambda *args: [returns.vtrace(*args, clip_pg_rho=clip) for clip in (None, 0.5, 2.0)])
    plain, own, same = in_float64(three, *args)
    np.testing.assert_allclose(own.target, plain.target)
    np.testing.assert_allclose(same.advantage, plain.advantage)
    ratio = np.exp(log_ratio)
    np.testing.assert_allclose(own.advantage, plain.advantage * np.minimum(ratio, 0.5) / np.minimum(ratio, 2.0), 1e-5)


def test_pqn_learns_next_to_a_nan_terminal_observation(key):
    agent = purerl.pqn(purerl.networks.q_network(2), purerl.PQN(num_epochs=1, num_minibatches=1))
    obs = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    end = np.zeros((6, 2), bool)
    end[2, 0] = end[5, 1] = True
    state = jax.jit(agent.init)(key, obs[0])

    @jax.jit
    def learn(state, obs, next_obs, end):
        tr = Transition(obs, jnp.ones((6, 2), jnp.int32), jnp.ones((6, 2)), next_obs, end, ~end & False, end | True)
        return agent.update(key, state, Rollout(tr, agent.memory(2)))

    good, bad = (learn(state, obs, np.where(end[..., None], np.float32(x), obs + 1), end) for x in (0.0, np.nan))
    for x, y in zip(jax.tree.leaves(good), jax.tree.leaves(bad), strict=True):
        np.testing.assert_array_equal(x, y)
