"""Environments vectorised over N copies and reset at the ends of episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import resets_itself
from purerl.core import Array, Key, anywhere, where_ended
from purerl.distributions import clip_to_space


class Step(NamedTuple):
    """The result of one step of N environments: values of the transition, and the state after a possible reset."""

    next_obs: Any  # the true successor
    reward: Array
    terminated: Array
    truncated: Array
    info: Any
    obs: Any  # after a reset where an episode ended
    state: Any


class Environment(NamedTuple):
    """An environment vectorised over N copies and reset at the ends of episodes."""

    reset: Callable[[Array], tuple[Any, Any]]  # keys [N] -> (obs, state)
    # (keys [N], reset_keys [N], state, action, reset) -> Step; `reset` takes reset_keys where an episode ended; with
    # None, nothing is reset
    step: Callable[[Array, Array, Any, Any, Callable | None], Step]


def canonical(tree: Any) -> Any:
    """Convert leaves to arrays without weak types, which would change the type of a loop's carry."""

    def strong(x):
        x = jnp.asarray(x)
        return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(strong, tree)


def _types(tree: Any) -> tuple[Any, list[str]]:
    """A pytree's structure, and the shape and dtype of every leaf in words."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return jax.tree.structure(tree), [f"{jax.tree_util.keystr(p)}{x.dtype}{list(x.shape)}" for p, x in leaves]


def vectorized(env: Any, env_params: Any) -> Environment:
    """Vectorise a gymnax 1.x environment over N copies. Actions are clipped to the action space.

    If `env.step` is that of gymnax, `step_env` and `is_truncated` are called instead, and the reset is computed
    only on steps in which an episode ended (under `vmap`, in any element of the batch). A wrapper that overrides `step`
    resets itself; its true successor is read from `info["final_observation"]`.

    Raises:
      ValueError: at trace time, for the five-value step of gymnax 0.x, a reward that is not a scalar, or a wrapper that
        resets itself without that entry of info.
    """
    space, name = env.action_space(env_params), getattr(env, "name", type(env).__name__)

    def reset(key):
        return canonical(env.reset(key, env_params))

    def checked(obs, state, reward, terminated, truncated, info, next_obs):
        for what, x in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            if jnp.shape(x) != ():
                raise ValueError(f"{name}: the {what} of a step has shape {jnp.shape(x)}; it must be a scalar, ()")
        flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        next_obs, obs, state = canonical((next_obs, obs, state))
        return Step(next_obs, jnp.asarray(reward, jnp.float32), *flags, info, obs, state)

    def step_once(key, state, action):
        obs, state, reward, terminated, info = env.step_env(key, state, clip_to_space(space, action), env_params)
        return checked(obs, state, reward, terminated, env.is_truncated(state, env_params), info, obs)

    def step_and_reset(keys, reset_keys, state, action, begin):
        out = jax.vmap(step_once)(keys, state, action)
        begun = jax.eval_shape(jax.vmap(reset), keys)
        for what, stepped, start in zip(("obs", "state"), out[-2:], begun, strict=True):
            before, after = _types(start), _types(stepped)
            if before != after:
                raise ValueError(f"{name}: {what} of reset_env is {before[1]}, and of step_env {after[1]}")
        if begin is None:
            return out
        ended = out.terminated | out.truncated
        renew = lambda: where_ended(ended, begin(reset_keys), (out.obs, out.state))
        obs, state = jax.lax.cond(anywhere(ended), renew, lambda: (out.obs, out.state))
        return out._replace(obs=obs, state=state)

    def self_resetting(key, state, action):
        out = env.step(key, state, clip_to_space(space, action), env_params)
        if len(out) != 6:
            raise ValueError(
                f"{name}: step returns {len(out)} values; gymnax 1.x returns six (obs, state, reward, terminated, "
                "truncated, info). purerl.envs.from_five_values(env) adapts an environment of gymnax 0.x"
            )
        obs, state, reward, terminated, truncated, info = out
        if not hasattr(info, "keys") or "final_observation" not in info:
            given = ", ".join(map(str, info)) if hasattr(info, "keys") and len(info) else "nothing"
            raise ValueError(
                f"{name}: step is its own and so resets itself, and its info has {given}: it lacks "
                "info['final_observation'], the true successor, which a reset replaces in obs"
            )
        return checked(obs, state, reward, terminated, truncated, info, info["final_observation"])

    def step_of_wrapper(keys, reset_keys, state, action, begin):
        del reset_keys, begin
        return jax.vmap(self_resetting)(keys, state, action)

    return Environment(jax.vmap(reset), step_of_wrapper if resets_itself(env) else step_and_reset)


def with_reset_pool(environment: Environment, key: Key, size: int) -> Environment:
    """The environment with a `reset` that samples uniformly, with replacement, from `size` resets computed now."""
    pool = environment.reset(jax.random.split(key, size))

    def reset(keys):
        index = jax.vmap(lambda key: jax.random.randint(key, (), 0, size))(keys)
        return jax.tree.map(lambda x: x[index], pool)

    return environment._replace(reset=reset)


def group_keys(key: Key, num_envs: int, group_size: int = 1) -> Array:
    """Keys `[N]`, shared by the `group_size` members of each group."""
    keys = jax.random.split(key, num_envs // group_size)
    return keys if group_size == 1 else keys[jnp.arange(num_envs) // group_size]
