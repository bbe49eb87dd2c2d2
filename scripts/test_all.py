"""All tiers of tests: their times, the ten slowest tests, and the whole suite's closing line last.

    python scripts/test_all.py

The tiers of `make test` run first. The tier `learning` follows in a process of its own, since XLA's flags are a
process's own and whole trainings are compiled to run fast. In `process` tests start processes of their own: two files
run at a time, the tests of each one after another, so that little else competes for the cores while a test waits.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = {
    "unit, contract, runs": ["-n", "2", "--dist", "loadfile", "tests/unit", "tests/contract", "tests/runs"],
    "learning": ["-n", "2", "--dist", "load", "tests/learning"],
    "process": ["-n", "2", "--dist", "loadfile", "tests/process"],
}
COUNTS = ("tests", "failures", "errors", "skipped")


def run(arguments: list[str], report: Path) -> tuple[int, float]:
    """Exit code and seconds of one call of pytest, which writes what every test took to `report`."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
    return subprocess.run(command, cwd=ROOT).returncode, time.perf_counter() - begin


def read(report: Path) -> tuple[dict[str, int], list[tuple[float, str]]]:
    """Counts of a report, and the seconds of each of its tests."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts, cases = dict.fromkeys(COUNTS, 0), []
    for suite in suites:
        counts = {name: counts[name] + int(suite.get(name, 0)) for name in COUNTS}
        for case in suite.iter("testcase"):
            cases.append((float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}"))
    return counts, cases


def main() -> None:
    """Run every part, also after one that failed; exit 1 if one did."""
    total, slowest, lines, failed = dict.fromkeys(COUNTS, 0), [], [], False
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, arguments) in enumerate(PARTS.items()):
            report = Path(folder) / f"{number}.xml"
            print(f"--- {name}", flush=True)
            code, seconds = run(arguments, report)
            failed |= code != 0
            counts, cases = read(report) if report.exists() else (dict.fromkeys(COUNTS, 0), [])
            total = {key: total[key] + counts[key] for key in COUNTS}
            slowest += cases
            ended = f": exit code {code}" if code else ""
            lines.append(f"{seconds:6.0f} s  {counts['tests']:5d} tests  {name}{ended}")
    print("\nthe ten slowest tests")
    for seconds, test in sorted(slowest, reverse=True)[:10]:
        print(f"{seconds:6.1f} s  {test}")
    print("\nparts\n" + "\n".join(lines))
    wrong = total["failures"] + total["errors"]
    passed = total["tests"] - wrong - total["skipped"]
    print(f"{passed} passed, {wrong + (failed and not wrong)} failed, {total['skipped']} skipped")
    sys.exit(failed)


if __name__ == "__main__":
    main()
