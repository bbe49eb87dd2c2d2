"""Soft actor-critic, for continuous, discrete and hybrid actions. Haarnoja et al., 2018, arXiv:1812.05905."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from purerl import bellman, losses
from purerl.agents.parts.actor_critic import Acting, ActorCritic, actor_critic_agent, critic_loss, descend, ensemble
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import ACTOR_CRITIC, CONTINUOUS_CONTROL
from purerl.agents.parts.replay_updates import polyak
from purerl.core import Agent, Network
from purerl.distributions import Hybrid, squashed
from purerl.gradients import adam
from purerl.hyperparameters import config, option


@config
class SAC(ActorCritic):
    """Hyperparameters of `sac`."""

    temperature: float | None = option(None, "τ, the entropy coefficient per nat; None: learned", low=0.0)
    target_entropy: float = option(
        -1.0, "entropy aimed at for each continuous number, in nats, on a scale where its range is 2"
    )
    choice_entropy: float = option(
        0.3, "entropy aimed at for a discrete choice, as a share of that of a uniform one", low=0.0, high=1.0
    )


@declare(
    ACTOR_CRITIC,
    SAC(),
    **CONTINUOUS_CONTROL,
    box=squashed,
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
    eq. 18, has τ: the same sign and zero, and no τ so small that it cannot grow again.

    Args:
      actor: policy parameters `[B, P]` of observations, such as `networks.actor(policy)`.
      critic: Q `[B, K]` of (observations, x), such as `networks.critic(policy)`.
      policy: `distributions.hybrid(action_space)`.
      hp: hyperparameters; floats may be tracers. With n_step > 1 the entropies of the steps between are left out.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    Limits:
      Without memory.
    """
    direction, q = optimizer(hp.max_grad_norm), ensemble(critic, policy)
    num_choices = policy.choice.num_params
    units = np.log(policy.half).sum()

    def soft(params, critics, tau, key, obs):
        """V(s) `[B]`; entropies of choice and numbers, and what they should be, `[B, 2]`."""
        logits, p = jnp.split(actor.apply(params, obs), [num_choices], -1)
        x, log_prob = policy.continuous.sample_and_log_prob(key, p)
        entropy = jnp.stack([policy.choice.entropy(logits), -log_prob], -1)
        value = bellman.state_value(jax.nn.softmax(logits), q(critics, obs, x).min(0)) + (tau * entropy).sum(-1)
        legal = jnp.log(jnp.sum(~jnp.isneginf(logits), -1, dtype=jnp.float32))
        wanted = jnp.stack([hp.choice_entropy * legal, 0.0 * legal + hp.target_entropy * x.shape[-1] + units], -1)
        return value, (entropy, wanted)

    def learn(keys, state, s, step, rate):
        del step
        target_key, actor_key, _ = keys
        tau = jnp.exp(state.params["temperature"]) if hp.temperature is None else jnp.full(2, hp.temperature)
        next_value, _ = soft(state.params["actor"], state.target_params["critic"], tau, target_key, s.next_obs)
        target = bellman.sarsa_backup(s.reward, s.gamma, s.terminated, next_value)
        state, (loss, size, mean_q) = descend(state, "critic", critic_loss(q, s, target), direction, rate)

        def actor_loss(params):
            value, about = soft(params, state.params["critic"], tau, actor_key, s.obs)
            return -value.mean(), (-value.mean(), about)

        state, (policy_loss, (entropy, wanted)) = descend(state, "actor", actor_loss, direction, rate)
        if hp.temperature is None:
            excess = (entropy - wanted).mean(0)
            loss_of = lambda log_tau: (losses.soft_temperature(log_tau, excess).sum(), ())
            state, _ = descend(state, "temperature", loss_of, direction, rate)
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
    others, acting = {"temperature": jnp.zeros(2)}, Acting(explore, mode)
    return actor_critic_agent(
        actor, critic, policy, hp, direction, learn, acting, targets=("critic",), metrics=names, others=others
    )
