"""Rollouts: blocks of transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.core import Agent, Array, Key, Rollout, Transition, anywhere, where_ended
from purerl.training.environments import Environment, group_keys


class ActorState(NamedTuple):
    """The state between two rollouts: N environments, memories, and statistics of the episodes in progress."""

    env: Any
    obs: Any
    memory: Any
    episode_return: Array  # float32 [N], of the episode in progress
    episode_length: Array  # int32 [N]


def start(environment: Environment, agent: Agent, keys: Array) -> ActorState:
    """Reset N environments with the keys `[N]`."""
    num_envs = keys.shape[0]
    obs, env_state = environment.reset(keys)
    memory = agent.memory(num_envs)
    return ActorState(env_state, obs, memory, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))


def rollout(
    environment: Environment,
    agent: Agent,
    agent_state: Any,
    position: ActorState,
    key: Key,
    length: int,
    group_size: int = 1,
    info: Sequence[str] = (),
    episodic: bool = False,
) -> tuple[ActorState, Rollout]:
    """Act for `length` steps; return the new state and the block of transitions `[T, N, ...]`, all of them valid.

    episodic: no environment is reset. One whose episode ended stays in the state of its last action, and its further
      steps are meaningless; once all have ended (under `vmap`, in the whole batch), nothing more is computed.
    """
    num_envs = position.episode_return.shape[0]

    def step(carry, key):
        env_state, obs, memory = carry
        act_key, env_key, reset_key = jax.random.split(key, 3)
        action, memory, extras = (agent.collect or agent.act)(act_key, agent_state, memory, obs)
        keys, reset_keys = jax.random.split(env_key, num_envs), group_keys(reset_key, num_envs, group_size)
        out = environment.step(keys, reset_keys, env_state, action, None if episodic else environment.reset)
        missing = [name for name in info if name not in out.info]
        if missing:
            raise ValueError(f"info: the environment gives {sorted(out.info)}, not {missing}")
        kept = {name: out.info[name] for name in info}
        memory = memory if episodic else agent.reset(memory, out.terminated | out.truncated)
        ends, valid = (out.terminated, out.truncated), jnp.ones(num_envs, bool)
        transition = Transition(obs, action, out.reward, out.next_obs, *ends, valid, extras, kept if info else ())
        return (out.state, out.obs, memory), transition

    def step_unless_over(carry, key):
        actors, over, last = carry

        def advance():
            (env_state, obs, memory), tr = step(actors, key)
            tr = tr._replace(terminated=tr.terminated & ~over, truncated=tr.truncated & ~over)
            now = over | tr.terminated | tr.truncated
            # an agent that sees the state after the end might find no legal action there
            env_state, obs = where_ended(now, actors[:2], (env_state, obs))
            return ((env_state, obs, memory), now, tr), tr

        nothing = jnp.zeros_like(over)
        repeat = lambda: (carry, last._replace(terminated=nothing, truncated=nothing))
        return jax.lax.cond(anywhere(~over), advance, repeat)

    carry, keys = (position.env, position.obs, position.memory), jax.random.split(key, length)
    if episodic:
        one = jax.ShapeDtypeStruct((), keys.dtype)  # in place of keys[0], which would use that key twice
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, carry, one)[1])
        (carry, _, _), transitions = jax.lax.scan(step_unless_over, (carry, jnp.zeros(num_envs, bool), blank), keys)
    else:
        carry, transitions = jax.lax.scan(step, carry, keys)
    env_state, obs, memory = carry
    return position._replace(env=env_state, obs=obs, memory=memory), Rollout(transitions, position.memory)


def first_episodes(tr: Transition) -> Transition:
    """Mark only each environment's first episode `[T, N]` as valid; an unfinished one is truncated at the last step."""
    ended = (tr.terminated | tr.truncated).astype(jnp.int32)
    valid = jnp.cumsum(ended, axis=0) - ended == 0
    capped = valid[-1] & ~tr.terminated[-1]
    return tr._replace(valid=valid, truncated=tr.truncated.at[-1].set(tr.truncated[-1] | capped))
