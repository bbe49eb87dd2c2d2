"""Off-policy Q-learning: the common parts, all except the loss of each agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import replay, schedules
from purerl.agents.parts.replay_updates import OffPolicy, OffPolicyState, begin, polyak, prioritized, sample
from purerl.core import Agent, Array, Key, MemoryNetwork, Network, Transition
from purerl.gradients import Trained, sgd
from purerl.hyperparameters import config, option
from purerl.networks.adapters import with_memory


@config
class QLearning(OffPolicy):
    """Common hyperparameters of off-policy Q-learning; configs of agents add their own."""

    target_period: int = option(500, "environment steps between updates of the target network", low=1)
    target_rate: float = option(1.0, "τ of target ← τ online + (1 - τ) target", low=0.0, high=1.0, open_low=True)
    explore_start: float = option(1.0, "ε (or the temperature of `boltzmann`) at first", low=0.0)
    explore_end: float = option(0.05, "ε at last", low=0.0)
    explore_steps: float = option(250_000.0, "environment steps in between", low=0.0, open_low=True, share=0.5)
    sequence_length: int = option(1, "steps of a sequence, for a network with memory; must be rollout_length", low=1)
    burn_in: int = option(0, "steps before a sequence that only bring its memory up to date", low=0)


class Batch(NamedTuple):
    """Inputs of a loss other than parameters: T trained steps of B sequences, leaves `[T, B, ...]`.

    Without memory T = 1. With memory the observations extend n - 1 steps beyond the trained steps.
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
    """Results of a loss for every trained step, `[T, B]`."""

    loss: Array
    error: Array  # ≥ 0: how wrong the prediction was; the priority of the step
    q: Array  # of the action taken
    metrics: tuple[Array, ...] = ()  # metrics of the agent's own, see `agent`


Loss = Callable[[Any, Any, Key, Batch], Errors]


def select_actions(outputs: Array, action: Array) -> Array:
    """The outputs of the actions taken: `[T, B, A, ...] -> [T, B, ...]`.

    >>> select_actions(jnp.array([[[1.0, 2.0]]]), jnp.array([[1]])).tolist()
    [[2.0]]
    """
    # a sum over all actions: the gradient of a gather is a scatter, which CPUs do one by one
    chosen = action[..., None] == jnp.arange(outputs.shape[2])
    return jnp.where(chosen.reshape(*chosen.shape, *[1] * (outputs.ndim - 3)), outputs, 0.0).sum(2)


def unperturbed(key: Key, params: Any) -> Any:
    """The parameters as they are."""
    del key
    return params


def apply_to_batch(
    network: Network | MemoryNetwork, params: Any, s: Batch, see: Callable = lambda obs: obs
) -> tuple[Any, Any]:
    """The network's outputs for the steps of a batch, and for the states that their n rewards lead to, `[T, B, ...]`.

    see: a function of observations to the inputs of the network.
    """
    network, memory = with_memory(network), s.memory
    if s.burn_in is not None:
        obs, ended = s.burn_in
        memory = jax.lax.stop_gradient(network.unroll(params, memory, see(obs), ended)[2])
    outputs, after, _ = network.unroll(params, memory, see(s.obs), s.ended, see(s.next_obs))
    if s.last is None:
        return outputs, after
    last, steps = s.last, s.reward.shape[0]
    pick = lambda x: jnp.take_along_axis(x, last.reshape(*last.shape, *[1] * (x.ndim - 2)), axis=0)
    return jax.tree.map(lambda x: x[:steps], outputs), jax.tree.map(pick, after)


def acting_by_values(
    network: Network | MemoryNetwork, values: Callable, explore: Callable, perturb: Callable
) -> dict[str, Any]:
    """`act`, `greedy` and `values` of an `Agent` whose state has `params`, and in `explore` how much it explores."""
    network = with_memory(network)

    def act(key, state, memory, obs):
        noise_key, draw_key = jax.random.split(key)
        outputs, memory = network.step(perturb(noise_key, state.params), memory, obs)
        return explore(draw_key, values(outputs), state.explore), memory, ()

    def q(state, memory, obs):
        outputs, memory = network.step(state.params, memory, obs)
        return values(outputs), memory

    def greedy(state, memory, obs):
        outputs, memory = q(state, memory, obs)
        return outputs.argmax(-1).astype(jnp.int32), memory

    return {"act": act, "greedy": greedy, "values": q}


