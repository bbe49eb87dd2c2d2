"""Importance-corrected returns, Q(λ), Monte Carlo, traces and sums, against loops and by what they reduce to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from jax.test_util import check_grads
from test_returns import blocks

from purerl import returns


def in_float64(function, *args, **kwargs):
    with jax.enable_x64(True):
        arguments = (jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args)
        return jax.tree.map(np.asarray, function(*arguments, **kwargs))


close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(blocks())
def test_against_the_equations(block):
    reward, value, next_value, terminated, truncated, gamma, lam = block
    rest = reward, value, next_value, terminated, truncated, gamma
    log_ratio = 2 * np.roll(value, 1)
    got = in_float64(returns.vtrace, log_ratio, *rest, lam=lam, clip_rho=1.5, clip_c=0.8)
    for x, y in zip(got, reference.vtrace(log_ratio, *rest, lam, 1.5, 0.8), strict=True):
        close(x, y)
    weight = lam * np.minimum(1.0, np.exp(log_ratio))
    close(in_float64(returns.retrace, log_ratio, *rest, lam=lam), reference.off_policy_returns(weight, *rest))
    prob = 1 / (1 + np.exp(-value))
    close(in_float64(returns.tree_backup, prob, *rest, lam=lam), reference.off_policy_returns(lam * prob, *rest))
    ended = terminated | truncated
    trace = np.abs(value)
    close(
        in_float64(returns.corrections, reward, trace, terminated, truncated, gamma),
        reference.corrections(reward, trace, ended, gamma),
    )
    by_steps, in_passes = (in_float64(returns.discounted_sums, reward, value, in_passes=x) for x in (False, True))
    close(by_steps, in_passes)


@settings(deadline=None, max_examples=10)
@given(blocks())
def test_what_they_reduce_to(block):
    reward, value, next_value, terminated, truncated, gamma, lam = block
    value = value if len(value) == 1 else np.concatenate([value[:1], next_value[:-1]])  # V(s'ₜ) = V(sₜ₊₁) inside
    rest = reward, value, next_value, terminated, truncated, gamma
    ends = terminated, truncated, gamma
    on_policy = np.zeros_like(reward)
    lambda_return = in_float64(returns.lambda_returns, reward, next_value, *ends, lam)
    # on-policy, V-trace is the λ-return and its advantage the λ-return's less V; Retrace and Q(λ) likewise
    target, advantage = in_float64(returns.vtrace, on_policy, *rest, lam=lam)
    close(target, lambda_return)
    close(advantage, lambda_return - value)
    close(in_float64(returns.retrace, on_policy, *rest, lam=lam), lambda_return)
    close(in_float64(returns.tree_backup, np.ones_like(reward), *rest, lam=lam), lambda_return)
    # ratios of 0: nothing of what was done is used beyond one step
    never = np.full_like(reward, -np.inf)
    close(in_float64(returns.vtrace, never, *rest).target, value)
    one = reward + gamma * np.where(terminated, 0.0, next_value)
    close(in_float64(returns.retrace, never, *rest), one)
    # a ratio that overflows is clipped, not infinite
    assert np.isfinite(returns.vtrace(jnp.full(reward.shape, 1e3), *map(jnp.asarray, rest)).target).all()
    whole = in_float64(returns.n_step, reward, next_value, *ends, len(reward))
    close(in_float64(returns.monte_carlo, reward, next_value, *ends), whole)


@settings(deadline=None, max_examples=10)
@given(blocks())
def test_the_two_views_of_td_lambda_agree(block):
    """Σ eₜ δₜ = Σ xₜ Âₜ: what traces add up to is what λ-returns would, over a block of a fixed V."""
    reward, value, next_value, terminated, truncated, gamma, lam = block
    x = np.random.default_rng(0).normal(size=(*reward.shape, 3))
    trace = in_float64(returns.eligibility_traces, x, terminated, truncated, gamma, lam)
    delta = reward + gamma * np.where(terminated, 0.0, next_value) - value
    advantage = in_float64(returns.gae, *block)
    close((trace * delta[..., None]).sum(0), (x * advantage[..., None]).sum(0))


def test_q_lambda():
    rng = np.random.default_rng(0)
    reward, next_q = rng.normal(size=(6, 4)), rng.normal(size=(6, 4, 3))
    terminated, truncated = rng.random((2, 6, 4)) < 0.2
    ends = terminated, truncated, 0.9
    best = next_q.max(-1)
    close(in_float64(returns.q_lambda, reward, next_q, *ends, 0.7), reference.lambda_returns(reward, best, *ends, 0.7))
    action = rng.integers(0, 3, (6, 4))
    watkins = in_float64(returns.q_lambda, reward, next_q, *ends, 0.7, action)
    for i in np.ndindex(4):  # by hand: backward, cut where the next action was not greedy
        following = 0.0
        for t in reversed(range(6)):
            at = (t, *i)
            goes_on = t < 5 and not terminated[at] and not truncated[at] and next_q[at].argmax() == action[at]
            later = 0.3 * best[at] + 0.7 * following if goes_on else best[at]
            following = reward[at] + (0.0 if terminated[at] else 0.9 * later)
            close(watkins[at], following)


def test_gradients_are_right_and_nothing_is_nan():
    rng = np.random.default_rng(0)
    terminated, truncated = rng.random((2, 5, 2)) < 0.2
    with jax.enable_x64(True):
        floats = [jnp.asarray(rng.normal(size=(5, 2))) for _ in range(4)]
        for f in (
            lambda p, r, v, n: returns.vtrace(p, r, v, n, terminated, truncated, 0.9, 0.8, 5.0, 5.0),
            lambda p, r, v, n: returns.retrace(p - 5, r, v, n, terminated, truncated, 0.9, 0.8),
            lambda p, r, v, n: returns.monte_carlo(r, n, terminated, truncated, 0.9) * v * p,
        ):
            check_grads(f, floats, order=1, modes=["rev"])
    yes = jnp.ones((1, 2), bool)
    nan, one = jnp.full((1, 2), jnp.nan), jnp.ones((1, 2))
    for f in (returns.vtrace, returns.retrace):
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(f(0 * one, one, one, nan, yes, ~yes, 0.9)))


def test_bad_input():
    no = jnp.zeros((3, 2), bool)
    for f in (returns.vtrace, returns.retrace, returns.tree_backup):
        with pytest.raises(ValueError, match=rf"{f.__name__}: shapes must be equal, got .*value \(3,\)"):
            f(jnp.ones((3, 2)), jnp.ones((3, 2)), jnp.ones(3), jnp.ones((3, 2)), no, no, 0.9)
    with pytest.raises(ValueError, match="discounted_sums: shapes must be equal"):
        returns.discounted_sums(jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(ValueError, match="eligibility_traces: shapes must be equal"):
        returns.eligibility_traces(jnp.ones((3, 2)), no, no, 0.9, 0.9)
    with pytest.raises(ValueError, match="q_lambda: shapes must be equal"):
        returns.q_lambda(jnp.ones((3, 2)), jnp.ones((3, 2, 4)), no, no, 0.9, 0.9, jnp.zeros(3, int))
