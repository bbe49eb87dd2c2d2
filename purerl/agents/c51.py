"""Learning the distribution of returns over fixed atoms. Bellemare et al., 2017, arXiv:1707.06887."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer

from purerl import bellman, exploration, losses
from purerl.agents.parts import q_learning
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import CLASSIC_CONTROL, Q_LEARNING
from purerl.core import Agent, MemoryNetwork, Network
from purerl.gradients import adam
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class C51(q_learning.QLearning):
    """Hyperparameters of `c51`. The defaults are those that CleanRL publishes its classic-control table with."""

    num_atoms: int = option(101, "atoms of a distribution; outputs of the network for each action", low=2)
    low: float = option(-100.0, "return of the first atom")
    high: float = option(100.0, "return of the last atom")
    double: bool = option(False, "the online network selects the next action, the target network evaluates it")


@declare(
    Q_LEARNING,
    C51(),
    **CLASSIC_CONTROL,
    outputs=lambda hp: hp.num_atoms,
)
def c51(
    network: Network | MemoryNetwork,
    hp: C51 = C51(),  # noqa: B008 (frozen)
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = q_learning.unperturbed,
    optimizer: Callable = adam,
) -> Agent:
    """Categorical deep Q-learning as an `Agent`.

        loss = -Σᵢ Φ(r + γ z)ᵢ log p(s,a)ᵢ,   Q(s,a) = Σᵢ zᵢ p(s,a)ᵢ

    where Φ projects the target network's distribution of the best next action onto the atoms z. The metric
    `clipped_mass` is the share of it beyond `low` and `high`; where it is not nearly 0 the values are wrong.

    Args:
      network: logits `[B, A, num_atoms]` of observations, such as `networks.q_network(num_actions, outputs=51)`.
      hp: hyperparameters; floats may be tracers.
      explore, perturb, optimizer: as for `dqn`.
    Limits:
      For discrete actions, and for returns between `low` and `high`, which must be known beforehand.
    """
    given = not any(isinstance(x, Tracer | jax.Array) for x in (hp.low, hp.high))
    if given and hp.low >= hp.high:
        raise ValueError(f"c51: low is {hp.low} and high is {hp.high}; low must be below high")
    network = with_memory(network)
    support = hp.low + (hp.high - hp.low) * jnp.linspace(0.0, 1.0, hp.num_atoms)

    def values(logits):
        # an action that a mask rules out has the first atom alone, see `networks.values.masked_values`
        ruled_out = jnp.isneginf(logits[..., -1])
        return jnp.where(ruled_out, -jnp.inf, bellman.expectation(jax.nn.softmax(logits), support))

    def loss(params, target_params, key, s):
        del key  # not used
        logits, online = q_learning.apply_to_batch(network, params, s)
        _, after = q_learning.apply_to_batch(network, target_params, s)
        next = bellman.Next(jax.nn.softmax(after), online=jax.nn.softmax(online) if hp.double else None)
        atoms, probs = bellman.categorical_successors(support, s.reward, s.gamma, s.terminated, next)
        target = jax.lax.stop_gradient(bellman.categorical_projection(atoms, probs, support))
        prediction = q_learning.select_actions(logits, s.action)
        divergence = losses.categorical_cross_entropy(prediction, target)
        clipped = jax.lax.stop_gradient(bellman.clipped_mass(atoms, probs, support))
        return q_learning.Errors(divergence, divergence, values(prediction), (clipped,))

    return q_learning.agent(network, hp, values, loss, explore, perturb, optimizer, metrics=("clipped_mass",))
