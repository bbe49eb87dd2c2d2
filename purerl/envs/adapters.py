"""gymnax environments as the learner wants them. (`gymnax.wrappers.purerl` is gymnax's own, unrelated module.)"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array
from purerl.envs import suites
from purerl.envs.masked_grid import MaskedGrid
from purerl.envs.platform import Platform
from purerl.envs.tmaze import TMaze

OWN = {env.name: env for env in (TMaze, Platform, MaskedGrid)}


def make(env_id: str, **kwargs: Any) -> tuple[Environment, Any]:
    """See `purerl.envs.make`."""
    if "/" in env_id:
        env = suites.make(env_id, **kwargs)
        return env, env.default_params
    known = [*gymnax.registered_envs, *OWN]
    if env_id not in known:
        raise ValueError(f"there is no environment {env_id!r}; {suites.near(env_id, known)}")
    if env_id in OWN:
        env = OWN[env_id](**kwargs)
        return env, env.default_params
    try:
        env, env_params = gymnax.make(env_id, **kwargs)
    except OSError as error:  # urllib's errors are OSErrors
        raise ValueError(f"{env_id} downloads its data when it is first made, and that failed: {error}") from error
    return Cast(env), env_params


class Wrapper(Environment):
    """An environment that is another one but for the methods that a subclass overrides."""

    def __init__(self, env: Environment):
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


DOWNLOADS = ("MNISTBandit-bsuite",)  # their data, when they are first made

# whose observations leave the bounds that gymnax 1.0.1 declares for them
_UNDERSTATED = ("MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc")


class Cast(Wrapper):
    """Float32 rewards and observations; a Discrete observation as one-hot. Some of gymnax's are integers."""

    def observation_space(self, params):
        space = self.env.observation_space(params)
        if hasattr(space, "n"):
            return spaces.Box(0.0, 1.0, (space.n,), jnp.float32)
        if self.name in _UNDERSTATED:
            return spaces.Box(-jnp.inf, jnp.inf, space.shape, jnp.float32)
        return spaces.Box(space.low, space.high, space.shape, jnp.float32) if hasattr(space, "low") else space

    def _cast(self, obs, params):
        space = self.env.observation_space(params)
        if hasattr(space, "n"):
            return jax.nn.one_hot(obs, space.n, dtype=jnp.float32)
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
    """Truncates episodes after `max_steps` steps, if the environment itself has not ended them before."""

    def __init__(self, env: Environment, max_steps: int):
        if not isinstance(max_steps, int) or max_steps < 1:
            raise ValueError(f"max_steps is {max_steps!r}; it must be a positive int")
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
    """Only some entries of a flat observation: `Observe(env, (0, 2))` is CartPole without velocities.

    Raises:
      ValueError: for observations that are not flat, or an entry that is not there.
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
        """The bounds of the entries that are kept."""
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
    last_action: Array


class StickyActions(Wrapper):
    """Repeats the action that was last carried out with a probability, whatever the agent chose.

    The first step of an episode obeys the agent. Reference: Machado et al., 2018, arXiv:1709.06009, section 5.
    """

    def __init__(self, env: Environment, probability: float = 0.25):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability!r}; it must be in [0, 1]")
        super().__init__(env)
        self.probability = probability

    def reset_env(self, key, params):
        obs, state = self.env.reset_env(key, params)
        space = self.env.action_space(params)
        last = jnp.full((), -1, jnp.int32) if hasattr(space, "n") else jnp.full(space.shape, jnp.nan, jnp.float32)
        return obs, Sticky(state, last)

    def step_env(self, key, state: Sticky, action, params):
        repeat_key, key = jax.random.split(key)
        chosen = jnp.asarray(action, state.last_action.dtype)
        first = jnp.any((state.last_action == -1) if chosen.dtype == jnp.int32 else jnp.isnan(state.last_action))
        repeat = jax.random.bernoulli(repeat_key, self.probability) & ~first
        carried_out: Array = jnp.where(repeat, state.last_action, chosen)
        obs, inner, reward, terminated, info = self.env.step_env(key, state.env, carried_out, params)
        return obs, Sticky(inner, carried_out), reward, terminated, info

    def is_truncated(self, state, params) -> Array:
        return self.env.is_truncated(state.env, params)

    def is_terminated(self, state, params) -> Array:
        return self.env.is_terminated(state.env, params)


class from_five_values(TimeLimit):
    """An environment with the API of gymnax 0.x: `step_env` gives `done`, which includes its time limit.

    `done` is taken apart by `max_steps`, the environment's own limit: an episode that is done at that step is
    truncated, and one that is done before it has terminated.
    """

    def step_env(self, key, state, action, params):
        obs, inner, reward, done, info = self.env.step_env(key, state.env, action, params)
        time = state.time + 1
        return obs, Timed(inner, time), reward, done & (time < self.max_steps), info

    def is_truncated(self, state, params) -> Array:
        return state.time >= self.max_steps