def exploration_amount(hp: Any, steps: Array) -> Array:
    """The exploration amount, such as ε, after a number of environment steps, float32 `[]`."""
    return schedules.linear(steps, hp.explore_start, hp.explore_end, hp.explore_steps).astype(jnp.float32)


def agent(
    network: Network | MemoryNetwork,
    hp: Any,
    values: Callable[[Any], Array],
    loss: Loss,
    explore: Callable[[Key, Array, Any], Array],
    perturb: Callable[[Key, Any], Any],
    optimizer: Callable[[Any], optax.GradientTransformation],
    metrics: tuple[str, ...] = (),
) -> Agent:
    """Build an off-policy Q-learning agent from its loss.

    Args:
      network: the network of Q.
      hp: a `QLearning`.
      values: the network's outputs as Q `[..., A]`.
      loss: `(params, target_params, key, Batch) -> Errors`.
      explore: `(key, q, amount) -> action`, such as `exploration.epsilon_greedy`.
      perturb: `(key, params) -> params`, applied with a new key for every acting step and every use in the loss.
      optimizer: `max_grad_norm -> optax.GradientTransformation` of unit learning rate.
      metrics: names of the metrics in `Errors.metrics`.
    """
    network, names = with_memory(network), ("loss", "td_error", "q", *metrics)
    direction = optimizer(hp.max_grad_norm)
    recurrent = bool(jax.tree.leaves(jax.eval_shape(lambda: network.memory(1))))
    stride = hp.sequence_length if recurrent else 1
    length = (hp.burn_in + hp.sequence_length if recurrent else 1) + hp.n_step - 1
    if not recurrent and (hp.sequence_length > 1 or hp.burn_in > 0):
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
        start = exploration_amount(hp, jnp.zeros(()))
        return OffPolicyState(params, target_params, direction.init(params), kept, start, *counts, zeros)

    def read_batch(kept, index) -> Batch:
        if not recurrent:
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
        sums = (
            jnp.where(weight > 0, jnp.stack([errors.loss, errors.error, errors.q, *errors.metrics]), 0.0).sum((1, 2))
            / num_learned
        )
        metrics = dict(zip(names, sums, strict=True))
        return (weight * errors.loss).mean(), (metrics, errors.error)

    descend = sgd(objective, direction)

    def learn(trained, metrics, data, learning_rate):
        del metrics  # of the gradient step before
        trained, (metrics, error) = descend(trained, data, learning_rate)
        return trained, metrics, error

    def wait(trained, metrics, data, learning_rate):
        del data, learning_rate
        return trained, metrics, jnp.zeros((stride, hp.batch_size))

    def update(key, state, rollout):
        kept, due = begin(key, hp, state, rollout, length)

        def gradient_step(carry, step):
            trained, target_params, metrics, priorities = carry
            memory = kept._replace(priorities=priorities)
            keys, index = sample(step, memory, hp, length, due.importance)
            data = keys, target_params, read_batch(memory, index), index.weight
            # of the branches only networks are results: over seeds they become a select, which would copy a replay
            trained, metrics, error = jax.lax.cond(step.wanted, learn, wait, trained, metrics, data, due.learning_rate)
            # after the last gradient step of an event the target network, if that is due
            follows = schedules.times_due(step.event, hp.train_every, hp.target_period) > 0
            rate = jnp.where(follows & step.due & (step.nth == hp.num_gradient_steps - 1), hp.target_rate, 0.0)
            target_params = polyak(target_params, trained.params, rate)
            if hp.priority is not None:  # of a sequence: Kapturowski et al., 2019, section 2.3
                error = 0.9 * error.max(0) + 0.1 * error.mean(0)
            return (trained, target_params, metrics, prioritized(step, memory, hp, index, error)), None

        trained = Trained(state.params, state.opt_state, state.updates)
        carry = trained, state.target_params, state.metrics, kept.priorities
        (trained, target_params, metrics, priorities), _ = jax.lax.scan(gradient_step, carry, due.steps)
        updates = state.updates + 1
        amount = exploration_amount(hp, updates.astype(jnp.float32) * rollout.transitions.reward.size)
        state = OffPolicyState(
            trained.params, target_params, trained.opt_state, kept._replace(priorities=priorities), amount, updates,
            state.events + due.events, metrics,
        )  # fmt: skip
        return state, {**metrics, "learning_rate": due.learning_rate, "explore": amount}

    acting = acting_by_values(network, values, explore, perturb)
    return Agent(init, network.memory, network.reset, update=update, **acting)
