"""GRPO: rewards compared within groups, and its variants by name. Shao et al., 2024, arXiv:2402.03300."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp

from purerl import losses
from purerl.agents.parts import sequences
from purerl.agents.parts.declarations import Choice, declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.sequences import NORMALISERS, RATIOS, Batch, Sequences
from purerl.core import Agent, Distribution, MemoryNetwork, Network
from purerl.gradients import adam, annealed
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory
from purerl.text import objectives


@config
class GRPO(Sequences):
    """Hyperparameters of `grpo`. With a `kl_cost`, the KL is k3 in the loss by default, as in the paper."""

    kl: Literal["k1", "k2", "k3"] = option("k3", "estimator of the KL: see purerl.text.objectives")
    kl_in: Literal["reward", "loss"] = option("loss", "whether the KL is a term of the reward or of the loss")
    group_size: int = option(8, "neighbouring environments that start alike, as a baseline of each other", low=2)
    clip_low: float | None = option(None, "how far the ratio may fall below 1; None: as --ratio has it", low=0.0)
    clip_high: float | None = option(None, "how far it may rise (cispo: the ratio); None: as --ratio has it", low=0.0)
    num_epochs: int = option(1, "passes over each batch", low=1)
    num_minibatches: int = option(1, "gradient steps a pass; must divide num_envs", low=1)
    mask_truncated: bool = option(False, "leave sequences out of the loss that were cut before their end")
    dynamic_sampling: bool = option(
        False,
        "learn from num_envs sequences of groups whose rewards are not all equal; losses "
        "are logged as 0 in an update without a gradient step",
    )
    max_length: int = option(500, "rollout_length, for dynamic sampling; the command line knows it", low=1)


def _choice(parts, help: str) -> Choice:
    return Choice({name: lambda options, part=part: part for name, part in parts.items()}, help)


@declare(
    POLICY_GRADIENT,
    GRPO(),
    num_envs=16,
    rollout_length=500,
    parts={
        "normaliser": _choice(NORMALISERS, "of the loss: mean of means, mean over steps, over N x length, over steps"),
        "ratio": _choice(RATIOS, "clipped for each step, clipped for each sequence, or a clipped weight"),
        "scale": _choice(
            objectives.SCALES, "what advantages are divided by: the deviation of the group, of the block, or 1"
        ),
    },
)
def grpo(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: GRPO = GRPO(),  # noqa: B008 (frozen)
    normaliser=objectives.grpo,
    ratio=sequences.of_steps,
    scale=objectives.group_scale,
    ended=sequences.terminated,
    reference: Any = None,
    optimizer=adam,
) -> Agent:
    """Group relative policy optimisation as an `Agent`: whole sequences, with their undiscounted returns as rewards.

        normaliser(-min(ρA, clip(ρ, 1 - ε_low, 1 + ε_high) A) + β KL),   Aᵢ = (rᵢ - mean) / scale of its group

    Args:
      network, policy, hp, reference, optimizer: as for `rloo`.
      normaliser: `(loss [N, T], mask [N, T]) -> scalar`, such as those of `sequences.NORMALISERS`.
      ratio: `(steps, advantage [N], low, high) -> (loss, out of bounds)`, both `[N, T]`, as in `sequences.RATIOS`.
      scale: `(reward, scored) -> divisor`, such as those of `objectives.SCALES`.
      ended: `transitions -> bool [N]`, the sequences that `mask_truncated` keeps.
    Raises:
      ValueError: as `rloo`; at trace time, for dynamic sampling with another `max_length` than the block's.
    Limits:
      Those of `rloo`. A group whose rewards are equal teaches nothing; the group's deviation weighs problems unequally.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)
    clips = {name: x for name, x in (("low", hp.clip_low), ("high", hp.clip_high)) if x is not None}

    def update(key, state, rollout):
        tr = sequences.without_tails(rollout.transitions)
        b, returns = sequences.read(network, policy, hp, state, tr), tr.reward.sum(0)
        batch = b._replace(reward=sequences.penalized(hp, state, b, returns)[None])
        if hp.mask_truncated:
            batch = batch._replace(mask=objectives.without_truncated(b.mask.T, ended(tr)).T)
        cost = sequences.coefficient(hp, state)

        def loss(params, b: Batch):
            now = sequences.evaluate(network, policy, params, b)
            each, outside = ratio(now, b.advantage[0], **clips)
            policy_loss = normaliser(each, now.mask)
            total, metrics = sequences.with_costs(hp, cost, b, now, policy_loss, normaliser)
            clip_fraction = losses.masked_mean(outside.astype(jnp.float32), now.mask)
            return total, metrics | {"clip_fraction": clip_fraction}

        improve = sequences.passes(loss, optimizer, hp.num_epochs, hp.num_minibatches)
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)

        def learn(key, state, b):
            groups = sequences.by_group(b.reward[0], hp.group_size)
            advantage = objectives.group_advantage(groups, scale).advantage.reshape(1, -1)
            return improve(key, state, b._replace(advantage=advantage), learning_rate)

        equal = objectives.zero_variance(sequences.by_group(returns, hp.group_size))
        if hp.dynamic_sampling:
            state, metrics = sequences.when_full(learn, key, state, batch, ~equal)
        else:
            state, metrics = learn(key, state, batch)
        state, about = sequences.after_update(hp, state, b, returns)
        return state, {**metrics, **about, "zero_variance": equal.sum(), "learning_rate": learning_rate}

    own = sequences.empty_buffer(network, policy, hp) if hp.dynamic_sampling else sequences.nothing
    return sequences.sequence_agent(network, policy, hp, optimizer, update, reference, hp.group_size, own)
