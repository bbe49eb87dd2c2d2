"""Where a benchmark's results go, and how one's own compare with those in the repository, seed by seed.

Results in the repository change by `--record` only. Otherwise a script reads and writes its results in a folder of
one's own, `--out`, by default `runs/benchmarks/NAME`, and shows them beside those of the repository.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROUNDING = 1e-4  # of the larger number, or of 1: results are stored with four decimals


class Place(NamedTuple):
    """The folders of a benchmark's results."""

    own: Path  # where results are read and written
    recorded: Path  # those of the repository
    reports: bool  # only a table is wanted

    @property
    def shown(self) -> Path:
        """The folder of the results that the table shows."""
        return self.recorded if self.reports else self.own


def options(parser: argparse.ArgumentParser, recorded: Path, name: str | None = None, report: bool = True) -> None:
    """Add `--out`, `--record` and `--report`; `recorded`: the folder in the repository."""
    default = ROOT / "runs" / "benchmarks" / (name or recorded.name)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=default, help=f"folder of your results [{_short(default)}]")
    where.add_argument(
        "--record",
        action="store_true",
        help="change the results in the repository, compute those that are missing there",
    )
    if report:
        parser.add_argument("--report", action="store_true", help="compute nothing: the table of recorded results")
    parser.set_defaults(recorded=recorded)


def count(text: str) -> int:
    """A number of at least 1, of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def place(given: argparse.Namespace) -> Place:
    """The folders that the options name; the own one is made."""
    own = given.recorded if given.record else given.out
    own.mkdir(parents=True, exist_ok=True)
    return Place(own, given.recorded, getattr(given, "report", False))


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def save(path: Path, record: Any, indent: int | None = 1) -> None:
    """Write JSON; a file is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=indent) + "\n")
    part.replace(path)


def made_with(*packages: str) -> dict[str, Any]:
    """Versions of purerl, of what it computes with and of further packages, and the devices, for a record."""
    import jax  # some scripts that import this start other libraries alone

    names = "purerl", "jax", "jaxlib", "numpy", *packages
    return {
        "versions": {name: version(name) for name in names},
        "device": f"{jax.devices()[0].device_kind} x {jax.device_count()}, {platform.machine()}",
    }


def read(path: Path, default: Any = None) -> Any:
    """The contents of a JSON file, or the default if there is none."""
    return json.loads(path.read_text()) if path.exists() else default


def nothing_computed(place: Place, what: str) -> None:
    """Say that nothing is computed, and how to compute."""
    if place.reports:
        text = "--report computes nothing; leave it out to compute results of your own"
    elif place.own == place.recorded:
        text = (
            f"nothing is computed: {what} is recorded in {_short(place.recorded)}; remove files there to compute again"
        )
    else:
        text = (
            f"nothing is computed: {what} is in {_short(place.own)}; remove it, or give another --out, to compute again"
        )
    print(text, file=sys.stderr)


def _numbers(x: Any) -> Iterator[float | str]:
    if isinstance(x, Mapping):
        for name in sorted(x):
            yield name
            yield from _numbers(x[name])
    elif isinstance(x, list | tuple):
        yield f"{len(x)}"
        for part in x:
            yield from _numbers(part)
    else:
        yield math.nan if x is None else x


def compared(own: Any, recorded: Any) -> str:
    """How two results of a seed, trees of numbers, compare: "same bits", "same within rounding" or "different".

    Same bits means that every stored digit is the same, and the hash of the parameters if both have one.

    >>> compared({"value": 1.0, "curve": [None, 2]}, {"value": 1.0, "curve": [None, 2]})
    'same bits'
    >>> compared([1.0, 300.0], [1.0001, 300.02]), compared([1.0], [1.1]), compared([1.0], [1.0, 2.0])
    ('same within rounding', 'different', 'different')
    """
    a, b = list(_numbers(own)), list(_numbers(recorded))
    equal = lambda x, y: x == y or (x != x and y != y)
    if len(a) != len(b):
        return "different"
    if all(map(equal, a, b)):
        return "same bits"
    if any(isinstance(x, str) or isinstance(y, str) for x, y in zip(a, b, strict=True) if not equal(x, y)):
        return "different"
    close = lambda x, y: equal(x, y) or abs(x - y) <= ROUNDING * max(1.0, abs(x), abs(y))
    return "same within rounding" if all(map(close, a, b)) else "different"


class Seed(NamedTuple):
    """The result of one seed: the number that a table shows, and all that is compared."""

    value: float
    everything: Any = ()
    sha256: str | None = None  # of the parameters


def beside(own: Mapping[str, Mapping[Any, Seed]], recorded: Mapping[str, Mapping[Any, Seed]]) -> list[str]:
    """A table in Markdown of one's own seeds beside the recorded ones: `{name: {seed: Seed}}`."""
    lines, counts = [], dict.fromkeys(("same bits", "same within rounding", "different", "not recorded"), 0)
    for name, seeds in own.items():
        for seed, mine in seeds.items():
            theirs = recorded.get(name, {}).get(seed)
            if theirs is None:
                how, number = "not recorded", ""
            else:
                number, how = f"{theirs.value:.6g}", compared(mine[:2], theirs[:2])
                if mine.sha256 and theirs.sha256 and how == "same bits" and mine.sha256 != theirs.sha256:
                    how = "same within rounding"
            counts[how] += 1
            lines.append(f"| {name} | {seed} | {mine.value:.6g} | {number} | {how} |")
    if not lines:
        return []
    head = ["", "| yours beside the recorded | seed | yours | recorded | |", "|---|---|---|---|---|"]
    total = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    more = []
    if counts["different"]:
        more = ["The same bits need the same versions, processor, and number of seeds trained at once on a device."]
    return [*head, *lines, "", f"{total}.", *more]
