"""Deep Q-learning and its family, made by passing parts. Mnih et al., 2015, doi:10.1038/nature14236."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl import bellman, exploration, losses
from purerl.core import Agent, MemoryNetwork, Network, config
from purerl.memory import with_memory
from purerl.updates import adam
from purerl.values import Errors, QLearning, look, taken, unperturbed, value_agent


@config
class DQN(QLearning):
    """Hyperparameters of `dqn`. The defaults are those that CleanRL publishes its classic-control table with."""


def dqn(
    network: Network | MemoryNetwork,
    hp: DQN = DQN(),  # noqa: B008 (frozen)
    backup: bellman.Backup = bellman.max_backup,
    td_loss: Callable = losses.squared,
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = unperturbed,
    optimizer: Callable = adam,
) -> Agent:
    """Deep Q-learning as an `Agent`.

        loss = ½ (y - Q(s,a))²,   y = r + γ max Q_target(s',a')

    What the family's members differ in:

    | | |
    |---|---|
    | Double DQN, arXiv:1509.06461 | `backup=bellman.double_backup` |
    | Dueling, arXiv:1511.06581 | `networks.q_network(num_actions, dueling=True)` |
    | prioritised replay, arXiv:1511.05952 | `DQN(priority=0.6, importance_steps=...)` |
    | n-step returns | `DQN(n_step=3)` |
    | NoisyNet, arXiv:1706.10295 | `networks.q_network(num_actions, noise=True)`, `perturb=networks.noisy`, ε = 0 |
    | parameter noise, arXiv:1706.01905 | `perturb=lambda key, params: exploration.perturbed(key, params, 0.1)` |
    | Munchausen, arXiv:2007.14430 | `backup=bellman.munchausen_backup()` |
    | soft Q-learning, arXiv:1702.08165 | `backup=bellman.soft_backup(τ)`, `explore=exploration.boltzmann` |
    | Polyak averages | `DQN(target_period=1, target_rate=0.005)` |
    | R2D2, Kapturowski et al., 2019 | sequence_length, dueling, `memory=networks.gru()`, `bellman.transformed_backup` |

    Args:
      network: Q `[B, A]` of observations, such as `networks.q_network(num_actions)`, with memory or without.
      hp: hyperparameters; floats may be tracers.
      backup: the target, see `purerl.bellman`.
      td_loss: of (prediction, target), element by element: `losses.squared` or `losses.huber`.
      explore: `(key, q, amount) -> action`; the amount falls from `explore_start` to `explore_end`.
      perturb: `(key, params) -> params`, what is noisy about the network; drawn for every step and every loss.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    """
    network = with_memory(network)

    def loss(params, target_params, key, s):
        del key  # nothing is drawn
        q, online = look(network, params, s)
        q_now, q_next = look(network, target_params, s)
        next = bellman.Next(q_next, online=online, q_now=q_now, action_now=s.action)
        target = jax.lax.stop_gradient(backup(s.reward, s.gamma, s.terminated, next))
        prediction = taken(q, s.action)
        return Errors(td_loss(prediction, target), jnp.abs(target - prediction), prediction)

    return value_agent(network, hp, lambda q: q, loss, explore, perturb, optimizer)
