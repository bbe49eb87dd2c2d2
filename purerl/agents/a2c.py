"""Advantage actor-critic: one gradient step on each short block. Mnih et al., 2016, arXiv:1602.01783."""

from __future__ import annotations

from purerl import losses, normalize
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import POLICY_GRADIENT
from purerl.agents.parts.policy_gradient import (
    PolicyGradient,
    Sample,
    advantages_and_targets,
    critic,
    policy_gradient_agent,
    unrolled,
)
from purerl.core import Agent, Distribution, MemoryNetwork, Network
from purerl.gradients import annealed, rmsprop, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class A2C(PolicyGradient):
    """Hyperparameters of `a2c`. The defaults are Stable-Baselines3's."""

    learning_rate: float = option(7e-4, "step size of RMSProp", low=0.0)
    gae_lambda: float = option(1.0, "λ of the advantage estimates", low=0.0, high=1.0)
    normalize_advantage: bool = option(False, "standardise advantages over each block")


@declare(
    POLICY_GRADIENT,
    A2C(),
    num_envs=8,
    rollout_length=5,
)
def a2c(network: Network | MemoryNetwork, policy: Distribution, hp: A2C = A2C(), optimizer=rmsprop) -> Agent:  # noqa: B008 (frozen)
    """Advantage actor-critic as an `Agent`.

        loss = -log π(a|s) Â + c_v ½ (V(s) - G)² - c_e H(π(·|s))

    where Â and the λ-return G are those of `returns.gae`; λ = 1 is the paper's.

    network, policy, hp, optimizer: as for `ppo`.
    Limits:
      On-policy, and one gradient step for each block, so that it needs more environment steps than `ppo`.
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
        del key  # not used
        tr = rollout.transitions
        data = advantages_and_targets(critic(network, state.params), rollout, hp.gamma, hp.gae_lambda)
        if hp.normalize_advantage:
            data = data._replace(advantage=losses.standardize(data.advantage, tr.valid))
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, tr.reward.size)
        state, metrics = improve(state, data, learning_rate)
        return state._replace(updates=state.updates + 1), {**metrics, "learning_rate": learning_rate}

    agent = policy_gradient_agent(network, policy, optimizer, update)
    return normalize.observations(agent) if hp.normalize_obs else agent
