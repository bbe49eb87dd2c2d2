"""Returns and advantages of a time-major block: `[T, ...] -> [T, ...]`.

Every function takes the value of the true successor, `next_value`, and distinguishes termination from truncation:
`terminated` stops the bootstrap, either of `terminated` and `truncated` stops the sum, and the last step of a block
bootstraps. Excluded terms have no effect on values or gradients, even if they are NaN or infinite.

All functions except `n_step` are based on `discounted_sums`: of rewards for returns, of TD errors for corrections of
values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_shapes
from purerl.core import Array

__all__ = [
    "VTrace",
    "corrections",
    "discounted_sums",
    "eligibility_traces",
    "gae",
    "lambda_returns",
    "monte_carlo",
    "n_step",
    "q_lambda",
    "retrace",
    "tree_backup",
    "vtrace",
]


def _times(weight: Array, x: Array) -> Array:
    """weight · x; the product is 0 where the weight is 0, even if x is NaN or infinite."""
    return weight * jnp.where((weight != 0) | jnp.isfinite(x), x, 0.0)


def discounted_sums(x: Array, discount: Array, in_passes: bool = False) -> Array:
    """Discounted sums over the following steps, with one discount per step.

        yₜ = xₜ + dₜ yₜ₊₁,   y_T = 0

    Args:
      x, discount: float `[T, ...]`; a discount of 0 stops the sum, even if the following values are NaN.
      in_passes: use an associative scan, with log₂ T passes over the block instead of T steps, for devices on which
        each step costs a kernel launch. On a CPU it is 2 to 9 times slower (`python benchmarks/returns.py`).
    Returns:
      Sums, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.

    >>> discounted_sums(jnp.ones(3), jnp.full(3, 0.5)).tolist()
    [1.75, 1.5, 1.0]
    """
    check_shapes("discounted_sums", x=x, discount=discount)
    if in_passes:
        follow = lambda later, now: (now[0] + _times(now[1], later[0]), now[1] * later[1])
        return jax.lax.associative_scan(follow, (x, discount), reverse=True)[0]

    def step(y, now):
        y = now[0] + _times(now[1], y)
        return y, y

    return jax.lax.scan(step, jnp.zeros_like(x[0]), (x, discount), reverse=True)[1]


def corrections(delta, trace, terminated, truncated, gamma) -> Array:
    """Corrections of values: sums of TD errors, weighted by the trace coefficients of the steps.

        Aₜ = δₜ + γ cₜ (1 - endₜ) Aₜ₊₁,   end = terminated or truncated

    GAE has cₜ = λ, Retrace λ min(1, ρₜ₊₁), Tree-backup λ π(aₜ₊₁|sₜ₊₁), importance sampling ρₜ₊₁; V-trace has
    λ min(c̄, ρₜ) and δ times min(ρ̄, ρₜ).
    Args:
      delta: float `[T, ...]`.  trace: c, float `[T, ...]` or scalar.  terminated, truncated: bool `[T, ...]`.
      gamma: scalar in [0, 1].
    Returns:
      Corrections, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Munos et al., 2016, arXiv:1606.02647, eq. 3.

    >>> no = jnp.zeros(2, bool)
    >>> corrections(jnp.ones(2), 1.0, no, no, 0.5).tolist()
    [1.5, 1.0]
    """
    trace = jnp.broadcast_to(trace, jnp.shape(delta)) if jnp.ndim(trace) == 0 else trace
    check_shapes("corrections", delta=delta, trace=trace, terminated=terminated, truncated=truncated)
    return discounted_sums(delta, jnp.where(terminated | truncated, 0.0, gamma * trace))


def _td_errors(reward, value, next_value, terminated, gamma) -> Array:
    """δ = r + γ (1 - terminated) V(s') - V(s)."""
    return reward + gamma * jnp.where(terminated, 0.0, next_value) - value


def gae(reward, value, next_value, terminated, truncated, gamma, lam) -> Array:
    """Generalised advantage estimates.

        Âₜ = δₜ + γλ (1 - endₜ) Âₜ₊₁,   δₜ = rₜ + γ (1 - terminatedₜ) V(s'ₜ) - V(sₜ),   end = terminated or truncated

    Args:
      reward, value, next_value: float `[T, ...]`.
      terminated, truncated: bool `[T, ...]`.
      gamma, lam: scalars in [0, 1].
    Returns:
      Advantages, float `[T, ...]`; add `value` for the λ-return, the critic's target.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Schulman et al., 2016, arXiv:1506.02438, eq. 16.

    >>> one, zero, yes, no = jnp.ones(1), jnp.zeros(1), jnp.ones(1, bool), jnp.zeros(1, bool)
    >>> round(gae(one, zero, one, no, yes, 0.9, 0.95).item(), 3), gae(one, zero, one, yes, no, 0.9, 0.95).item()
    (1.9, 1.0)
    """
    check_shapes("gae", reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated)
    delta = _td_errors(reward, value, next_value, terminated, gamma)
    return corrections(delta, lam, terminated, truncated, gamma)


def lambda_returns(reward, next_value, terminated, truncated, gamma, lam) -> Array:
    """λ-returns: the critic's targets, from one step (λ = 0) to Monte Carlo (λ = 1).

        Gₜ = rₜ + γ (1 - terminatedₜ) [(1 - λₜ) V(s'ₜ) + λₜ Gₜ₊₁],   λₜ = 0 at an end and at the block's last step

    Args:
      reward, next_value: float `[T, ...]`.
      terminated, truncated: bool `[T, ...]`.
      gamma: scalar in [0, 1].  lam: scalar or float `[T, ...]` in [0, 1].
    Returns:
      Returns, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Sutton & Barto, 2018, eq. 12.18.

    >>> no = jnp.zeros(2, bool)
    >>> lambda_returns(jnp.ones(2), jnp.array([0.0, 10.0]), no, no, 0.5, 1.0).tolist()
    [4.0, 6.0]
    """
    check_shapes("lambda_returns", reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    lam = jnp.where(terminated | truncated, 0.0, jnp.broadcast_to(lam, jnp.shape(reward)))
    lam = lam.at[-1].set(0.0)
    next_value = jnp.where(terminated, 0.0, next_value)
    return discounted_sums(reward + _times(gamma * (1 - lam), next_value), gamma * lam)


def monte_carlo(reward, next_value, terminated, truncated, gamma) -> Array:
    """Monte Carlo returns, computed separately for each episode in the block.

        Gₜ = rₜ + γ (1 - terminatedₜ) Gₜ₊₁

    At a truncation and at the block's last step, V(s') replaces the rewards that were not observed; pass zeros to
    omit it.
    Args:
      reward, next_value: float `[T, ...]`.
      terminated, truncated: bool `[T, ...]`.
      gamma: scalar in [0, 1].
    Returns:
      Returns, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Sutton & Barto, 2018, eq. 3.9.

    >>> end = jnp.array([False, True, False])
    >>> monte_carlo(jnp.ones(3), jnp.full(3, 8.0), end, jnp.zeros(3, bool), 0.5).tolist()
    [1.5, 1.0, 5.0]
    """
    return lambda_returns(reward, next_value, terminated, truncated, gamma, 1.0)


def q_lambda(reward, next_q, terminated, truncated, gamma, lam, next_action=None) -> Array:
    """λ-returns of Q-learning.

        Gₜ = rₜ + γ (1 - terminatedₜ) [(1 - λₜ) max Q(s'ₜ, ·) + λₜ Gₜ₊₁]

    Args:
      reward: float `[T, ...]`.  next_q: float `[T, ..., A]`.  terminated, truncated: bool `[T, ...]`.
      gamma: scalar in [0, 1].  lam: scalar or float `[T, ...]` in [0, 1].
      next_action: int `[T, ...]`, the action taken in s'ₜ. If given, λ is 0 where that action was not greedy
        (Watkins's Q(λ), which evaluates the greedy policy); otherwise λ is not changed (Peng's Q(λ)).
    Returns:
      Returns, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Peng & Williams, 1994; Watkins, 1989; Sutton & Barto, 2018, section 12.10.

    >>> no, next_q = jnp.zeros(2, bool), jnp.array([[2.0, 0.0], [4.0, 0.0]])
    >>> q_lambda(jnp.ones(2), next_q, no, no, 0.5, 1.0).tolist()
    [2.5, 3.0]
    >>> q_lambda(jnp.ones(2), next_q, no, no, 0.5, 1.0, jnp.array([1, 0])).tolist()
    [2.0, 3.0]
    """
    # before the maximum, whose gradient is NaN where Q is NaN
    masked: Any = jnp.where(jnp.asarray(terminated)[..., None], 0.0, next_q)
    value = masked.max(-1)
    if next_action is not None:
        check_shapes("q_lambda", reward=reward, next_action=next_action)
        of_action = jnp.take_along_axis(masked, next_action[..., None], axis=-1)[..., 0]
        lam = jnp.where(of_action == value, lam, 0.0)
    return lambda_returns(reward, value, terminated, truncated, gamma, lam)


def _next_step(x: Array) -> Array:
    """xₜ₊₁; its last row is not used, since no correction follows the last step of a block."""
    return jnp.concatenate([x[1:], x[-1:]])


def retrace(log_ratio, reward, value, next_value, terminated, truncated, gamma, lam=1.0) -> Array:
    """Retrace(λ): off-policy returns for Q of a target policy π from actions of any behaviour policy μ.

        Gₜ = Q(sₜ,aₜ) + Aₜ,   Aₜ = δₜ + γ λ min(1, ρₜ₊₁) Aₜ₊₁,   δₜ = rₜ + γ Σ π(a|s'ₜ) Q(s'ₜ,a) - Q(sₜ,aₜ)

    Args:
      log_ratio: log ρ = log π(a|s) - log μ(a|s), float `[T, ...]`.
      reward: float `[T, ...]`.  value: Q(s,a) of the actions taken, float `[T, ...]`.
      next_value: Σ π(a|s') Q(s',a), float `[T, ...]` (`bellman.state_value`).
      terminated, truncated: bool `[T, ...]`.  gamma, lam: scalars in [0, 1].
    Returns:
      Targets for Q(s,a), float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Munos et al., 2016, arXiv:1606.02647, eq. 4 and table 1.

    >>> no, ratio = jnp.zeros(2, bool), jnp.log(jnp.array([1.0, 0.5]))
    >>> retrace(ratio, jnp.ones(2), jnp.zeros(2), jnp.zeros(2), no, no, 1.0).tolist()
    [1.5, 1.0]
    """
    check_shapes("retrace", log_ratio=log_ratio, reward=reward, value=value, next_value=next_value)
    delta = _td_errors(reward, value, next_value, terminated, gamma)
    trace = lam * jnp.exp(jnp.minimum(0.0, _next_step(log_ratio)))
    return value + corrections(delta, trace, terminated, truncated, gamma)


def tree_backup(prob, reward, value, next_value, terminated, truncated, gamma, lam=1.0) -> Array:
    """Tree-backup(λ): off-policy returns that do not need the probabilities of the behaviour policy.

        Gₜ = Q(sₜ,aₜ) + Aₜ,   Aₜ = δₜ + γ λ π(aₜ₊₁|sₜ₊₁) Aₜ₊₁

    Args:
      prob: π(a|s) of the target policy for the actions taken, float `[T, ...]`; the others as in `retrace`.
    Returns:
      Targets for Q(s,a), float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Precup et al., 2000; Munos et al., 2016, arXiv:1606.02647, table 1.

    >>> no = jnp.zeros(2, bool)
    >>> tree_backup(jnp.array([1.0, 0.5]), jnp.ones(2), jnp.zeros(2), jnp.zeros(2), no, no, 1.0).tolist()
    [1.5, 1.0]
    """
    check_shapes("tree_backup", prob=prob, reward=reward, value=value, next_value=next_value)
    delta = _td_errors(reward, value, next_value, terminated, gamma)
    return value + corrections(delta, lam * _next_step(prob), terminated, truncated, gamma)


class VTrace(NamedTuple):
    """The critic's targets and the actor's advantages, float `[T, ...]`."""

    target: Array  # of V(s)
    advantage: Array  # for the policy gradient, importance weight included


def vtrace(
    log_ratio,
    reward,
    value,
    next_value,
    terminated,
    truncated,
    gamma,
    lam=1.0,
    clip_rho=1.0,
    clip_c=1.0,
    clip_pg_rho=None,
) -> VTrace:
    """V-trace: targets and advantages for a policy π from actions of an older policy μ.

        vₜ = V(sₜ) + Aₜ,   Aₜ = ρ̄ₜ δₜ + γ c̄ₜ Aₜ₊₁,   ρ̄ = min(clip_rho, ρ),   c̄ = λ min(clip_c, ρ)
        advantageₜ = min(clip_pg_rho, ρₜ) [rₜ + γ ((1 - λ) V(s'ₜ) + λ vₜ₊₁) - V(sₜ)]

    with V(s'ₜ) in place of vₜ₊₁ at a truncation and at the block's last step. For ρ = 1 the target is the λ-return.
    Args:
      log_ratio: log ρ = log π(a|s) - log μ(a|s), float `[T, ...]`.
      reward, value, next_value: float `[T, ...]`.
      terminated, truncated: bool `[T, ...]`.
      gamma, lam: scalars in [0, 1].  clip_rho, clip_c: upper bounds of the ratios, > 0; clip_c ≤ clip_rho.
      clip_pg_rho: the upper bound of the ratio in the advantage, > 0; None: clip_rho.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Espeholt et al., 2018, arXiv:1802.01561, eq. 1 and section 4.2.

    >>> no, ratio = jnp.zeros(2, bool), jnp.log(jnp.array([0.5, 1.0]))
    >>> vtrace(ratio, jnp.ones(2), jnp.zeros(2), jnp.zeros(2), no, no, 1.0).target.tolist()
    [1.0, 1.0]
    """
    check_shapes("vtrace", log_ratio=log_ratio, reward=reward, value=value, next_value=next_value)
    # clip the logarithm: e^{log ρ} may overflow
    rho = jnp.exp(jnp.minimum(log_ratio, jnp.log(clip_rho)))
    trace = lam * jnp.exp(jnp.minimum(log_ratio, jnp.log(clip_c)))
    next_value = jnp.where(terminated, 0.0, jnp.asarray(next_value))
    delta = rho * (reward + gamma * next_value - value)
    target = value + corrections(delta, trace, terminated, truncated, gamma)
    goes_on = jnp.asarray(~(terminated | truncated)).at[-1].set(False)
    after = jnp.where(goes_on, (1 - lam) * next_value + lam * _next_step(target), next_value)
    weight = rho if clip_pg_rho is None else jnp.exp(jnp.minimum(log_ratio, jnp.log(clip_pg_rho)))
    return VTrace(target, weight * (reward + gamma * after - value))


def eligibility_traces(x, terminated, truncated, gamma, lam) -> Array:
    """Eligibility traces: the backward view of TD(λ).

        eₜ = xₜ + γλ (1 - endₜ₋₁) eₜ₋₁

    Over whole episodes Σ eₜ δₜ = Σ xₜ Âₜ, with Â of `gae`: the forward and backward views are equal.
    Args:
      x: float `[T, ..., F]`, such as ∇V(sₜ), or a one-hot encoding of the state for a tabular value.
      terminated, truncated: bool `[T, ...]`.  gamma, lam: scalars in [0, 1].
    Returns:
      Traces, float `[T, ..., F]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: Sutton & Barto, 2018, eq. 12.5.

    >>> no = jnp.zeros(2, bool)
    >>> eligibility_traces(jnp.eye(2), no, no, 1.0, 0.5).tolist()
    [[1.0, 0.0], [0.5, 1.0]]
    """
    check_shapes("eligibility_traces", steps_of_x=x[..., 0], terminated=terminated, truncated=truncated)
    decay = jnp.where(terminated | truncated, 0.0, gamma * lam)

    def step(trace, now):
        x, decay = now
        trace = trace + x
        return _times(decay[..., None], trace), trace

    return jax.lax.scan(step, jnp.zeros_like(x[0]), (x, decay))[1]


def n_step(reward, next_value, terminated, truncated, gamma, n: int, lam=1.0) -> Array:
    """n-step returns: n rewards, then the bootstrapped value of the last state.

        Gₜ = rₜ + γ rₜ₊₁ + … + γ^{k-1} rₜ₊ₖ₋₁ + γᵏ (1 - terminatedₜ₊ₖ₋₁) V(s'ₜ₊ₖ₋₁)

    where k ≤ n is the number of steps up to the end of the episode or of the block. With λ < 1 it is the λ-return
    truncated after n rewards:

        G⁽ᵏ⁾ₜ = rₜ + γ (1 - terminatedₜ) [(1 - λₜ) V(s'ₜ) + λₜ G⁽ᵏ⁻¹⁾ₜ₊₁],   G⁽¹⁾ₜ = rₜ + γ (1 - terminatedₜ) V(s'ₜ)

    Args:
      reward, next_value: float `[T, ...]`.
      terminated, truncated: bool `[T, ...]`.
      gamma: scalar in [0, 1].  n: a positive Python int.  lam: scalar or float `[T, ...]` in [0, 1].
    Returns:
      Returns, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ or n is not a positive int.
    Reference: Sutton & Barto, 2018, eq. 7.1, and 12.9 for λ.

    >>> no = jnp.zeros(3, bool)
    >>> n_step(jnp.ones(3), jnp.full(3, 8.0), no, no, 0.5, 2).tolist()
    [3.5, 3.5, 5.0]
    >>> n_step(jnp.ones(3), jnp.full(3, 8.0), no, no, 0.5, 2, lam=0.5).tolist()
    [4.25, 4.25, 5.0]
    """
    check_shapes("n_step", reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n_step: n is {n!r}; it must be a positive int")
    lam = jnp.where(terminated | truncated, 0.0, jnp.broadcast_to(lam, jnp.shape(reward))).at[-1].set(0.0)
    next_value = jnp.where(terminated, 0.0, next_value)
    now, carried = reward + _times(gamma * (1 - lam), next_value), gamma * lam

    def longer(_, returns):  # G⁽ᵏ⁺¹⁾ₜ from G⁽ᵏ⁾ₜ₊₁
        return now + _times(carried, _next_step(returns))

    return jax.lax.fori_loop(1, min(n, len(reward)), longer, reward + gamma * next_value)
