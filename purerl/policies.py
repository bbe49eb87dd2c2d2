"""What agents with a stochastic policy and a state-value critic share: how they start, act and judge a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl.core import Agent, Array, Distribution, Network, Transition
from purerl.returns import gae
from purerl.updates import Trained


def policy_agent(
    network: Network,
    policy: Distribution,
    optimizer: optax.GradientTransformation,
    update: Callable,
    episodic: bool = False,
) -> Agent:
    """An agent from its `update`; the rest of it is the same for every policy-gradient method.

    Args:
      network: `apply(params, obs [B, ...]) -> (policy parameters [B, P], value [B])`.
      policy: samples actions; `act` returns log π(a|s) as its extras.
      update: `(key, state: Trained, rollout) -> (state, metrics)`.
      episodic: see `Agent`.
    """

    def init(key, obs):
        params = network.init(key, obs)
        return Trained(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def act(key, state, memory, obs):
        pi, _ = network.apply(state.params, obs)
        action = policy.sample(key, pi)
        return action, memory, policy.log_prob(pi, action)

    def greedy(state, memory, obs):
        pi, _ = network.apply(state.params, obs)
        return policy.mode(pi), memory

    return Agent(init, lambda num_envs: (), lambda memory, ended: memory, act, greedy, update, episodic)


class Sample(NamedTuple):
    """What a policy-gradient loss is a function of, beside the parameters; leaves `[T, N, ...]` or `[B, ...]`."""

    obs: Any
    action: Any
    log_prob: Array  # when the action was taken
    value: Array  # before the update
    advantage: Array
    target: Array  # of the value: the λ-return
    valid: Array


def critic(network: Network, params: Any) -> Callable[[Any], Array]:
    """V as a function of a time-major block of observations: `[T, N, ...] -> [T, N]`."""
    return jax.vmap(lambda obs: network.apply(params, obs)[1])


def no_baseline(obs: Any) -> Array:
    """V = 0 for a block of observations `[T, N, ...]`."""
    return jnp.zeros(jax.tree.leaves(obs)[0].shape[:2])


def judge(value_of: Callable[[Any], Array], tr: Transition, gamma, lam) -> Sample:
    """A block `[T, N, ...]` with its advantages (`gae`) and value targets, all of them constants."""
    value, next_value = value_of(tr.obs), value_of(tr.next_obs)
    reward = jnp.where(tr.valid, tr.reward, 0.0)  # 0 times what follows an end would keep a NaN
    advantage = gae(reward, value, next_value, tr.terminated, tr.truncated, gamma, lam)
    return Sample(tr.obs, tr.action, tr.extras, value, advantage, advantage + value, tr.valid)
