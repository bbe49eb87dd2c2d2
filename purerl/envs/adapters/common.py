"""The common adapter for environments of other packages."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array


@struct.dataclass
class EpisodeParams:
    """max_steps_in_episode: the time limit."""

    max_steps_in_episode: int


class Inner(NamedTuple):
    """The state of another package's environment, whether it was truncated, and the steps taken."""

    env: Any
    truncated: Array  # bool []
    time: Array  # int32 []


class Adapted(Environment):
    """An environment of another package, from two functions.

    Args:
      name: its id in this package.
      reset: `key -> (obs, state)`.
      step: `(key, state, action) -> (obs, state, reward, terminated, truncated)`.
      action_space: a gymnax space.
      max_steps: the time limit.
    """

    def __init__(self, name: str, reset: Callable, step: Callable, action_space: Any, max_steps: int):
        self._name, self._reset, self._step = name, reset, step
        self._space, self._max_steps = action_space, max_steps
        self._seen = shapes(reset)[0]

    @property
    def default_params(self) -> EpisodeParams:
        return EpisodeParams(self._max_steps)

    @property
    def name(self) -> str:
        return self._name

    @property
    def num_actions(self) -> int:
        return self._space.n if hasattr(self._space, "n") else math.prod(self._space.shape)

    def reset_env(self, key, params):
        obs, state = self._reset(key)
        return obs, Inner(state, jnp.zeros((), bool), jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        obs, inner, reward, terminated, truncated = self._step(key, state.env, action)
        flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        return obs, Inner(inner, flags[1], state.time + 1), jnp.asarray(reward, jnp.float32), flags[0], {}

    def is_truncated(self, state, params):
        return state.truncated | (state.time >= params.max_steps_in_episode)

    def action_space(self, params=None):
        return self._space

    def observation_space(self, params):
        return _space_of(self._seen)


def shapes(reset: Callable) -> Any:
    """The shapes of the results of a function of a key, without evaluating it."""
    return jax.eval_shape(lambda seed: reset(jax.random.key(seed)), jnp.zeros((), jnp.int32))


def _space_of(obs: Any) -> spaces.Space:
    """The largest space of observations with these shapes and dtypes."""
    if isinstance(obs, dict):
        return spaces.Dict({name: _space_of(obs[name]) for name in sorted(obs)})
    if isinstance(obs, tuple):
        return spaces.Tuple([_space_of(x) for x in obs])
    whole = jnp.issubdtype(obs.dtype, jnp.integer)
    low, high = (0, 1) if obs.dtype == bool else (-jnp.inf, jnp.inf)
    if whole:
        low, high = jnp.iinfo(obs.dtype).min, jnp.iinfo(obs.dtype).max
    return spaces.Box(low, high, obs.shape, obs.dtype)


def as_dict(obs: Any) -> Any:
    """Convert nested NamedTuples and dataclasses to dicts."""
    if isinstance(obs, dict):
        return {name: as_dict(x) for name, x in obs.items()}
    if hasattr(obs, "_asdict"):
        return as_dict(obs._asdict())
    if hasattr(obs, "__dataclass_fields__"):
        return {name: as_dict(getattr(obs, name)) for name in obs.__dataclass_fields__}
    return obs


def near(name: str, names: list[str]) -> str:
    """A hint for an unknown name: similar names, or all names if none is similar."""
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(alike)}?" if alike else "allowed are " + ", ".join(names)


def known(suite: str, name: str, names: Any) -> None:
    """Raise a ValueError unless a package has an environment of this name."""
    names = sorted(names)
    if name not in names:
        raise ValueError(f"there is no environment {suite}/{name}; {near(name, names)}")
