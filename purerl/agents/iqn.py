"""Learning quantiles of the return at sampled fractions. Dabney et al., 2018, arXiv:1806.06923."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl import bellman, exploration, losses, networks
from purerl.agents.parts import q_learning
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import CLASSIC_CONTROL, Q_LEARNING
from purerl.agents.qrdqn import midpoints
from purerl.core import Agent, MemoryNetwork, Network
from purerl.gradients import adam
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class IQN(q_learning.QLearning):
    """Hyperparameters of `iqn`. The numbers of fractions are the paper's."""

    num_fractions: int = option(64, "N, fractions of each prediction", low=1)
    num_target_fractions: int = option(64, "N', fractions of each target", low=1)
    num_acting_fractions: int = option(32, "K, fractions whose mean is Q when the agent acts", low=1)
    kappa: float = option(1.0, "κ, where the Huber loss of quantiles becomes linear; 0: quantile regression", low=0.0)
    double: bool = option(False, "the online network selects the next action, the target network evaluates it")


@declare(
    Q_LEARNING,
    IQN(),
    **CLASSIC_CONTROL,
    network=networks.implicit_q_network,
    memory=False,
)
def iqn(
    network: Network | MemoryNetwork,
    hp: IQN = IQN(),  # noqa: B008 (frozen)
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = q_learning.unperturbed,
    optimizer: Callable = adam,
) -> Agent:
    """Implicit quantile networks as an `Agent`.

        loss = Σᵢ 1/N' Σⱼ ρ_τᵢ(r + γ Z_τ'ⱼ(s',a*) - Z_τᵢ(s,a)),   τ, τ' ~ U(0, 1),   Q(s,a) = 1/K Σₖ Z_τ̂ₖ(s,a)

    Args:
      network: quantiles `[B, A, K]` of `(observations, fractions [B, K])`, such as
        `networks.implicit_q_network(num_actions)`.
      hp: hyperparameters; floats may be tracers. κ as for `qrdqn`.
      explore, perturb, optimizer: as for `dqn`.
    Limits:
      For discrete actions, and without memory.
    """
    network = with_memory(network)

    def with_middles(obs):
        """Inputs of the network for acting: every observation with the midpoints of K intervals."""
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
        quantiles, _ = q_learning.apply_to_batch(network, params, s, lambda obs: (obs, fractions))
        _, after = q_learning.apply_to_batch(network, target_params, s, lambda obs: (obs, target_fractions))
        _, online = (
            q_learning.apply_to_batch(network, params, s, lambda obs: (obs, target_fractions))
            if hp.double
            else (None, None)
        )
        next = bellman.Next(after, online=online)
        target = jax.lax.stop_gradient(bellman.quantile_backup(s.reward, s.gamma, s.terminated, next))
        prediction = q_learning.select_actions(quantiles, s.action)
        error = losses.quantile_huber(prediction, target, fractions[: s.reward.shape[0]], hp.kappa)
        return q_learning.Errors(error, error, prediction.mean(-1))

    return q_learning.agent(acting, hp, lambda quantiles: quantiles.mean(-1), loss, explore, perturb, optimizer)
