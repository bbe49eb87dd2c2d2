"""Lagrangian rewards for constrained MDPs."""

from __future__ import annotations

import math

import jax.numpy as jnp

from purerl.arguments import check_functions, check_range
from purerl.core import Reward
from purerl.rewards.terms import Term, check_reward, mean_over_valid


def lagrangian(cost: Term, limit, learning_rate=0.05, initial=0.0) -> Reward:
    """A Lagrangian reward; its multiplier λ increases while the mean cost is above its limit.

        (r - λ c) / (1 + λ),   λ ← [λ + α (mean c - limit)]⁺   after every block

    Args:
      cost: a function of transitions, such as `lambda tr: tr.info["cost"]` (with `learner(..., info=("cost",))`), to
        the cost `[T, N]`.
      limit: the limit of the mean cost of a step.  learning_rate: α.  initial: the initial λ, ≥ 0.
    Returns:
      A `Reward`; its metrics are `cost`, the mean of a step, and `multiplier`, λ.
    Reference: Tessler, Mankowitz & Mannor, 2018, arXiv:1805.11074, eq. 5 and 9; division keeps their scale.
    """
    check_range("lagrangian", 0, math.inf, learning_rate=learning_rate, initial=initial)
    check_functions("lagrangian", cost=cost)

    def apply(key, multiplier, transitions):
        del key  # not used
        costs = check_reward("lagrangian: cost", cost(transitions), transitions)
        mean = mean_over_valid(costs, transitions)
        reward = (transitions.reward - multiplier * costs) / (1 + multiplier)
        after = jnp.maximum(multiplier + learning_rate * (mean - limit), 0.0)
        return after, reward, {"cost": mean, "multiplier": multiplier}

    return Reward(lambda key, transition: jnp.asarray(initial, jnp.float32), apply)
