"""A finite MDP as an environment."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array
from purerl.tabular.mdp import MDP, as_array, checked, legal_of, start_of


@struct.dataclass
class TableParams:
    """max_steps_in_episode: the time limit."""

    max_steps_in_episode: int = 10_000


class TableState(NamedTuple):
    """The state's number, and the steps taken."""

    index: Array  # int32 []
    time: Array  # int32 []


class Table(Environment):
    """A finite MDP as an environment; observations are state indices, int32 scalars.

    If the MDP has `legal`, observations are `{"state": int32 [], "action_mask": bool [A]}`, and illegal actions must
    not be taken. The torso `networks.OneHot` encodes states for networks.
    Args:
      mdp: see `purerl.tabular.MDP`.
      noise: standard deviation of normal noise added to rewards, a scalar or `[S, A]`.
    """

    name: str = "Table"

    def __init__(self, mdp: MDP, noise: Any = 0.0):
        mdp = checked(mdp)
        self.mdp, self.num_states, self._num_actions = mdp, *jnp.shape(mdp.P)[:2]
        self._noise = jnp.broadcast_to(jnp.asarray(noise, jnp.float32), (self.num_states, self._num_actions))

    @property
    def num_actions(self) -> int:
        return self._num_actions

    @property
    def default_params(self) -> TableParams:
        return TableParams()

    def reset_env(self, key, params):
        state = TableState(_draw(key, start_of(self.mdp)), jnp.zeros((), jnp.int32))
        return self.see(state.index), state

    def step_env(self, key, state, action, params):
        mdp, at = self.mdp, (state.index, action)
        next_key, noise_key = jax.random.split(key)
        branch = _draw(next_key, as_array(mdp.P)[at])
        index = branch if mdp.successors is None else as_array(mdp.successors).astype(jnp.int32)[at][branch]
        reward = as_array(mdp.R).astype(jnp.float32)[at]
        reward = reward[branch] if reward.ndim else reward
        reward = reward + self._noise[at] * jax.random.normal(noise_key)
        state = TableState(index, state.time + 1)
        return self.see(index), state, reward, as_array(mdp.terminal)[index], {}

    def see(self, index):
        """The observation in a state."""
        legal = legal_of(self.mdp)
        return index if legal is None else {"state": index, "action_mask": legal[index]}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params):
        states = spaces.Discrete(self.num_states)
        if self.mdp.legal is None:
            return states
        return spaces.Dict({"state": states, "action_mask": spaces.Box(0, 1, (self.num_actions,), jnp.bool_)})


def _draw(key: Array, probs: Array) -> Array:
    """Sample an index `[]` from probabilities `[K]` by inversion of one random number; never one of probability 0."""
    probs = jnp.asarray(probs, jnp.float32)
    below = jnp.cumsum(probs) <= jax.random.uniform(key)
    last = probs.shape[0] - 1 - jnp.argmax(jnp.flip(probs > 0))
    return jnp.minimum(below.sum(), last).astype(jnp.int32)
