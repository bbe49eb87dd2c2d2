"""Terminal bonuses and potential-based shaping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from purerl.arguments import check_functions, check_range
from purerl.core import Array, Reward, Transition
from purerl.rewards.terms import check_reward, term


def terminal_bonus(value, condition: Callable[[Transition], Array] | None = None) -> Reward:
    """r + value at terminations (not at truncations), or at terminations where a condition holds.

    Args:
      value: a number.  condition: a function of transitions to bool `[T, N]`, such as
        `lambda tr: tr.next_obs[..., 0] > 0.5`.
    """

    def added(tr):
        here = tr.terminated if condition is None else tr.terminated & condition(tr)
        return tr.reward + jnp.where(here, value, 0.0)

    return term(added, "terminal_bonus")


def potential(phi: Callable[[Any], Array], gamma=None) -> Reward:
    """Potential-based shaping, which preserves the optimal policies.

        r + γ (1 - terminated) Φ(s') - Φ(s)

    Φ(s') is 0 at a termination, but not at a truncation, at which values are bootstrapped.
    Args:
      phi: Φ, a function of observations with leading axes `[T, N]` to `[T, N]`.
      gamma: γ, the learner's discount.
    Raises:
      ValueError: without γ, or if phi returns another shape.
    Reference: Ng, Harada & Russell, 1999, theorem 1; Grześ, 2017, "Reward shaping in episodic reinforcement learning".
    """
    if gamma is None:
        raise ValueError("potential: gamma is None; it must be the learner's, or shaping changes what is optimal")
    check_range("potential", 0, 1, gamma=gamma)
    check_functions("potential", phi=phi)

    def shaped(tr):
        now, after = (
            check_reward("potential: phi", phi(tr.obs), tr),
            check_reward("potential: phi", phi(tr.next_obs), tr),
        )
        return tr.reward + gamma * jnp.where(tr.terminated, 0.0, after) - now

    return term(shaped, "potential")
