"""Learning quantiles of the return at fractions that are drawn. Dabney et al., 2018, arXiv:1806.06923."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from purerl import bellman, exploration, losses, networks
from purerl.agents.qrdqn import midpoints
from purerl.core import Agent, MemoryNetwork, Network, config, option
from purerl.memory import with_memory
from purerl.updates import adam
from purerl.values import Errors, QLearning, look, taken, unperturbed, value_agent


@config
class IQN(QLearning):
    """Hyperparameters of `iqn`. The numbers of fractions are the paper's."""

    network: ClassVar = networks.implicit_q_network

    num_fractions: int = option(64, "N, fractions of each prediction", low=1)
    num_target_fractions: int = option(64, "N', fractions of each target", low=1)
    num_acting_fractions: int = option(32, "K, fractions whose mean is Q when the agent acts", low=1)
    kappa: float = option(1.0, "κ, where the Huber loss of quantiles becomes linear; 0: quantile regression", low=0.0)
    double: bool = option(False, "the online network chooses the next action, the target network judges it")


def iqn(
    network: Network | MemoryNetwork,
    hp: IQN = IQN(),  # noqa: B008 (frozen)
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = unperturbed,
    optimizer: Callable = adam,
) -> Agent:
    """Implicit quantile networks as an `Agent`.

        loss = Σᵢ 1/N' Σⱼ ρ_τᵢ(r + γ Z_τ'ⱼ(s',a*) - Z_τᵢ(s,a)),   τ, τ' ~ U(0, 1),   Q(s,a) = 1/K Σₖ Z_τ̂ₖ(s,a)

    Args:
      network: quantiles `[B, A, K]` of `(observations, fractions [B, K])`, such as
        `networks.implicit_q_network(num_actions)`.
      hp: hyperparameters; floats may be tracers. κ as for `qrdqn`.
      explore, perturb, optimizer: as for `dqn`.
    """
    network = with_memory(network)

    def with_middles(obs):
        """What the network is shown to act: every observation with the middles of K parts."""
        fractions = midpoints(hp.num_acting_fractions)
        return obs, jnp.broadcast_to(fractions, (jax.tree.leaves(obs)[0].shape[0], *fractions.shape))

    acting = network._replace(
        init=lambda key, obs: network.init(key, with_middles(obs)),
        step=lambda params, memory, obs: network.step(params, memory, with_middles(obs)),
    )

    def loss(params, target_params, key, s):
        keys = jax.random.split(key)
        draw = lambda key, num: jax.random.uniform(key, (*s.ended.shape, num))
        fractions, target_fractions = draw(keys[0], hp.num_fractions), draw(keys[1], hp.num_target_fractions)
        quantiles, _ = look(network, params, s, lambda obs: (obs, fractions))
        _, after = look(network, target_params, s, lambda obs: (obs, target_fractions))
        _, online = look(network, params, s, lambda obs: (obs, target_fractions)) if hp.double else (None, None)
        next = bellman.Next(after, online=online)
        target = jax.lax.stop_gradient(bellman.quantile_backup(s.reward, s.gamma, s.terminated, next))
        prediction = taken(quantiles, s.action)
        error = losses.quantile_huber(prediction, target, fractions[: s.reward.shape[0]], hp.kappa)
        return Errors(error, error, prediction.mean(-1))

    return value_agent(acting, hp, lambda quantiles: quantiles.mean(-1), loss, explore, perturb, optimizer)
