"""Six improvements of deep Q-learning in one. Hessel et al., 2018, arXiv:1710.02298."""

from __future__ import annotations

from collections.abc import Callable

from purerl import exploration, networks
from purerl.agents.c51 import C51, c51
from purerl.agents.parts.declarations import declare_like
from purerl.core import Agent, MemoryNetwork, Network
from purerl.gradients import adam
from purerl.hyperparameters import config, option


@config
class Rainbow(C51):
    """Hyperparameters of `rainbow`: those of `c51`, with Double, n-step and prioritised replay on, and no ε."""

    n_step: int = option(3, "rewards before the value that follows", low=1)
    double: bool = option(True, "the online network selects the next action, the target network evaluates it")
    priority: float | None = option(0.5, "α of prioritised replay; None samples uniformly", low=0.0)
    importance_steps: float | None = option(
        500_000.0, "environment steps over which β rises to 1; None keeps it", low=0.0, open_low=True, share=1.0
    )
    explore_start: float = option(0.0, "ε at first, beside the noise of the network", low=0.0)
    explore_end: float = option(0.0, "ε at last", low=0.0)


@declare_like(c51, Rainbow(), switches={"dueling": True, "noise": True})
def rainbow(
    network: Network | MemoryNetwork,
    hp: Rainbow = Rainbow(),  # noqa: B008 (frozen)
    explore: Callable = exploration.epsilon_greedy,
    perturb: Callable = networks.noisy,
    optimizer: Callable = adam,
) -> Agent:
    """Rainbow as an `Agent`: `c51` with a double, n-step, prioritised target and a noisy, dueling network.

        loss = -w Σᵢ Φ(Σₖ γᵏ rₖ + γⁿ z)ᵢ log p(s,a)ᵢ,   k < n,   w ∝ (N P)^-β,   P ∝ loss^α

    where Φ projects the target network's distribution of argmax Q(sₙ, ·), Q of the online network, onto the atoms z,
    and P is the probability with which a step is sampled from the N that are stored.

    Args:
      network: logits `[B, A, num_atoms]` of observations, such as
        `networks.q_network(num_actions, outputs=101, dueling=True, noise=True)`.
      hp: hyperparameters; floats may be tracers.
      explore, perturb, optimizer: as for `dqn`.
    Limits:
      Those of `c51`. n-step returns are not corrected for actions that the policy would no longer choose.
    """
    return c51(network, hp, explore, perturb, optimizer)
