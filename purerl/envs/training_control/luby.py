"""Predict the Luby sequence, an artificial benchmark of dynamic algorithm configuration."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts
from purerl.core import Array

HISTORY = 5


@struct.dataclass
class LubyParams:
    """max_steps_in_episode: the number of steps, read by evaluation alone."""

    max_steps_in_episode: int


class LubyState(NamedTuple):
    """One more than each of the last five actions, the newest last (0: none yet), and the steps taken, all int32."""

    actions: Array
    time: Array


class Luby(Environment):
    """Action a is right at step t = 1, 2, …, T if 2^a = luby(t); the reward is 0 if it is right, otherwise -1.

    luby = 1, 1, 2, 1, 1, 2, 4, 1, 1, 2, …: see `luby`. The optimal return is 0. The episode terminates after T steps.
    Observations, float32 `[5 (A + 1) + T]`, are the last five actions and the step, each one-hot: the right action
    jumps from one step to the next, which no scale of a number shows.

    Reference: Biedenkapp et al., 2020, "Dynamic algorithm configuration: foundation of a new meta-algorithmic
    framework", section 5.1.
    Args:
      num_steps: T.
    Raises:
      ValueError: unless T is a positive int.
    """

    name: str = "Luby-v0"

    def __init__(self, num_steps: int = 64):
        check_counts("Luby", num_steps=num_steps)
        self._num_steps, self._right = num_steps, luby_actions(num_steps)

    @property
    def num_actions(self) -> int:
        return int(self._right.max()) + 1

    @property
    def default_params(self) -> LubyParams:
        return LubyParams(self._num_steps)

    def reset_env(self, key, params):
        state = LubyState(jnp.zeros(HISTORY, jnp.int32), jnp.zeros((), jnp.int32))
        return self._see(state), state

    def step_env(self, key, state, action, params):
        action = jnp.asarray(action, jnp.int32)
        reward = jnp.where(action == jnp.asarray(self._right)[state.time], 0.0, -1.0)
        state = LubyState(jnp.append(state.actions[1:], action + 1), state.time + 1)
        return self._see(state), state, reward, state.time >= self._num_steps, {}

    def _see(self, state):
        actions = jax.nn.one_hot(state.actions, self.num_actions + 1, dtype=jnp.float32)
        return jnp.append(actions.reshape(-1), jax.nn.one_hot(state.time, self._num_steps, dtype=jnp.float32))

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (HISTORY * (self.num_actions + 1) + self._num_steps,), jnp.float32)


def luby(num_steps: int) -> np.ndarray:
    """The first T terms of the Luby sequence, int32 `[T]`: l ← (l, l, 2 · the last of l) from l = (1).

        luby(t) = 2^{k-1} for t = 2^k - 1,   luby(t - 2^{k-1} + 1) for 2^{k-1} ≤ t < 2^k - 1

    Reference: Luby, Sinclair & Zuckerman, 1993, doi:10.1016/0020-0190(93)90029-9.

    >>> luby(8).tolist()
    [1, 1, 2, 1, 1, 2, 4, 1]
    """
    check_counts("luby", num_steps=num_steps)
    sequence = np.ones(1, np.int32)
    while len(sequence) < num_steps:
        sequence = np.concatenate([sequence, sequence, 2 * sequence[-1:]])
    return sequence[:num_steps]


def luby_actions(num_steps: int) -> np.ndarray:
    """The right action at each step, log₂ luby(t), int32 `[T]`: the optimal policy of `Luby`, whose return is 0.

    >>> luby_actions(8).tolist()
    [0, 0, 1, 0, 0, 1, 2, 0]
    """
    return np.log2(luby(num_steps)).astype(np.int32)
