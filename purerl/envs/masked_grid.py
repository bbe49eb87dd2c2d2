"""A small grid world with walls, in which moves into a wall are illegal."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array

CELLS = ("...#", ".#..", "...#", "#..G")
_FREE = np.array([[cell != "#" for cell in row] for row in CELLS])
_SIZE = len(CELLS)
_MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # north, east, south, west
_GOAL = "".join(CELLS).index("G")


def _successors() -> tuple[np.ndarray, np.ndarray]:
    """The cell that every move leads to, and whether it is legal, `[cells, 4]`."""
    at = np.stack(np.divmod(np.arange(_SIZE**2), _SIZE), -1)
    to = at[:, None] + _MOVES
    inside = ((to >= 0) & (to < _SIZE)).all(-1)
    to = np.clip(to, 0, _SIZE - 1)
    legal = inside & _FREE[to[..., 0], to[..., 1]]
    # int32 also as NumPy's: constants of programs of either precision
    return np.where(legal, to @ [_SIZE, 1], np.arange(_SIZE**2)[:, None]).astype(np.int32), legal


NEXT, LEGAL = _successors()
STARTS = np.flatnonzero(_FREE.reshape(-1) & (np.arange(_SIZE**2) != _GOAL)).astype(np.int32)


@struct.dataclass
class MaskedGridParams:
    """max_steps_in_episode: the time limit."""

    max_steps_in_episode: int = 100


class MaskedGridState(NamedTuple):
    """The cell, and the steps taken."""

    cell: Array  # int32 []
    time: Array  # int32 []


class MaskedGrid(Environment):
    """Reach the goal of a 4 x 4 grid from any free cell, with a reward of -1 per step.

    Observations are `{"cell": one-hot [16], "action_mask": bool [4]}`. An illegal move gives a reward of +1 and does
    not change the cell, so the values reveal an agent that ignores the mask or bootstraps from illegal actions.
    """

    name: str = "MaskedGrid-v0"
    num_actions: int = 4

    @property
    def default_params(self) -> MaskedGridParams:
        return MaskedGridParams()

    def reset_env(self, key, params):
        state = MaskedGridState(jax.random.choice(key, jnp.asarray(STARTS, jnp.int32)), jnp.zeros((), jnp.int32))
        return self.see(state.cell), state

    def step_env(self, key, state, action, params):
        legal = jnp.asarray(LEGAL)[state.cell, action]
        state = MaskedGridState(jnp.asarray(NEXT, jnp.int32)[state.cell, action], state.time + 1)
        return self.see(state.cell), state, jnp.where(legal, -1.0, 1.0), state.cell == _GOAL, {}

    def see(self, cell):
        """The observation in a cell."""
        return {"cell": jax.nn.one_hot(cell, _SIZE**2), "action_mask": jnp.asarray(LEGAL)[cell]}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(4)

    def observation_space(self, params):
        mask = spaces.Box(0, 1, (4,), jnp.bool_)
        return spaces.Dict({"cell": spaces.Box(0.0, 1.0, (_SIZE**2,), jnp.float32), "action_mask": mask})
