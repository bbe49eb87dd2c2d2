"""Benchmarks: results of one's own never touch those of the repository, and are compared with them seed by seed."""

import argparse
import importlib
import re
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAPERS = [path.stem for path in (BENCHMARKS / "papers").glob("*.py") if "sections.main(" in path.read_text()]
SCRIPTS = ("optima", "textbook", "values", "rewards", "minatar", "versus", "returns", "fields", "portfolio")


@pytest.fixture
def script(monkeypatch):
    """A module of the benchmarks, by its name."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), str(BENCHMARKS / "papers"), *sys.path])
    return importlib.import_module


def test_results_that_compare(script):
    compared = script("recorded").compared
    one = {"value": 1.0, "curve": [None, 2.0, float("nan")]}
    assert compared(one, dict(one)) == "same bits"
    assert compared([1.0, -300.0], [1.00009, -300.02]) == "same within rounding"
    for other in ([1.0, -300.1], [1.0], [1.0, None], [1.0, [-300.0]]):
        assert compared([1.0, -300.0], other) == "different"


def test_a_hash_that_differs_is_not_the_same_bits(script):
    recorded = script("recorded")
    at = lambda sha256: {"a": {0: recorded.Seed(1.0, [1.0], sha256)}}
    says = lambda one, other: recorded.beside(at(one), at(other))[3].split("|")[-2].strip()
    assert [says("x", "x"), says("x", "y"), says("x", None)] == ["same bits", "same within rounding", "same bits"]
    assert "not recorded" in recorded.beside(at(None), {})[3] and recorded.beside({}, at(None)) == []


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "ten", ""])
def test_counts(script, text):
    count = script("recorded").count
    assert count("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a whole number of at least 1"):
        count(text)


def test_places(script, tmp_path, capsys):
    recorded = script("recorded")

    def place(*words):
        parser = argparse.ArgumentParser()
        recorded.options(parser, tmp_path / "results")
        return recorded.place(parser.parse_args([*words]))

    out = ["--out", str(tmp_path / "mine")]
    assert place(*out)[:2] == (tmp_path / "mine", tmp_path / "results") and place(*out).shown == tmp_path / "mine"
    assert place("--record").own == tmp_path / "results"
    assert place(*out, "--report").shown == tmp_path / "results"
    with pytest.raises(SystemExit):
        place(*out, "--record")
    assert "not allowed with argument --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_leave_the_results_of_the_repository_alone(name):
    """They name the folder to `recorded.options`, and nowhere else."""
    text = (BENCHMARKS / f"{name}.py").read_text()
    assert len(re.findall(r"\bRESULTS\b(?!\.md)", text)) == 2 and "recorded.options(parser, RESULTS" in text


def test_a_script_from_beginning_to_end(script, tmp_path, monkeypatch, capsys):
    """It computes its own results beside the recorded ones, says where nothing is computed, and records on request."""
    textbook = script("textbook")
    results, out = tmp_path / "results", tmp_path / "mine"
    always = lambda number: {"testbed, greedy": lambda key: {"reward": jnp.full(3, number)}}
    monkeypatch.setattr(textbook, "RESULTS", results)
    monkeypatch.setattr(textbook, "EXPERIMENTS", always(2.0))
    monkeypatch.setattr(textbook, "NUMBERS", textbook.NUMBERS[:1])
    monkeypatch.setattr(textbook, "draw", lambda root: None)

    def said(*words):
        monkeypatch.setattr(sys, "argv", ["textbook.py", "--seeds", "2", *map(str, words)])
        textbook.main()
        return capsys.readouterr()

    assert "nothing is computed" not in said("--record").err
    before = {path: path.read_bytes() for path in results.rglob("*.*")}
    assert len(before) == 3 and "is recorded in" in said("--record").err
    answer = said("--out", out)
    assert answer.out.count("same bits") == 3 and "2 same bits." in answer.out and "nothing" not in answer.err
    assert "nothing is computed: every experiment is in" in said("--out", out).err
    assert "--report computes nothing" in said("--report").err
    monkeypatch.setattr(textbook, "EXPERIMENTS", always(3.0))
    assert "2 different." in said("--out", tmp_path / "other").out
    assert before == {path: path.read_bytes() for path in results.rglob("*.*")}


@pytest.mark.parametrize("name", PAPERS)
def test_scripts_of_papers_know_no_folder_of_the_repository(name):
    """They compute under the folder that `sections.main` passes to them, and report what it has read."""
    text = (BENCHMARKS / "papers" / f"{name}.py").read_text()
    assert len(PAPERS) == 12 and not re.search(r"RESULTS\b|__file__|globals|argparse", text)
    assert re.search(r"^def section\(found: sections.Found\) -> str:", text, re.MULTILINE)


def test_a_section_from_beginning_to_end(script, tmp_path, monkeypatch, capsys):
    """One's own results are computed once, are shown beside those recorded, and change neither these nor the page."""
    sections = script("sections")
    monkeypatch.setattr(sections, "HERE", tmp_path)
    (tmp_path / "PAGE.md").write_text("# Title\n\n<!-- b -->\nkept\n<!-- /b -->\n")
    score = {"a": 1.0, "ab": 2.0}

    def compute(root, given):
        for path in [root / name / f"{seed}.json" for name in given.names for seed in range(given.seeds)]:
            if not path.exists():
                sections.recorded.save(path, {"score": score[path.parent.name], "seconds": time.perf_counter()})

    def said(*words, number=lambda record: record["score"]):
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        sections.main(
            sections.parser("About.", 2), "things", "PAGE.md", "a", compute,
            lambda found: "\n".join(["Prose.", "", *[f"| {x} | {[*found[x]]} |" for x in score]]),
            lambda found, path: path.write_bytes(b"drawn"), number, names=score,
        )  # fmt: skip
        return capsys.readouterr()

    files = lambda: {path: path.read_bytes() for path in tmp_path.rglob("*.*") if "mine" not in str(path)}
    said("--record")
    assert (
        (tmp_path / "PAGE.md")
        .read_text()
        .endswith("<!-- /b -->\n\n<!-- a -->\nProse.\n\n| a | [0, 1] |\n| ab | [0, 1] |\n<!-- /a -->\n")
    )
    before, out = files(), ("--out", tmp_path / "mine")
    assert len(before) == 6 and "is recorded in" in said("--record").err and files() == before
    score["ab"] = 3.0
    answer = said(*out, "--only", "a")
    assert answer.out.startswith("| a | [0, 1] |\n| ab | [] |\n") and "2 same bits." in answer.out
    assert "2 same bits, 2 different." in said(*out).out
    assert "nothing is computed" in said(*out).err and "computes nothing" in said("--report").err
    assert "beside" not in said(*out, number=lambda record: None).out and files() == before
    with pytest.raises(SystemExit) as stopped:
        said(*out, "--only", "c")
    assert stopped.value.code == 2 and "no arm contains 'c'; there are a, ab" in capsys.readouterr().err
