"""Training in a run's directory: train, resume, repeat."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import training
from purerl.runs import checkpoint, files, learned, loggers, milestones, populations, report
from purerl.runs.devices import usable_devices
from purerl.runs.plan import Plan, Watch, like, used_of_schedules
from purerl.runs.plans import plan_of_directory, plan_with
from purerl.runs.progress import Progress
from purerl.runs.record import Record, held, holds_nan, not_numbers, panel_of
from purerl.runs.resized import resize, resized
from purerl.runs.sources import COPIES, copies_of
from purerl.runs.stopped import Stopped
from purerl.runs.stream import Chunk, Interrupts, results_so_far, stream, stream_of, stride
from purerl.training import processes

Start = tuple[dict[str, np.ndarray], dict[str, str]]


def _exchanged(plan: Plan, directory: Path, record: Record, iteration: int, state: Any) -> Any:
    """The state of a population after the exchange at an iteration, which is in its config before it is trained on."""
    change = populations.recorded(plan, iteration)
    if change is None:
        broken = np.asarray(holds_nan(state.agent)) | (np.asarray(state.nonfinite) > 0)
        change = populations.change(plan, record.iterations, record.rows, broken)
        plan.config["horizons"].append(change)
        files.write_config(directory, plan.config)
    parent = np.array(change["exchange"]["parent"])
    record.replace(parent)
    return state if (parent == np.arange(len(parent))).all() else populations.copied(state, parent)


def _chunks(
    plan: Plan,
    directory: Path,
    devices: list[Any],
    progress: Progress,
    first: int,
    state: Any,
    record: Record,
    per_seed: int,
) -> Iterator[Chunk]:
    """The rest of a plan, from an iteration and its state on, in parts: between them hyperparameters change.

    Runs that are not live are skipped by the same program if runs are isolated, and otherwise left out of the batch.
    """
    begin, exchanges = first, populations.exchanges(plan)
    changes = sorted({change["iteration"] for change in plan.config["horizons"]} | {*exchanges, plan.num_updates})
    for stop in [at for at in changes if first < at <= plan.num_updates]:
        if first in exchanges:
            state = _exchanged(plan, directory, record, first, state)
        keys = plan.run_keys() if state is None else None
        count, chunk, hp = stop - first, None, plan.hp(first)
        isolate, live = bool(plan.config.get("isolate_seeds")), lambda: record.mask(record.ended)
        job = count, plan.every, progress
        if state is None or isolate or plan.live is None or plan.live.all():
            again = {"live": live, "first": first == begin, "devices_per_run": per_seed}
            chunks = stream(plan.make, hp, plan.num_runs, devices, *job, keys, state, isolate, **again)
        else:
            chunks = stream_of(plan.live, plan.make, hp, devices, *job, state)
        for chunk in chunks:
            yield chunk
        first, state = stop, jax.tree.map(lambda x: x[: plan.num_runs], chunk.state) if chunk else state


def _save(
    plan: Plan, directory: Path, record: Record, iteration: int, state: Any, progress: Progress, keep: bool = False
) -> dict:
    leaves = record.leaves(state)
    for text in record.call_broken(np.where(not_numbers(leaves, plan.num_runs), iteration, 0)):
        progress.note(text)
    if not processes.is_first():
        return leaves
    if (directory / files.METRICS).exists():
        checkpoint.sync(directory / files.METRICS)
    checkpoint.add(directory / files.CHECKPOINTS, iteration, leaves, record.notes())
    if keep:
        milestones.keep(directory / files.CHECKPOINTS, iteration)
    return leaves


def hashed(plan: Plan, directory: Path, record: Record, leaves: dict, progress: Progress) -> None:
    """Write the hashes of what every run learned into the manifest; the least at the end of `execute`."""
    del record, progress
    manifest = files.read_manifest(directory)
    iterations, hashes = leaves[".iteration"], files.hashes(leaves, plan.num_runs)
    manifest["parameters"] = [
        {"run": run, **{name: values[run] for name, values in plan.about().items()},
         "iteration": int(iterations[run]), "sha256": hashes[run]}
        for run in range(plan.num_runs)
    ]  # fmt: skip
    files.write_json(directory / files.MANIFEST, manifest)


def reported(plan: Plan, directory: Path, record: Record, leaves: dict, progress: Progress, table: bool = True) -> None:
    """Write the hashes and the learning curve, and print the cost, what there is to note, and the table."""
    hashed(plan, directory, record, leaves, progress)
    metrics = files.read_metrics(directory / files.METRICS, plan.num_runs)
    panel, metric = panel_of(plan, metrics, record.broken, plan.metric), plan.metric.replace("_", " ")
    if table:
        report.table(panel, metric)
    report.cost((record.iterations[-1] - progress.first) * plan.num_runs * plan.steps_per_update, progress)
    for run, iteration in record.broken.items():
        report.note(
            f"{plan.name_of(run)}: not finite from iteration {iteration} on; excluded from the table and the curve"
        )
    there, full = held(leaves) or (0, 0)
    if there < full:
        report.note(
            f"the replay buffer holds {there:,} steps and has room for {full:,}: so many episodes are truncated that "
            "it lost the successors of older ones; a larger --capacity holds more"
        )
    if record.ended:
        goal = plan.config.get("stop_when")
        why = "stopped early" if goal is None else f"ended at a return of {goal:g}"
        report.note(f"{len(record.ended)} of {plan.num_runs} runs {why}")
    panels = [panel]
    if milestones.METRIC in metrics.columns:
        greedy = panel_of(plan, metrics, record.broken, milestones.METRIC)
        panels.append(greedy._replace(title=f"{plan.title}, greedy"))
        if (best := milestones.best_scores(directory / files.CHECKPOINTS)) is not None:
            scores = ", ".join(f"{x:.1f}" for x in best)
            report.note(f"best greedy return of each run: {scores} (--checkpoint best)")
    report.picture(directory / files.CURVE, panels, metric, unit=plan.unit)
    report.note(f"run: {directory}  (learning curve: {directory / files.CURVE})")


def execute(
    plan: Plan,
    directory: Path,
    devices: list[Any],
    save_every: float,
    saved: Any = None,
    finish: Callable[[Plan, Path, Record, dict, Progress], None] = reported,
    devices_per_seed: int = 1,
) -> Record:
    """Train the rest of a plan in its directory, until its end or until it is interrupted.

    Of several processes each calls this, and the first one writes.

    Args:
      saved: `(iteration, state, notes)` of a checkpoint; None starts from the beginning.
      finish: what is written and printed at the end, such as `hashed`.
    Raises:
      Stopped: if it was interrupted; the state up to there is on disk.
      OSError: if the disk is full; the last checkpoint is intact.
    """
    first, state, notes = saved or (0, None, {})
    csv_file = directory / files.METRICS
    processes.by_first(files.cut_metrics, csv_file, first)
    record = Record(plan, files.read_metrics(csv_file, plan.num_runs), notes)
    about_start = {"checkpoint": first, "rows of metrics": len(record.rows), "ended runs": record.notes()}
    processes.check_same("run directories", about_start)
    if state is not None:
        record.keep(record.ended, state)
    alive = record.mask(record.ended, record.broken).any()
    leaves = record.leaves(state) if state is not None and (first >= plan.num_updates or not alive) else {}
    shown_every = stride(plan.num_updates, plan.every)
    about, names = plan.about(), [plan.name_of(run) for run in range(plan.num_runs)]
    stands, reached, interrupted, last_save = first, first, False, time.perf_counter()
    name = {} if plan.metric == "episode_return" else {"result": plan.metric.replace("_", " ")}
    trained = int(record.mask(record.ended).sum())
    progress = Progress(plan.num_updates, trained * plan.steps_per_update, first=first, **name)
    watch = plan.watch or Watch()
    del saved
    try:
        with (
            progress,
            Interrupts(progress.note) as interrupts,
            loggers.opened(directory, plan.config, first * plan.steps_per_update) as log,
        ):
            job = plan, directory, devices, progress, first, state, record, devices_per_seed
            for chunk in _chunks(*job) if not leaves else ():
                state = None  # it was donated
                chunk = chunk._replace(metrics={**chunk.metrics, **watch.measure(chunk.state)})
                live, steps = record.mask(record.ended), chunk.iteration * plan.steps_per_update
                for text in record.add(chunk):
                    progress.note(text)
                if processes.is_first():
                    files.append_metrics(csv_file, chunk.iteration, steps, about, chunk.metrics, live)
                row = lambda run, metrics=chunk.metrics: {name: float(x[run]) for name, x in metrics.items()}
                log(steps, {names[run]: row(run) for run in np.flatnonzero(live)})
                sound = record.mask(record.ended, record.broken)
                over = chunk.iteration == plan.num_updates or not sound.any()
                if len(record.rows) % shown_every == 0 or over:
                    result = results_so_far(record.rows[-10 * shown_every :], plan.metric)[sound]
                    progress.update(chunk.iteration, float(result.mean()) if len(result) else np.nan)
                late = processes.is_first() and time.perf_counter() - last_save >= save_every
                asked, due = processes.any_of(interrupts.asked, late)
                interrupted = asked and not over
                settled = partial(record.settled, chunk.state)
                for text in watch.after(directory, record.rows, settled, over or interrupted):
                    progress.note(text)
                if milestones.METRIC in chunk.metrics:
                    now = lambda state=chunk.state: record.leaves(state)
                    best = chunk.metrics[milestones.METRIC], live & record.mask(record.broken), now, record.notes()
                    milestones.keep_best(directory / files.CHECKPOINTS, *best)
                size = plan.steps_per_update
                keep = milestones.is_due(plan.config.get("keep_every"), reached * size, chunk.iteration * size)
                reached = chunk.iteration
                if over or interrupted or keep or due:
                    leaves = _save(plan, directory, record, chunk.iteration, chunk.state, progress, keep)
                    stands, last_save = chunk.iteration, time.perf_counter()
                if over or interrupted:
                    break
                leaves = {}  # their buffers are overwritten by the next chunk
    except KeyboardInterrupt:
        text = f"stopped at once; iteration {stands} is on disk: {report.to_resume(directory)}"
        raise Stopped(text, at_once=True) from None
    except OSError as error:
        raise OSError(f"{error}; iteration {stands} is on disk: {report.to_resume(directory)}") from error
    if not record.mask(record.ended, record.broken).any():
        report.note("every run has ended or is broken: no run is left to train")
    processes.by_first(finish, plan, directory, record, leaves, progress)
    if interrupted:
        raise Stopped(f"stopped and saved at iteration {stands} of {plan.num_updates}: {report.to_resume(directory)}")
    return record


def _announce(plan: Plan, devices: list[Any], first: int = 0) -> None:
    sweep = f"{len(plan.grid)} configurations x " if len(plan.grid) > 1 else ""
    count, platform = len(devices), devices[0].platform
    report.note(
        f"{plan.title}: {sweep}{report.counted(len(plan.keys), 'seed')}, {plan.num_updates:,} iterations of "
        f"{plan.steps_per_update:,} steps "
        f"= {plan.num_updates * plan.steps_per_update:,} steps each"
        + (f", resuming from iteration {first:,}" if first else "")
        + f", on {report.counted(count, f'{platform} device')}"
        + (f" of {processes.count()} processes" if processes.count() > 1 else "")
    )
    if text := used_of_schedules(plan):
        report.note(text)


def train(
    plan: Plan,
    directory: Path | None,
    devices: int | None,
    save_every: float,
    start: Start | None = None,
    devices_per_seed: int = 1,
) -> Path:
    """Run a plan in a new directory, and return it.

    start: what another run learned, see `learned.learned`, and what the manifest says of it.
    """
    used = usable_devices(devices, plan.num_runs, devices_per_seed)
    directory = Path(processes.agreed_text(str(directory or report.unused(Path("runs") / plan.name))))
    _begin(plan, directory, used, save_every, start, devices_per_seed)
    return directory


def create(
    plan: Plan, directory: Path, devices: list[Any], start: Start | None = None, devices_per_seed: int = 1
) -> None:
    """Create the directory of a new run; start: see `train`."""
    made = files.made_with(devices, plan.num_runs, plan.files, devices_per_seed)
    manifest = {"made_with": made, "env_params": plan.env_record(), "resumed": [], "parameters": []}
    copies = [(plan.files[name], copy) for name, copy in copies_of(plan.files).items()]
    files.create(directory, plan.config, manifest | ({"initial": start[1]} if start else {}), copies)
    if start:
        checkpoint.save(directory / learned.FILE, start[0])


def _begin(
    plan: Plan,
    directory: Path,
    devices: list[Any],
    save_every: float,
    start: Start | None = None,
    devices_per_seed: int = 1,
) -> None:
    """Create a new directory, and train in it from the start."""
    _check_set_up(plan, devices, devices_per_seed)
    processes.by_first(create, plan, directory, devices, start, devices_per_seed)
    with _locked(directory):
        _announce(plan, devices)
        saved = learned.saved(plan, directory)
        execute(plan, directory, devices, save_every, saved, devices_per_seed=devices_per_seed)


def _check_set_up(plan: Plan, devices: list[Any], devices_per_seed: int) -> None:
    """Raise a ValueError unless the environments can be split, and all processes have the same plan and versions."""
    if devices_per_seed > 1:
        make = training.batch(plan.make, devices, bool(plan.config.get("isolate_seeds")), devices_per_seed)
        jax.eval_shape(lambda keys: make(plan.grid[0]).init(keys), plan.keys[np.zeros(len(devices), int)])
    if processes.count() > 1:
        here = ("processor", "system", "commit")  # may differ from machine to machine
        made = {k: x for k, x in files.made_with(devices, plan.num_runs, plan.files).items() if k not in here}
        processes.check_same("set-ups", made | {"env_params": plan.env_record()} | plan.config)


def _locked(directory: Path) -> contextlib.AbstractContextManager[None]:
    """`files.locked`, by the process that writes."""
    return files.locked(directory) if processes.is_first() else contextlib.nullcontext()


def newest(plan: Plan, directory: Path) -> tuple[int, Any, dict[str, str]] | None:
    """The iteration, state and notes of the newest intact checkpoint, or None; damaged ones are renamed."""
    found = checkpoint.newest(directory / files.CHECKPOINTS, like(plan))
    if found is None:
        return None
    state, notes, damaged = found
    first = int(np.max(np.asarray(state.iteration)))
    for path, wrong in damaged:
        path.rename(path.with_name(path.name + ".damaged"))
        report.note(f"{wrong}; resuming from iteration {first} instead")
    return first, state, notes


def resume(
    directory: Path,
    steps: int | None,
    anneal_steps: float | None,
    devices: int | None,
    save_every: float,
    table: bool = True,
    code: str | None = None,
    num_envs: int | None = None,
    devices_per_seed: int | None = None,
) -> None:
    """Resume a run: to its planned number of steps, or to more.

    Args:
      table: print the table of the results.
      num_envs: another number of environments from here on; the steps of an iteration stay the same.
      devices_per_seed: None: as at the beginning.
      code: the user's files to execute instead of the original ones; see `sources.sources`.
    Raises:
      ValueError: if the directory holds no run, or the arguments do not fit it.
    """
    plan, manifest = plan_of_directory(directory, code=code), files.read_manifest(directory)
    others = plan.env is None or plan.population or plan.config.get("text") or plan.config.get("inner")
    if processes.count() > 1 and others:
        raise ValueError(f"--distributed is for runs of `purerl train`; {directory} is another one")
    each = devices_per_seed or manifest["made_with"].get("devices_per_seed", 1)
    with _locked(directory):
        if num_envs is not None:
            before, plan = plan, resized(plan, num_envs)
            processes.by_first(resize, plan, directory, before)
            manifest = files.read_manifest(directory)
        saved = processes.in_turn(newest, plan, directory)
        first = saved[0] if saved else 0
        saved = saved or learned.saved(plan, directory)
        if steps is not None or anneal_steps is not None:
            plan = _longer(plan, first, steps, anneal_steps)
        used = usable_devices(devices, plan.num_runs, each)
        _check_set_up(plan, used, each)
        differs = files.differences(manifest["made_with"], files.made_with(used, plan.num_runs, plan.files, each))
        elsewhere = {"code": str(Path(code).resolve())} if code not in (None, COPIES) else {}
        writes = processes.is_first()
        if writes and ((differs and first) or elsewhere):
            change = {"iteration": first, "differs": {name: [old, new] for name, old, new in differs}, **elsewhere}
            files.write_json(directory / files.MANIFEST, {**manifest, "resumed": [*manifest["resumed"], change]})
        if writes and (steps is not None or anneal_steps is not None):
            files.write_config(directory, plan.config)
        _announce(plan, used, first)
        execute(plan, directory, used, save_every, saved, partial(reported, table=table), each)


def _longer(plan: Plan, first: int, steps: int | None, anneal_steps: float | None) -> Plan:
    """The plan with other totals from an iteration on; horizons stay the same unless they are given."""
    config, reached = dict(plan.config), first * plan.steps_per_update
    if steps is not None:
        if steps < reached:
            raise ValueError(f"--steps is {steps}; it is the total, and the run has {reached:,} steps already")
        config["steps"] = steps
    horizon = getattr(plan.hp(first), "anneal_steps", None)
    if anneal_steps is not None:
        if horizon is None:
            raise ValueError(f"--anneal-steps is {anneal_steps:g}; nothing is annealed in this run")
        dataclasses.replace(plan.grid[0], anneal_steps=anneal_steps)  # raises if it is out of range
        config["horizons"] = [*config["horizons"], {"iteration": first, "anneal_steps": anneal_steps}]
    elif steps is not None and horizon is not None:
        ends = np.unique(np.asarray(horizon))
        over = "; from there on the learning rate is 0" if steps > ends.max() else ""
        text = ", ".join(f"{end:,.0f}" for end in ends)
        report.note(f"anneal_steps stays at {text}{over} (--anneal-steps changes it)")
    return plan_with(config, plan.files)


def repeat(directory: Path, to: Path | None, devices: int | None, save_every: float, code: str | None = None) -> bool:
    """Run a directory's config again on as many devices; return whether the parameters of every run have the same hash.

    Args:
      code: the user's files to execute instead of the original ones; see `sources.sources`.
    Raises:
      ValueError: if the run has no hashes yet.
    """
    plan, before = plan_of_directory(directory, same_files=False, code=code), files.read_manifest(directory)
    wanted = before["parameters"]
    if not wanted:
        raise ValueError(f"{directory} has no hashes to compare with yet: `{report.to_resume(directory)}` first")
    layout, each = before["made_with"]["num_devices"], before["made_with"].get("devices_per_seed", 1)
    used = usable_devices(devices or min(layout, len(jax.devices())), plan.num_runs, each)
    if len(used) != layout:
        report.note(f"the run was made on {layout} devices, this is on {len(used)}: rounding may differ")
    plan = plan._replace(num_updates=max(run["iteration"] for run in wanted))
    to = to or report.unused(directory.with_name(directory.name + "-repeat"))
    path = directory / learned.FILE
    start = (checkpoint.read(path)[0], before.get("initial", {})) if path.is_file() else None
    _begin(plan, to, used, save_every, start, each)
    now = files.read_manifest(to)
    other = [old["run"] for old, new in zip(wanted, now["parameters"], strict=True) if old["sha256"] != new["sha256"]]
    differs = files.differences(before["made_with"], now["made_with"])
    if not other:
        report.say(
            f"identical: the parameters of {report.counted(plan.num_runs, 'run')} have the SHA-256 that {directory} has"
        )
        if changed := [name.removeprefix("file ") for name, _, _ in differs if name.startswith("file ")]:
            report.note(f"changed since that run was made, without effect on them: {', '.join(changed)}")
        return True
    report.say(f"different: {len(other)} of {plan.num_runs} runs, {', '.join(plan.name_of(run) for run in other[:8])}"
               + (", ..." if len(other) > 8 else ""))  # fmt: skip
    resumed = [
        (f"{name} (resumed at {change['iteration']})", old, new)
        for change in before["resumed"]
        for name, (old, new) in change["differs"].items()
    ]
    report.compared([*differs, *resumed])
    return False
