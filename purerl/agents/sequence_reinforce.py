"""REINFORCE of whole sequences, with one of three baselines. Rennie et al., 2017, arXiv:1612.00563 (self-critical)."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from purerl import losses
from purerl.agents.parts import sequences
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.sequences import Batch, Sequences
from purerl.core import Agent, Distribution, MemoryNetwork, Network, where_ended
from purerl.gradients import adam, annealed, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory
from purerl.text import objectives


@config
class SequenceREINFORCE(Sequences):
    """Hyperparameters of `sequence_reinforce`."""

    baseline: Literal["moving-average", "self-critical", "none"] = option(
        "moving-average",
        "mean reward of earlier blocks, reward of the group's first member, which acts greedily, or 0",
    )
    baseline_decay: float = option(0.9, "of the moving average, per block", low=0.0, high=1.0)
    group_size: int = option(1, "neighbouring environments that start alike; self-critical: 2 or more", low=1)


@declare(
    POLICY_GRADIENT,
    SequenceREINFORCE(),
    num_envs=16,
    rollout_length=500,
)
def sequence_reinforce(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: SequenceREINFORCE = SequenceREINFORCE(),  # noqa: B008 (frozen)
    reference: Any = None,
    optimizer=adam,
) -> Agent:
    """REINFORCE of whole sequences as an `Agent`: one gradient step a block.

        1/N Σᵢ -Aᵢ Σₜ log π(aₜ|sₜ),   A = r - baseline,   r: the undiscounted return

    Self-critical: the first member of each group acts greedily in training, its return is the baseline of its group,
    and nothing else is learned from it.

    network, policy, hp, reference, optimizer: as for `rloo`.
    Raises:
      ValueError: as `rloo`, and for the self-critical baseline with groups of one.
    Limits:
      One gradient step for each block; a moving average is a baseline of all prompts alike, easy and hard ones.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)
    critical, average = hp.baseline == "self-critical", hp.baseline == "moving-average"
    if critical and hp.group_size < 2:
        raise ValueError(f"group_size is {hp.group_size}; the self-critical baseline needs groups of 2 or more")

    def collect(key, state, memory, obs):
        (pi, _), memory = network.step(state.params, memory, obs)
        first = jnp.arange(jax.tree.leaves(obs)[0].shape[0]) % hp.group_size == 0
        action = where_ended(first, policy.mode(pi), policy.sample(key, pi))
        return action, memory, policy.log_prob(pi, action)

    def others(x):
        """Leaves `[T, N, ...]` without the first member of each group."""
        x = x.reshape(x.shape[0], -1, hp.group_size, *x.shape[2:])[:, :, 1:]
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    def update(key, state, rollout):
        del key  # not used
        tr = sequences.without_tails(rollout.transitions)
        b, returns = sequences.read(network, policy, hp, state, tr), tr.reward.sum(0)
        reward = sequences.penalized(hp, state, b, returns)
        if critical:
            groups = sequences.by_group(reward, hp.group_size)
            advantage = objectives.self_critical_advantage(groups, jnp.broadcast_to(groups[:, :1], groups.shape))
            b, advantage, returns = jax.tree.map(others, (b, advantage.reshape(1, -1), returns[None]))
            returns = returns[0]
        elif average:
            advantage, own = objectives.moving_average_advantage(state.own, reward, hp.baseline_decay)
            state = state._replace(own=own)
        else:
            advantage = jnp.where(jnp.isnan(reward), 0.0, reward)
        b = b._replace(advantage=advantage.reshape(1, -1))
        cost = sequences.coefficient(hp, state)

        def loss(params, b: Batch):
            now = sequences.evaluate(network, policy, params, b)
            weighted = losses.policy_gradient(now.log_prob, objectives.of_tokens(b.advantage[0], now.log_prob))
            policy_loss = objectives.sequence_sum(weighted, now.mask)
            return sequences.with_costs(hp, cost, b, now, policy_loss, objectives.sequence_sum)

        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = sgd(loss, optimizer)(state, b, learning_rate)
        state, about = sequences.after_update(hp, state, b, returns)
        return state, {**metrics, **about, "learning_rate": learning_rate}

    own = (lambda params, obs: objectives.moving_average_init()) if average else sequences.nothing
    agent = sequences.sequence_agent(network, policy, hp, optimizer, update, reference, hp.group_size, own)
    return agent._replace(collect=collect) if critical else agent
