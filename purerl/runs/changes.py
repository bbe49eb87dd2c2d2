"""Hyperparameters that change along a run, as a CSV file: the steps from which on they hold, and a column for each."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purerl import build
from purerl.agents.parts.declarations import declaration_of
from purerl.hyperparameters import hints_of, is_float
from purerl.runs import files
from purerl.runs.sweeps import Point

STEPS = "steps"


def write(path: Path, steps: Sequence[int], values: Mapping[str, Sequence[float]]) -> None:
    """Write a row for each number of steps at which a value changes."""
    text, before = io.StringIO(), None
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([STEPS, *values])
    for at, *row in zip(steps, *values.values(), strict=True):
        if row != before:
            rows.writerow([at, *row])
        before = row
    files.write(path, text.getvalue())


def scheduled(path: Path, points: Sequence[Point]) -> list[Point]:
    """The points of a sweep, each with the changes of a file; see `read`."""
    return [point._replace(config={**point.config, "horizons": read(path, point.config)}) for point in points]


def read(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The changes of a file for a run, as its config has them under "horizons".

    A change holds from the first iteration on that begins after so many environment steps.

    Args:
      config: of the run, see `plans.plan_of`; what changes has one value there.
    Raises:
      ValueError: if the file is no such table, or its columns or values do not fit the run.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        numbers = [[float(x) for x in row] for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"--schedules is {path}; it cannot be read as a table of numbers: {error}") from error
    if STEPS not in header or len(header) != len({*header}) or {*map(len, numbers)} != {len(header)}:
        raise ValueError(f"--schedules is {path}; it must have a column {STEPS}, one for each hyperparameter, and rows")
    table = [dict(zip(header, row, strict=True)) for row in numbers]
    steps = [row.pop(STEPS) for row in table]
    if steps[0] != 0 or any(b <= a for a, b in itertools.pairwise(steps)) or not math.isfinite(steps[-1]):
        raise ValueError(f"--schedules is {path}; its steps must begin with 0 and increase")
    own = type(declaration_of(build.agent_function(config["agent"])).hp)
    allowed = [name for name, hint in hints_of(own).items() if is_float(hint)]
    for name in table[0]:
        if name not in allowed:
            raise ValueError(f"--schedules is {path}; it has {name}: allowed are {', '.join(allowed)}")
        given = config["hyperparameters"][name]
        if given is not None and (len(given) > 1 or None in given):
            raise ValueError(f"--schedules is {path}; it has {name}, of which one number must be given")
    block = config["num_envs"] * config["rollout_length"]
    for row in table:
        own(**row)  # raises if a value is out of range
    return [{"iteration": math.ceil(at / block), **row} for at, row in zip(steps, table, strict=True)]
