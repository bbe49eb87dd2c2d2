"""Training of many runs at once, in chunks."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import statistics, training
from purerl.runs import report
from purerl.runs.progress import Progress
from purerl.training.sharding import place_runs

FEWEST_CHUNKS = 100


class Interrupts:
    """Handlers of Ctrl-C and SIGTERM: the first signal stops after the chunk, the second at once."""

    def __init__(self, say: Callable[[str], None] = report.note):
        self.asked, self.say = False, say

    def __enter__(self) -> Interrupts:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("finishing this chunk, then saving; Ctrl-C again stops at once")


class Chunk(NamedTuple):
    """The result of one chunk of R runs; in the state they are followed by the runs that fill up the devices."""

    iteration: int
    state: Any  # on the devices, leaves [R + fill-ups, ...], valid until the next chunk
    metrics: dict[str, np.ndarray]  # [R]


def _wait(arrays: dict[str, jax.Array]) -> None:
    """Wait until they are computed, in short sleeps: a blocking call would not handle signals."""
    pause = 1e-4
    for x in arrays.values():
        while not x.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
            time.sleep(pause)
            pause = min(1.3 * pause, 0.02)


def _aside(function: Callable, *args: Any) -> Any:
    """The function's result, computed in another thread, since compilation is a long blocking call."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return pool.submit(function, *args).result()  # waits for a lock, which signals interrupt
    finally:
        pool.shutdown(wait=False)


def stream(
    make: Callable,
    hp: Any,
    num_runs: int,
    devices: list[Any],
    num_updates: int,
    every: int,
    progress: Progress,
    keys: jax.Array | None = None,
    state: Any = None,
    isolate: bool = False,
    live: Callable[[], np.ndarray] | None = None,
    first: bool = True,
    devices_per_run: int = 1,
) -> Iterator[Chunk]:
    """Train R runs at once over the devices, from their keys `[R]` or from their state `[R, ...]`.

    Vectors among the leaves of `hp` have one entry for each run. Runs that only fill up the devices are discarded.
    `isolate`, `devices_per_run`: see `training.batch`.  `live`: of isolated runs, those that are still trained, bool
    `[R]`; the others take no time.  `first`: False if the program has been compiled before. The state is donated.
    """
    order = np.arange(num_runs + -num_runs % (len(devices) // devices_per_run)) % num_runs
    hp = jax.tree.map(lambda x: jnp.asarray(x)[order] if jnp.ndim(x) else x, hp)
    make = training.batch(make, devices if len(devices) > 1 else None, isolate, devices_per_run)
    if state is not None:
        state = jax.tree.map(lambda x: x[order], state) if len(order) > num_runs else state
        if len(devices) > 1:
            state = place_runs(state, devices, devices_per_run)
        elif devices[0] != jax.devices()[0]:  # otherwise it would be committed there, which is another program
            state = jax.device_put(state, devices[0])
    job: tuple = (make, hp, None if keys is None else keys[order])
    fill = np.zeros(len(order) - num_runs, np.int32)
    each = (lambda: np.append(live().astype(np.int32), fill)) if isolate and live is not None else None
    with progress.compiling(first):
        program = _aside(training.compile_run, *job, state, *([each()] if each else []))
        jax.block_until_ready(program.state)
    del state
    if each:
        compiled = program.advance
        program = program._replace(advance=lambda *given: compiled(*given[:-1], given[-1] * each()))
    for iteration, new, metrics in training.run(make, hp, None, num_updates, every, program=program):
        _wait(metrics)
        # the dicts of a jitted function are sorted: the metrics that every run reports go first
        names = sorted(metrics, key=lambda name: (name != "episodes", not name.startswith("episode_"), name))
        found = training.to_host(metrics)
        yield Chunk(iteration, new, {name: found[name][:num_runs] for name in names})


@partial(jax.jit, donate_argnums=0)
def _put(whole: Any, at: Any, rows: Any) -> Any:
    """The state of all runs with the first of `rows` at some places."""
    return jax.tree.map(lambda x, new: x.at[at].set(new[: len(at)]), whole, rows)


def stream_of(
    part: np.ndarray, make: Callable, hp: Any, devices: list[Any], num_updates: int, every: int, progress: Progress,
    state: Any,
) -> Iterator[Chunk]:  # fmt: skip
    """Train a part, bool `[R]`, of R runs; the state of the others stays as it is, and their metrics are NaN.

    The batch is smaller, and so another program than that of R runs. The state `[R, ...]` is donated.
    """
    at = np.flatnonzero(part)
    hp, rows = jax.tree.map(lambda x: x[at] if jnp.ndim(x) else x, (hp, state))

    def spread(name: str, values: np.ndarray) -> np.ndarray:
        out = np.full(len(part), 0 if name == "episodes" else np.nan, values.dtype)
        out[at] = values
        return out

    used = devices[: min(len(devices), len(at))]
    for chunk in stream(make, hp, len(at), used, num_updates, every, progress, state=rows):
        state = _put(state, at, chunk.state)
        yield Chunk(chunk.iteration, state, {name: spread(name, x) for name, x in chunk.metrics.items()})


class Measured(NamedTuple):
    """The results of training R runs at once; the rows are chunks."""

    iterations: np.ndarray  # [K] updates done so far
    metrics: dict[str, np.ndarray]  # [K, R]
    state: Any  # of the learners at the end, leaves [R, ...]
    compile_seconds: float
    run_seconds: float


def returns_so_far(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The mean return of each run's last 100 episodes or more, `[R]`, from the metrics of chunks; NaN if none."""
    episodes, returns = (np.stack([row[name] for row in rows]) for name in ("episodes", "episode_return"))
    return statistics.last_returns(episodes, returns)


def results_so_far(rows: Sequence[Mapping[str, np.ndarray]], metric: str = "episode_return") -> np.ndarray:
    """The newest value of each run's metric, `[R]`; of returns as `returns_so_far`."""
    if metric == "episode_return":
        return returns_so_far(rows)
    return np.asarray(rows[-1][metric])


def stride(num_updates: int, every: int) -> int:
    """The number of chunks between two updates of the progress display."""
    return max(1, num_updates // every // FEWEST_CHUNKS)


def measure(
    make: Callable, hp: Any, keys: jax.Array, devices: list[Any], num_updates: int, every: int, steps_per_update: int
) -> Measured:
    """Train one run for each of the keys `[R]` from beginning to end, and show progress; see `stream`."""
    num_runs, rows, iterations, state = keys.shape[0], [], [], None
    shown_every = stride(num_updates, every)
    with Progress(num_updates, num_runs * steps_per_update) as progress:
        for chunk in stream(make, hp, num_runs, devices, num_updates, every, progress, keys):
            rows.append(chunk.metrics)
            iterations.append(chunk.iteration)
            state = chunk.state
            if len(rows) % shown_every == 0 or chunk.iteration == num_updates:
                progress.update(chunk.iteration, float(returns_so_far(rows[-10 * shown_every :]).mean()))
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        state = jax.tree.map(lambda x: x[:num_runs], state)
        return Measured(np.asarray(iterations), stacked, state, progress.compile_seconds, progress.run_seconds)
