"""Soft actor-critic, for continuous, discrete and hybrid actions. Haarnoja et al., 2018, arXiv:1812.05905."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from purerl import bellman
from purerl.actor_critics import ActorCritic, critic_loss, descend, judge, replay_actor_critic
from purerl.core import Agent, Network, config, option
from purerl.distributions import Hybrid, squashed
from purerl.offpolicy import polyak
from purerl.updates import adam


@config
class SAC(ActorCritic):
    """Hyperparameters of `sac`."""

    box: ClassVar = squashed  # of the command line's policy

    temperature: float | None = option(None, "τ, what a nat of entropy is worth; None learns it", low=0.0)
    target_entropy: float = option(
        -1.0, "entropy aimed at for each continuous number, in nats, on a scale where its range is 2"
    )
    choice_entropy: float = option(
        0.3, "entropy aimed at for a discrete choice, as a share of that of a uniform one", low=0.0, high=1.0
    )


def sac(
    actor: Network,
    critic: Network,
    policy: Hybrid,
    hp: SAC = SAC(),  # noqa: B008 (frozen)
    optimizer: Callable = adam,
) -> Agent:
    """Soft actor-critic as an `Agent`.

        V(s)    = Σₖ π(k|s) Q(s, x)[k] + τ_k H(π(·|s)) - τ_x log π(x|s),   x ~ π(·|s),   Q = min of the critics
        critics : ½ (r + γ V_target(s') - Qᵢ(s, x)[k])²
        actor   : -V(s), through x as well
        log τ   : log τ · (entropy - target), for the choice and for x apart

    An action is a choice k and numbers x (`distributions.hybrid`): where nothing is discrete this is soft actor-critic
    as published, where nothing is continuous its discrete form (Christodoulou, 2019, arXiv:1910.07207), and where both
    are the hybrid one (Delalleau et al., 2019, arXiv:1912.11077), the expectation over k always exact. Densities are in
    the action's own units, and so is the target: Σ (target_entropy + log of half the range). For a choice it is
    choice_entropy times log of the number of legal ones. Of an `envs.Parameterised` space the parameters of every kind
    are drawn and their entropies counted, chosen or not. The temperature's loss has log τ where arXiv:1812.05905,
    eq. 18, has τ: the same sign and zero, and no τ so small that it can not grow again.

    Args:
      actor: policy parameters `[B, P]` of observations, such as `networks.actor(policy)`.
      critic: Q `[B, K]` of (observations, x), such as `networks.critic(policy)`.
      policy: `distributions.hybrid(action_space)`.
      hp: hyperparameters; floats may be tracers. With n_step > 1 the entropies of the steps between are left out.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    """
    direction, q = optimizer(hp.max_grad_norm), judge(critic, policy)
    num_choices = policy.choice.num_params
    units = np.log(policy.half).sum()

    def soft(params, critics, tau, key, obs):
        """V(s) `[B]`; entropies of choice and numbers, and what they should be, `[B, 2]`."""
        logits, p = jnp.split(actor.apply(params, obs), [num_choices], -1)
        x, log_prob = policy.continuous.draw(key, p)
        entropy = jnp.stack([policy.choice.entropy(logits), -log_prob], -1)
        value = bellman.state_value(jax.nn.softmax(logits), q(critics, obs, x).min(0)) + (tau * entropy).sum(-1)
        legal = jnp.log(jnp.sum(~jnp.isneginf(logits), -1, dtype=jnp.float32))
        wanted = jnp.stack([hp.choice_entropy * legal, 0.0 * legal + hp.target_entropy * x.shape[-1] + units], -1)
        return value, (entropy, wanted)

    def learn(keys, state, s, now):
        target_key, actor_key, _ = keys
        rate = now.learning_rate
        tau = jnp.exp(state.params["temperature"]) if hp.temperature is None else jnp.full(2, hp.temperature)
        next_value, _ = soft(state.params["actor"], state.target_params["critic"], tau, target_key, s.next_obs)
        target = s.reward + s.gamma * jnp.where(s.terminated, 0.0, next_value)
        state, (loss, size, mean_q) = descend(state, "critic", critic_loss(q, s, target), direction, rate)

        def actor_loss(params):
            value, about = soft(params, state.params["critic"], tau, actor_key, s.obs)
            return -value.mean(), (-value.mean(), about)

        state, (policy_loss, (entropy, wanted)) = descend(state, "actor", actor_loss, direction, rate)
        if hp.temperature is None:
            excess = (entropy - wanted).mean(0)
            state, _ = descend(state, "temperature", lambda log_tau: ((log_tau * excess).sum(), ()), direction, rate)
        followed = polyak(state.target_params["critic"], state.params["critic"], hp.target_rate)
        metrics = {
            "loss": loss,
            "td_error": size.mean(),
            "q": mean_q,
            "policy_loss": policy_loss,
            "entropy": entropy.sum(-1).mean(),
            "choice_temperature": tau[0],
            "temperature": tau[1],
        }
        return state._replace(target_params={"critic": followed}, metrics=metrics), size

    def explore(key, p, memory):
        k_key, x_key = jax.random.split(key)
        logits, p = jnp.split(p, [num_choices], -1)
        return policy.choice.sample(k_key, logits), policy.continuous.sample(x_key, p), memory

    def mode(p):
        logits, p = jnp.split(p, [num_choices], -1)
        return policy.choice.mode(logits), policy.continuous.mode(p)

    names = ("loss", "td_error", "q", "policy_loss", "entropy", "choice_temperature", "temperature")
    more = {"temperature": jnp.zeros(2)}
    return replay_actor_critic(
        actor, critic, policy, hp, direction, learn, explore, mode, ("critic",), more, metrics=names
    )
