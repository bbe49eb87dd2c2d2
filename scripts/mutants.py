"""Plant faults, one at a time, in a copy of the package, and show which test catches each.

    python scripts/mutants.py                  # run the faults of scripts/faults.py that have no result yet
    python scripts/mutants.py --changed        # and those whose source or test has changed since their result
    python scripts/mutants.py --all            # every fault again
    python scripts/mutants.py --only ratio     # those whose name or file contains the word, again
    python scripts/mutants.py --check          # only whether every fault still finds its place in the sources
    python scripts/mutants.py --report         # write tests/MUTANTS.md from the results

For each fault the tests that should catch it run first. Where none fails, the rest of what `make test` runs follows, so
that a fault that survives has survived all of it: then a test is missing. So is one where only numbers recorded from
one seed differ: these tests run last. Results are kept in tests/mutants.json: without that file everything runs again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = ROOT / "purerl", ROOT / "tests"
RESULTS, REPORT = TESTS / "mutants.json", TESTS / "MUTANTS.md"
TIERS = ("unit", "contract", "runs")  # what `make test` runs
SELF = "unit/test_mutants.py"  # compares sources with the list of faults: in a copy with a fault it always fails
RECORDED = tuple(  # any change of numbers, programs or defaults fails there, whatever it breaks
    f"contract/test_agents.py::{name}"
    for name in (
        "test_first_metrics_are_the_recorded_ones",
        "test_programs_do_not_grow_unseen",
        "test_defaults_are_the_recorded_ones",
    )
)
FAILED, NOT_COLLECTED, TIMED_OUT = 1, 2, 124  # exit codes; the last is that of timeout(1)


# --- the list -------------------------------------------------------------------------------------------------------


def digest(fault: Fault) -> str:
    """What changes with the fault, so that a result of another fault of the same name is not taken for its own."""
    return hashlib.sha256(repr((fault.path, fault.old, fault.new)).encode()).hexdigest()[:12]


def state(fault: Fault) -> str:
    """What changes with the source of the fault or with a file of the tests that should catch it."""
    paths = [PACKAGE / fault.path, *sorted({TESTS / test.partition("::")[0] for test in fault.tests})]
    texts = [path.read_bytes() for path in paths if path.is_file()]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]


def planted(fault: Fault, text: str) -> str:
    """The source with the fault.

    Raises:
      ValueError: unless the old text is found as often as the fault says.
    """
    found = text.count(fault.old)
    if found != fault.count:
        raise ValueError(f"{fault.name}: the old text is found {found} times in {fault.path}, not {fault.count}")
    if fault.old == fault.new:
        raise ValueError(f"{fault.name}: the old text and the new one are the same")
    return text.replace(fault.old, fault.new)


# one call each; adapters of packages that need not be installed; an exception
ONE_CALL = tuple(f"cli/commands/{name}.py" for name in ("evaluate", "list", "plot", "render", "resume"))
EXEMPT = (*ONE_CALL, "envs/adapters/", "runs/stopped.py", "cli/templates/")


def without_fault() -> list[str]:
    """Files of the package that have functions, but no fault."""
    has_logic = lambda path: re.search(r"^\s*def \w|= lambda\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    paths = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and has_logic(path))
    names = {str(path.relative_to(PACKAGE)) for path in paths} - {fault.path for fault in FAULTS}
    return sorted(name for name in names if not name.startswith(EXEMPT))


def problems() -> list[str]:
    """What is wrong with the list of faults."""
    said = [f"{path} has no fault" for path in without_fault()]
    names = [fault.name for fault in FAULTS]
    said += [f"two faults are called {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    for fault in FAULTS:
        try:
            compile(planted(fault, (PACKAGE / fault.path).read_text(encoding="utf-8")), fault.path, "exec")
        except (OSError, ValueError, SyntaxError) as error:
            said.append(str(error))
    for who, test in [(fault.name, test) for fault in FAULTS for test in fault.tests] + [("last", t) for t in RECORDED]:
        path, _, name = test.partition("::")
        function = name.partition("[")[0]
        if not (TESTS / path).exists():
            said.append(f"{who}: there is no tests/{path}")
        elif function and f"def {function}(" not in (TESTS / path).read_text(encoding="utf-8"):
            said.append(f"{who}: tests/{path} has no {function}")
    return said


# --- running --------------------------------------------------------------------------------------------------------


def copy_to(folder: Path) -> None:
    """Everything that git tracks or would track, as it lies in the working tree."""
    ask = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(ask, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def environment(folder: Path) -> dict[str, str]:
    """Of a test process: the copy is what is imported, and compiled programs are shared with the other copies."""
    cache = os.environ.get("PURERL_TEST_CACHE", str(ROOT / ".cache" / "mutants"))
    return {**os.environ, "PYTHONPATH": str(folder), "PURERL_TEST_CACHE": cache, "COLUMNS": "250"}


def check_import(folder: Path) -> None:
    """Raise unless `purerl` is the copy's."""
    ask = [sys.executable, "-c", "import purerl; print(purerl.__file__)"]
    out = subprocess.run(ask, cwd=folder, env=environment(folder), check=True, capture_output=True, text=True).stdout
    if not Path(out.strip()).resolve().is_relative_to(folder.resolve()):
        raise RuntimeError(f"tests of {folder} would import {out.strip()}")


