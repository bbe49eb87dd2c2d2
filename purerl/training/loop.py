"""The training loop: a whole run in one scan, or in compiled chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import check_present
from purerl.core import Array, Key, Learner
from purerl.training.learners import summarize
from purerl.training.processes import to_host


def advance(learner: Learner, state: Any, num_updates: Any) -> tuple[Any, dict[str, Array]]:
    """Run `num_updates` updates and summarise them. An int gives a differentiable scan, an Array a while loop."""
    if learner.advance is not None:
        return learner.advance(state, num_updates)
    step = jax.jit(learner.step, inline=True)  # traced once for its shapes and for the loop

    def body(_, carry):
        state, sums = carry
        state, new = step(state)
        return state, jax.tree.map(jnp.add, sums, new)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state)[1])
    state, sums = jax.lax.fori_loop(0, num_updates, body, (state, zeros))
    return state, summarize(sums)


def train(learner: Learner, key: Key, num_updates: int, every: int = 1) -> tuple[Any, dict[str, Array]]:
    """A whole run as one function of a key, for use with jit, vmap, grad or sharding.

    Args:
      num_updates: calls of `learner.step`.  every: updates per row of the metrics.
    Returns:
      The final state, and metrics `[num_updates / every, ...]` (see `summarize`).
    Raises:
      ValueError: if `every` does not divide `num_updates`; `run` has no such limit.
    """
    if every < 1 or num_updates < 1 or num_updates % every:
        raise ValueError(f"every is {every}; it must be positive and divide num_updates, which is {num_updates}")
    return jax.lax.scan(lambda state, _: advance(learner, state, every), learner.init(key), length=num_updates // every)


@partial(jax.jit, static_argnums=0)
def _init(make, hp, key):
    return make(hp).init(key)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(make, hp, state, num_updates):
    return advance(make(hp), state, num_updates)


def as_arrays(hp: Any) -> Any:
    """Convert Python floats and arrays to strongly typed float32 arrays, so that they share one compilation."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), hp)


class Program(NamedTuple):
    """A run compiled ahead of time, for `run(..., program=...)`; its state can be used once."""

    state: Any
    advance: Callable


def compile_run(
    make: Callable[[Any], Learner], hp: Any, key: Key | None = None, state: Any = None, num_updates: Any = 1
) -> Program:
    """Compile the program of `run` and compute its initial state, such as to time compilation separately.

    num_updates: an example of those of a call, for its shape.
    """
    hp = as_arrays(hp)
    check_present("compile_run", state=state)
    state = _init(make, hp, key) if state is None else state
    compiled = _advance.lower(make, hp, state, jnp.asarray(num_updates, jnp.int32)).compile()
    return Program(state, lambda make, hp, state, num_updates: compiled(hp, state, num_updates))


def run(
    make: Callable[[Any], Learner],
    hp: Any,
    key: Key | None,
    num_updates: int,
    every: int = 1,
    state: Any = None,
    program: Program | None = None,
) -> Iterator[tuple[int, Any, dict[str, Array]]]:
    """The same run as `train`, in compiled chunks; the caller logs, plots and saves between chunks.

    It compiles once per `make` and static fields of `hp`: other floats, keys and lengths use the same program.

    Args:
      make: `hp -> Learner`; define it once and reuse it, since compilations are cached by its identity.
      hp: hyperparameters, any pytree of floats.
      key: the key of the whole run; None with `state`.
      num_updates: the number of updates, counted from the given state.
      every: updates per chunk; the last chunk may be shorter.
      state: a state that an earlier `run` yielded, to continue from. It is donated.
      program: the result of `compile_run`.
    Yields:
      `(iteration, state, metrics)`: the total number of updates, a state that is valid until the next iteration (copy
      it to store it), and the chunk's metrics (see `summarize`).
    Raises:
      ValueError: for counts that are not positive, or both or neither of key and state; from the iterator, for a
        state that was donated to an earlier run, such as one that was interrupted.
    """
    if num_updates < 1 or every < 1:
        raise ValueError(f"num_updates and every must be positive, got {num_updates} and {every}")
    if program is None and (key is None) == (state is None):
        raise ValueError("give either a key, to start, or a state, to go on from")
    return _run(make, as_arrays(hp), key, num_updates, every, state, program)


def _run(make, hp, key, num_updates, every, state, program):
    step = _advance
    if program is not None:
        state, step = program
    elif state is None:
        state = _init(make, hp, key)
    check_present("run", state=state)
    first = int(np.max(to_host(state.iteration)))
    for begin in range(0, num_updates, every):
        size = min(every, num_updates - begin)
        state, metrics = step(make, hp, state, jnp.int32(size))
        yield first + begin + size, state, metrics
