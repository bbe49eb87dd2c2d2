"""Learning quantiles of the return at fixed fractions. Dabney et al., 2018, arXiv:1710.10044."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl import bellman, exploration, losses
from purerl.agents.parts import q_learning
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import CLASSIC_CONTROL, Q_LEARNING
from purerl.core import Agent, MemoryNetwork, Network
from purerl.gradients import adam
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class QRDQN(q_learning.QLearning):
    """Hyperparameters of `qrdqn`."""

    num_quantiles: int = option(51, "quantiles of a distribution; outputs of the network for each action", low=1)
    kappa: float = option(1.0, "κ, where the Huber loss of quantiles becomes linear; 0: quantile regression", low=0.0)
    double: bool = option(False, "the online network selects the next action, the target network evaluates it")


def midpoints(num: int) -> jax.Array:
    """The fractions τ̂ᵢ = (i + ½) / K of K quantiles, float `[K]`.

    >>> midpoints(2).tolist()
    [0.25, 0.75]
    """
    return (jnp.arange(num) + 0.5) / num


@declare(
    Q_LEARNING,
    QRDQN(),
    **CLASSIC_CONTROL,
    outputs=lambda hp: hp.num_quantiles,
)
def qrdqn(
    network: Network | MemoryNetwork,
    hp: QRDQN = QRDQN(),  # noqa: B008 (frozen)
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = q_learning.unperturbed,
    optimizer: Callable = adam,
) -> Agent:
    """Quantile-regression deep Q-learning as an `Agent`.

        loss = Σᵢ 1/K Σⱼ ρ_τ̂ᵢ(r + γ θⱼ(s',a*) - θᵢ(s,a)),   Q(s,a) = 1/K Σᵢ θᵢ(s,a)

    Args:
      network: quantiles `[B, A, num_quantiles]` of observations, such as
        `networks.q_network(num_actions, outputs=51)`.
      hp: hyperparameters; floats may be tracers. κ > 0 pulls quantiles of skewed returns from their true places,
        and with them Q.
      explore, perturb, optimizer: as for `dqn`.
    Limits:
      For discrete actions. The quantiles learned may cross: nothing orders them.
    """
    network = with_memory(network)
    fractions = midpoints(hp.num_quantiles)

    def loss(params, target_params, key, s):
        del key  # not used
        quantiles, online = q_learning.apply_to_batch(network, params, s)
        _, after = q_learning.apply_to_batch(network, target_params, s)
        next = bellman.Next(after, online=online if hp.double else None)
        target = jax.lax.stop_gradient(bellman.quantile_backup(s.reward, s.gamma, s.terminated, next))
        prediction = q_learning.select_actions(quantiles, s.action)
        error = losses.quantile_huber(prediction, target, fractions, hp.kappa)
        return q_learning.Errors(error, error, prediction.mean(-1))

    return q_learning.agent(network, hp, lambda quantiles: quantiles.mean(-1), loss, explore, perturb, optimizer)
