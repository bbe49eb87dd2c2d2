"""The commands that train: train, resume, repeat."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import statistics, training
from purerl.host import checkpoint, jobs, loggers, report, runs
from purerl.host.cli import Stopped
from purerl.host.progress import Progress

ENOUGH = 100  # episodes that a return is the mean of


class Record:
    """What is known of R runs so far: their metrics, which have reached their return, and which are broken."""

    def __init__(self, job: jobs.Plan, metrics: runs.Metrics, notes: dict[str, str]):
        self.job = job
        self.iterations = list(metrics.iterations)
        self.rows = [{n: x[k] for n, x in metrics.columns.items()} for k in range(len(self.iterations))]
        self.ended, self.broken = (self._noted(notes.get(name, "{}")) for name in ("ended", "broken"))
        self.kept: dict[int, dict[str, np.ndarray]] = {}  # the states of runs that have ended

    def _noted(self, text: str) -> dict[int, int]:
        noted = {int(run): int(iteration) for run, iteration in json.loads(text).items()}
        if not all(0 <= run < self.job.num_runs for run in noted):
            raise ValueError(f"a checkpoint notes runs {sorted(noted)}; there are {self.job.num_runs}")
        return noted

    def mask(self, *excluded: dict[int, Any]) -> np.ndarray:
        """Which runs are in none of the dicts, bool `[R]`."""
        return np.array([not any(run in names for names in excluded) for run in range(self.job.num_runs)])

    def notes(self) -> dict[str, str]:
        """What a checkpoint needs to know beside the state."""
        return {"ended": json.dumps(self.ended), "broken": json.dumps(self.broken)}

    def call_broken(self, iterations: np.ndarray) -> Iterator[str]:
        """Mark the runs whose iteration is not 0, and say so, with the last metrics that show it."""
        metrics = self.rows[-1] if self.rows else {}
        own = sorted(metrics.keys() - {"episode_return", "episode_length"})  # NaN where no episode ended
        for run in map(int, np.flatnonzero((iterations > 0) & self.mask(self.ended, self.broken))):
            self.broken[run] = int(iterations[run])
            bad = ", ".join(name for name in own if not np.isfinite(metrics[name][run]))
            at = f"iteration {iterations[run]}" + (f" ({bad})" if bad else "")
            yield f"{self.job.name_of(run)}: not finite at {at}; left out of the means from here on"

    def add(self, chunk: jobs.Chunk) -> Iterator[str]:
        """Take in a chunk; yields what a person should know."""
        live = self.mask(self.ended)
        gone = lambda name, x: np.where(live, x, 0 if name == "episodes" else np.nan)
        self.rows.append({name: gone(name, x) for name, x in chunk.metrics.items()})
        self.iterations.append(chunk.iteration)
        yield from self.call_broken(np.asarray(chunk.state.nonfinite)[: self.job.num_runs])
        if (goal := self.job.config["stop_when"]) is None:
            return
        enough = np.sum([row["episodes"] for row in self.rows], axis=0) >= ENOUGH
        reached = np.flatnonzero(
            (jobs.returns_so_far(self.rows) >= goal) & enough & self.mask(self.ended, self.broken)
        ).tolist()
        self.ended |= dict.fromkeys(reached, chunk.iteration)
        self.keep(reached, chunk.state)
        for run in reached:
            yield f"{self.job.name_of(run)}: reached a return of {goal:g} at iteration {chunk.iteration}"

    def keep(self, ended: Collection[int], state: Any) -> None:
        """Remember the state that runs have ended with: the program goes on to compute something for them."""
        leaves = checkpoint.to_host(state) if ended else {}
        self.kept |= {run: {name: x[run].copy() for name, x in leaves.items()} for run in ended}

    def leaves(self, state: Any) -> dict[str, np.ndarray]:
        """The state of the R runs on the host, those that have ended as they were then."""
        leaves = {name: x[: self.job.num_runs] for name, x in checkpoint.to_host(state).items()}
        if self.kept:
            leaves = {name: x.copy() for name, x in leaves.items()}
        for run, kept in self.kept.items():
            for name, x in kept.items():
                leaves[name][run] = x
        return leaves


def not_numbers(leaves: dict[str, np.ndarray], num_runs: int) -> np.ndarray:
    """Which runs' agents hold a NaN, bool `[R]`. (An infinity may have its meaning.)"""
    found = np.zeros(num_runs, bool)
    for name, x in leaves.items():
        if name.startswith(".agent") and np.issubdtype(x.dtype, np.floating):
            found |= np.isnan(x).reshape(num_runs, -1).any(axis=1)
    return found


