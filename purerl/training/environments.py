"""Environments vectorised over N copies and reset at the ends of episodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import resets_itself
from purerl.core import Array, Key, anywhere, where_ended
from purerl.distributions import clip_to_space


class Step(NamedTuple):
    """The result of one step of N environments: values of the transition, and the state after a possible reset."""

    next_obs: Any  # the true successor
    reward: Array  # float [N]
    terminated: Array  # bool [N]
    truncated: Array  # bool [N]
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


def _own_axes(env: Any, env_params: Any) -> Any:
    """The axes of parameters that each environment has its own value of: leaves with one axis more than the default."""
    default = getattr(env, "default_params", None)
    if jax.tree.structure(default) != jax.tree.structure(env_params):
        return jax.tree.map(lambda x: None, env_params)
    return jax.tree.map(lambda x, usual: 0 if jnp.ndim(x) == jnp.ndim(usual) + 1 else None, env_params, default)


def count_own(env: Any, env_params: Any) -> int | None:
    """N, if leaves of env_params are `[N, ...]`, each environment's own value; None if all share their parameters.

    Raises:
      ValueError: if those leaves differ in N.
    """
    axes = jax.tree.structure(env_params).flatten_up_to(_own_axes(env, env_params))
    leaves = jax.tree_util.tree_leaves_with_path(env_params)
    own = {jax.tree_util.keystr(p): len(x) for (p, x), axis in zip(leaves, axes, strict=True) if axis is not None}
    if len(set(own.values())) > 1:
        raise ValueError(f"env_params: leaves with a value for each environment must have equal lengths, got {own}")
    return next(iter(own.values()), None)


def is_truncated(env: Any, state: Any, params: Any) -> Any:
    """`env.is_truncated(state, params)`.

    Raises:
      ValueError: at trace time, for attributes that are missing there.
    """
    try:
        return env.is_truncated(state, params)
    except AttributeError as error:
        raise ValueError(
            f"{getattr(env, 'name', type(env).__name__)}: is_truncated: {error}; the one of gymnax compares state.time "
            "with env_params.max_steps_in_episode: have both, or override is_truncated(state, env_params)"
        ) from error


def vectorized(env: Any, env_params: Any) -> Environment:
    """Vectorise a gymnax 1.x environment over N copies. Actions are clipped to the action space.

    A leaf of `env_params` that has one axis more than that of `env.default_params` has a value for each environment:
    of M values, environment i has the one of index i mod M.

    If `env.step` is that of gymnax, `step_env` and `is_truncated` are called instead, and the reset is computed
    only on steps in which an episode ended (under `vmap`, in any element of the batch). A wrapper that overrides `step`
    resets itself; its true successor is read from `info["final_observation"]`.

    Raises:
      ValueError: at trace time, for the five-value step of gymnax 0.x, a reward that is not a scalar, a time limit that
        reads what is not there, or a wrapper that resets itself without that entry of info.
    """
    name, own = getattr(env, "name", type(env).__name__), count_own(env, env_params)
    axes = _own_axes(env, env_params)
    shared = env.action_space(env_params) if own is None else None

    def over_copies(function):
        """Map `function(params, *leaves [N, ...])` over environments, with their own parameters."""

        def mapped(keys, *rest):
            if own is None:
                return jax.vmap(partial(function, env_params))(keys, *rest)
            which = jnp.arange(keys.shape[0]) % own
            of = lambda x, axis: x if axis is None else jnp.asarray(x)[which]
            params = jax.tree.map(of, env_params, axes, is_leaf=lambda x: x is None)
            return jax.vmap(function, (axes, *[0] * (1 + len(rest))))(params, keys, *rest)

        return mapped

    def to_space(params, action):
        return clip_to_space(env.action_space(params) if shared is None else shared, action)

    def reset_once(params, key):
        return canonical(env.reset(key, params))

    reset = over_copies(reset_once)

    def checked(obs, state, reward, terminated, truncated, info, next_obs):
        for what, x in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
            if jnp.shape(x) != ():
                raise ValueError(f"{name}: the {what} of a step has shape {jnp.shape(x)}; it must be a scalar, ()")
        flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        next_obs, obs, state = canonical((next_obs, obs, state))
        return Step(next_obs, jnp.asarray(reward, jnp.float32), *flags, info, obs, state)

    def step_once(params, key, state, action):
        obs, state, reward, terminated, info = env.step_env(key, state, to_space(params, action), params)
        return checked(obs, state, reward, terminated, is_truncated(env, state, params), info, obs)

    def step_and_reset(keys, reset_keys, state, action, begin):
        out = over_copies(step_once)(keys, state, action)
        begun = jax.eval_shape(reset, keys)
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

    def self_resetting(params, key, state, action):
        out = env.step(key, state, to_space(params, action), params)
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
        return over_copies(self_resetting)(keys, state, action)

    return Environment(reset, step_of_wrapper if resets_itself(env) else step_and_reset)


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
