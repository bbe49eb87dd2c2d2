"""The record of runs during training: metrics, ended runs and broken runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import build, statistics
from purerl.runs import checkpoint, files, report
from purerl.runs.plan import Plan
from purerl.runs.stream import Chunk, returns_so_far
from purerl.training import to_host

ENOUGH = 100  # episodes in a mean return


def noted(notes: dict[str, str], name: str, num_runs: int) -> dict[int, int]:
    """The runs that a checkpoint notes as `ended` or `broken`, and since which iteration."""
    found = {int(run): int(iteration) for run, iteration in json.loads(notes.get(name, "{}")).items()}
    if not all(0 <= run < num_runs for run in found):
        raise ValueError(f"a checkpoint notes runs {sorted(found)}; there are {num_runs}")
    return found


class Record:
    """The record of R runs so far: their metrics, and which have reached the return to stop at or are broken."""

    def __init__(self, plan: Plan, metrics: files.Metrics, notes: dict[str, str]):
        self.plan = plan
        self.iterations = list(metrics.iterations)
        self.rows = [{n: x[k] for n, x in metrics.columns.items()} for k in range(len(self.iterations))]
        self.ended, self.broken = (noted(notes, name, plan.num_runs) for name in ("ended", "broken"))
        self.kept: dict[int, dict[str, np.ndarray]] = {}  # the states of runs that have ended

    def mask(self, *excluded: dict[int, Any]) -> np.ndarray:
        """A mask of the runs that are in none of the dicts, bool `[R]`."""
        return np.array([not any(run in names for names in excluded) for run in range(self.plan.num_runs)])

    def notes(self) -> dict[str, str]:
        """The notes of a checkpoint, stored beside the state."""
        return {"ended": json.dumps(self.ended), "broken": json.dumps(self.broken)}

    def call_broken(self, iterations: np.ndarray) -> Iterator[str]:
        """Mark the runs whose entry of `[R]` is not 0 as broken; yield messages that name their non-finite metrics."""
        metrics = self.rows[-1] if self.rows else {}
        own = sorted(metrics.keys() - {"episode_return", "episode_length"})  # NaN where no episode ended
        for run in map(int, np.flatnonzero((iterations > 0) & self.mask(self.ended, self.broken))):
            self.broken[run] = int(iterations[run])
            bad = ", ".join(name for name in own if not np.isfinite(metrics[name][run]))
            at = f"iteration {iterations[run]}" + (f" ({bad})" if bad else "")
            yield f"{self.plan.name_of(run)}: not finite at {at}; excluded from the means from here on"

    def add(self, chunk: Chunk) -> Iterator[str]:
        """Add a chunk to the record; yield messages about runs that ended or broke."""
        live = self.mask(self.ended)
        gone = lambda name, x: np.where(live, x, 0 if name == "episodes" else np.nan)
        self.rows.append({name: gone(name, x) for name, x in chunk.metrics.items()})
        self.iterations.append(chunk.iteration)
        yield from self.call_broken(to_host(chunk.state.nonfinite)[: self.plan.num_runs])
        if (goal := self.plan.config.get("stop_when")) is not None:
            enough = np.sum([row["episodes"] for row in self.rows], axis=0) >= ENOUGH
            ends, why = (returns_so_far(self.rows) >= goal) & enough, f"reached a return of {goal:g}"
        elif self.plan.watch and self.plan.watch.ends:
            ends, why = self.plan.watch.ends(self.rows), "stopped early"
        else:
            return
        now = np.flatnonzero(ends & self.mask(self.ended, self.broken)).tolist()
        self.ended |= dict.fromkeys(now, chunk.iteration)
        self.keep(now, chunk.state)
        for run in now:
            yield f"{self.plan.name_of(run)}: {why} at iteration {chunk.iteration}"

    def replace(self, parent: np.ndarray) -> None:
        """Note that runs go on from the state of others, int `[R]`: none of them is broken any more."""
        self.broken = {run: iteration for run, iteration in self.broken.items() if parent[run] == run}

    def keep(self, ended: Collection[int], state: Any) -> None:
        """Store the final state of ended runs: the program continues to compute states for them."""
        leaves = checkpoint.to_host(state) if ended else {}
        self.kept |= {run: {name: x[run].copy() for name, x in leaves.items()} for run in ended}

    def leaves(self, state: Any) -> dict[str, np.ndarray]:
        """The state of the R runs on the host, with the stored final state of ended runs."""
        leaves = {name: x[: self.plan.num_runs] for name, x in checkpoint.to_host(state).items()}
        if self.kept:
            leaves = {name: x.copy() for name, x in leaves.items()}
        for run, kept in self.kept.items():
            for name, x in kept.items():
                leaves[name][run] = x
        return leaves

    def settled(self, state: Any) -> Any:
        """The state of the R runs or more, with the stored final state of ended runs."""
        if not self.kept:
            return state
        return checkpoint.from_host(self.leaves(state), jax.tree.map(lambda x: x[: self.plan.num_runs], state))


@jax.jit
def holds_nan(agents: Any) -> jax.Array:
    """A mask of the runs whose agents, leaves `[R, ...]`, contain NaN, bool `[R]`, as `not_numbers`."""
    floats = [x for x in jax.tree.leaves(agents) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.array([jnp.isnan(x).reshape(len(x), -1).any(1) for x in floats]).any(0)


def not_numbers(leaves: dict[str, np.ndarray], num_runs: int) -> np.ndarray:
    """A mask of the runs whose agents contain NaN, bool `[R]`. (An infinity may be valid.)"""
    found = np.zeros(num_runs, bool)
    for name, x in leaves.items():
        if name.startswith(".agent") and np.issubdtype(x.dtype, np.floating):
            found |= np.isnan(x).reshape(num_runs, -1).any(axis=1)
    return found


def held(leaves: dict[str, np.ndarray]) -> tuple[int, int] | None:
    """The fewest steps that a run's replay buffer holds, and that it has room for and has seen; None without one."""
    for name in leaves:
        begin = name.removesuffix(".oldest")
        if begin != name and f"{begin}.num_finals" in leaves:
            oldest, written = (leaves[f"{begin}.{part}"].astype(int) for part in ("oldest", "num_rows"))
            rows, num_envs = leaves[f"{begin}.reward"].shape[1:]
            there = written - np.maximum(oldest, np.maximum(written - rows + 1, 0))
            return int(there.min()) * num_envs, int(np.minimum(written, rows - 1).min()) * num_envs
    return None


