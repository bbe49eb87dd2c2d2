"""Multi-armed bandits with A arms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl import exploration
from purerl.core import Array, Key


class Bandit(NamedTuple):
    """A bandit algorithm as a set of pure functions of one bandit, for vmap over many.

    `init(num_arms) -> state`, `act(key, state) -> arm`, `update(state, arm, reward) -> state`.
    """

    init: Callable[[int], Any]
    act: Callable[[Key, Any], Array]
    update: Callable[[Any, Array, Array], Any]


class Arms(NamedTuple):
    """Statistics of each arm, `[A]`."""

    value: Array  # of a gradient bandit: the preference
    count: Array  # int32: pulls
    mean_reward: Array  # of all pulls, a scalar


def _start(initial: Any) -> Callable[[int], Arms]:
    def init(num_arms):
        zero = jnp.zeros((), jnp.result_type(float))
        return Arms(jnp.full(num_arms, initial, zero.dtype), jnp.zeros(num_arms, jnp.int32), zero)

    return init


def _average(step_size: Any) -> Callable[[Arms, Array, Array], Arms]:
    """Q(a) ← Q(a) + α (r - Q(a)), with α = 1 / N(a), the sample mean, where step_size is None."""

    def update(state, arm, reward):
        count = state.count.at[arm].add(1)
        alpha = 1 / count[arm] if step_size is None else step_size
        value = state.value.at[arm].add(alpha * (reward - state.value[arm]))
        return Arms(value, count, state.mean_reward + (reward - state.mean_reward) / count.sum())

    return update


def epsilon_greedy(epsilon=0.1, step_size=None, initial=0.0) -> Bandit:
    """ε-greedy over estimated values; optimistic if `initial` is larger than any reward.

    Args:
      epsilon: ε, a number or a function of the pulls so far, such as `lambda t: schedules.linear(t, 1.0, 0.0, 500)`.
      step_size: α in (0, 1]; None: the sample mean.  initial: Q before the first pull.
    Reference: Sutton & Barto, 2018, sections 2.2 to 2.6.
    """

    def act(key, state):
        now = epsilon(state.count.sum()) if callable(epsilon) else epsilon
        return exploration.epsilon_greedy(key, state.value, now)

    return Bandit(_start(initial), act, _average(step_size))


def ucb(c=2.0, step_size=None) -> Bandit:
    """Greedy over `exploration.ucb1`.

    Args:
      c: weight of the exploration bonus, a number or a function of the pulls so far.  step_size: see
        `epsilon_greedy`.
    Reference: Sutton & Barto, 2018, eq. 2.10.
    """

    def act(key, state):
        now = c(state.count.sum()) if callable(c) else c
        return exploration.greedy(key, exploration.ucb1(state.value, state.count, now))

    return Bandit(_start(0.0), act, _average(step_size))


def gradient(step_size=0.1, baseline: bool = True) -> Bandit:
    """Gradient bandit: a softmax over preferences H, updated by stochastic gradient ascent on the expected reward.

        H ← H + α (r - r̄) (onehot(a) - π),   π = softmax(H)

    Args:
      step_size: α > 0.  baseline: r̄ is the mean reward so far, this one included; otherwise 0.
    Reference: Sutton & Barto, 2018, eq. 2.12.
    """
    act = lambda key, state: jax.random.categorical(key, state.value).astype(jnp.int32)

    def update(state, arm, reward):
        count = state.count.at[arm].add(1)
        mean = state.mean_reward + (reward - state.mean_reward) / count.sum()
        push = jax.nn.one_hot(arm, len(state.value)) - jax.nn.softmax(state.value)
        return Arms(state.value + step_size * (reward - mean * baseline) * push, count, mean)

    return Bandit(_start(0.0), act, update)
