"""What agents that learn Q from replay share: how they explore, remember, and when they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import replay, schedules
from purerl.core import Agent, Array, Key, MemoryNetwork, Transition, config, option
from purerl.offpolicy import Learned, Replaying, from_replay, polyak
from purerl.updates import sgd


@config
class QLearning(Replaying):
    """Hyperparameters that every agent has that learns Q from replay; configs of agents add their own."""

    num_envs: ClassVar[int] = 1  # what the defaults are tuned for; arguments of `learner`
    rollout_length: ClassVar[int] = 10
    hidden: ClassVar[tuple[int, ...]] = (120, 84)  # of the command line's network
    activation: ClassVar[str] = "relu"

    target_period: int = option(500, "environment steps between updates of the target network", low=1)
    target_rate: float = option(1.0, "τ of target ← τ online + (1 - τ) target", low=0.0, high=1.0, open_low=True)
    explore_start: float = option(1.0, "ε (or the temperature of `boltzmann`) at first", low=0.0)
    explore_end: float = option(0.05, "ε at last", low=0.0)
    explore_steps: float = option(250_000.0, "environment steps in between", low=0.0, open_low=True, share=0.5)
    sequence_length: int = option(1, "steps of a sequence, for a network with memory; must be rollout_length", low=1)
    burn_in: int = option(0, "steps before a sequence that only bring its memory up to date", low=0)


class Batch(NamedTuple):
    """What a loss is a function of, beside parameters: T trained steps of B sequences, leaves `[T, B, ...]`.

    Without memory T = 1. With it the observations go n - 1 steps further than what is trained.
    """

    obs: Any
    action: Array
    reward: Array  # of n steps
    gamma: Array  # the discount of what follows them
    terminated: Array
    next_obs: Any
    ended: Array
    last: Array | None  # int32: the step whose successor's value follows; None: its own
    memory: Any  # before the first step, or before the burn-in, leaves [B, ...]: a constant
    burn_in: tuple[Any, Array] | None  # observations and ends of steps before


class Errors(NamedTuple):
    """What a loss gives for every trained step, `[T, B]`."""

    loss: Array
    size: Array  # ≥ 0: how wrong the prediction was; the priority of the step
    q: Array  # of the action taken
    more: tuple[Array, ...] = ()  # metrics of the agent's own, see `value_agent`


Loss = Callable[[Any, Any, Key, Batch], Errors]


def taken(outputs: Array, action: Array) -> Array:
    """The outputs of the actions taken: `[T, B, A, ...] -> [T, B, ...]`.

    >>> taken(jnp.array([[[1.0, 2.0]]]), jnp.array([[1]])).tolist()
    [[2.0]]
    """
    # a sum over all actions: the gradient of a gather is a scatter, which CPUs do one by one
    chosen = action[..., None] == jnp.arange(outputs.shape[2])
    return jnp.where(chosen.reshape(*chosen.shape, *[1] * (outputs.ndim - 3)), outputs, 0.0).sum(2)


def unperturbed(key: Key, params: Any) -> Any:
    """The parameters as they are."""
    del key
    return params


def look(network: MemoryNetwork, params: Any, s: Batch, see: Callable = lambda obs: obs) -> tuple[Any, Any]:
    """The network's outputs for the steps of a batch, and for the states that their n rewards lead to, `[T, B, ...]`.

    see: what the network is shown of observations.
    """
    memory = s.memory
    if s.burn_in is not None:
        obs, ended = s.burn_in
        memory = jax.lax.stop_gradient(network.unroll(params, memory, see(obs), ended)[2])
    outputs, after, _ = network.unroll(params, memory, see(s.obs), s.ended, see(s.next_obs))
    if s.last is None:
        return outputs, after
    last, steps = s.last, s.reward.shape[0]
    pick = lambda x: jnp.take_along_axis(x, last.reshape(*last.shape, *[1] * (x.ndim - 2)), axis=0)
    return jax.tree.map(lambda x: x[:steps], outputs), jax.tree.map(pick, after)


def behaviour(network: MemoryNetwork, values: Callable, explore: Callable, perturb: Callable) -> tuple[Any, Any]:
    """`act` and `greedy` of an `Agent` whose state has `params`, and in `explore` how much it explores."""

    def act(key, state, memory, obs):
        noise_key, draw_key = jax.random.split(key)
        outputs, memory = network.step(perturb(noise_key, state.params), memory, obs)
        return explore(draw_key, values(outputs), state.explore), memory, ()

    def greedy(state, memory, obs):
        outputs, memory = network.step(state.params, memory, obs)
        return values(outputs).argmax(-1).astype(jnp.int32), memory

    return act, greedy


def explored(hp: Any, steps: Array) -> Array:
    """How much to explore after so many environment steps, float32 []."""
    return schedules.linear(steps, hp.explore_start, hp.explore_end, hp.explore_steps).astype(jnp.float32)


def value_agent(
    network: MemoryNetwork,
    hp: Any,
    values: Callable[[Any], Array],
    loss: Loss,
    explore: Callable[[Key, Array, Any], Array],
    perturb: Callable[[Key, Any], Any],
    optimizer: Callable[[Any], optax.GradientTransformation],
    metrics: tuple[str, ...] = (),
) -> Agent:
    """An agent from its loss; the rest of it is the same for every method that learns Q from replay.

    Args:
      network: what acts.
      hp: a `QLearning`.
      values: the network's outputs as Q `[..., A]`.
      loss: `(params, target_params, key, Batch) -> Errors`.
      explore: `(key, q, amount) -> action`, such as `exploration.epsilon_greedy`.
      perturb: `(key, params) -> params`, anew for every step that acts, and for every use in the loss.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
      metrics: names of what the loss gives as `Errors.more`.
    """
    names = ("loss", "td_error", "q", *metrics)
    direction = optimizer(hp.max_grad_norm)
    remembers = bool(jax.tree.leaves(jax.eval_shape(lambda: network.memory(1))))
    stride = hp.sequence_length if remembers else 1
    length = (hp.burn_in + hp.sequence_length if remembers else 1) + hp.n_step - 1
    if not remembers and (hp.sequence_length > 1 or hp.burn_in > 0):
        raise ValueError("sequence_length or burn_in is given; they are for a network with memory")

    def init(key, obs):
        params = network.init(key, obs)
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        memory = network.memory(num_envs)
        action = jax.eval_shape(lambda: values(network.step(params, memory, obs)[0]).argmax(-1).astype(jnp.int32))
        number, flag = jnp.zeros(num_envs), jnp.zeros(num_envs, bool)
        step = Transition(obs, action, number, obs, flag, flag, flag)
        target_params = jax.tree.map(jnp.copy, params)
        kept = replay.init(step, hp.capacity, hp.priority is not None, memory, stride, length)
        zeros = {name: jnp.zeros(()) for name in names}
        counts = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        start = explored(hp, jnp.zeros(()))
        return Learned(params, target_params, direction.init(params), kept, start, *counts, zeros)

    def drawn(kept, index) -> Batch:
        if not remembers:
            s = replay.read(kept, index, hp.gamma, hp.n_step)
            one = lambda tree: jax.tree.map(lambda x: x[None], tree)
            ended = jnp.ones((1, hp.batch_size), bool)
            seen = one((s.obs, s.action, s.reward, s.gamma, s.terminated, s.next_obs))
            return Batch(*seen, ended=ended, last=None, memory=(), burn_in=None)
        tr, memory = replay.read_sequences(kept, index, length)
        ended = tr.terminated | tr.truncated
        before = jax.tree.map(lambda x: x[: hp.burn_in], (tr.obs, ended)) if hp.burn_in else None
        tr, ended = jax.tree.map(lambda x: x[hp.burn_in :], (tr, ended))
        reward, gamma, terminated, last = replay.n_steps(tr.reward, tr.terminated, tr.truncated, hp.gamma, hp.n_step)
        action = tr.action[: hp.sequence_length]
        return Batch(tr.obs, action, reward, gamma, terminated, tr.next_obs, ended, last, memory, before)

    def objective(params, data):
        (online_key, target_key, loss_key), target_params, s, weight = data
        errors = loss(perturb(online_key, params), perturb(target_key, target_params), loss_key, s)
        num_learned = jnp.maximum((weight > 0).sum(), 1) * len(errors.loss)
        sums = jnp.where(weight > 0, jnp.stack([*errors[:3], *errors.more]), 0.0).sum((1, 2)) / num_learned
        metrics = dict(zip(names, sums, strict=True))
        return (weight * errors.loss).mean(), (metrics, errors.size)

    descend = sgd(objective, direction)

    def learn(state, data, learning_rate):
        state, (metrics, size) = descend(state, data, learning_rate)
        return state._replace(metrics=metrics), size

    def step(keys, state, kept, index, now):
        data = keys, state.target_params, drawn(kept, index), index.weight
        wait = lambda state, data, learning_rate: (state, jnp.zeros((stride, hp.batch_size)))
        state, size = jax.lax.cond(now.wanted, learn, wait, state, data, now.learning_rate)
        # after the last gradient step of an event the target network, if that is due
        follows = schedules.times_due(now.event, hp.train_every, hp.target_period) > 0
        rate = jnp.where(follows & now.due & (now.nth == hp.num_gradient_steps - 1), hp.target_rate, 0.0)
        state = state._replace(target_params=polyak(state.target_params, state.params, rate))
        if hp.priority is not None:  # of a sequence: Kapturowski et al., 2019, section 2.3
            size = 0.9 * size.max(0) + 0.1 * size.mean(0)
        return state, size

    improve = from_replay(hp, step, length)

    def update(key, state, rollout):
        state, metrics = improve(key, state, rollout)
        steps = state.updates.astype(jnp.float32) * rollout.transitions.reward.size
        state = state._replace(explore=explored(hp, steps))
        return state, {**metrics, "explore": state.explore}

    act, greedy = behaviour(network, values, explore, perturb)
    return Agent(init, network.memory, network.reset, act, greedy, update)
