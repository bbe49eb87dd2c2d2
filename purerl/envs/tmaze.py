"""The T-maze: the first observation determines the correct turn at the end of a corridor."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array


@struct.dataclass
class TMazeParams:
    """length: cells of the corridor before the junction.  max_steps_in_episode: the time limit."""

    length: int = 10
    max_steps_in_episode: int = 200


class TMazeState(NamedTuple):
    """The cell, the way that the sign shows (0 north, 1 south), and the steps taken."""

    cell: Array  # int32 []
    sign: Array  # int32 []
    time: Array  # int32 []


class TMaze(Environment):
    """Walk east along a corridor and, at the junction, turn in the direction that a sign showed in the first cell.

    Actions are north, east, south and west. Reward 4 for the right turn, -0.1 for the wrong one, which both end the
    episode, and -0.1 for walking into a wall. Observations are (sign north or corridor, junction, sign south or
    corridor), equal for all cells in between. The optimal return is 4; without memory its mean is 1.95.

    Reference: Bakker, 2002, "Reinforcement learning with long short-term memory", section 4.
    """

    name: str = "TMaze-v0"
    num_actions: int = 4

    @property
    def default_params(self) -> TMazeParams:
        return TMazeParams()

    def reset_env(self, key, params):
        zero = jnp.zeros((), jnp.int32)
        state = TMazeState(zero, jax.random.bernoulli(key).astype(jnp.int32), zero)
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        junction = state.cell == params.length
        turned = junction & ((action == 0) | (action == 2))
        right = turned & ((action == 2) == (state.sign == 1))
        cell = jnp.clip(state.cell + jnp.where(action == 1, 1, jnp.where(action == 3, -1, 0)), 0, params.length)
        reward = jnp.where(right, 4.0, jnp.where(turned | (cell == state.cell), -0.1, 0.0))
        state = TMazeState(cell, state.sign, state.time + 1)
        return self._see(state, params), state, reward, turned, {}

    def _see(self, state, params):
        corridor = jnp.array([1.0, 0.0, 1.0])
        sign = jnp.where(state.sign == 1, jnp.array([0.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 0.0]))
        seen = jnp.where(state.cell == params.length, jnp.array([0.0, 1.0, 0.0]), corridor)
        return jnp.where(state.cell == 0, sign, seen)

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(4)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (3,), jnp.float32)
