"""Generations of a search on disk: a run's directory for each structure, trained level by level."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purerl import statistics
from purerl.runs import execute, files, report, sweeps
from purerl.runs.devices import usable_devices
from purerl.runs.plan import Plan
from purerl.runs.plans import plan_of_directory, plan_with
from purerl.runs.record import noted
from purerl.runs.search import POPULATION, Search, brackets_of, structures_of
from purerl.runs.search_report import Trial
from purerl.runs.sources import sources
from purerl.search import halving
from purerl.search.designs import Points
from purerl.search.halving import Rung

FOLDER = "generation-"


class Member(NamedTuple):
    """The trials of a generation that share a program."""

    directory: Path
    plan: Plan
    trials: np.ndarray  # their places in the generation


def new_plan(config: dict[str, Any], existing: Path | None, code: str | None) -> Plan:
    """A plan with the files of the user's that another run of the search has, if there is one."""
    if existing is None:
        return plan_with(config, {})
    made = files.read_manifest(existing)["made_with"]["files"]
    return plan_with(config, sources(existing, files.read_config(existing), made, code))


def existing(directory: Path) -> Path | None:
    """A run of a search that has been created, if there is one."""
    found = [*directory.glob(f"{FOLDER}*/*/{files.CONFIG}"), *directory.glob(f"{POPULATION}/{files.CONFIG}")]
    return min(found).parent if found else None


def planned(search: Search, points: Points, folder: Path, other: Path | None, code: str | None) -> list[Member]:
    """The members of a generation, of which some may have a directory already; nothing is written.

    other: a run of the search whose files of the user's new ones have, if there is one.
    """
    members = []
    for name, config, trials in structures_of(search, points):
        if (folder / name / files.CONFIG).is_file():
            plan = plan_of_directory(folder / name, code=code)
        else:
            plan = new_plan(config, other, code)
        members.append(Member(folder / name, plan, np.array(trials)))
    return members


def create(members: Sequence[Member], devices: int | None) -> None:
    """Create the directories of members that have none."""
    for member in members:
        if not (member.directory / files.CONFIG).is_file():
            shutil.rmtree(member.directory, ignore_errors=True)  # its creation was cut off: it holds no training
            execute.create(member.plan, member.directory, usable_devices(devices, member.plan.num_runs))


def _steps(member: Member, level: int) -> int:
    """The iterations of a member up to a level of environment steps, at least one."""
    return max(1, level // member.plan.steps_per_update)


def trained(member: Member, level: int) -> int:
    """The environment steps that a member has been trained at a level."""
    return _steps(member, level) * member.plan.steps_per_update


def _shown(members: Sequence[Member], level: int) -> str:
    """The steps that members have been trained at a level; they may differ where iterations do."""
    return " or ".join(f"{steps:,}" for steps in sorted({trained(member, level) for member in members}))


def announce(search: Search, members: Sequence[Member], generation: int, count: int) -> None:
    """Print what a generation will train: at most, where members have iterations of different lengths."""
    plan, brackets = members[0].plan, brackets_of(search, count)
    rungs = "; ".join(", ".join(f"{n} x {_shown(members, r)}" for n, r in bracket) for bracket in brackets)
    most = [[Rung(n, max(trained(member, r) for member in members)) for n, r in bracket] for bracket in brackets]
    report.note(
        f"{plan.title}: generation {generation}, {report.counted(count, 'trial')} x "
        f"{report.counted(len(plan.keys), 'seed')}, {search.sampler}, {search.schedule}: {rungs} steps, in all "
        f"{halving.cost(most) * len(plan.keys):,}; {report.counted(len(members), 'program')}"
    )


def _train(member: Member, search_directory: Path, level: int, ended: np.ndarray, devices: int | None,
           save_every: float) -> dict[int, int]:  # fmt: skip
    """Train those trials of a member that have not ended, bool `[trials]`, up to a level; return its broken runs."""
    plan, directory = member.plan._replace(num_updates=_steps(member, level)), member.directory
    found = execute.newest(plan, directory)
    first, state, notes = found or (0, None, {})
    broken = noted(notes, "broken", plan.num_runs)
    by_run = np.repeat(ended, len(plan.keys))
    if first >= plan.num_updates or by_run.all():
        return broken
    before = noted(notes, "ended", plan.num_runs)
    notes = {**notes, "ended": json.dumps(dict.fromkeys(np.flatnonzero(by_run).tolist(), first) | before)}
    saved = (first, state, notes) if found else None
    with sweeps.as_one(search_directory, directory):
        used = usable_devices(devices, plan.num_runs)
        return execute.execute(plan._replace(live=~by_run), directory, used, save_every, saved, execute.hashed).broken


def _scores(member: Member, level: int, broken: Mapping[int, int]) -> np.ndarray:
    """The score of each trial of a member at a level: the mean over its seeds of the returns of the last episodes."""
    plan, until = member.plan, _steps(member, level)
    table = files.read_metrics(member.directory / files.METRICS, plan.num_runs)
    here = table.iterations <= until
    of_run = statistics.last_returns(table.columns["episodes"][here], table.columns["episode_return"][here])
    of_run[[run for run, iteration in broken.items() if iteration <= until]] = np.nan
    return of_run.reshape(len(plan.grid), len(plan.keys)).mean(1)


def train(
    search: Search, directory: Path, points: Points, members: Sequence[Member], devices: int | None, save_every: float
) -> list[Trial]:
    """Train a generation to its end, or go on with it, and return its trials.

    Raises:
      Stopped: if it was interrupted.
    """
    brackets, count = brackets_of(search, len(points)), len(points)
    levels, scores = halving.levels(brackets), {}
    mask, broken = np.ones(count, bool), np.zeros(count, bool)
    score, reached = np.full(count, np.nan), np.zeros(count, int)
    for index, level in enumerate(levels):
        scores[level] = np.full(count, np.nan)
        if len(levels) > 1:
            report.note(f"level {index + 1} of {len(levels)}: {mask.sum()} of {count} trials to "
                        f"{_shown(members, level)} steps")  # fmt: skip
        for member in members:
            bad = _train(member, directory, level, ~mask[member.trials], devices, save_every)
            scores[level][member.trials] = _scores(member, level, bad)
            broken[member.trials[[run // len(member.plan.keys) for run in bad]]] = True
        reached[mask], score[mask] = level, scores[level][mask]
        mask = halving.alive(brackets, scores, level)
    member_of = {place: m for m in members for place in m.trials.tolist()}
    steps = [trained(member_of[place], level) for place, level in enumerate(reached.tolist())]
    numbers = zip(broken.tolist(), reached.tolist(), steps, score.tolist(), scores[levels[0]].tolist(), strict=True)
    where = lambda place: str(member_of[place].directory.relative_to(directory))
    return [Trial(points[place], where(place), *of_trial) for place, of_trial in enumerate(numbers)]
