"""What the scripts of this folder share: their command line, and a section each of CONTROL.md, POPULATION.md, TEXT.md.

`recorded` lies one folder above.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import recorded as recorded

HERE = Path(__file__).parent
Found = dict[str, dict[Any, dict[str, Any]]]  # {folder: {name of a file: record}}
# what depends on the machine, on how many seeds are trained together, and on fields that were added later
NOT_COMPARED = {
    "seconds", "seconds_of_all", "seconds_of_all_runs", "runs", "seeds", "versions", "device", "hyperparameters",
}  # fmt: skip


def records(root: Path) -> Found:
    """Every result under a folder; names of files that are seeds are integers, in their order."""
    found: Found = defaultdict(dict)
    for path in sorted(root.rglob("*.json"), key=lambda path: (len(path.stem), path)):
        name = int(path.stem) if path.stem.isdigit() else path.stem
        found[path.parent.relative_to(root).as_posix()][name] = recorded.read(path)
    return found


def write(page: str, name: str, body: str) -> None:
    """Replace what is between `<!-- name -->` and `<!-- /name -->` in a page, or append both at its end."""
    begin, end, path = f"<!-- {name} -->", f"<!-- /{name} -->", HERE / page
    text, new = path.read_text(), f"{begin}\n{body.strip()}\n{end}"
    before, found, rest = text.partition(begin)
    path.write_text(before + new + rest.split(end, 1)[1] if found else f"{text.rstrip()}\n\n{new}\n")


def beside(own: Found, theirs: Found, value: Callable[[dict[str, Any]], float | None]) -> list[str]:
    """`recorded.beside` of the records that have a value."""

    def seed(record):
        compared = {key: x for key, x in record.items() if key not in NOT_COMPARED}
        return recorded.Seed(value(record), compared)

    of = lambda found: {
        name: {key: seed(x) for key, x in files.items() if value(x) is not None} for name, files in found.items()
    }
    return recorded.beside(of(own), of(theirs))


def parser(doc: str | None, seeds: int | None = None, of: str = "arm") -> argparse.ArgumentParser:
    """A command line with `--seeds`, if there is a number of them; `main` adds what all scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds:
        parser.add_argument("--seeds", type=recorded.count, default=seeds, help=f"seeds of each {of} [{seeds}]")
    return parser


def main(
    parser: argparse.ArgumentParser,
    results: str,
    page: str,
    section: str,
    compute: Callable[[Path, argparse.Namespace], Any],
    report: Callable[[Found], str],
    picture: Callable[[Found, Path], None] | None = None,
    value: Callable[[dict[str, Any]], float | None] = lambda record: None,
    seeds: Callable[[Found], Found] = lambda found: found,
    names: Collection[str] = (),
    kind: str = "arm",
    one_device: bool = False,
) -> None:
    """Compute what is missing and show its tables beside what is recorded, or write the section of a page.

    Args:
      results: the name of the folder of results, and of the picture.
      compute: writes the files that are missing under a folder; the names that `--only` leaves are `given.names`.
      report: the section in Markdown.  picture: draws it to a path.
      value: the number of a record that is shown beside the recorded one; None: there is none.
      seeds: `{name: {seed: record}}`, where that is not how files are arranged.
      names: those that `--only` selects from, of a kind; none: there is no such option.
    """
    if names:
        help_ = f"only the {kind} of this name, or all {kind}s whose name contains this word"
        parser.add_argument("--only", default="", metavar="WORD", help=help_)
    recorded.options(parser, HERE / "results" / results)
    parser.epilog = f"With --record or --report a section of {page} and its picture are written too."
    given = parser.parse_args()
    if names:
        given.names = [given.only] if given.only in names else [name for name in names if given.only in name]
        if not given.names:
            parser.error(f"--only: no {kind} contains {given.only!r}; there are {', '.join(names)}")
    place = recorded.place(given)
    times = lambda: {path: path.stat().st_mtime_ns for path in place.own.rglob("*.json")}
    before = times()
    if not place.reports:
        from purerl.runs.devices import set_up_jax  # one script is imported where there is no JAX

        set_up_jax(one_device=one_device)
        compute(place.own, given)
    if times() == before:
        recorded.nothing_computed(place, "what you ask for")
    found = records(place.shown)
    body = report(found)
    if body and (given.record or place.reports):
        write(page, section, body)
        if picture:
            picture(found, HERE / f"{results}.png")
    print("\n".join(re.findall(r"(?:^\|.*\n?)+", body, re.MULTILINE)).rstrip())
    if not (given.record or place.reports):
        print("\n".join(beside(seeds(found), seeds(records(place.recorded)), value)))