def pytest(
    folder: Path, tests: Iterable[str], timeout: float | None = None, without: Iterable[str] = ()
) -> tuple[int, str, float]:
    """Exit code, output and seconds of tests in a copy, up to the first failure."""
    words = [
        "-x",
        "-q",
        "-rfE",
        "--tb=short",
        "-o",
        "addopts=--strict-markers",
        "-p",
        "no:cacheprovider",
        "-m",
        "not wide",
    ]
    words += [f"--ignore=tests/{SELF}", *(f"--deselect=tests/{test}" for test in without)]
    words += [f"tests/{test}" for test in tests]
    begin = time.perf_counter()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=folder, env=environment(folder), timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return TIMED_OUT, (late.stdout or b"").decode(errors="replace"), time.perf_counter() - begin
    return ran.returncode, ran.stdout, time.perf_counter() - begin


def first_failure(output: str) -> tuple[str, str]:
    """The test that failed, and what it said."""
    match = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - (.*))?$", output, re.MULTILINE)
    if not match:
        raise RuntimeError(f"pytest failed, but names no test:\n{output[-3000:]}")
    said = match[2] or ""
    if not said or said.endswith(":"):  # NumPy's messages begin with an empty line
        said = " ".join([said, *re.findall(r"^E +(\S.*)$", output, re.MULTILINE)[1:4]])
    said = said.replace(str(Path.home()), "~").replace(tempfile.gettempdir(), "")  # the machine's own paths
    return match[1], " ".join(said.split())[:160]


def rest(folder: Path, tests: Iterable[str]) -> list[str]:
    """The files of `make test` in a copy, but for those of `tests` that have run whole."""
    whole = {test for test in tests if "::" not in test}
    paths = [path for tier in TIERS for path in sorted((folder / "tests" / tier).glob("test_*.py"))]
    names = [str(path.relative_to(folder / "tests")) for path in paths]
    return [name for name in names if not whole & {name, name.partition("/")[0]} and name != SELF]


def run(fault: Fault, timeout: float, expected_only: bool) -> dict[str, Any]:
    """Which test catches a fault: None where none does."""
    with tempfile.TemporaryDirectory(prefix="purerl-mutant-") as name:
        folder = Path(name)
        copy_to(folder)
        source = folder / "purerl" / fault.path
        source.write_text(planted(fault, source.read_text(encoding="utf-8")), encoding="utf-8")
        check_import(folder)
        seconds = 0.0
        stages = [(True, fault.tests, ()), (False, rest(folder, fault.tests), RECORDED), (False, RECORDED, ())]
        for expected, tests, without in stages:
            if not tests or (expected_only and not expected):
                continue
            code, output, took = pytest(folder, tests, timeout, without)
            seconds += took
            result = {
                "digest": digest(fault),
                "state": state(fault),
                "expected": expected,
                "seconds": round(seconds, 1),
            }
            if code == FAILED:
                test, said = first_failure(output)
                return {**result, "caught_by": test, "said": said}
            if code == TIMED_OUT:
                return {**result, "caught_by": None, "said": f"no end after {timeout:g} s"}
            if code:
                raise RuntimeError(f"{fault.name}: pytest ended with exit code {code}\n{output[-3000:]}")
        return {**result, "caught_by": None, "said": "every test passed"}


def check_without_faults(faults: list[Fault]) -> None:
    """Raise unless the tests that should catch the faults pass without them."""
    tests = list(dict.fromkeys(test for fault in faults for test in fault.tests))
    with tempfile.TemporaryDirectory(prefix="purerl-mutant-") as name:
        copy_to(Path(name))
        check_import(Path(name))
        code, output, seconds = pytest(Path(name), tests)
        if code:
            raise RuntimeError(f"the tests fail without a fault:\n{output[-3000:]}")
    print(f"without a fault the tests pass, in {seconds:.0f} s", flush=True)