def like(job: jobs.Plan) -> Any:
    """Shapes and dtypes of the state of all runs."""
    return jax.eval_shape(lambda hp, keys: training.batch(job.make)(hp).init(keys), job.hp(), job.run_keys())


def _chunks(job: jobs.Plan, devices: list[Any], progress: Progress, first: int, state: Any) -> Iterator[jobs.Chunk]:
    """The rest of a job, from an iteration and its state on; where horizons change, so do the hyperparameters."""
    changes = sorted({change["iteration"] for change in job.config["horizons"]} | {job.num_updates})
    for stop in [at for at in changes if first < at <= job.num_updates]:
        keys = job.run_keys() if state is None else None
        count, chunk, hp = stop - first, None, job.hp(first)
        for chunk in jobs.stream(job.make, hp, job.num_runs, devices, count, job.every, progress, keys, state):
            yield chunk
        first, state = stop, jax.tree.map(lambda x: x[: job.num_runs], chunk.state) if chunk else state


def _save(job: jobs.Plan, directory: Path, record: Record, iteration: int, state: Any, progress: Progress) -> dict:
    leaves = record.leaves(state)
    for text in record.call_broken(np.where(not_numbers(leaves, job.num_runs), iteration, 0)):
        progress.note(text)
    if (directory / runs.METRICS).exists():
        checkpoint.sync(directory / runs.METRICS)
    checkpoint.add(directory / runs.CHECKPOINTS, iteration, leaves, record.notes())
    return leaves


def go(job: jobs.Plan, directory: Path, devices: list[Any], save_every: float, saved: Any = None) -> Record:
    """Train what is left of a job in its directory, to its end or until it is asked to stop.

    Args:
      saved: `(iteration, state, notes)` of a checkpoint; None begins.
    Raises:
      Stopped: where it was interrupted; all that was asked for is on disk.
      OSError: where the disk is full; the last checkpoint stands.
    """
    first, state, notes = saved or (0, None, {})
    table = directory / runs.METRICS
    runs.cut_metrics(table, first)
    record = Record(job, runs.read_metrics(table, job.num_runs), notes)
    if state is not None:
        record.keep(record.ended, state)
    alive = record.mask(record.ended, record.broken).any()
    leaves = record.leaves(state) if state is not None and (first >= job.num_updates or not alive) else {}
    look = jobs.stride(job.num_updates, job.every)
    about, names = job.about(), [job.name_of(run) for run in range(job.num_runs)]
    stands, interrupted, last_save = first, False, time.perf_counter()
    progress = Progress(job.num_updates, job.num_runs * job.steps_per_update, first=first)
    del saved
    try:
        with (
            progress,
            jobs.Interrupts(progress.note) as interrupts,
            loggers.opened(directory, job.config, first * job.steps_per_update) as log,
        ):
            for chunk in _chunks(job, devices, progress, first, state) if not leaves else ():
                state = None  # it was donated
                live, steps = record.mask(record.ended), chunk.iteration * job.steps_per_update
                for text in record.add(chunk):
                    progress.note(text)
                runs.append_metrics(table, chunk.iteration, steps, about, chunk.metrics, live)
                row = lambda run, metrics=chunk.metrics: {name: float(x[run]) for name, x in metrics.items()}
                log(steps, {names[run]: row(run) for run in np.flatnonzero(live)})
                sound = record.mask(record.ended, record.broken)
                over = chunk.iteration == job.num_updates or not sound.any()
                if len(record.rows) % look == 0 or over:
                    returns = jobs.returns_so_far(record.rows[-10 * look :])[sound]
                    progress.update(chunk.iteration, float(returns.mean()) if len(returns) else np.nan)
                interrupted = interrupts.asked and not over
                if over or interrupted or time.perf_counter() - last_save >= save_every:
                    leaves = _save(job, directory, record, chunk.iteration, chunk.state, progress)
                    stands, last_save = chunk.iteration, time.perf_counter()
                if over or interrupted:
                    break
                leaves = {}  # they lie in buffers that the next chunk overwrites
    except KeyboardInterrupt:
        text = f"stopped at once; iteration {stands} is on disk: purerl resume {directory}"
        raise Stopped(text, at_once=True) from None
    except OSError as error:
        raise OSError(f"{error}; iteration {stands} is on disk: purerl resume {directory}") from error
    if not record.mask(record.ended, record.broken).any():
        report.note("every run has ended or is broken: there is nothing left to train")
    _finish(job, directory, record, leaves, progress)
    if interrupted:
        raise Stopped(f"stopped and saved at iteration {stands} of {job.num_updates}: purerl resume {directory}")
    return record


