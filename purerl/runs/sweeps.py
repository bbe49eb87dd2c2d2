"""Sweeps over structure: one program for each value, in folders of one directory, and one table."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from purerl.runs import checkpoint, execute, files, report
from purerl.runs.arguments import Sweep
from purerl.runs.devices import usable_devices
from purerl.runs.plans import plan_of
from purerl.runs.record import noted, outline_of, panel_of
from purerl.runs.stopped import Stopped
from purerl.training import processes


class Point(NamedTuple):
    """A config in which every option has one value, and the values of those that had several."""

    values: dict[str, Any]
    config: dict[str, Any]


def points_of(config: dict[str, Any]) -> list[Point]:
    """Every combination of the values of the options that have several; a single point if none has."""
    own = config["hyperparameters"]
    swept = {name: x.values for part in (config, own) for name, x in part.items() if isinstance(x, Sweep)}
    points = []
    for combination in itertools.product(*swept.values()):
        chosen = dict(zip(swept, combination, strict=True))
        fixed = lambda part, chosen=chosen: {name: chosen.get(name, x) for name, x in part.items()}
        points.append(Point(chosen, {**fixed(config), "hyperparameters": fixed(own)}))
    return points


def short(value: Any) -> str:
    """A value of an option in a table and in a folder's name.

    >>> short((64, 64)), short(4), short("parts/own.py:torso")
    ('64-64', '4', 'own.py:torso')
    """
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value).rpartition("/")[2]


def folder(values: dict[str, Any]) -> str:
    """The name of the folder of a member, from the values by which it differs."""
    return re.sub(r"[^\w.,=-]", "-", ",".join(f"{name}={short(value)}" for name, value in values.items()))


def members(directory: Path) -> list[tuple[dict[str, str], Path]]:
    """The runs of a directory and the values by which they differ: the directory itself, or the folders of a sweep."""
    stored = files.read_config(directory) if (directory / files.CONFIG).is_file() else {}
    files.check_no_search(directory, stored)
    if stored.get("kind") != files.SWEEP:
        return [({}, directory)]
    found = stored.get("members")
    if not isinstance(found, dict) or not all(_sound(name, values) for name, values in found.items()):
        raise ValueError(f"{directory / files.CONFIG} is not that of a sweep: members is missing or malformed")
    return [(dict(values), directory / name) for name, values in found.items()]


def _sound(name: str, values: Any) -> bool:
    return Path(name).name == name and isinstance(values, dict) and all(isinstance(x, str) for x in values.values())


def said(values: dict[str, Any]) -> str:
    """The values of a member, for a line of text."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


@contextlib.contextmanager
def as_one(directory: Path, member: Path) -> Iterator[None]:
    """An interrupted member is resumed with the others."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(str(stopped).replace(str(member), str(directory)), stopped.at_once) from None


def train(
    points: Sequence[Point], directory: Path | None, devices: int | None, devices_per_seed: int = 1, **how: Any
) -> Path:
    """Train one program for each point, one after another, in folders of a new directory, and return it.

    A single point is a run as any other.
    """
    if len(points) == 1:
        how |= {"devices": devices, "devices_per_seed": devices_per_seed}
        return execute.train(plan_of(points[0].config), directory=directory, **how)
    names, plans = [folder(point.values) for point in points], [plan_of(point.config) for point in points]
    if twice := sorted(name for name in names if names.count(name) > 1):
        raise ValueError(f"{twice[0]} is given twice; the values of a sweep must differ")
    directory = Path(processes.agreed_text(str(directory or report.unused(Path("runs") / plans[0].name))))
    values = [{name: short(value) for name, value in point.values.items()} for point in points]
    processes.by_first(files.create_sweep, directory, dict(zip(names, values, strict=True)))
    for name, plan in zip(names, plans, strict=True):
        used = usable_devices(devices, plan.num_runs, devices_per_seed)
        processes.by_first(execute.create, plan, directory / name, used, None, devices_per_seed)
    report.note(f"{len(points)} programs, one after another: {'; '.join(map(said, values))}")
    resume(directory, steps=None, anneal_steps=None, devices=devices, **how)
    return directory


def resume(directory: Path, steps: int | None, anneal_steps: float | None, **how: Any) -> None:
    """Resume a run, or every run of a sweep that is not complete; see `execute.resume`."""
    found = members(directory)
    if found[0][1] == directory:
        execute.resume(directory, steps, anneal_steps, **how)
        return
    if how.get("num_envs") is not None and found[0][0].keys() & {"num_envs", "rollout_length"}:
        raise ValueError(f"--num-envs is {how['num_envs']}; this sweep is over {', '.join(found[0][0])}: name one run")
    for values, member in found:
        if steps is None and anneal_steps is None and complete(member):
            continue
        report.note(f"{said(values)}:")
        with as_one(directory, member):
            execute.resume(member, steps, anneal_steps, table=False, **how)
    if not processes.is_first():
        return
    shown = panel(directory)
    report.table(shown)
    report.picture(directory / files.CURVE, [shown])
    report.note(f"sweep: {directory}  (learning curves: {directory / files.CURVE})")


def complete(member: Path) -> bool:
    """Whether a run has all of its planned steps."""
    stored, reached = files.read_config(member), files.read_manifest(member)["parameters"]
    planned = stored["steps"] // (stored["num_envs"] * stored["rollout_length"])
    return bool(reached) and max(run["iteration"] for run in reached) >= planned


def repeat(directory: Path, to: Path | None, **how: Any) -> bool:
    """Repeat a run, or every run of a sweep; return whether all parameters have the same hashes."""
    found = members(directory)
    if found[0][1] == directory:
        return execute.repeat(directory, to, **how)
    to = to or report.unused(directory.with_name(directory.name + "-repeat"))
    files.create_sweep(to, {member.name: values for values, member in found})
    return all([execute.repeat(member, to / member.name, **how) for _, member in found])


def panel(directory: Path, metric: str = "episode_return") -> report.Panel:
    """The curves of a run, or of all runs of a sweep.

    Raises:
      ValueError: if a run has no such metric.
    """
    panels, names = [], []
    for values, member in members(directory):
        plan = outline_of(member)
        metrics = files.read_metrics(member / files.METRICS, plan.num_runs)
        if metric not in metrics.columns:
            allowed = ", ".join(n for n in metrics.columns if n != "seed" and n not in plan.swept)
            raise ValueError(f"--metric is {metric}; {member} has {allowed or 'no metrics yet'}")
        notes = [checkpoint.read(p)[1] for p in checkpoint.paths(member / files.CHECKPOINTS)[:1]]
        one = panel_of(plan, metrics, noted(notes[0] if notes else {}, "broken", plan.num_runs), metric)
        names = [*values, *plan.swept]
        label = lambda curve, values=values: ", ".join(filter(None, [*values.values(), curve.label]))
        panels.append(one._replace(curves=[curve._replace(label=label(curve)) for curve in one.curves]))
    return report.Panel(panels[0].title, ", ".join(names), [curve for one in panels for curve in one.curves])
