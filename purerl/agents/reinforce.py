"""REINFORCE on whole episodes, with or without a learned baseline. Williams, 1992, doi:10.1007/BF00992696."""

from __future__ import annotations

from purerl import losses, normalize
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.policy_gradient import (
    PolicyGradient,
    Sample,
    advantages_and_targets,
    critic,
    no_baseline,
    policy_gradient_agent,
    unrolled,
)
from purerl.core import Agent, Distribution, MemoryNetwork, Network
from purerl.gradients import adam, annealed, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class REINFORCE(PolicyGradient):
    """Hyperparameters of `reinforce`. The defaults are tuned on CartPole-v1 (see benchmarks/papers)."""

    learning_rate: float = option(1e-2, "step size of Adam", low=0.0)
    baseline: bool = option(True, "subtract a learned V(s), which also values what follows a time limit")
    normalize_advantage: bool = option(True, "standardise G - V (or G) over each block")


@declare(
    POLICY_GRADIENT,
    REINFORCE(),
    num_envs=8,
    rollout_length=500,
)
def reinforce(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: REINFORCE = REINFORCE(),  # noqa: B008 (frozen)
    optimizer=adam,
) -> Agent:
    """REINFORCE as an `Agent`: one gradient step on a block of whole episodes.

        loss = -log π(aₜ|sₜ) (Gₜ - V(sₜ)) + c_v ½ (V(sₜ) - Gₜ)² - c_e H(π(·|sₜ)),   Gₜ = Σₖ γᵏ rₜ₊ₖ

    The factor γᵗ of the discounted objective's gradient is left out, as is customary.

    network, policy, hp, optimizer: as for `ppo`.
    Limits:
      On-policy, and of high variance: one gradient step for each block of at most `rollout_length` steps an episode.
      Where a time limit cuts an episode, what follows is valued by V, or with no baseline taken as 0.
    """
    network, optimizer = with_memory(network), optimizer(hp.max_grad_norm)

    def loss(params, s: Sample):
        pi, value = unrolled(network, params, s)
        mean = lambda x: losses.masked_mean(x, s.valid)
        policy_loss = mean(losses.policy_gradient(policy.log_prob(pi, s.action), s.advantage))
        entropy = mean(policy.entropy(pi))
        total, metrics = (
            policy_loss - hp.entropy_cost * entropy,
            {"policy_loss": policy_loss, "entropy": entropy},
        )
        if hp.baseline:
            metrics["value_loss"] = mean(losses.squared(value, s.target))
            total += hp.value_cost * metrics["value_loss"]
        return total, metrics

    improve = sgd(loss, optimizer)

    def update(key, state, rollout):
        del key  # not used
        tr = rollout.transitions
        data = advantages_and_targets(
            critic(network, state.params) if hp.baseline else no_baseline, rollout, hp.gamma, 1.0
        )
        if hp.normalize_advantage:
            data = data._replace(advantage=losses.standardize(data.advantage, tr.valid))
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(state, data, learning_rate)
        return state._replace(updates=state.updates + 1), {**metrics, "learning_rate": learning_rate}

    agent = policy_gradient_agent(network, policy, optimizer, update, episodic=True)
    return normalize.observations(agent) if hp.normalize_obs else agent
