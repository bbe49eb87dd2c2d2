"""A run from disk, for notebooks: to continue, evaluate or inspect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.host import checkpoint, jobs, runs, work


class Loaded(NamedTuple):
    """What a directory holds: R runs, or after `one(run)` a single one.

    To go on: `purerl.run(purerl.batch(run.make), run.hp, None, num_updates, state=run.state)`, or `run.make` as it is
    for a single run. To evaluate: `one = run.one(0)`, and `purerl.evaluate(one.env, one.env_params,
    one.agent(one.hp), one.state.agent, key)`.
    """

    env: Any
    env_params: Any
    agent: Callable[[Any], Any]  # hp -> Agent
    make: Callable[[Any], Any]  # hp -> Learner, of a single run
    hp: Any  # leaves [R], or scalars where all runs have the same
    state: Any  # a learner's state, leaves [R, ...]
    iteration: int  # of the checkpoint
    ended: dict[int, int]  # the iteration at which a run reached the return that it was to stop at
    broken: dict[int, int]  # the iteration at which a run was no longer finite
    metrics: runs.Metrics
    plan: jobs.Plan  # the job: its labels, seeds, totals, and `plan.config`
    manifest: dict[str, Any]

    def one(self, run: int) -> Loaded:
        """The same of a single run, its leaves without the axis of runs.

        Raises:
          ValueError: if there is no such run.
        """
        count = self.state.iteration.shape[0]
        if not 0 <= run < count:
            raise ValueError(f"run is {run}; there are {count}, from 0")
        pick = lambda tree: jax.tree.map(lambda x: x[run] if jnp.ndim(x) else x, tree)
        return self._replace(hp=pick(self.hp), state=pick(self.state))


def load(directory: str | Path) -> Loaded:
    """See `purerl.host.load`."""
    directory = Path(directory)
    job = jobs.of_directory(directory)
    found = checkpoint.newest(directory / runs.CHECKPOINTS, work.like(job))
    if not found:
        raise ValueError(f"{directory} has no checkpoint yet")
    state, notes, _ = found
    metrics = runs.read_metrics(directory / runs.METRICS, job.num_runs)
    record = work.Record(job, metrics, notes)
    iteration = int(state.iteration.max())
    return Loaded(
        job.env, job.env_params, job.agent, job.make, job.hp(iteration), state, iteration, record.ended, record.broken,
        metrics, job, runs.read_manifest(directory),
    )  # fmt: skip
