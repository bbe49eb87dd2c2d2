"""What actor-critics that learn from replay share: how they start, act at first, and judge actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import losses, replay
from purerl.core import Agent, Array, MemoryNetwork, Network, Transition, config, option
from purerl.distributions import Hybrid
from purerl.offpolicy import Learned, Now, Replaying, from_replay, warm
from purerl.updates import Trained, sgd
from purerl.values import taken


@config
class ActorCritic(Replaying):
    """Hyperparameters that every actor-critic with a replay has; configs of agents add their own."""

    num_envs: ClassVar[int] = 1  # what the defaults are tuned for; arguments of `learner`
    rollout_length: ClassVar[int] = 1
    hidden: ClassVar[tuple[int, ...]] = (256, 256)  # of the command line's network
    activation: ClassVar[str] = "relu"

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
    """What the losses are functions of, beside parameters: leaves `[B, ...]`, see `replay.Steps`."""

    obs: Any
    k: Array  # int32: the discrete part of the action
    x: Array  # [B, d]: the continuous part, in the action's own units
    reward: Array
    gamma: Array
    terminated: Array
    next_obs: Any
    weight: Array


Learn = Callable[[list[Array], Learned, Batch, Now], tuple[Learned, Array]]


def judge(critic: Network, policy: Hybrid) -> Callable[[Any, Any, Array], Array]:
    """Q of all critics for all choices, `(params, obs, x) -> [critics, B, K]`; they see x on a scale of ±1."""
    unit = lambda x: (x - policy.centre) / policy.half

    # one product after another: a CPU does not gain from a batch of products
    return lambda params, obs, x: jnp.stack([critic.apply(p, (obs, unit(x))) for p in params])


def descend(state: Learned, part: str, loss: Callable, optimizer: optax.GradientTransformation, rate: Any):
    """One gradient step of one part of the parameters: `(state, what the loss gave beside its value)`.

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
        value = taken(every, jnp.broadcast_to(s.k, every.shape[:2]))  # [critics, B]
        error = losses.squared(value, jnp.broadcast_to(target, value.shape)).sum(0)
        return (s.weight * error).mean(), (error.mean(), jnp.abs(target - value).mean(0), value.mean())

    return loss


def replay_actor_critic(
    actor: Network,
    critic: Network,
    policy: Hybrid,
    hp: Any,
    optimizer: optax.GradientTransformation,
    learn: Learn,
    explore: Callable,
    mode: Callable,
    targets: tuple[str, ...],
    more: dict[str, Any],
    metrics: tuple[str, ...],
    memory: Callable[[int], Any] = lambda n: (),
    reset: Callable[[Any, Array], Any] = lambda memory, ended: memory,
) -> Agent:
    """An agent from its gradient step; the rest of it is the same for every actor-critic with a replay.

    Args:
      actor: policy parameters of observations.  critic: Q `[B, K]` of (observations, x).
      hp: an `ActorCritic`.
      learn: `(keys, state, batch, now) -> (state, size [B])`.
      explore: `(key, policy parameters, memory) -> (k, x, memory)`.  mode: `policy parameters -> (k, x)`.
      targets: parts of the parameters that have a target.  more: parts beside "actor" and "critic".
      metrics: names of what `learn` reports.
      memory, reset: of the noise, see `exploration.Noise`.
    """
    if isinstance(actor, MemoryNetwork) or isinstance(critic, MemoryNetwork):
        raise ValueError("actor or critic has a memory; actor-critics with a replay take feed-forward networks")
    low, high = policy.centre - policy.half, policy.centre + policy.half

    def init(key, obs):
        actor_key, critic_key = jax.random.split(key)
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        k, x = jnp.zeros(num_envs, jnp.int32), jnp.zeros((num_envs, len(low)))
        several = tuple(critic.init(key, (obs, x)) for key in jax.random.split(critic_key, hp.num_critics))
        params = {"actor": actor.init(actor_key, obs), "critic": several, **more}
        number, flag = jnp.zeros(num_envs), jnp.zeros(num_envs, bool)
        step = Transition(obs, policy.join(k, x), number, obs, flag, flag, flag)
        kept = replay.init(step, hp.capacity, hp.priority is not None, length=hp.n_step)
        opt_state = {name: optimizer.init(part) for name, part in params.items()}
        target_params = jax.tree.map(jnp.copy, {name: params[name] for name in targets})
        zero = lambda: jnp.zeros((), jnp.int32)
        begun = {name: jnp.zeros(()) for name in metrics}
        at_random = jnp.asarray(hp.learning_starts > 0, jnp.float32)
        return Learned(params, target_params, opt_state, kept, at_random, zero(), zero(), begun)

    def act(key, state, memory, obs):
        act_key, k_key, x_key = jax.random.split(key, 3)
        p = actor.apply(state.params["actor"], obs)
        k, x, memory = explore(act_key, p, memory)
        # uniform at first, over what is legal
        logits, _ = jnp.split(p, [policy.choice.num_params], -1)
        uniform = jax.random.categorical(k_key, jnp.where(jnp.isneginf(logits), -jnp.inf, 0.0)).astype(jnp.int32)
        anywhere = jax.random.uniform(x_key, x.shape, x.dtype, low, high)
        at_random = state.explore > 0
        return policy.join(jnp.where(at_random, uniform, k), jnp.where(at_random, anywhere, x)), memory, ()

    def greedy(state, memory, obs):
        return policy.join(*mode(actor.apply(state.params["actor"], obs))), memory

    def step(keys, state, kept, index, now):
        s = replay.read(kept, index, hp.gamma, hp.n_step)
        data = Batch(s.obs, *policy.split(s.action), s.reward, s.gamma, s.terminated, s.next_obs, index.weight)
        go = lambda state, data, now: learn(keys, state, data, now)
        wait = lambda state, data, now: (state, jnp.zeros(hp.batch_size))
        return jax.lax.cond(now.wanted, go, wait, state, data, now)

    improve = from_replay(hp, step, hp.n_step)

    def update(key, state, rollout):
        block = rollout.transitions.reward.size
        state, metrics = improve(key, state, rollout._replace(memory=()))  # that of the noise is not replayed
        ready = warm(hp, state.updates - 1, block)
        return state._replace(explore=1 - ready.astype(jnp.float32)), metrics

    return Agent(init, memory, reset, act, greedy, update)
