"""Wrappers of gymnax environments. (`gymnax.wrappers.purerl` is gymnax's own, unrelated module.)"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts, check_step_env
from purerl.core import Array
from purerl.distributions import first_of, is_discrete, map_space


class Wrapper(Environment):
    """Base class of wrappers: subclasses override some methods of the wrapped environment.

    Raises:
      ValueError: for an environment with a `step` or `reset` of its own, since wrappers call `step_env`, `reset_env`.
    """

    def __init__(self, env: Environment):
        check_step_env(type(self).__name__, env)
        self.env = env

    @property
    def default_params(self):
        return self.env.default_params

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def num_actions(self) -> int:
        return self.env.num_actions

    def reset_env(self, key, params):
        return self.env.reset_env(key, params)

    def step_env(self, key, state, action, params):
        return self.env.step_env(key, state, action, params)

    def is_truncated(self, state, params) -> Array:
        return self.env.is_truncated(state, params)

    def is_terminated(self, state, params) -> Array:
        return self.env.is_terminated(state, params)

    def action_space(self, params=None):
        return self.env.action_space(params)

    def observation_space(self, params):
        return self.env.observation_space(params)

    def state_space(self, params):
        return self.env.state_space(params)


# environments whose observations exceed the bounds that gymnax 1.0.1 declares
_UNDERSTATED = ("MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc")


class Cast(Wrapper):
    """Convert rewards and observations to float32, and Discrete observations to one-hot; some are ints in gymnax."""

    def observation_space(self, params):
        space = self.env.observation_space(params)
        if is_discrete(space):
            return spaces.Box(0.0, 1.0, (int(space.n),), jnp.float32)
        if hasattr(space, "n"):
            return spaces.Box(0.0, 1.0, space.shape, jnp.float32)
        if self.name in _UNDERSTATED:
            return spaces.Box(-jnp.inf, jnp.inf, space.shape, jnp.float32)
        return spaces.Box(space.low, space.high, space.shape, jnp.float32) if hasattr(space, "low") else space

    def _cast(self, obs, params):
        space = self.env.observation_space(params)
        if is_discrete(space):
            return jax.nn.one_hot(obs - first_of(space), int(space.n), dtype=jnp.float32)
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), obs)

    def reset_env(self, key, params):
        obs, state = self.env.reset_env(key, params)
        return self._cast(obs, params), state

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        return self._cast(obs, params), state, jnp.asarray(reward, jnp.float32), terminated, info


class Timed(NamedTuple):
    env: Any
    time: Array  # int32: steps since the reset


class TimeLimit(Wrapper):
    """Truncate episodes after `max_steps` steps, if the environment itself has not ended them before."""

    def __init__(self, env: Environment, max_steps: int):
        check_counts(type(self).__name__, max_steps=max_steps)
        super().__init__(env)
        self.max_steps = max_steps

    def reset_env(self, key, params):
        obs, state = self.env.reset_env(key, params)
        return obs, Timed(state, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        obs, inner, reward, terminated, info = self.env.step_env(key, state.env, action, params)
        return obs, Timed(inner, state.time + 1), reward, terminated, info

    def is_truncated(self, state, params) -> Array:
        return self.env.is_truncated(state.env, params) | (state.time >= self.max_steps)

    def is_terminated(self, state, params) -> Array:
        return self.env.is_terminated(state.env, params)


class Observe(Wrapper):
    """Select entries of a flat observation: `Observe(env, (0, 2))` is CartPole without velocities.

    Raises:
      ValueError: for observations that are not flat, or an entry that does not exist.
    """

    def __init__(self, env: Environment, keep: tuple[int, ...]):
        super().__init__(env)
        shape = getattr(env.observation_space(env.default_params), "shape", None)
        if shape is None or len(shape) != 1:
            raise ValueError(f"keep is for flat observations; those of {env.name} have shape {shape}")
        if not keep or not all(isinstance(i, int) and 0 <= i < shape[0] for i in keep):
            raise ValueError(f"keep is {keep}; it must be entries of 0 .. {shape[0] - 1}")
        self.keep = jnp.array(keep)

    def observation_space(self, params):
        """The space of the selected entries."""
        space = self.env.observation_space(params)
        low, high = (jnp.broadcast_to(jnp.asarray(x), space.shape)[self.keep] for x in (space.low, space.high))
        return spaces.Box(low, high, (len(self.keep),), space.dtype)

    def reset_env(self, key, params):
        obs, state = self.env.reset_env(key, params)
        return obs[self.keep], state

    def step_env(self, key, state, action, params):
        obs, *rest = self.env.step_env(key, state, action, params)
        return obs[self.keep], *rest


class Sticky(NamedTuple):
    env: Any
    last_action: Any
    started: Array  # bool: whether there is a last action


class StickyActions(Wrapper):
    """Execute the previous action again with a given probability; all parts of an action together.

    The first step of an episode executes the selected action.
    Reference: Machado et al., 2018, arXiv:1709.06009, section 5.
    """

    def __init__(self, env: Environment, probability: float = 0.25):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability!r}; it must be in [0, 1]")
        super().__init__(env)
        self.probability = probability

    def reset_env(self, key, params):
        obs, state = self.env.reset_env(key, params)

        def none_yet(part):
            declared = getattr(part, "dtype", jnp.float32 if hasattr(part, "low") else jnp.int32)
            return jnp.zeros(tuple(getattr(part, "shape", None) or ()), jax.dtypes.canonicalize_dtype(declared))

        return obs, Sticky(state, map_space(none_yet, self.env.action_space(params)), jnp.zeros((), bool))

    def step_env(self, key, state: Sticky, action, params):
        repeat_key, key = jax.random.split(key)
        repeat = jax.random.bernoulli(repeat_key, self.probability) & state.started
        choose = lambda part, last, new: jnp.where(repeat, last, jnp.asarray(new, last.dtype))
        carried_out = map_space(choose, self.env.action_space(params), state.last_action, action)
        obs, inner, reward, terminated, info = self.env.step_env(key, state.env, carried_out, params)
        return obs, Sticky(inner, carried_out, jnp.ones((), bool)), reward, terminated, info

    def is_truncated(self, state, params) -> Array:
        return self.env.is_truncated(state.env, params)

    def is_terminated(self, state, params) -> Array:
        return self.env.is_terminated(state.env, params)


class from_five_values(TimeLimit):
    """Adapt an environment with the API of gymnax 0.x, whose `step_env` returns `done`, which includes its time limit.

    `max_steps` is the environment's time limit: an episode that is done at that step is truncated, and one that is done
    before it has terminated.
    """

    def __init__(self, env: Environment, max_steps: int):
        check_counts(type(self).__name__, max_steps=max_steps)
        self.env, self.max_steps = env, max_steps  # a `step` of gymnax 0.x only adds the reset to its `step_env`

    def step_env(self, key, state, action, params):
        obs, inner, reward, done, info = self.env.step_env(key, state.env, action, params)
        time = state.time + 1
        return obs, Timed(inner, time), reward, done & (time < self.max_steps), info

    def is_truncated(self, state, params) -> Array:
        return state.time >= self.max_steps
