"""Load a run from disk, for notebooks: to continue, evaluate or inspect it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.runs import checkpoint, files, milestones
from purerl.runs.plan import Plan, like
from purerl.runs.plans import plan_of_directory
from purerl.runs.record import Record


class Loaded(NamedTuple):
    """The contents of a run's directory: R runs, or after `one(run)` a single one.

    To continue: `purerl.run(purerl.batch(run.make), run.hp, None, num_updates, state=run.state)`, or `run.make` as it
    is for a single run. To evaluate: `one = run.one(0)`, and `purerl.evaluate(one.env, one.env_params,
    one.agent(one.hp), one.state.agent, key)`.
    """

    env: Any
    env_params: Any
    agent: Callable[[Any], Any]  # hp -> Agent
    make: Callable[[Any], Any]  # hp -> Learner, of a single run
    hp: Any  # leaves [R], or scalars if all runs have the same
    state: Any  # a learner's state, leaves [R, ...]
    iteration: int  # of the checkpoint; of `best` the last one, and `state.iteration` has that of each run
    ended: dict[int, int]  # the iteration at which a run reached the return of `--stop-when`
    broken: dict[int, int]  # the iteration at which a run became non-finite
    metrics: files.Metrics
    plan: Plan  # labels, seeds, totals, and `plan.config`
    manifest: dict[str, Any]

    def one(self, run: int) -> Loaded:
        """A single run, its leaves without the axis of runs.

        Raises:
          ValueError: if there is no such run.
        """
        count = self.state.iteration.shape[0]
        if not 0 <= run < count:
            raise ValueError(f"run is {run}; there are {count}, from 0")
        pick = lambda tree: jax.tree.map(lambda x: x[run] if jnp.ndim(x) else x, tree)
        hp = pick(self.hp)
        return self._replace(hp=hp, state=pick(self.state), env_params=self.plan.env_params_of(jax.tree.map(float, hp)))


def load(
    directory: str | Path, code: str | Path | None = None, at: str | int | None = None, option: str = "--code "
) -> Loaded:
    """See `purerl.runs.load`; `option`: the beginning of the words that give `code`."""
    directory = Path(directory)
    plan = plan_of_directory(directory, code=code, option=option)
    if at is not None:
        state, notes = checkpoint.load(milestones.named(directory, at), like(plan))
    elif found := checkpoint.newest(directory / files.CHECKPOINTS, like(plan)):
        state, notes, _ = found
    else:
        raise ValueError(f"{directory} has no checkpoint yet")
    metrics = files.read_metrics(directory / files.METRICS, plan.num_runs)
    record = Record(plan, metrics, notes)
    iteration = int(state.iteration.max())
    return Loaded(
        plan.env, plan.env_params, plan.agent, plan.make, plan.hp(iteration), state, iteration,
        record.ended, record.broken, metrics, plan, files.read_manifest(directory),
    )  # fmt: skip
