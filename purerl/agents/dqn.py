"""Deep Q-learning and its family, made by passing parts. Mnih et al., 2015, doi:10.1038/nature14236."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl import bellman, exploration, losses
from purerl.agents.parts import q_learning
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import CLASSIC_CONTROL, DQN_PARTS, Q_LEARNING
from purerl.core import Agent, MemoryNetwork, Network
from purerl.gradients import adam
from purerl.hyperparameters import config
from purerl.networks.adapters import with_memory


@config
class DQN(q_learning.QLearning):
    """Hyperparameters of `dqn`. The defaults are those that CleanRL publishes its classic-control table with."""


@declare(
    Q_LEARNING,
    DQN(),
    **CLASSIC_CONTROL | {"parts": DQN_PARTS},
)
def dqn(
    network: Network | MemoryNetwork,
    hp: DQN = DQN(),  # noqa: B008 (frozen)
    backup: bellman.Backup = bellman.max_backup,
    td_loss: Callable = losses.squared,
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = q_learning.unperturbed,
    optimizer: Callable = adam,
) -> Agent:
    """Deep Q-learning as an `Agent`.

        loss = ½ (y - Q(s,a))²,   y = r + γ max Q_target(s',a')

    Members of the family:

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
      backup: the backup of the TD target, see `purerl.bellman`.
      td_loss: an elementwise function of (prediction, target): `losses.squared` or `losses.huber`.
      explore: `(key, q, amount) -> action`; the amount falls from `explore_start` to `explore_end`.
      perturb: `(key, params) -> params`, noise of the network's parameters; sampled for every step and every loss.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    Limits:
      For discrete actions. The maximum overestimates Q where it is noisy (`bellman.double_backup` does so less), n-step
      returns are not corrected for the policy, and ε-greedy does not find the one path of DeepSea-bsuite.
    """
    network = with_memory(network)

    def loss(params, target_params, key, s):
        del key  # not used
        q, online = q_learning.apply_to_batch(network, params, s)
        q_now, q_next = q_learning.apply_to_batch(network, target_params, s)
        next = bellman.Next(q_next, online=online, q_now=q_now, action_now=s.action)
        target = jax.lax.stop_gradient(backup(s.reward, s.gamma, s.terminated, next))
        prediction = q_learning.select_actions(q, s.action)
        return q_learning.Errors(td_loss(prediction, target), jnp.abs(target - prediction), prediction)

    return q_learning.agent(network, hp, lambda q: q, loss, explore, perturb, optimizer)
