"""What agents with a stochastic policy and a state-value critic share: how they start, act and judge a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl.core import Agent, Array, Distribution, MemoryNetwork, Rollout
from purerl.returns import gae
from purerl.updates import Trained


def policy_agent(
    network: MemoryNetwork,
    policy: Distribution,
    optimizer: optax.GradientTransformation,
    update: Callable,
    episodic: bool = False,
) -> Agent:
    """An agent from its `update`; the rest of it is the same for every policy-gradient method.

    Args:
      network: gives (policy parameters `[..., P]`, value `[...]`).
      policy: samples actions; `act` returns log π(a|s) as its extras.
      update: `(key, state: Trained, rollout) -> (state, metrics)`.
      episodic: see `Agent`.
    """

    def init(key, obs):
        params = network.init(key, obs)
        return Trained(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def act(key, state, memory, obs):
        (pi, _), memory = network.step(state.params, memory, obs)
        action = policy.sample(key, pi)
        return action, memory, policy.log_prob(pi, action)

    def greedy(state, memory, obs):
        (pi, _), memory = network.step(state.params, memory, obs)
        return policy.mode(pi), memory

    return Agent(init, network.memory, network.reset, act, greedy, update, episodic)


class Sample(NamedTuple):
    """What a policy-gradient loss is a function of, beside the parameters: sequences, leaves `[T, B, ...]`."""

    obs: Any
    action: Any
    log_prob: Array  # when the action was taken
    value: Array  # before the update
    advantage: Array
    target: Array  # of the value: the λ-return
    valid: Array
    ended: Array
    memory: Any  # before the first step, leaves [1, B, ...]: a constant


def unrolled(network: MemoryNetwork, params: Any, s: Sample) -> Any:
    """The network's outputs over sequences, `[T, B, ...]`."""
    return network.unroll(params, jax.tree.map(lambda x: x[0], s.memory), s.obs, s.ended)[0]


def sequences(s: Sample) -> Sample:
    """What minibatches are drawn from: sequences `[T, N, ...]`, or steps `[1, T·N, ...]` where no memory is."""
    if jax.tree.leaves(s.memory):
        return s
    return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), s)


def critic(network: MemoryNetwork, params: Any) -> Callable[[Rollout], tuple[Array, Array]]:
    """V of a block's observations and of their true successors, each `[T, N]`."""

    def values(rollout):
        tr = rollout.transitions
        ended = tr.terminated | tr.truncated
        (_, value), (_, next_value), _ = network.unroll(params, rollout.memory, tr.obs, ended, tr.next_obs)
        return value, next_value

    return values


def no_baseline(rollout: Rollout) -> tuple[Array, Array]:
    """V = 0."""
    zero = jnp.zeros_like(rollout.transitions.reward)
    return zero, zero


def judge(values: Callable[[Rollout], tuple[Array, Array]], rollout: Rollout, gamma, lam) -> Sample:
    """A block `[T, N, ...]` with its advantages (`gae`) and value targets, all of them constants."""
    tr = rollout.transitions
    value, next_value = values(rollout)
    reward = jnp.where(tr.valid, tr.reward, 0.0)  # 0 times what follows an end would keep a NaN
    advantage = gae(reward, value, next_value, tr.terminated, tr.truncated, gamma, lam)
    memory = jax.tree.map(lambda x: x[None], rollout.memory)
    ended = tr.terminated | tr.truncated
    return Sample(tr.obs, tr.action, tr.extras, value, advantage, advantage + value, tr.valid, ended, memory)
