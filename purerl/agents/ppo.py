"""Proximal policy optimisation, with a clipped surrogate. Schulman et al., 2017, arXiv:1707.06347."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from purerl import losses, normalize
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.policy_gradient import (
    PolicyGradient,
    Sample,
    advantages_and_targets,
    critic,
    policy_gradient_agent,
    sequences,
    unrolled,
)
from purerl.core import Agent, Distribution, MemoryNetwork, Network
from purerl.gradients import adam, annealed, epochs, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class PPO(PolicyGradient):
    """Hyperparameters of `ppo`. The defaults are those that CleanRL publishes its classic-control table with,
    but for its value clipping, which is off: it is in units of the return, and rarely helps (arXiv:2005.12729)."""

    learning_rate: float = option(2.5e-4, "step size of Adam", low=0.0)
    gae_lambda: float = option(0.95, "λ of the advantage estimates", low=0.0, high=1.0)
    clip: float = option(0.2, "how far the policy ratio may leave 1", low=0.0, open_low=True)
    value_clip: float | None = option(
        None,
        "how far a value may move in one update, in units of the return; None: freely",
        low=0.0,
        open_low=True,
    )
    entropy_cost: float = option(0.01, "weight of the entropy bonus", low=0.0)
    num_epochs: int = option(4, "passes over each block", low=1)
    num_minibatches: int = option(4, "gradient steps a pass; must divide num_envs x rollout_length", low=1)
    normalize_advantage: Literal["minibatch", "batch", "none"] = option(
        "minibatch", "standardise advantages over each minibatch, over the whole block, or not"
    )


@declare(
    POLICY_GRADIENT,
    PPO(),
    num_envs=4,
    rollout_length=128,
)
def ppo(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: PPO = PPO(),  # noqa: B008 (frozen)
    surrogate=losses.ppo_clip,
    optimizer=adam,
) -> Agent:
    """Proximal policy optimisation as an `Agent`.

        loss = -min(ρ Â, clip(ρ, 1 - ε, 1 + ε) Â) + c_v ½ (V(s) - G)² - c_e H(π(·|s)),   ρ = π(a|s) / π_old(a|s)

    where Â and the λ-return G are those of `returns.gae`, computed once for each block.

    Args:
      network: `(policy parameters, value)` of observations, such as `networks.actor_critic(policy)`, with memory
        (`networks.actor_critic(policy, memory=networks.gru())`) or without.
      policy: the action distribution, such as `distributions.for_space(action_space)`.
      hp: hyperparameters; floats may be tracers.
      surrogate: the policy's loss of `(log_ratio, advantage, clip)`, element by element.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    Limits:
      On-policy: a block is dropped after its passes. It explores by the entropy of its policy alone, and at the
      published settings solves neither MountainCar-v0 in 500k steps nor MountainCarContinuous-v0 in 300k.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)

    def loss(params, s: Sample):
        pi, value = unrolled(network, params, s)
        log_ratio = policy.log_prob(pi, s.action) - s.log_prob
        change = losses.change(jax.lax.stop_gradient(log_ratio))
        minibatch = hp.normalize_advantage == "minibatch"
        advantage = losses.standardize(s.advantage, s.valid) if minibatch else s.advantage
        if hp.value_clip is None:
            value_loss = losses.squared(value, s.target)
        else:
            value_loss = losses.clipped_value(value, s.value, s.target, hp.value_clip)
        mean = lambda x: losses.masked_mean(x, s.valid)
        policy_loss, value_loss = mean(surrogate(log_ratio, advantage, hp.clip)), mean(value_loss)
        entropy = mean(policy.entropy(pi))
        return policy_loss + hp.value_cost * value_loss - hp.entropy_cost * entropy, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": mean(change - log_ratio),
            "clip_fraction": mean((jnp.abs(change) > hp.clip).astype(jnp.float32)),
        }

    improve = epochs(sgd(loss, optimizer), hp.num_epochs, hp.num_minibatches)

    def update(key, state, rollout):
        tr = rollout.transitions
        data = advantages_and_targets(critic(network, state.params), rollout, hp.gamma, hp.gae_lambda)
        if hp.normalize_advantage == "batch":
            data = data._replace(advantage=losses.standardize(data.advantage, tr.valid))
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(key, state, sequences(data), learning_rate)
        return state._replace(updates=state.updates + 1), {**metrics, "learning_rate": learning_rate}

    agent = policy_gradient_agent(network, policy, optimizer, update)
    return normalize.observations(agent) if hp.normalize_obs else agent
