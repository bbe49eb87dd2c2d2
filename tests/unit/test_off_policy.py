"""Importance-corrected returns, Q(λ), Monte Carlo, traces and sums, against loops and by what they reduce to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from test_returns import blocks, check_gradients, in_float64

from purerl import returns

close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@jax.jit
def every_return(log_ratio, prob, trace, block):
    reward, value, _, terminated, truncated, gamma, lam = block
    rest = block[:-1]
    return {
        "vtrace": returns.vtrace(log_ratio, *rest, lam=lam, clip_rho=1.5, clip_c=0.8),
        "retrace": returns.retrace(log_ratio, *rest, lam=lam),
        "tree": returns.tree_backup(prob, *rest, lam=lam),
        "corrections": returns.corrections(reward, trace, terminated, truncated, gamma),
        "sums": [returns.discounted_sums(reward, value, in_passes=x) for x in (False, True)],
    }


@settings(deadline=None, max_examples=30)
@given(blocks())
def test_against_the_equations(block):
    reward, value, _, terminated, truncated, gamma, lam = block
    rest = block[:-1]
    log_ratio, prob, trace = 2 * np.roll(value, 1), 1 / (1 + np.exp(-value)), np.abs(value)
    got = in_float64(every_return, log_ratio, prob, trace, block)
    for x, y in zip(got["vtrace"], reference.vtrace(log_ratio, *rest, lam, 1.5, 0.8), strict=True):
        close(x, y)
    weight = lam * np.minimum(1.0, np.exp(log_ratio))
    close(got["retrace"], reference.off_policy_returns(weight, *rest))
    close(got["tree"], reference.off_policy_returns(lam * prob, *rest))
    close(got["corrections"], reference.corrections(reward, trace, terminated | truncated, gamma))
    close(*got["sums"])


@jax.jit
def reduced(value, block):
    reward, _, next_value, terminated, truncated, gamma, lam = block
    rest = reward, value, next_value, terminated, truncated, gamma
    ends = terminated, truncated, gamma
    on_policy, never = jnp.zeros_like(reward), jnp.full_like(reward, -jnp.inf)
    lambda_return = returns.lambda_returns(reward, next_value, *ends, lam)
    target, advantage = returns.vtrace(on_policy, *rest, lam=lam)
    return {
        # on-policy, V-trace is the λ-return and its advantage the λ-return's less V; Retrace and Q(λ) likewise
        "vtrace": (target, lambda_return),
        "advantage": (advantage, lambda_return - value),
        "retrace": (returns.retrace(on_policy, *rest, lam=lam), lambda_return),
        "tree": (returns.tree_backup(jnp.ones_like(reward), *rest, lam=lam), lambda_return),
        # ratios of 0: nothing of what was done is used beyond one step
        "vtrace at 0": (returns.vtrace(never, *rest).target, value),
        "retrace at 0": (returns.retrace(never, *rest), reward + gamma * jnp.where(terminated, 0.0, next_value)),
        "Monte Carlo": (
            returns.monte_carlo(reward, next_value, *ends),
            returns.n_step(reward, next_value, *ends, len(reward)),
        ),
    }, returns.vtrace(jnp.full(reward.shape, 1e3), *rest).target


@settings(deadline=None, max_examples=20)
@given(blocks())
def test_what_they_reduce_to(block):
    _, value, next_value, *_ = block
    value = value if len(value) == 1 else np.concatenate([value[:1], next_value[:-1]])  # V(s'ₜ) = V(sₜ₊₁) inside
    pairs, overflowing = in_float64(reduced, value, block)
    for left, right in pairs.values():
        close(left, right)
    assert np.isfinite(overflowing).all()  # a ratio that overflows is clipped, not infinite


@jax.jit
def both_views(x, block):
    reward, value, next_value, terminated, truncated, gamma, lam = block
    trace = returns.eligibility_traces(x, terminated, truncated, gamma, lam)
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    return (trace * delta[..., None]).sum(0), (x * returns.gae(*block)[..., None]).sum(0)


@settings(deadline=None, max_examples=20)
@given(blocks())
def test_the_two_views_of_td_lambda_agree(block):
    """Σ eₜ δₜ = Σ xₜ Âₜ: what traces add up to is what λ-returns would, over a block of a fixed V."""
    x = np.random.default_rng(0).normal(size=(*block[0].shape, 3))
    close(*in_float64(both_views, x, block))


def test_q_lambda():
    rng = np.random.default_rng(0)
    reward, next_q = rng.normal(size=(6, 4)), rng.normal(size=(6, 4, 3))
    terminated, truncated = rng.random((2, 6, 4)) < 0.2
    ends = terminated, truncated, 0.9
    best = next_q.max(-1)
    action = rng.integers(0, 3, (6, 4))
    both = jax.jit(lambda *args: [returns.q_lambda(*args, 0.9, 0.7, *more) for more in ((), (action,))])
    peng, watkins = in_float64(both, reward, next_q, terminated, truncated)
    close(peng, reference.lambda_returns(reward, best, *ends, 0.7))
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
    three = lambda p, r, v, n: (
        returns.vtrace(p, r, v, n, terminated, truncated, 0.9, 0.8, 5.0, 5.0),
        returns.retrace(p - 5, r, v, n, terminated, truncated, 0.9, 0.8),
        returns.monte_carlo(r, n, terminated, truncated, 0.9) * v * p,
    )
    check_gradients(three, *rng.normal(size=(4, 5, 2)))
    yes, nan, one = np.ones((1, 2), bool), np.full((1, 2), np.nan, np.float32), np.ones((1, 2), np.float32)
    both = jax.jit(lambda *block: [f(*block, 0.9) for f in (returns.vtrace, returns.retrace)])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(both(0 * one, one, one, nan, yes, ~yes)))


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