def _finish(job: jobs.Plan, directory: Path, record: Record, leaves: dict, progress: Progress) -> None:
    """Write the hashes and the picture, and print the table."""
    manifest = runs.read_manifest(directory)
    iterations, hashes = leaves[".iteration"], runs.hashes(leaves, job.num_runs)
    manifest["parameters"] = [
        {"run": run, **{name: values[run] for name, values in job.about().items()},
         "iteration": int(iterations[run]), "sha256": hashes[run]}
        for run in range(job.num_runs)
    ]  # fmt: skip
    runs.write_json(directory / runs.MANIFEST, manifest)
    panel = panel_of(job, runs.read_metrics(directory / runs.METRICS, job.num_runs), record.broken)
    report.table(panel)
    report.cost((record.iterations[-1] - progress.first) * job.num_runs * job.steps_per_update, progress)
    for run, iteration in record.broken.items():
        report.note(
            f"{job.name_of(run)}: not finite from iteration {iteration} on; left out of the table and the curve"
        )
    if record.ended:
        report.note(f"{len(record.ended)} of {job.num_runs} runs ended at a return of {job.config['stop_when']:g}")
    report.picture(directory / runs.CURVE, [panel])
    report.note(f"run: {directory}  (learning curve: {directory / runs.CURVE})")


def panel_of(
    job: jobs.Plan, metrics: runs.Metrics, broken: Collection[int], metric: str = "episode_return"
) -> report.Panel:
    """The curves of a job, one a configuration, of the seeds that are not broken."""
    seeds, values = len(job.keys), metrics.columns[metric]
    counts = metrics.columns["episodes"] if metric.startswith("episode_") else np.where(np.isnan(values), 0, 1)
    curves = []
    for index, label in enumerate(job.labels):
        sound = [run for run in range(index * seeds, (index + 1) * seeds) if run not in broken]
        shape = (len(metrics.steps), len(sound))
        episodes, scores = counts[:, sound].reshape(shape), values[:, sound].reshape(shape)
        final = statistics.last_returns(episodes, scores, ENOUGH)
        curves.append(report.Curve(label, metrics.steps, report.smoothed(episodes, scores), final, seeds - len(sound)))
    return report.Panel(job.title, ", ".join(job.swept), curves)


def _announce(job: jobs.Plan, devices: list[Any], first: int = 0) -> None:
    sweep = f"{len(job.grid)} configurations x " if len(job.grid) > 1 else ""
    count, platform = len(devices), devices[0].platform
    report.note(
        f"{job.title}: {sweep}{len(job.keys)} seeds, {job.num_updates:,} iterations of {job.steps_per_update:,} steps "
        f"= {job.num_updates * job.steps_per_update:,} steps each"
        + (f", going on from iteration {first:,}" if first else "")
        + f", on {count} {platform} device{'s' if count > 1 else ''}"
    )


def _cache(wanted: bool) -> None:
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)


def train(
    job: jobs.Plan, directory: Path | None, devices: int | None, save_every: float, compilation_cache: bool
) -> None:
    """Run a plan in a new directory."""
    _cache(compilation_cache)
    used = jobs.usable_devices(devices, job.num_runs)
    stem = lambda name: Path(name.rpartition(".py:")[0] or name).name
    directory = directory or report.unused(Path("runs") / f"{stem(job.config['agent'])}-{stem(job.config['env'])}")
    _begin(job, directory, used, save_every)


def _begin(job: jobs.Plan, directory: Path, devices: list[Any], save_every: float) -> None:
    """Make a new directory, and train in it from the start."""
    made = runs.made_with(devices, job.num_runs, job.files)
    runs.create(directory, job.config, {"made_with": made, "resumed": [], "parameters": []})
    with runs.locked(directory):
        _announce(job, devices)
        go(job, directory, devices, save_every)


