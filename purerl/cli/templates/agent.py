"""An agent of one's own: the policy gradient with a learned baseline.

Its hyperparameters are options of the command line. Train it, sweep one of them, or check it:

    purerl train FILE.py:my_agent CartPole-v1
    purerl train FILE.py:my_agent CartPole-v1 --learning-rate 1e-3,3e-3
    python FILE.py
"""

import jax

import purerl
from purerl import distributions, gradients, losses, networks, normalize
from purerl.agents.parts.policy_gradient import (
    PolicyGradient,
    advantages_and_targets,
    critic,
    policy_gradient_agent,
    sequences,
    unrolled,
)


@purerl.config
class MyAgent(PolicyGradient):
    """Hyperparameters besides those of `PolicyGradient`: floats may be swept in one program, the rest is structure."""

    learning_rate: float = purerl.option(3e-3, "step size of Adam", low=0.0)
    gae_lambda: float = purerl.option(0.95, "λ of the advantage estimates", low=0.0, high=1.0)


@purerl.declare(purerl.POLICY_GRADIENT, MyAgent(), num_envs=8, rollout_length=32)
def my_agent(network, policy, hp=MyAgent()):
    """The policy gradient with a learned baseline.

    network: observations to (policy parameters, value). policy: the distribution of actions.
    """
    optimizer = gradients.adam(hp.max_grad_norm)

    def loss(params, s):
        """The loss of a batch, and metrics. Change this."""
        pi, value = unrolled(network, params, s)
        mean = lambda x: losses.masked_mean(x, s.valid)
        policy_loss = -mean(policy.log_prob(pi, s.action) * s.advantage)
        value_loss = mean(losses.squared(value, s.target))
        entropy = mean(policy.entropy(pi))
        total = policy_loss + hp.value_cost * value_loss - hp.entropy_cost * entropy
        return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

    descend = gradients.sgd(loss, optimizer)

    def update(key, state, rollout):
        """One update from a block of transitions `[T, N]`: new state and metrics. `key` is for what is random."""
        del key
        data = advantages_and_targets(critic(network, state.params), rollout, hp.gamma, hp.gae_lambda)
        steps = rollout.transitions.reward.size
        rate = gradients.annealed(hp.learning_rate, hp.anneal_steps, state.updates, steps)
        state, metrics = descend(state, sequences(data), rate)
        return state._replace(updates=state.updates + 1), {**metrics, "learning_rate": rate}

    agent = policy_gradient_agent(network, policy, optimizer, update)
    return normalize.observations(agent) if hp.normalize_obs else agent


if __name__ == "__main__":
    env, env_params = purerl.make("CartPole-v1")
    space = distributions.for_space(env.action_space(env_params))
    make = lambda hp: my_agent(networks.actor_critic(space), space, hp)
    purerl.testing.check_agent(make, MyAgent(), env, env_params, jax.random.key(seed=0))