def read_results() -> dict[str, dict[str, Any]]:
    """Results by the names of faults, of those that are still in the list as they were."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    digests = {fault.name: digest(fault) for fault in FAULTS}
    return {name: found[name] for name in digests if name in found and found[name]["digest"] == digests[name]}


def run_all(faults: list[Fault], jobs: int, timeout: float, expected_only: bool) -> None:
    """Run faults, several at once, and write down each result as it comes."""
    lock = threading.Lock()

    def one(fault: Fault) -> None:
        result = run(fault, timeout, expected_only)
        with lock:
            results = {**read_results(), fault.name: result}
            ordered = {f.name: results[f.name] for f in FAULTS if f.name in results}
            RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            by = result["caught_by"] or f"NOT CAUGHT: {result['said']}"
            print(f"{result['seconds']:6.1f} s  {fault.name}: {by}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, faults))


# --- the table ------------------------------------------------------------------------------------------------------


def table() -> str:
    """The results as a page of markdown."""
    results = read_results()
    old = sum(results[f.name].get("state") != state(f) for f in FAULTS if f.name in results)
    caught = [result for result in results.values() if result["caught_by"]]
    seconds = sorted(result["seconds"] for result in caught)
    lines = [
        "# Faults that the tests catch",
        "",
        f"`python scripts/mutants.py` plants {len(FAULTS)} faults, one at a time, in a copy of the package.",
        f"Of the {len(results)} that have run, `make test-all` fails for {len(caught)}. Each row names the test that",
        "fails first, and the seconds until then, with the programs of the sound package in the cache: measured one or",
        "two faults at a time, on two cores that had other work as well, they tell which are slow and no more.",
        "",
    ]
    if old:
        lines += [
            f"Since then the source or the test's file of {old} has changed; `make mutants` runs these again.",
            "",
        ]
    if weak := [result for result in caught if result["caught_by"].partition("[")[0] in RECORDED]:
        lines += [f"Of {len(weak)} only recorded numbers tell, and no test of what is broken.", ""]
    if seconds:
        lines += [f"Median {seconds[len(seconds) // 2]:.0f} s, longest {seconds[-1]:.0f} s.", ""]
    lines += ["| fault | in | caught by | s |", "|---|---|---|---:|"]
    for fault in FAULTS:
        result = results.get(fault.name)
        if result:
            by = f"`{result['caught_by']}`" if result["caught_by"] else f"**not caught**: {result['said']}"
            lines.append(f"| {fault.name} | `{fault.path}` | {by} | {result['seconds']:.0f} |".replace("||", "\\|\\|"))
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changed", action="store_true", help="also faults whose source or test has changed since")
    parser.add_argument("--all", action="store_true", help="every fault, whether or not it has a result")
    parser.add_argument("--only", help="faults whose name or file contains this, whether or not they have a result")
    parser.add_argument("--tier", choices=TIERS, help="faults all of whose expected tests lie in this folder")
    parser.add_argument("--expected", action="store_true", help="do not go on with the other tests of `make test`")
    parser.add_argument("--jobs", type=int, default=2, help="faults at once  [default: 2]")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one call of pytest  [default: 1800]")
    parser.add_argument("--check", action="store_true", help="only whether every fault finds its place")
    parser.add_argument("--report", action="store_true", help="only write tests/MUTANTS.md")
    options = parser.parse_args()
    if said := problems():
        sys.exit("\n".join(said))
    if options.check:
        print(f"{len(FAULTS)} faults in {len({fault.path for fault in FAULTS})} files")
        return
    if not options.report:
        results = read_results()
        fresh = lambda fault: not options.changed or results[fault.name].get("state") == state(fault)
        done = lambda fault: fault.name in results and results[fault.name]["caught_by"] and fresh(fault)
        faults = [fault for fault in FAULTS if options.all or not done(fault)]
        if options.only:
            faults = [fault for fault in FAULTS if options.only.lower() in f"{fault.name} {fault.path}".lower()]
        if options.tier:
            faults = [f for f in faults if all(test.partition("/")[0] == options.tier for test in f.tests)]
        if faults:
            check_without_faults(faults)
            run_all(faults, options.jobs, options.timeout, options.expected)
    REPORT.write_text(table(), encoding="utf-8")
    missed = [name for name, result in read_results().items() if not result["caught_by"]]
    sys.exit(f"not caught: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
