"""The list of faults keeps up with the package; whether tests catch them is what `scripts/mutants.py` finds out."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("mutants")


def test_every_fault_finds_its_place_and_every_file_has_one(mutants):
    assert mutants.problems() == []
    assert len(mutants.FAULTS) >= 40


def test_a_fault_that_has_lost_its_place_is_named(mutants, monkeypatch):
    fault = mutants.FAULTS[0]
    text = f"before {fault.old} after"
    assert mutants.planted(fault, text) == f"before {fault.new} after"
    for lost in (text.replace(fault.old, ""), text + fault.old):
        with pytest.raises(ValueError, match=r"the old text is found [02] times in hyperparameters\.py, not 1"):
            mutants.planted(fault, lost)
    faults = [fault._replace(old="nowhere"), fault._replace(tests=("unit/test_core.py::test_none", "unit/none.py"))]
    monkeypatch.setattr(mutants, "FAULTS", [*faults, *mutants.FAULTS[2:]])
    said = "\n".join(mutants.problems())
    for part in ("two faults are called", "found 0 times", "test_core.py has no test_none", "no tests/unit/none.py"):
        assert part in said
    monkeypatch.setattr(mutants, "FAULTS", mutants.FAULTS[:2])
    assert "training/loop.py has no fault" in mutants.problems()


def test_the_first_failure_is_read_off_what_pytest_says(mutants):
    said = "=== short test summary info ===\n{} tests/unit/test_a.py::test_b[a b]{}\nFAILED tests/unit/c.py::d - x\n"
    for kind, message in (("FAILED", " - AssertionError: 1  !=  2"), ("ERROR", "")):
        test, why = mutants.first_failure(said.format(kind, message))
        assert test == "unit/test_a.py::test_b[a b]" and why == message.removeprefix(" - ").replace("  ", " ")
    numpys = "E   AssertionError: \nE   Not equal to tolerance\nE   \nE   Mismatch: 50%\n"
    assert mutants.first_failure(numpys + "FAILED tests/a.py::b - AssertionError:") == (
        "a.py::b",
        "AssertionError: Not equal to tolerance Mismatch: 50%",
    )
    with pytest.raises(RuntimeError, match="names no test"):
        mutants.first_failure("1 passed")
