"""Evaluation of a trained agent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from purerl.arguments import check_counts, check_present
from purerl.core import Agent, Array, Key
from purerl.training.environments import vectorized
from purerl.training.rollouts import ActorState, start


class Evaluation(NamedTuple):
    """Results of E episodes, `[E]` each. Episodes not `finished` were truncated at `max_steps`, and so are returns."""

    returns: Array
    lengths: Array
    finished: Array


def evaluate(
    env: Any,
    env_params: Any,
    agent: Agent,
    agent_state: Any,
    key: Key,
    num_episodes: int = 128,
    max_steps: int | None = None,
    greedy: bool = False,
    at_once: int | None = None,
) -> Evaluation:
    """Evaluate an agent for one episode in each of `num_episodes` environments; a pure function.

    Args:
      agent_state: `state.agent` of a learner's state.
      max_steps: the maximum length of an episode; None: `env_params.max_steps_in_episode`.
      greedy: select the greedy action instead of sampling.
      at_once: the number of episodes played together, which bounds the memory; more are played group after group.
        None: all of them.
    Raises:
      ValueError: if there is no maximum length, or a count is not positive or too large for an int32.
    """
    max_steps = getattr(env_params, "max_steps_in_episode", None) if max_steps is None else max_steps
    if not isinstance(max_steps, int | None) and jnp.ndim(max_steps):  # each environment has its own
        max_steps = jnp.max(max_steps)
    if max_steps is None:
        raise ValueError("max_steps is None, and env_params has no max_steps_in_episode to take: give a cap")
    for name, count in (("num_episodes", num_episodes), ("max_steps", max_steps)):
        known = not isinstance(count, Tracer)
        if known and not 1 <= int(count) < 2**31:
            raise ValueError(f"{name} is {count}; it must be positive and below 2147483648")
    check_present("evaluate", agent_state=agent_state)
    if at_once is not None and at_once < num_episodes:
        check_counts("evaluate", at_once=at_once)
        groups = -(-num_episodes // at_once)
        same = (env, env_params, agent, agent_state)
        play = lambda key: evaluate(*same, key, -(-num_episodes // groups), max_steps, greedy)
        out = jax.lax.map(play, jax.random.split(key, groups))
        return jax.tree.map(lambda x: x.reshape(-1)[:num_episodes], out)
    environment = vectorized(env, env_params)
    reset_key, step_key = jax.random.split(key)

    def step(carry):
        time, position, finished = carry
        act_key, env_key, reset_key = jax.random.split(jax.random.fold_in(step_key, time), 3)
        if greedy:
            action, memory = agent.greedy(agent_state, position.memory, position.obs)
        else:
            action, memory, _ = agent.act(act_key, agent_state, position.memory, position.obs)
        keys, reset_keys = jax.random.split(env_key, num_episodes), jax.random.split(reset_key, num_episodes)
        out = environment.step(keys, reset_keys, position.env, action, environment.reset)
        ended = out.terminated | out.truncated
        returns = position.episode_return + jnp.where(finished, 0.0, out.reward)
        lengths = position.episode_length + ~finished
        position = ActorState(out.state, out.obs, agent.reset(memory, ended), returns, lengths)
        return time + 1, position, finished | ended

    begin = (jnp.zeros((), jnp.int32), start(environment, agent, jax.random.split(reset_key, num_episodes)))
    go_on = lambda carry: (carry[0] < max_steps) & ~carry[2].all()
    _, position, finished = jax.lax.while_loop(go_on, step, (*begin, jnp.zeros(num_episodes, bool)))
    return Evaluation(position.episode_return, position.episode_length, finished)
