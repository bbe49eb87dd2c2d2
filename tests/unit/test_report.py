"""What the command line makes of numbers before they are drawn or printed."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import purerl
from purerl import replay
from purerl.runs import checkpoint, progress, record, render, report


def test_a_curve_weighs_the_last_rows_by_their_episodes():
    """A fortieth of the rows; where nothing finished in them, the value before is carried on."""
    rng = np.random.default_rng(0)
    episodes = rng.integers(0, 4, (120, 2)) * (rng.random((120, 2)) < 0.4)
    episodes[:2, 1] = 0
    returns = np.where(episodes > 0, rng.normal(size=(120, 2)), np.nan)
    got = report.smoothed(episodes, returns)
    for run in (0, 1):
        before = np.nan
        for k in range(120):
            rows = [i for i in range(max(0, k - 2), k + 1) if episodes[i, run]]
            if rows:
                before = np.average(returns[rows, run], weights=episodes[rows, run])
            np.testing.assert_allclose(got[k, run], before)
    assert np.isnan(got[:2, 1]).all() and np.isfinite(got[5:]).all()


def test_what_a_replay_buffer_lost_is_counted():
    class State(NamedTuple):
        agent: Any

    flags = jax.ShapeDtypeStruct((3,), bool)
    step = purerl.Transition(*[flags] * 7)
    shapes = jax.eval_shape(lambda: replay.init(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), step), 60))
    empty = jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), shapes)
    of = lambda **counts: record.held(checkpoint.to_host(State({"replay": empty._replace(**counts)})))
    assert of(num_rows=np.array([7, 7])) == (21, 21)
    assert of(num_rows=np.array([100, 100]), oldest=np.array([80, 95])) == (15, 60)  # the fewest of two runs
    assert record.held(checkpoint.to_host(State({"params": np.zeros((2, 1))}))) is None


def test_a_row_has_the_mean_and_the_mean_of_the_middle_half():
    mean, middle, interval, ends = report.scores(np.array([1.0, 0.0, 100.0, np.nan, 3.0]))
    assert (mean, middle, ends) == ("26.0", "2.0", "0.0 .. 100.0")
    low, high = map(float, interval.split(" .. "))
    assert 0 <= low <= 2 <= high <= 100
    assert report.scores(np.full(3, np.nan))[0] == "no episode finished"


def test_a_picture_shows_the_mean_of_the_middle_half(tmp_path, monkeypatch):
    """Of seeds one of which is far away: in the curves, and in the scores at the end beside them."""
    import matplotlib.pyplot as plt

    returns = np.array([[0.0, 1.0, 3.0, 90.0], [2.0, 4.0, 6.0, 80.0]])
    make = lambda label, factor: report.Curve(label, np.array([10, 20]), factor * returns, factor * returns[-1], 0)
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    report.picture(tmp_path / "a.png", [report.Panel("title", "rate", [make("0.1", 1), make("0.2", 10)])])
    monkeypatch.undo()
    curves, scores = figures[0].axes
    drawn = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    np.testing.assert_allclose([drawn["0.1"], drawn["0.2"]], [[2, 5], [20, 50]])
    assert [list(bar.lines[0].get_ydata()) for bar in scores.containers] == [[5], [50]]
    plt.close(figures[0])


def test_text_is_printed_as_it_is(capsys, monkeypatch, tmp_path):
    """Names of files and hyperparameters are the user's: brackets are no markup, colons no emoji, $ no formula."""
    monkeypatch.setenv("COLUMNS", "120")
    name = "runs/s[lr=0.1] [/b] [red]x[/red] :smile: $a_$b$"
    report.note(name)
    report.say(name)
    curve = report.Curve(name, np.arange(1, 3), np.ones((2, 2)), np.ones(2), 0)
    panel = report.Panel(name, name, [curve, curve])
    report.table(panel)
    report.compared([(name, name, 1)])
    with progress.Progress(10, 10) as bar:
        bar.note(name)
    out, err = capsys.readouterr()
    assert out.count(name) == 7 and err == f"{name}\n" * 2
    report.picture(tmp_path / "a.png", [panel])
    assert (tmp_path / "a.png").exists()


def test_consoles_are_made_in_one_place():
    package = Path(progress.__file__).parents[1]
    wrong = [p.name for p in package.rglob("*.py") if "Console(" in p.read_text() and p != Path(progress.__file__)]
    assert not wrong, f"use runs.progress.console, which prints text as it is, in {wrong}"


def test_images_of_any_dtype():
    ramp = np.linspace(0, 1, 12).reshape(2, 2, 3)
    whole = np.round(255 * ramp).astype(np.uint8)
    for image in (ramp, ramp.astype(np.float32), whole, whole.astype(np.int64), whole.astype(float)):
        np.testing.assert_array_equal(render._as_image(image), whole)
    np.testing.assert_array_equal(render._as_image(ramp > 0.5), np.where(ramp > 0.5, 255, 0))
    for wrong in (ramp - 1, ramp * np.nan, 256 * ramp):
        with pytest.raises(ValueError, match=r"it must be in \[0, 255\], or of floats in \[0, 1\]"):
            render._as_image(wrong)


def test_the_pace_of_a_resumed_run_is_that_of_its_own_updates(monkeypatch):
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, force_terminal=False, width=120, file=nowhere)
        with progress.Progress(100, 10, console, first=60) as bar:
            clock.now += 2.0
            bar.update(80, 7.0)
    # 20 updates of 10 steps in 2 s, and 20 updates to go
    assert "iteration 80/100  return 7.0  100 steps/s  2 s left" in console.export_text()
