"""Off-policy updates: hyperparameters, state, and the gradient steps that are due in a block."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl import replay, schedules
from purerl.core import Array, Key, Rollout, short_repr
from purerl.gradients import annealed
from purerl.hyperparameters import config, option


@config
class OffPolicy:
    """Common hyperparameters of agents with a replay buffer; configs of agents add their own."""

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


class OffPolicyState(NamedTuple):
    """The state of an off-policy agent."""

    params: Any
    target_params: Any
    opt_state: Any
    replay: replay.Replay
    explore: Array  # float32 []: how much to explore in the block to come
    updates: Array  # int32 []: calls of the agent's `update` so far
    events: Array  # int32 []: times that learning was due so far
    metrics: dict[str, Array]  # float32 []: of the last gradient step; 0 before it

    __repr__ = short_repr


class GradientStep(NamedTuple):
    """A gradient step that a block may hold, or all of them, leaves `[M]`."""

    key: Key
    event: Array  # int32: times that learning was due before it
    nth: Array  # int32: gradient steps of the same time before it
    due: Array  # bool: whether it falls into this block
    wanted: Array  # bool: whether it is due and learning has started


class Due(NamedTuple):
    """Common data of a block's gradient steps, and which of them are due."""

    steps: GradientStep  # leaves [M]
    events: Array  # int32 []: times that learning is due in this block
    learning_rate: Any
    importance: Any  # β of prioritised replay


def polyak(target: Any, online: Any, rate: Any) -> Any:
    """target ← τ online + (1 - τ) target, exact at τ = 0 and at τ = 1.

    >>> polyak(jnp.array(0.0), jnp.array(4.0), 0.25).item()
    1.0
    """
    return jax.tree.map(lambda target, online: (1 - rate) * target + rate * online, target, online)


def learning_started(hp: OffPolicy, updates: Array, block: int) -> Array:
    """Whether learning has started in the block after so many calls of `update`, or before; `block` is its steps.

    updates: int32 [].
    """
    return updates >= -(-hp.learning_starts // block) - 1


def begin(key: Key, hp: OffPolicy, state: OffPolicyState, rollout: Rollout, length: int) -> tuple[replay.Replay, Due]:
    """Add the block to the replay buffer; return the buffer and the gradient steps that are due.

    Args:
      length: see `replay.init`.
    """
    block = rollout.transitions.reward.size
    kept = replay.add(state.replay, rollout.transitions, rollout.memory, length)
    learning_rate = annealed(hp.learning_rate, hp.anneal_steps, state.updates, block)
    importance = hp.importance
    if hp.importance_steps is not None:
        steps = state.updates.astype(jnp.float32) * block
        importance = schedules.linear(steps, importance, 1.0, hp.importance_steps)
    events = schedules.times_due(state.updates, block, hp.train_every)
    most = -(-block // hp.train_every)  # times that a block may hold
    event, nth = jnp.divmod(jnp.arange(most * hp.num_gradient_steps), hp.num_gradient_steps)
    due, ready = event < events, learning_started(hp, state.updates, block)
    wanted = jnp.broadcast_to(ready, due.shape) if block % hp.train_every == 0 else ready & due
    steps = GradientStep(jax.random.split(key, len(event)), state.events + event, nth, due, wanted)
    return kept, Due(steps, events, learning_rate, importance)


def sample(step: GradientStep, kept: replay.Replay, hp: OffPolicy, length: int, importance) -> tuple[list[Key], Any]:
    """Three keys for a gradient step, and its sampled steps, a `replay.Index`."""
    sample_key, *keys = jax.random.split(step.key, 4)
    return keys, replay.sample(sample_key, kept, hp.batch_size, length, importance)


def prioritized(step: GradientStep, kept: replay.Replay, hp: OffPolicy, index: replay.Index, error: Array) -> Any:
    """The priorities after a gradient step, from its absolute errors, float `[B]`; () without priorities."""
    if hp.priority is None:
        return kept.priorities
    return replay.update(kept, index, (error + 1e-6) ** hp.priority, step.wanted).priorities
