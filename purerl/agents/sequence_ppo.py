"""PPO of whole sequences, with a value and a KL penalty for every step. Ouyang et al., 2022, arXiv:2203.02155."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl import losses
from purerl.agents.parts import sequences
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.policy_gradient import advantages_and_targets, critic
from purerl.agents.parts.sequences import Batch, Sequences
from purerl.core import Agent, Distribution, MemoryNetwork, Network
from purerl.gradients import adam, annealed
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class SequencePPO(Sequences):
    """Hyperparameters of `sequence_ppo`."""

    gamma: float = option(1.0, "discount", low=0.0, high=1.0)
    gae_lambda: float = option(0.95, "λ of the advantage estimates", low=0.0, high=1.0)
    clip: float = option(0.2, "how far the policy ratio of a step may leave 1", low=0.0, open_low=True)
    value_cost: float = option(0.5, "weight of the value loss ½ (V - G)²", low=0.0)
    value_clip: float | None = option(
        None, "how far a value may move in one update, in units of the return; None: freely", low=0.0, open_low=True
    )
    num_epochs: int = option(4, "passes over each block", low=1)
    num_minibatches: int = option(4, "gradient steps a pass; must divide num_envs", low=1)
    normalize_advantage: bool = option(True, "standardise advantages over the steps of each block")


@declare(
    POLICY_GRADIENT,
    SequencePPO(),
    num_envs=16,
    rollout_length=500,
)
def sequence_ppo(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: SequencePPO = SequencePPO(),  # noqa: B008 (frozen)
    reference: Any = None,
    optimizer=adam,
) -> Agent:
    """PPO of whole sequences as an `Agent`: minibatches of sequences, and means over steps.

        loss = -min(ρₜ Âₜ, clip(ρₜ, 1 - ε, 1 + ε) Âₜ) + c_v ½ (V(sₜ) - Gₜ)²

    where Â and G are those of `returns.gae` for the reward rₜ - β (log π_old - log π_ref)(aₜ|sₜ), for k1 in the reward.
    A sequence with a reward that is NaN cannot be scored and enters no loss.

    network, policy, hp, reference, optimizer: as for `rloo`; the network's values are learned.
    Raises:
      ValueError: as `rloo`.
    Limits:
      It learns a value for every step, beside the policy: most of what the other agents of sequences save.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)

    def update(key, state, rollout):
        tr = sequences.without_tails(rollout.transitions)
        b, returns = sequences.read(network, policy, hp, state, tr), tr.reward.sum(0)
        cost, kl = sequences.coefficient(hp, state), sequences.kl_of_sampled(hp, b).T
        scored = tr.valid & ~jnp.isnan(returns)
        reward = jnp.where(scored, tr.reward - (cost * kl if hp.kl_in == "reward" else 0.0), 0.0)
        block = rollout._replace(transitions=tr._replace(reward=jax.lax.stop_gradient(reward)))
        judged = advantages_and_targets(critic(network, state.params), block, hp.gamma, hp.gae_lambda)
        standardized = losses.standardize(judged.advantage, scored)
        advantage = standardized if hp.normalize_advantage else judged.advantage
        data = b._replace(mask=scored, advantage=advantage, value=judged.value, target=judged.target)

        def loss(params, b: Batch):
            now = sequences.evaluate(network, policy, params, b)
            mean = lambda x: losses.masked_mean(x, now.mask)
            policy_loss = mean(losses.ppo_clip(now.log_ratio, b.advantage.T, hp.clip))
            if hp.value_clip is None:
                value_loss = mean(losses.squared(now.value, b.target.T))
            else:
                value_loss = mean(losses.clipped_value(now.value, b.value.T, b.target.T, hp.value_clip))
            total, metrics = sequences.with_costs(hp, cost, b, now, policy_loss, losses.masked_mean)
            outside = jnp.abs(losses.change(now.log_ratio)) > hp.clip
            metrics |= {"value_loss": value_loss, "clip_fraction": mean(outside.astype(jnp.float32))}
            return total + hp.value_cost * value_loss, metrics

        improve = sequences.passes(loss, optimizer, hp.num_epochs, hp.num_minibatches)
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(key, state, data, learning_rate)
        state, about = sequences.after_update(hp, state, b, returns)
        return state, {**metrics, **about, "learning_rate": learning_rate}

    return sequences.sequence_agent(network, policy, hp, optimizer, update, reference)
