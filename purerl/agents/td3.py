"""Twin delayed deterministic policy gradient. Fujimoto, van Hoof & Meger, 2018, arXiv:1802.09477."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl import bellman, distributions, exploration, losses
from purerl.agents.parts.actor_critic import Acting, ActorCritic, actor_critic_agent, critic_loss, descend, ensemble
from purerl.agents.parts.declarations import declare
from purerl.agents.parts.families import ACTOR_CRITIC, CONTINUOUS_CONTROL, PROCESS
from purerl.agents.parts.replay_updates import polyak
from purerl.core import Agent, Network
from purerl.distributions import Hybrid
from purerl.gradients import adam
from purerl.hyperparameters import config, option


@config
class TD3(ActorCritic):
    """Hyperparameters of `td3`. Noise is in units of half of an action's range, so that 1 reaches the bounds."""

    noise: float = option(0.1, "deviation of the noise that explores, in halves of an action's range", low=0.0)
    target_noise: float = option(0.2, "deviation of the noise in targets' actions, in halves of the range", low=0.0)
    noise_clip: float = option(0.5, "bound of the noise in targets' actions, in halves of the range", low=0.0)
    policy_delay: int = option(2, "gradient steps of the critics for each of the actor and the targets", low=1)


@declare(
    ACTOR_CRITIC,
    TD3(),
    **CONTINUOUS_CONTROL,
    box=distributions.deterministic,
    parts={"process": PROCESS},
)
def td3(
    actor: Network,
    critic: Network,
    policy: Hybrid,
    hp: TD3 = TD3(),  # noqa: B008 (frozen)
    process: Callable[..., exploration.Noise] = exploration.gaussian_noise,
    optimizer: Callable = adam,
) -> Agent:
    """Twin delayed deterministic policy gradient as an `Agent`.

        critics : ½ (r + γ min Q_target(s', clip(μ_target(s') + clip(ε))) - Qᵢ(s, x))²
        actor   : -Q₁(s, μ(s))

    Args:
      actor: policy parameters `[B, P]` of observations, such as `networks.actor(policy)`.
      critic: Q `[B, 1]` of (observations, x), such as `networks.critic(policy)`.
      policy: `distributions.hybrid(action_space, distributions.deterministic)`; nothing in it may be discrete.
      hp: hyperparameters; floats may be tracers.
      process: of the noise, `(shape, sigma=) -> Noise`, such as `exploration.ornstein_uhlenbeck`.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
    Raises:
      ValueError: for a space with discrete actions.
    Limits:
      For continuous actions, and without memory; it explores by noise of a fixed size.
    """
    if policy.choice.num_params > 1:
        raise ValueError("td3 and ddpg are for continuous actions alone; sac takes discrete and hybrid ones as well")
    direction, q = optimizer(hp.max_grad_norm), ensemble(critic, policy)
    half, (low, high) = policy.half, (policy.centre - policy.half, policy.centre + policy.half)
    clipped_backup = bellman.clipped_double_backup(bellman.sarsa_backup)
    added = process(half.shape, sigma=1.0)
    mean = lambda p: policy.continuous.mode(p[..., 1:])  # p[0] is of a choice that is none
    action = lambda params, obs: mean(actor.apply(params, obs))

    def learn(keys, state, s, step, rate):
        targets = state.target_params
        jitter = hp.target_noise * jax.random.normal(keys[0], s.x.shape)
        jitter = half * jnp.clip(jitter, -hp.noise_clip, hp.noise_clip)
        next_x = jnp.clip(action(targets["actor"], s.next_obs) + jitter, low, high)
        next = bellman.Next(q(targets["critic"], s.next_obs, next_x)[..., 0])
        target = clipped_backup(s.reward, s.gamma, s.terminated, next)
        state, (loss, size, mean_q) = descend(state, "critic", critic_loss(q, s, target), direction, rate)

        def actor_loss(params):
            first = q(state.params["critic"][:1], s.obs, action(params, s.obs))[0, :, 0]
            value = losses.deterministic_policy_gradient(first).mean()
            return value, value

        def improve(state):
            state, value = descend(state, "actor", actor_loss, direction, rate)
            online = {name: state.params[name] for name in targets}
            return state._replace(target_params=polyak(state.target_params, online, hp.target_rate)), value

        due = (step.event * hp.num_gradient_steps + step.nth + 1) % hp.policy_delay == 0
        wait = lambda state: (state, state.metrics["policy_loss"])
        state, policy_loss = improve(state) if hp.policy_delay == 1 else jax.lax.cond(due, improve, wait, state)
        metrics = {"loss": loss, "td_error": size.mean(), "q": mean_q, "policy_loss": policy_loss}
        return state._replace(metrics=metrics), size

    def explore(key, p, memory):
        jitter, memory = added.apply(key, memory, hp.noise * half)
        x = jnp.clip(mean(p) + jitter, low, high)
        return jnp.zeros(x.shape[0], jnp.int32), x, memory

    mode = lambda p: (jnp.zeros(p.shape[0], jnp.int32), mean(p))
    names = ("loss", "td_error", "q", "policy_loss")
    acting = Acting(explore, mode, added.init, added.reset)
    return actor_critic_agent(
        actor, critic, policy, hp, direction, learn, acting, targets=("actor", "critic"), metrics=names
    )
