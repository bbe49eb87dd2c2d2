"""Off-policy actor-critics: the common parts, all except the gradient step of each agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import losses, replay
from purerl.agents.parts.q_learning import select_actions
from purerl.agents.parts.replay_updates import (
    GradientStep,
    OffPolicy,
    OffPolicyState,
    begin,
    learning_started,
    prioritized,
    sample,
)
from purerl.core import Agent, Array, Key, MemoryNetwork, Network, Transition
from purerl.distributions import Hybrid
from purerl.gradients import Trained, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import check_network


@config
class ActorCritic(OffPolicy):
    """Common hyperparameters of off-policy actor-critics; configs of agents add their own."""

    learning_rate: float = option(3e-4, "step size of Adam, of actor and critics", low=0.0)
    capacity: int = option(1_000_000, "steps that the replay keeps", low=1)
    batch_size: int = option(256, "steps of a gradient step", low=1)
    learning_starts: int = option(1_000, "environment steps of uniform actions before the first gradient step", low=0)
    train_every: int = option(1, "environment steps for each gradient step", low=1)
    target_rate: float = option(
        0.005, "τ of target ← τ online + (1 - τ) target, each gradient step", low=0.0, high=1.0, open_low=True
    )
    num_critics: int = option(2, "critics with initial weights of their own; targets take the smallest", low=1)


class Batch(NamedTuple):
    """Inputs of the losses other than parameters: leaves `[B, ...]`, see `replay.Steps`."""

    obs: Any
    k: Array  # int32: the discrete part of the action
    x: Array  # [B, d]: the continuous part, in the action's own units
    reward: Array
    gamma: Array
    terminated: Array
    next_obs: Any
    weight: Array


class Acting(NamedTuple):
    """Functions from an actor's outputs p `[B, P]` to actions, a choice k `[B]` and numbers x `[B, d]`."""

    explore: Callable[[Key, Array, Any], tuple[Array, Array, Any]]  # (key, p, noise) -> (k, x, noise)
    greedy: Callable[[Array], tuple[Array, Array]]  # p -> (k, x)
    noise: Callable[[int], Any] = lambda n: ()  # its state at an episode's start, of n environments
    reset: Callable[[Any, Array], Any] = lambda noise, ended: noise  # see `exploration.Noise`


Learn = Callable[[list[Array], OffPolicyState, Batch, GradientStep, Any], tuple[OffPolicyState, Array]]


def ensemble(critic: Network, policy: Hybrid) -> Callable[[Any, Any, Array], Array]:
    """Q of all critics for all choices, `(params, obs, x) -> [critics, B, K]`; x is scaled to ±1."""
    unit = lambda x: (x - policy.centre) / policy.half

    # one product after another: a CPU does not gain from a batch of products
    return lambda params, obs, x: jnp.stack([critic.apply(p, (obs, unit(x))) for p in params])


def descend(state: OffPolicyState, part: str, loss: Callable, optimizer: optax.GradientTransformation, rate: Any):
    """One gradient step of one part of the parameters: `(state, the auxiliary result of the loss)`.

    loss: `params -> (scalar, anything)`.
    """
    step = sgd(lambda params, _: loss(params), optimizer)
    trained, gave = step(Trained(state.params[part], state.opt_state[part], state.updates), (), rate)
    params, opt_state = {**state.params, part: trained.params}, {**state.opt_state, part: trained.opt_state}
    return state._replace(params=params, opt_state=opt_state), gave


def critic_loss(q: Callable, s: Batch, target: Array) -> Callable:
    """Σ ½ (y - Qᵢ(s, x)[k])² over critics i, as a function of their parameters; beside it mean |y - Q| `[B]`, and Q."""

    def loss(params):
        every = q(params, s.obs, s.x)
        value = select_actions(every, jnp.broadcast_to(s.k, every.shape[:2]))  # [critics, B]
        error = losses.squared(value, jnp.broadcast_to(target, value.shape)).sum(0)
        return (s.weight * error).mean(), (error.mean(), jnp.abs(target - value).mean(0), value.mean())

    return loss


