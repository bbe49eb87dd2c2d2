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
