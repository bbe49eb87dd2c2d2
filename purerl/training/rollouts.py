"""Rollouts: blocks of transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.core import Agent, Array, Key, Rollout, Transition
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
) -> tuple[ActorState, Rollout]:
    """Act for `length` steps; return the new state and the block of transitions `[T, N, ...]`, all of them valid."""
    num_envs = position.episode_return.shape[0]

    def step(carry, key):
        env_state, obs, memory = carry
        act_key, env_key, reset_key = jax.random.split(key, 3)
        action, memory, extras = (agent.collect or agent.act)(act_key, agent_state, memory, obs)
        keys, reset_keys = jax.random.split(env_key, num_envs), group_keys(reset_key, num_envs, group_size)
        out = environment.step(keys, reset_keys, env_state, action, environment.reset)
        missing = [name for name in info if name not in out.info]
        if missing:
            raise ValueError(f"info: the environment gives {sorted(out.info)}, not {missing}")
        kept = {name: out.info[name] for name in info}
        memory = agent.reset(memory, out.terminated | out.truncated)
        ends, valid = (out.terminated, out.truncated), jnp.ones(num_envs, bool)
        transition = Transition(obs, action, out.reward, out.next_obs, *ends, valid, extras, kept if info else ())
        return (out.state, out.obs, memory), transition

    carry = (position.env, position.obs, position.memory)
    (env_state, obs, memory), transitions = jax.lax.scan(step, carry, jax.random.split(key, length))
    return position._replace(env=env_state, obs=obs, memory=memory), Rollout(transitions, position.memory)


def first_episodes(tr: Transition) -> Transition:
    """Mark only each environment's first episode `[T, N]` as valid; an unfinished one is truncated at the last step."""
    ended = (tr.terminated | tr.truncated).astype(jnp.int32)
    valid = jnp.cumsum(ended, axis=0) - ended == 0
    capped = valid[-1] & ~tr.terminated[-1]
    return tr._replace(valid=valid, truncated=tr.truncated.at[-1].set(tr.truncated[-1] | capped))
