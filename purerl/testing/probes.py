"""Probe environments: small MDPs with known values, each of which detects one kind of error.

Every function returns `(env, value)`, where `value(gamma)` is the optimal V of each observation in `env.rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

Value = Callable[[float], np.ndarray]


@struct.dataclass
class ProbeParams:
    max_steps_in_episode: int


class ProbeState(NamedTuple):
    row: jax.Array  # int32: which row of `rows` is observed
    time: jax.Array  # int32


class Probe(Environment):
    """A finite MDP given by functions.

    Args:
      rows: the observation of each state, float32 `[K, D]`.
      begin: `key -> state index`.
      move: `(key, state index, action) -> (state index, reward, terminated)`.
      max_steps: the time limit.
    """

    def __init__(self, name, rows, begin, move, num_actions: int, max_steps: int):
        self._name, self.rows = name, jnp.asarray(rows, jnp.float32)
        self._begin, self._move, self._num_actions, self._max_steps = begin, move, num_actions, max_steps

    @property
    def default_params(self):
        return ProbeParams(self._max_steps)

    @property
    def name(self) -> str:
        return self._name

    @property
    def num_actions(self) -> int:
        return self._num_actions

    def reset_env(self, key, params):
        row = jnp.asarray(self._begin(key), jnp.int32)
        return self.rows[row], ProbeState(row, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        row, reward, terminated = self._move(key, state.row, action)
        row = jnp.asarray(row, jnp.int32)
        return (
            self.rows[row],
            ProbeState(row, state.time + 1),
            jnp.asarray(reward, jnp.float32),
            terminated,
            {},
        )

    def action_space(self, params=None):
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params):
        return spaces.Box(self.rows.min(), self.rows.max(), self.rows.shape[1:], jnp.float32)


def constant_reward(max_steps: int = 5) -> tuple[Probe, Value]:
    """Reward 1 until a time limit truncates the episode: V = 1 / (1 - γ). Detects truncation taken for termination."""
    move = lambda key, row, action: (0, 1.0, False)
    env = Probe("constant-reward", [[1.0]], lambda key: 0, move, num_actions=2, max_steps=max_steps)
    return env, lambda gamma: np.array([1 / (1 - gamma)])


def delayed_reward() -> tuple[Probe, Value]:
    """Two steps, reward 1 after the second: V = (γ, 1). Detects off-by-one errors of discounts and successors."""
    move = lambda key, row, action: (1, row == 1, row == 1)
    env = Probe("delayed-reward", [[1.0, 0.0], [0.0, 1.0]], lambda key: 0, move, num_actions=2, max_steps=10)
    return env, lambda gamma: np.array([gamma, 1.0])


def contextual_bandit() -> tuple[Probe, Value]:
    """One step, reward 1 for the action that the observation names and -1 for the other: V = (1, 1)."""
    move = lambda key, row, action: (row, jnp.where(row == action, 1.0, -1.0), True)
    begin = lambda key: jax.random.bernoulli(key)
    env = Probe("contextual-bandit", [[1.0, 0.0], [0.0, 1.0]], begin, move, num_actions=2, max_steps=10)
    return env, lambda gamma: np.array([1.0, 1.0])


def action_reward() -> tuple[Probe, Value]:
    """One state, one step, reward 1 for action 1 of three: V = 1. Detects a wrong sign of the policy gradient."""
    move = lambda key, row, action: (0, action == 1, True)
    env = Probe("action-reward", [[1.0]], lambda key: 0, move, num_actions=3, max_steps=10)
    return env, lambda gamma: np.array([1.0])


def random_length(end: float = 0.25) -> tuple[Probe, Value]:
    """Reward 1 per step, termination with probability `end`: V = 1 / (1 - γ (1 - end)). Detects lost terminations."""
    move = lambda key, row, action: (0, 1.0, jax.random.bernoulli(key, end))
    env = Probe("random-length", [[1.0]], lambda key: 0, move, num_actions=2, max_steps=1000)
    return env, lambda gamma: np.array([1 / (1 - gamma * (1 - end))])
