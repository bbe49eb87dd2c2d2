"""Deep deterministic policy gradient. Lillicrap et al., 2016, arXiv:1509.02971."""

from __future__ import annotations

from collections.abc import Callable

from purerl import exploration
from purerl.agents.parts.declarations import declare_like
from purerl.agents.td3 import TD3, td3
from purerl.core import Agent, Network
from purerl.distributions import Hybrid
from purerl.gradients import adam
from purerl.hyperparameters import config, option


@config
class DDPG(TD3):
    """Hyperparameters of `ddpg`: those of `td3`, with one critic, no noise in targets and no delay."""

    num_critics: int = option(1, "critics with initial weights of their own; targets take the smallest", low=1)
    target_noise: float = option(0.0, "deviation of the noise in targets' actions, in halves of the range", low=0.0)
    policy_delay: int = option(1, "gradient steps of the critics for each of the actor and the targets", low=1)


@declare_like(td3, DDPG())
def ddpg(
    actor: Network,
    critic: Network,
    policy: Hybrid,
    hp: DDPG = DDPG(),  # noqa: B008 (frozen)
    process: Callable[..., exploration.Noise] = exploration.gaussian_noise,
    optimizer: Callable = adam,
) -> Agent:
    """Deep deterministic policy gradient as an `Agent`: `td3` without its three modifications.

        critic : ½ (r + γ Q_target(s', μ_target(s')) - Q(s, x))²
        actor  : -Q(s, μ(s))

    Args:
      actor, critic, policy, hp, optimizer: as for `td3`.
      process: `exploration.ornstein_uhlenbeck` is the paper's.
    Limits:
      Those of `td3`. A single critic overestimates Q, which the actor then exploits (arXiv:1802.09477, section 4).
    """
    return td3(actor, critic, policy, hp, process, optimizer)
