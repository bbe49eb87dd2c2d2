"""Common parts of policy-gradient agents: init, act, and the advantages of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl.core import Agent, Array, Distribution, MemoryNetwork, Network, Rollout
from purerl.gradients import Trained
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory
from purerl.returns import gae


@config
class PolicyGradient:
    """Hyperparameters that every policy-gradient method has; configs of agents add their own.

    All are options of the agent, which has to use them: `normalize_obs` by `normalize.observations(agent)`.
    """

    learning_rate: float = option(7e-4, "step size of the optimiser", low=0.0)
    anneal_steps: float | None = option(
        None,
        "environment steps over which the learning rate falls to 0; None keeps it",
        low=0.0,
        open_low=True,
        share=1.0,
    )
    gamma: float = option(0.99, "discount", low=0.0, high=1.0)
    entropy_cost: float = option(0.0, "weight of the entropy bonus", low=0.0)
    value_cost: float = option(0.5, "weight of the value loss ½ (V - G)²", low=0.0)
    max_grad_norm: float = option(0.5, "gradients are clipped to this global norm", low=0.0, open_low=True)
    normalize_obs: bool = option(False, "standardise observations by their running moments")


def policy_gradient_agent(
    network: Network | MemoryNetwork,
    policy: Distribution,
    optimizer: optax.GradientTransformation,
    update: Callable,
    episodic: bool = False,
) -> Agent:
    """Build a policy-gradient agent from its `update`.

    Args:
      network: returns (policy parameters `[..., P]`, value `[...]`).
      policy: samples actions; `act` returns log π(a|s) as its extras.
      update: `(key, state: Trained, rollout) -> (state, metrics)`.
      episodic: see `Agent`; a network that needs whole episodes makes an agent that does.
    """
    network = with_memory(network)

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

    return Agent(init, network.memory, network.reset, act, greedy, update, episodic or network.episodic)


class Sample(NamedTuple):
    """Inputs of a policy-gradient loss other than parameters: sequences, leaves `[T, B, ...]`."""

    obs: Any
    action: Any
    log_prob: Array  # when the action was taken
    value: Array  # before the update
    advantage: Array
    target: Array  # of the value: the λ-return
    valid: Array
    ended: Array
    memory: Any  # before the first step, leaves [1, B, ...]: a constant


def unrolled(network: Network | MemoryNetwork, params: Any, s: Sample) -> Any:
    """The network's outputs over sequences, `[T, B, ...]`."""
    return with_memory(network).unroll(params, jax.tree.map(lambda x: x[0], s.memory), s.obs, s.ended)[0]


def sequences(s: Sample) -> Sample:
    """The data of minibatches: sequences `[T, N, ...]`, or steps `[1, T·N, ...]` for feed-forward networks."""
    if jax.tree.leaves(s.memory):
        return s
    return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), s)


def critic(network: Network | MemoryNetwork, params: Any) -> Callable[[Rollout], tuple[Array, Array]]:
    """V of a block's observations and of their true successors, each `[T, N]`."""
    network = with_memory(network)

    def values(rollout):
        tr = rollout.transitions
        ended = tr.terminated | tr.truncated
        (_, value), (_, next_value), _ = network.unroll(params, rollout.memory, tr.obs, ended, tr.next_obs)
        return value, next_value

    return values


def no_baseline(rollout: Rollout) -> tuple[Array, Array]:
    """V = 0 for all observations and successors, `[T, N]` each."""
    zero = jnp.zeros_like(rollout.transitions.reward)
    return zero, zero


def advantages_and_targets(values: Callable[[Rollout], tuple[Array, Array]], rollout: Rollout, gamma, lam) -> Sample:
    """A block `[T, N, ...]` with its advantages (`gae`) and value targets, all of them constants."""
    tr = rollout.transitions
    value, next_value = values(rollout)
    reward = jnp.where(tr.valid, tr.reward, 0.0)  # 0 times what follows an end would keep a NaN
    advantage = gae(reward, value, next_value, tr.terminated, tr.truncated, gamma, lam)
    memory = jax.tree.map(lambda x: x[None], rollout.memory)
    ended = tr.terminated | tr.truncated
    return Sample(tr.obs, tr.action, tr.extras, value, advantage, advantage + value, tr.valid, ended, memory)
