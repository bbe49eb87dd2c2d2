"""RLOO: REINFORCE with the mean reward of the other members of the group. Ahmadian et al., 2024, arXiv:2402.14740."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from purerl import losses
from purerl.agents.parts import sequences
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.sequences import Batch, Sequences
from purerl.core import Agent, Distribution, MemoryNetwork, Network
from purerl.gradients import adam, annealed
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory
from purerl.text import objectives


@config
class RLOO(Sequences):
    """Hyperparameters of `rloo`. With a `kl_cost`, the KL is k1 in the reward by default, as in the paper."""

    group_size: int = option(8, "neighbouring environments that start alike, as a baseline of each other", low=2)
    clip: float = option(0.2, "how far the ratio of a sequence may leave 1", low=0.0, open_low=True)
    num_epochs: int = option(1, "passes over each block", low=1)
    num_minibatches: int = option(1, "gradient steps a pass; must divide num_envs", low=1)


@declare(
    POLICY_GRADIENT,
    RLOO(),
    num_envs=16,
    rollout_length=500,
)
def rloo(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: RLOO = RLOO(),  # noqa: B008 (frozen)
    reference: Any = None,
    optimizer=adam,
) -> Agent:
    """RLOO as an `Agent`: whole sequences are the actions, and their undiscounted returns the rewards.

        1/N Σᵢ -min(ρᵢ Aᵢ, clip(ρᵢ, 1 ± ε) Aᵢ),   Aᵢ = rᵢ - mean of the others' r,   ρᵢ = Πₜ π(aₜ|sₜ) / π_old(aₜ|sₜ)

    In the first gradient step ρ = 1: with one step a block, it is -∇ log π(sequence) A, and nothing is clipped.

    Args:
      network, policy, optimizer: as for `ppo`; values are not used.
      hp: hyperparameters; floats may be tracers.
      reference: parameters that the KL is measured from; None: the first ones.
    Raises:
      ValueError: for a reference or a `kl_target` without a `kl_cost`.
    Limits:
      For environments whose members of a group start alike. All steps of a sequence share one advantage.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)

    def update(key, state, rollout):
        tr = sequences.without_tails(rollout.transitions)
        b, returns = sequences.read(network, policy, hp, state, tr), tr.reward.sum(0)
        reward = sequences.by_group(sequences.penalized(hp, state, b, returns), hp.group_size)
        b = b._replace(advantage=objectives.rloo_advantage(reward).reshape(1, -1))
        cost = sequences.coefficient(hp, state)

        def loss(params, b: Batch):
            now = sequences.evaluate(network, policy, params, b)
            log_ratio = objectives.sequence_log_prob(now.log_ratio, now.mask)
            policy_loss = losses.ppo_clip(log_ratio, b.advantage[0], hp.clip).mean()
            total, metrics = sequences.with_costs(hp, cost, b, now, policy_loss, objectives.sequence_sum)
            outside = jnp.abs(losses.change(log_ratio)) > hp.clip
            return total, metrics | {"clip_fraction": outside.astype(jnp.float32).mean()}

        improve = sequences.passes(loss, optimizer, hp.num_epochs, hp.num_minibatches)
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(key, state, b, learning_rate)
        state, about = sequences.after_update(hp, state, b, returns)
        equal = objectives.zero_variance(sequences.by_group(returns, hp.group_size)).sum()
        return state, {**metrics, **about, "zero_variance": equal, "learning_rate": learning_rate}

    return sequences.sequence_agent(network, policy, hp, optimizer, update, reference, hp.group_size)