def _last(values: np.ndarray) -> np.ndarray:
    """The last value of each column of `[K, S]` that is not NaN, `[S]`; NaN if there is none."""
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([column[-1] if len(column) else np.nan for column in known])


class Outline(NamedTuple):
    """What is known of a run without its code: what a table and a picture need of its plan."""

    title: str
    swept: list[str]  # the hyperparameters that have several values
    labels: list[str]  # those values, one for each configuration
    keys: range  # the numbers of the seeds

    @property
    def num_runs(self) -> int:
        """The number of runs: configurations x seeds."""
        return len(self.labels) * len(self.keys)


def outline_of(directory: Path) -> Outline:
    """The outline of a run on disk, from its config and its table of metrics; none of its code is needed."""
    config = files.read_config(directory)
    short = lambda name: Path(name).name if build.is_own(name) else name
    if "agent" in config:
        title = f"{short(str(config['agent']))} on {short(str(config.get('env')))}"
    else:
        title = f"pretraining on {Path(str(config.get('data'))).stem}"
    about = files.read_about(directory / files.METRICS)
    seeds = len(set(about.pop("seed", ())))
    values = [", ".join(f"{float(x):g}" for x in point) for point in zip(*about.values(), strict=True)]
    return Outline(title, list(about), values[:: max(seeds, 1)] if about else [""], range(seeds))


def panel_of(
    plan: Plan | Outline, metrics: files.Metrics, broken: Collection[int], metric: str = "episode_return"
) -> report.Panel:
    """The curves of a plan, one for each configuration, over the seeds that are not broken."""
    seeds, values = len(plan.keys), metrics.columns[metric]
    counts = metrics.columns["episodes"] if metric.startswith("episode_") else np.where(np.isnan(values), 0, 1)
    curves = []
    for index, label in enumerate(plan.labels):
        sound = [run for run in range(index * seeds, (index + 1) * seeds) if run not in broken]
        shape = (len(metrics.steps), len(sound))
        episodes, scores = counts[:, sound].reshape(shape), values[:, sound].reshape(shape)
        of_episodes = metric.startswith("episode_")
        final = statistics.last_returns(episodes, scores, ENOUGH) if of_episodes else _last(scores)
        curves.append(report.Curve(label, metrics.steps, report.smoothed(episodes, scores), final, seeds - len(sound)))
    return report.Panel(plan.title, ", ".join(plan.swept), curves)