def actor_critic_agent(
    actor: Network,
    critic: Network,
    policy: Hybrid,
    hp: Any,
    optimizer: optax.GradientTransformation,
    learn: Learn,
    acting: Acting,
    *,
    targets: tuple[str, ...],
    metrics: tuple[str, ...],
    others: dict[str, Any] = {},  # noqa: B006 (never changed)
) -> Agent:
    """Build an off-policy actor-critic from its gradient step.

    Args:
      actor: policy parameters of observations.  critic: Q `[B, K]` of (observations, x).
      hp: an `ActorCritic`.
      learn: `(keys, state, batch, step, learning_rate) -> (state, error [B])`, one gradient step; the state has no
        replay meanwhile.
      acting: functions from the actor's outputs to actions.
      targets: parts of the parameters that have a target.  others: parts other than "actor" and "critic".
      metrics: names of the metrics of `learn`.
    """
    if isinstance(actor, MemoryNetwork) or isinstance(critic, MemoryNetwork):
        raise ValueError("actor or critic has a memory; actor-critics with a replay take feed-forward networks")
    check_network("actor", actor)
    check_network("critic", critic)
    low, high = policy.centre - policy.half, policy.centre + policy.half

    def init(key, obs):
        actor_key, critic_key = jax.random.split(key)
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        k, x = jnp.zeros(num_envs, jnp.int32), jnp.zeros((num_envs, len(low)))
        several = tuple(critic.init(key, (obs, x)) for key in jax.random.split(critic_key, hp.num_critics))
        params = {"actor": actor.init(actor_key, obs), "critic": several, **others}
        number, flag = jnp.zeros(num_envs), jnp.zeros(num_envs, bool)
        step = Transition(obs, policy.join(k, x), number, obs, flag, flag, flag)
        kept = replay.init(step, hp.capacity, hp.priority is not None, length=hp.n_step)
        opt_state = {name: optimizer.init(part) for name, part in params.items()}
        target_params = jax.tree.map(jnp.copy, {name: params[name] for name in targets})
        zero = lambda: jnp.zeros((), jnp.int32)
        begun = {name: jnp.zeros(()) for name in metrics}
        at_random = jnp.asarray(hp.learning_starts > 0, jnp.float32)
        return OffPolicyState(params, target_params, opt_state, kept, at_random, zero(), zero(), begun)

    def act(key, state, memory, obs):
        act_key, k_key, x_key = jax.random.split(key, 3)
        p = actor.apply(state.params["actor"], obs)
        k, x, memory = acting.explore(act_key, p, memory)
        # uniform at first, over legal actions
        logits, _ = jnp.split(p, [policy.choice.num_params], -1)
        uniform = jax.random.categorical(k_key, jnp.where(jnp.isneginf(logits), -jnp.inf, 0.0)).astype(jnp.int32)
        anywhere = jax.random.uniform(x_key, x.shape, x.dtype, low, high)
        at_random = state.explore > 0
        return policy.join(jnp.where(at_random, uniform, k), jnp.where(at_random, anywhere, x)), memory, ()

    def greedy(state, memory, obs):
        return policy.join(*acting.greedy(actor.apply(state.params["actor"], obs))), memory

    def wait(keys, state, s, step, learning_rate):
        del keys, s, step, learning_rate
        return state, jnp.zeros(hp.batch_size)

    def update(key, state, rollout):
        # the memory is the noise's, which is not replayed
        kept, due = begin(key, hp, state, rollout._replace(memory=()), hp.n_step)

        def gradient_step(carry, step):
            state, priorities = carry
            memory = kept._replace(priorities=priorities)
            keys, index = sample(step, memory, hp, hp.n_step, due.importance)
            s = replay.read(memory, index, hp.gamma, hp.n_step)
            s = Batch(s.obs, *policy.split(s.action), s.reward, s.gamma, s.terminated, s.next_obs, index.weight)
            # of the branches only networks are results: over seeds they become a select, which would copy a replay
            state, error = jax.lax.cond(step.wanted, learn, wait, keys, state, s, step, due.learning_rate)
            return (state, prioritized(step, memory, hp, index, error)), None

        carry = state._replace(replay=()), kept.priorities
        (learned, priorities), _ = jax.lax.scan(gradient_step, carry, due.steps)
        started = learning_started(hp, state.updates, rollout.transitions.reward.size)
        learned = learned._replace(
            replay=kept._replace(priorities=priorities),
            explore=1 - started.astype(jnp.float32),
            updates=state.updates + 1,
            events=state.events + due.events,
        )
        return learned, {**learned.metrics, "learning_rate": due.learning_rate}

    return Agent(init, acting.noise, acting.reset, act, greedy, update)
