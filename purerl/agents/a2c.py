"""Advantage actor-critic: one gradient step on each short block. Mnih et al., 2016, arXiv:1602.01783."""

from __future__ import annotations

from typing import ClassVar

from purerl import losses, normalize
from purerl.core import Agent, Distribution, MemoryNetwork, Network, config, option
from purerl.memory import with_memory
from purerl.policies import Sample, critic, judge, policy_agent, unrolled
from purerl.updates import annealed, rmsprop, sgd


@config
class A2C:
    """Hyperparameters of `a2c`. The defaults are Stable-Baselines3's."""

    num_envs: ClassVar[int] = 8  # what the defaults are tuned for; arguments of `learner`
    rollout_length: ClassVar[int] = 5

    learning_rate: float = option(7e-4, "step size of RMSProp", low=0.0)
    anneal_steps: float | None = option(
        None,
        "environment steps over which the learning rate falls to 0; None keeps it",
        low=0.0,
        open_low=True,
        share=1.0,
    )
    gamma: float = option(0.99, "discount", low=0.0, high=1.0)
    gae_lambda: float = option(1.0, "λ of the advantage estimates", low=0.0, high=1.0)
    entropy_cost: float = option(0.0, "weight of the entropy bonus", low=0.0)
    value_cost: float = option(0.5, "weight of the value loss ½ (V - G)²", low=0.0)
    max_grad_norm: float = option(0.5, "gradients are clipped to this global norm", low=0.0, open_low=True)
    normalize_advantage: bool = option(False, "standardise advantages over each block")
    normalize_obs: bool = option(False, "standardise observations by their running moments")


def a2c(network: Network | MemoryNetwork, policy: Distribution, hp: A2C = A2C(), optimizer=rmsprop) -> Agent:  # noqa: B008 (frozen)
    """Advantage actor-critic as an `Agent`.

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
        value_loss, entropy = mean(losses.squared(value, s.target)), mean(policy.entropy(pi))
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return policy_loss + hp.value_cost * value_loss - hp.entropy_cost * entropy, metrics

    improve = sgd(loss, optimizer)

    def update(key, state, rollout):
        del key  # nothing is drawn
        tr = rollout.transitions
        data = judge(critic(network, state.params), rollout, hp.gamma, hp.gae_lambda)
        if hp.normalize_advantage:
            data = data._replace(advantage=losses.standardize(data.advantage, tr.valid))
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(state, data, learning_rate)
        return state._replace(updates=state.updates + 1), {**metrics, "learning_rate": learning_rate}

    agent = policy_agent(network, policy, optimizer, update)
    return normalize.observations(agent) if hp.normalize_obs else agent
