"""What the command line makes of numbers before they are drawn or printed."""

import os
from types import SimpleNamespace

import numpy as np
from rich.console import Console

from purerl.runs import progress, report


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
