"""Returns and advantages of a time-major block: `[T, ...] -> [T, ...]`.

Every function takes the true successor's value `next_value` and the two ends apart: `terminated` stops the
bootstrap, either of `terminated` and `truncated` stops the sum, and the last step of a block bootstraps too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl.core import Array, check_shapes


def _backward(x: Any, last: Array) -> Array:
    """yₜ = aₜ + bₜ yₜ₊₁ with y_T = last, for x = (a, b)."""

    def step(y, ab):
        y = ab[0] + ab[1] * y
        return y, y

    return jax.lax.scan(step, last, x, reverse=True)[1]


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
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    carry_on = jnp.where(terminated | truncated, 0.0, gamma * lam)
    return _backward((delta, carry_on), jnp.zeros_like(delta[0]))


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
    discount = jnp.where(terminated, 0.0, gamma)
    return _backward((reward + discount * (1 - lam) * next_value, discount * lam), jnp.zeros_like(reward[0]))


def n_step(reward, next_value, terminated, truncated, gamma, n: int) -> Array:
    """n-step returns: n rewards, then the value of the state they lead to.

        Gₜ = rₜ + γ rₜ₊₁ + … + γ^{k-1} rₜ₊ₖ₋₁ + γᵏ (1 - terminatedₜ₊ₖ₋₁) V(s'ₜ₊ₖ₋₁)

    where k ≤ n is as far as one gets before an end or the block's last step.

    Args:
      reward, next_value: float `[T, ...]`.
      terminated, truncated: bool `[T, ...]`.
      gamma: scalar in [0, 1].  n: a positive Python int.
    Returns:
      Returns, float `[T, ...]`.
    Raises:
      ValueError: at trace time, if shapes differ or n is not a positive int.
    Reference: Sutton & Barto, 2018, eq. 7.1.

    >>> no = jnp.zeros(3, bool)
    >>> n_step(jnp.ones(3), jnp.full(3, 8.0), no, no, 0.5, 2).tolist()
    [3.5, 3.5, 5.0]
    """
    check_shapes("n_step", reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n_step: n is {n!r}; it must be a positive int")
    one_step = reward + jnp.where(terminated, 0.0, gamma) * next_value
    stop = (terminated | truncated).at[-1].set(True)

    def longer(_, returns):  # G⁽ᵏ⁺¹⁾ₜ = rₜ + γ G⁽ᵏ⁾ₜ₊₁
        later = jnp.concatenate([returns[1:], returns[-1:]])
        return jnp.where(stop, one_step, reward + gamma * later)

    return jax.lax.fori_loop(1, min(n, len(reward)), longer, one_step)