def resume(
    directory: Path,
    steps: int | None,
    anneal_steps: float | None,
    devices: int | None,
    save_every: float,
    compilation_cache: bool,
) -> None:
    """Go on with a run: to the steps that it was planned for, or to more.

    Raises:
      ValueError: if there is nothing to go on from or with.
    """
    _cache(compilation_cache)
    job, manifest = jobs.of_directory(directory), runs.read_manifest(directory)
    with runs.locked(directory):
        found = checkpoint.newest(directory / runs.CHECKPOINTS, like(job))
        saved, first = None, 0
        if found:
            state, notes, damaged = found
            first = int(np.max(np.asarray(state.iteration)))
            saved = first, state, notes
            for path, wrong in damaged:
                path.rename(path.with_name(path.name + ".damaged"))
                report.note(f"{wrong}; going on from iteration {first} instead")
        if steps is not None or anneal_steps is not None:
            job = _longer(job, first, steps, anneal_steps)
        used = jobs.usable_devices(devices, job.num_runs)
        differs = runs.differences(manifest["made_with"], runs.made_with(used, job.num_runs, job.files))
        if differs and first:
            change = {"iteration": first, "differs": {name: [old, new] for name, old, new in differs}}
            runs.write_json(directory / runs.MANIFEST, {**manifest, "resumed": [*manifest["resumed"], change]})
        if steps is not None or anneal_steps is not None:
            runs.write_json(directory / runs.CONFIG, {"format": runs.FORMAT, **job.config})
        _announce(job, used, first)
        go(job, directory, used, save_every, saved)


def _longer(job: jobs.Plan, first: int, steps: int | None, anneal_steps: float | None) -> jobs.Plan:
    """The job with other totals from an iteration on; horizons stay where they are unless they are given."""
    config, reached = dict(job.config), first * job.steps_per_update
    if steps is not None:
        if steps < reached:
            raise ValueError(f"--steps is {steps}; it is the total, and the run has {reached:,} steps already")
        config["steps"] = steps
    horizon = getattr(job.hp(first), "anneal_steps", None)
    if anneal_steps is not None:
        if horizon is None:
            raise ValueError(f"--anneal-steps is {anneal_steps:g}; nothing is annealed in this run")
        dataclasses.replace(job.grid[0], anneal_steps=anneal_steps)  # is it in its range?
        config["horizons"] = [*config["horizons"], {"iteration": first, "anneal_steps": anneal_steps}]
    elif steps is not None and horizon is not None:
        ends = np.unique(np.asarray(horizon))
        over = "; from there on the learning rate is 0" if steps > ends.max() else ""
        text = ", ".join(f"{end:,.0f}" for end in ends)
        report.note(f"anneal_steps stays at {text}{over} (--anneal-steps changes it)")
    return jobs.plan(config)


def repeat(directory: Path, to: Path | None, devices: int | None, save_every: float, compilation_cache: bool) -> bool:
    """Run a directory's config again in the same layout: whether every run's parameters have the same hash.

    Raises:
      ValueError: if the run has nothing yet to compare with.
    """
    _cache(compilation_cache)
    job, before = jobs.of_directory(directory, same_files=False), runs.read_manifest(directory)
    wanted = before["parameters"]
    if not wanted:
        raise ValueError(f"{directory} has no hashes to compare with yet: `purerl resume {directory}` first")
    layout = before["made_with"]["num_devices"]
    used = jobs.usable_devices(devices or min(layout, len(jax.devices())), job.num_runs)
    if len(used) != layout:
        report.note(f"the run was made on {layout} devices, this is on {len(used)}: rounding may differ")
    job = job._replace(num_updates=max(run["iteration"] for run in wanted))
    to = to or report.unused(directory.with_name(directory.name + "-repeat"))
    _begin(job, to, used, save_every)
    now = runs.read_manifest(to)
    other = [old["run"] for old, new in zip(wanted, now["parameters"], strict=True) if old["sha256"] != new["sha256"]]
    if not other:
        report.say(f"identical: the parameters of all {job.num_runs} runs have the SHA-256 that {directory} has")
        return True
    report.say(f"different: {len(other)} of {job.num_runs} runs, {', '.join(job.name_of(run) for run in other[:8])}"
               + (", ..." if len(other) > 8 else ""))  # fmt: skip
    resumed = [
        (f"{name} (resumed at {change['iteration']})", old, new)
        for change in before["resumed"]
        for name, (old, new) in change["differs"].items()
    ]
    report.compared([*runs.differences(before["made_with"], now["made_with"]), *resumed])
    return False
