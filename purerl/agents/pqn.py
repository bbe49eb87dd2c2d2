"""Q-learning on blocks, without replay or target network. Gallici et al., 2024, arXiv:2407.04811."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl import exploration, losses, normalize, returns
from purerl.agents.parts import q_learning
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import CLASSIC_CONTROL, Q_LEARNING
from purerl.agents.parts.policy_gradient import sequences, unrolled
from purerl.core import Agent, Array, MemoryNetwork, Network
from purerl.gradients import annealed, epochs, radam, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class PQN:
    """Hyperparameters of `pqn`. The defaults are those that CleanRL publishes its classic-control table with."""

    learning_rate: float = option(2.5e-4, "step size of RAdam", low=0.0)
    anneal_steps: float | None = option(
        None, "environment steps over which the learning rate falls to 0; None keeps it", low=0.0, open_low=True,
        share=1.0,
    )  # fmt: skip
    gamma: float = option(0.99, "discount", low=0.0, high=1.0)
    q_lambda: float = option(0.65, "λ of the returns", low=0.0, high=1.0)
    explore_start: float = option(1.0, "ε (or the temperature of `boltzmann`) at first", low=0.0)
    explore_end: float = option(0.05, "ε at last", low=0.0)
    explore_steps: float = option(250_000.0, "environment steps in between", low=0.0, open_low=True, share=0.5)
    max_grad_norm: float | None = option(
        10.0, "gradients are clipped to this global norm; None leaves them", low=0.0, open_low=True
    )
    num_epochs: int = option(4, "passes over each block", low=1)
    num_minibatches: int = option(4, "gradient steps a pass; must divide num_envs x rollout_length", low=1)
    normalize_obs: bool = option(False, "standardise observations by their running moments")


class State(NamedTuple):
    """The state of `pqn`."""

    params: Any
    opt_state: Any
    explore: Array  # float32 []: ε of the block to come
    updates: Array  # int32 []: calls of `update` so far


class Sample(NamedTuple):
    """Inputs of the loss other than parameters: sequences, leaves `[T, B, ...]`."""

    obs: Any
    action: Array
    target: Array
    valid: Array
    ended: Array
    memory: Any  # before the first step, leaves [1, B, ...]: a constant


@declare(
    Q_LEARNING,
    PQN(),
    **CLASSIC_CONTROL | {"num_envs": 4, "rollout_length": 128, "layer_norm": True, "perturb": False},
)
def pqn(
    network: Network | MemoryNetwork,
    hp: PQN = PQN(),  # noqa: B008 (frozen)
    explore: Callable = exploration.epsilon_greedy,
    optimizer: Callable = radam,
) -> Agent:
    """Parallelised Q-network as an `Agent`.

        loss = ½ (G - Q(s,a))²,   Gₜ = rₜ + γ (1 - terminatedₜ) [(1 - λ) max Q(s'ₜ, ·) + λ Gₜ₊₁]

    Args:
      network: Q `[B, A]` of observations, with memory or without. In place of a target network, layer normalisation
        stabilises it: `networks.q_network(num_actions, partial(networks.MLP, layer_norm=True))`.
      hp: hyperparameters; floats may be tracers.
      explore: `(key, q, amount) -> action`; the amount falls from `explore_start` to `explore_end`.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    Limits:
      For discrete actions. λ-returns are not cut at actions that explore; does not solve MountainCar-v0 in 500k steps.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)

    def init(key, obs):
        params = network.init(key, obs)
        return State(
            params, optimizer.init(params), q_learning.exploration_amount(hp, jnp.zeros(())), jnp.zeros((), jnp.int32)
        )

    def loss(params, s):
        q = q_learning.select_actions(unrolled(network, params, s), s.action)
        mean = lambda x: losses.masked_mean(x, s.valid)
        value_loss = mean(losses.squared(q, s.target))
        return value_loss, {"loss": value_loss, "td_error": mean(jnp.abs(s.target - q)), "q": mean(q)}

    improve = epochs(sgd(loss, optimizer), hp.num_epochs, hp.num_minibatches)

    def update(key, state, rollout):
        tr = rollout.transitions
        ended = tr.terminated | tr.truncated
        _, next_q, _ = network.unroll(state.params, rollout.memory, tr.obs, ended, tr.next_obs)
        reward = jnp.where(tr.valid, tr.reward, 0.0)
        target = returns.q_lambda(reward, next_q, tr.terminated, tr.truncated, hp.gamma, hp.q_lambda)
        data = Sample(tr.obs, tr.action, target, tr.valid, ended, jax.tree.map(lambda x: x[None], rollout.memory))
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(key, state, sequences(data), learning_rate)
        updates = state.updates + 1
        steps = updates.astype(jnp.float32) * tr.reward.size
        state = state._replace(explore=q_learning.exploration_amount(hp, steps), updates=updates)
        return state, {**metrics, "explore": state.explore, "learning_rate": learning_rate}

    acting = q_learning.acting_by_values(network, lambda q: q, explore, q_learning.unperturbed)
    agent = Agent(init, network.memory, network.reset, update=update, **acting)
    return normalize.observations(agent) if hp.normalize_obs else agent
