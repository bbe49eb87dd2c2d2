"""Population-based training in the directory of a search: the population, its lineage, and the winner's schedule."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import numpy as np

from purerl import replay
from purerl.runs import changes, execute, generations, populations, report, search_report, sweeps
from purerl.runs.devices import usable_devices
from purerl.runs.plan import Plan, like
from purerl.runs.progress import Progress, short
from purerl.runs.record import Record, not_numbers
from purerl.runs.search import Search, command_of, final_of, points_of
from purerl.runs.search_report import Trial, Winner
from purerl.search.pbt import History, most_replaced, schedule

SCHEDULE = "schedule.csv"


def _announce(search: Search, plan: Plan, num_devices: int) -> None:
    population, n = plan.population, plan.num_runs
    assert population is not None
    k = most_replaced(population.fraction, n)
    size = replay.bytes_of(like(plan))
    times = report.counted(len(populations.exchanges(plan)), "exchange")
    report.note(
        f"{plan.title}: a population of {n}, {search.sampler}, {plan.num_updates * plan.steps_per_update:,} steps "
        f"each, {n * plan.num_updates * plan.steps_per_update:,} in all; {times}, of the lowest {k} and the highest "
        f"{k}, every {population.interval // plan.steps_per_update * plan.steps_per_update:,} steps"
    )
    # the compiler gathers the population on every device
    more = f", and {short(num_devices * size)}B more during an exchange" if num_devices > 1 else ""
    report.note(f"a copy is of the whole state, replay included: {short(size / n)}B of {short(size)}B{more}")


def _reported(
    into: Path, found: list[History], plan: Plan, directory: Path, record: Record, leaves: dict, progress: Progress
) -> None:
    """Write the hashes of the members, the table of their generations and its picture."""
    execute.hashed(plan, directory, record, leaves, progress)
    broken = not_numbers(leaves, plan.num_runs) | (leaves[".nonfinite"] > 0)
    past = populations.history(plan, record.iterations, record.rows, broken)
    populations.write(into / populations.TABLE, past)
    if np.isfinite(past.scores[-1]).any():
        title = f"{plan.title}: {plan.num_runs} members; the best and its ancestors are red"
        in_steps = past._replace(iterations=past.iterations * plan.steps_per_update)
        populations.picture(into / populations.PICTURE, in_steps, title=title, unit=plan.unit)
    found.append(past)


def train(search: Search, directory: Path, devices: int | None, save_every: float, code: str | None) -> Winner:
    """Train a population to its end, or go on with it, and return its best member.

    Raises:
      Stopped: if it was interrupted.
      ValueError: if no member has a score.
    """
    (member,) = generations.planned(search, points_of(search), directory, None, code)
    generations.create([member], devices)
    plan, found = member.plan, []
    used = usable_devices(devices, plan.num_runs)
    _announce(search, plan, len(used))
    with sweeps.as_one(directory, member.directory):
        saved = execute.newest(plan, member.directory)
        finish = partial(_reported, directory, found)
        record = execute.execute(plan, member.directory, used, save_every, saved, finish)
    return _winner(search, directory, plan, member.directory.name, found[-1], record)


def _winner(search: Search, directory: Path, plan: Plan, run: str, past: History, record: Record) -> Winner:
    """The best member, its schedule in a file, and the config in which that is trained again."""
    total = plan.num_updates * plan.steps_per_update
    trials = [
        Trial({name: float(x[-1, i]) for name, x in past.hyperparameters.items()}, run, bool(np.isnan(last)), total,
              total, last if np.isfinite(last) else np.nan, float(past.scores[0, i]))
        for i, last in enumerate(past.scores[-1].tolist())
    ]  # fmt: skip
    best = search_report.ordered(trials)[0]
    search_report.check(directory, trials[best])
    search_report.show(search.space, trials, "member")
    begun, values = np.array([0, *past.iterations[:-1]]) * plan.steps_per_update, schedule(past, best)
    changes.write(directory / SCHEDULE, begun.tolist(), {name: x.tolist() for name, x in values.items()})
    config, more = final_of(search, {name: float(x[0]) for name, x in values.items()}), {}
    command, constant = command_of(config), command_of(final_of(search, trials[best].values))
    if command != constant:
        config["horizons"] = changes.read(directory / SCHEDULE, config)
        command += f" --schedules {shlex.quote(str(directory / SCHEDULE))}"
        more = {"constant_command": constant}
    score = populations.score_of_line(past, best, record.iterations, record.rows)
    return Winner(
        trials[best]._replace(score=score), len(trials), config, command, populations.TABLE, {"member": best, **more}
    )
