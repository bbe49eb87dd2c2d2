"""REINFORCE on whole episodes, with or without a learned baseline. Williams, 1992, doi:10.1007/BF00992696."""

from __future__ import annotations

from typing import ClassVar

from purerl import losses, normalize
from purerl.core import Agent, Distribution, MemoryNetwork, Network, config, option
from purerl.memory import with_memory
from purerl.policies import Sample, critic, judge, no_baseline, policy_agent, unrolled
from purerl.updates import adam, annealed, sgd


@config
class REINFORCE:
    """Hyperparameters of `reinforce`. The defaults are tuned on CartPole-v1 (see benchmarks/papers)."""

    num_envs: ClassVar[int] = 8  # what the defaults are tuned for; arguments of `learner`
    rollout_length: ClassVar[int] = 500  # the cap on an episode

    learning_rate: float = option(1e-2, "step size of Adam", low=0.0)
    anneal_steps: float | None = option(
        None,
        "environment steps over which the learning rate falls to 0; None keeps it",
        low=0.0,
        open_low=True,
        share=1.0,
    )
    gamma: float = option(0.99, "discount", low=0.0, high=1.0)
    baseline: bool = option(True, "subtract a learned V(s), which also values what follows a time limit")
    entropy_cost: float = option(0.0, "weight of the entropy bonus", low=0.0)
    value_cost: float = option(0.5, "weight of the value loss ½ (V - G)²", low=0.0)
    max_grad_norm: float = option(0.5, "gradients are clipped to this global norm", low=0.0, open_low=True)
    normalize_advantage: bool = option(True, "standardise G - V (or G) over each block")
    normalize_obs: bool = option(False, "standardise observations by their running moments")


def reinforce(
    network: Network | MemoryNetwork,
    policy: Distribution,
    hp: REINFORCE = REINFORCE(),  # noqa: B008 (frozen)
    optimizer=adam,
) -> Agent:
    """REINFORCE as an `Agent`: one gradient step on ∇ log π(aₜ|sₜ) (Gₜ - V(sₜ)) over whole episodes.

    The factor γᵗ of the discounted objective's gradient is left out, as is customary.

    Args:
      network: `(policy parameters, value)` of observations, such as `networks.actor_critic(policy)`, with memory
        (`networks.actor_critic(policy, memory=networks.gru())`) or without.
      policy: the action distribution, such as `distributions.for_space(action_space)`.
      hp: hyperparameters; floats may be tracers.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
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
        del key  # nothing is drawn
        tr = rollout.transitions
        data = judge(critic(network, state.params) if hp.baseline else no_baseline, rollout, hp.gamma, 1.0)
        if hp.normalize_advantage:
            data = data._replace(advantage=losses.standardize(data.advantage, tr.valid))
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(state, data, learning_rate)
        return state._replace(updates=state.updates + 1), {**metrics, "learning_rate": learning_rate}

    agent = policy_agent(network, policy, optimizer, update, episodic=True)
    return normalize.observations(agent) if hp.normalize_obs else agent
