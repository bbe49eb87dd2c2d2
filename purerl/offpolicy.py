"""What agents that learn from replay share: their options, their state, and when they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl import replay, schedules
from purerl.core import Array, config, option
from purerl.updates import annealed


@config
class Replaying:
    """Hyperparameters that every agent with a replay has; configs of agents add their own."""

    learning_rate: float = option(2.5e-4, "step size of Adam", low=0.0)
    anneal_steps: float | None = option(
        None, "environment steps over which the learning rate falls to 0; None keeps it", low=0.0, open_low=True
    )
    gamma: float = option(0.99, "discount", low=0.0, high=1.0)
    capacity: int = option(10_000, "steps that the replay keeps", low=1)
    batch_size: int = option(128, "steps, or sequences, of a gradient step", low=1)
    learning_starts: int = option(10_000, "environment steps before the first gradient step", low=0)
    train_every: int = option(10, "environment steps for each gradient step", low=1)
    num_gradient_steps: int = option(1, "gradient steps each time", low=1)
    n_step: int = option(1, "rewards before the value that follows", low=1)
    priority: float | None = option(None, "α of prioritised replay; None samples uniformly", low=0.0)
    importance: float = option(0.4, "β of prioritised replay: how much of its bias is corrected", low=0.0, high=1.0)
    importance_steps: float | None = option(
        None, "environment steps over which β rises to 1; None keeps it", low=0.0, open_low=True
    )
    max_grad_norm: float | None = option(
        None, "gradients are clipped to this global norm; None leaves them", low=0.0, open_low=True
    )


class Learned(NamedTuple):
    """The state of an agent that learns from replay."""

    params: Any
    target_params: Any
    opt_state: Any
    replay: replay.Replay
    explore: Array  # float32 []: how much to explore in the block to come
    updates: Array  # int32 []: calls of the agent's `update` so far
    events: Array  # int32 []: times that learning was due so far
    metrics: dict[str, Array]  # of the last gradient step; 0 before it


class Now(NamedTuple):
    """Where a gradient step stands."""

    wanted: Array  # bool: whether to take it; otherwise all is to be left as it is
    due: Array  # bool: the same, but for the steps before learning starts
    event: Array  # int32: events before it
    nth: Array  # int32: gradient steps of this event before it
    learning_rate: Any


def polyak(target: Any, online: Any, rate: Any) -> Any:
    """target ← τ online + (1 - τ) target, exact at τ = 0 and at τ = 1.

    >>> polyak(jnp.array(0.0), jnp.array(4.0), 0.25).item()
    1.0
    """
    return jax.tree.map(lambda target, online: (1 - rate) * target + rate * online, target, online)


def warm(hp: Any, updates: Array, block: int) -> Array:
    """Whether learning starts with the next call of `update`, or started before it."""
    return updates + 1 >= -(-hp.learning_starts // block)


def from_replay(hp: Any, step: Callable, length: int = 1) -> Callable:
    """`update` of an agent that learns from replay: it remembers the block, and takes the gradient steps that are due.

    Args:
      hp: a `Replaying`.
      step: `(keys [3], state: Learned, kept: Replay, index, now: Now) -> (state, size [B])`, one gradient step; size
        is how wrong each prediction was, for its priority. The state's replay is () meanwhile, and only the networks
        may pass through a branch: over seeds it becomes a select, which would copy a replay.
      length: see `replay.init`.
    """

    def update(key, state, rollout):
        block = rollout.transitions.reward.size
        kept = replay.add(state.replay, rollout.transitions, rollout.memory, length)
        steps = state.updates.astype(jnp.float32) * block
        learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, block)
        importance = hp.importance
        if hp.importance_steps is not None:
            importance = schedules.linear(steps, importance, 1.0, hp.importance_steps)
        due = schedules.times_due(state.updates, block, hp.train_every)
        ready = warm(hp, state.updates, block)

        def one(carry, now):
            (state, priorities), (key, nth, event) = carry, now
            draw_key, *keys = jax.random.split(key, 4)
            remembered = kept._replace(priorities=priorities)
            index = replay.sample(draw_key, remembered, hp.batch_size, length, importance)
            wanted = ready if block % hp.train_every == 0 else ready & (event < due)
            now = Now(wanted, event < due, state.events + event, nth, learning_rate)
            state, size = step(keys, state, remembered, index, now)
            if hp.priority is not None:
                priorities = replay.update(remembered, index, (size + 1e-6) ** hp.priority, wanted).priorities
            return (state, priorities), None

        most = -(-block // hp.train_every)  # events that a block may hold
        event, nth = jnp.divmod(jnp.arange(most * hp.num_gradient_steps), hp.num_gradient_steps)
        carry = state._replace(replay=()), kept.priorities
        (state, priorities), _ = jax.lax.scan(one, carry, (jax.random.split(key, len(event)), nth, event))
        state = state._replace(
            replay=kept._replace(priorities=priorities), updates=state.updates + 1, events=state.events + due
        )
        return state, {**state.metrics, "learning_rate": learning_rate}

    return update
