"""What a search leaves: a table, trials.csv, the winner, and pictures of trials and of the importance of dimensions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from purerl import statistics
from purerl.runs import files, report
from purerl.runs.sweeps import short
from purerl.search.importance import importance
from purerl.search.spaces import Choice, Space, place

CSV, WINNER, PARALLEL, IMPORTANCE = "trials.csv", "winner.json", "parallel.png", "importance.png"
SHOWN = 10  # trials of the table
FEWEST = 4  # trials of which a picture is drawn


class Trial(NamedTuple):
    """The result of a trial."""

    values: dict[str, Any]
    run: str  # the directory of its run, in that of the search
    broken: bool  # whether a seed has values that are not finite
    level: int  # of those at which trials are compared, the last one
    steps: int  # that it was trained: of whole iterations, so they may be fewer
    score: float  # there; NaN if no episode finished
    first: float  # the score at the first level, where every trial has one


class Winner(NamedTuple):
    """The best trial of a search."""

    trial: Trial
    count: int  # of trials
    config: dict[str, Any]  # in which it is trained again
    command: str  # that does the same
    table: str = CSV  # the file of all trials
    more: Mapping[str, Any] = {}  # for winner.json


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else short(value)


def write(directory: Path, space: Space, trials: Sequence[Trial]) -> None:
    """Write trials.csv."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", *space, "steps", "score", "first_score", "broken", "run"])
    for number, trial in enumerate(trials):
        values = [short(trial.values[name]) for name in space]
        rows.writerow([number, *values, trial.steps, trial.score, trial.first, int(trial.broken), trial.run])
    files.write(directory / CSV, text.getvalue())


def ordered(trials: Sequence[Trial]) -> list[int]:
    """The numbers of trials, the best first: by level, then by score, then by number; those without a score last."""
    lost = lambda n: np.isnan(trials[n].score)
    return sorted(range(len(trials)), key=lambda n: (lost(n), -trials[n].level, 0.0 if lost(n) else -trials[n].score))


def show(space: Space, trials: Sequence[Trial], one: str = "trial") -> None:
    """Print the best trials; one: what each of them is called."""
    shown = ordered(trials)[:SHOWN]
    out = Table(title=f"the best {len(shown)} of {report.counted(len(trials), one)}", title_justify="left")
    for name in (one, *space, "steps", "score"):
        out.add_column(name, justify="right", overflow="fold")
    for number in shown:
        trial = trials[number]
        score = "not finite" if trial.broken else "-" if np.isnan(trial.score) else f"{trial.score:.2f}"
        out.add_row(str(number), *(_text(trial.values[name]) for name in space), f"{trial.steps:,}", score)
    report.console().print(out)


def check(directory: Path, winner: Trial) -> None:
    """Raise a ValueError if the best of the trials in a directory has no score."""
    if np.isnan(winner.score):
        raise ValueError(f"{directory}: no trial has a score: none finished an episode, or all have values that are "
                         "not finite; give more --steps, or other spaces")  # fmt: skip


def pictures(directory: Path, space: Space, trials: Sequence[Trial]) -> None:
    """Draw trials and the importance of dimensions, and print the latter."""
    if len(trials) >= FEWEST:
        found = importance(space, [t.values for t in trials], np.array([t.first for t in trials]))
        report.say("importance: " + ", ".join(f"{name} {x:.2f}" for name, x in found.items()))
        _parallel(directory / PARALLEL, space, trials)
        _bars(directory / IMPORTANCE, found, len(trials))


def finish(directory: Path, winner: Winner, final: np.ndarray) -> None:
    """Write the winner, and print the score of the search beside that of fresh seeds, float `[S]`."""
    values, run, score = winner.trial.values, winner.trial.run, winner.trial.score
    known = final[~np.isnan(final)]
    about: dict[str, Any] = {"values": values, "run": run, "score": score, "command": winner.command, **winner.more}
    if len(known):
        low, high = statistics.interval(known, statistics.mean)
        about |= {"final_mean": float(known.mean()), "final_interval": [low, high], "final_scores": known.tolist()}
        report.say(
            f"score: {score:.2f} in the search, as the best of {report.counted(winner.count, 'trial')}; "
            f"{known.mean():.2f} [{low:.2f}, {high:.2f}] on {report.counted(len(known), 'fresh seed')}: "
            f"the winner's curse is {score - known.mean():+.2f}"
        )
    files.write_json(directory / WINNER, about)
    report.note(f"search: {directory}  (all trials: {directory / winner.table}, the winner: {directory / WINNER})")


def _figure(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a file is no formula
    return plt.subplots(figsize=(width, height), layout="constrained")


def _parallel(path: Path, space: Space, trials: Sequence[Trial]) -> None:
    """Draw a line for each trial through its values; the last axis is the rank at its last level."""
    import matplotlib.pyplot as plt

    figure, axis = _figure(2.2 * len(space) + 3, 4.4)
    order = ordered(trials)[::-1]
    height = np.empty(len(trials))
    height[order] = np.arange(len(trials)) / (len(trials) - 1)
    colors = plt.get_cmap("viridis")
    for number in order:
        places = [place(x, trials[number].values[name]) for name, x in space.items()]
        best = number == order[-1]
        axis.plot([*places, height[number]], color="#c2255c" if best else colors(height[number]),
                  linewidth=2.5 if best else 1, alpha=1 if best else 0.6)  # fmt: skip
    for x, dimension in enumerate(space.values()):
        axis.axvline(x, color="black", linewidth=0.8)
        marks = dimension.values if isinstance(dimension, Choice) else dimension[:2]
        for value in marks:
            axis.text(x + 0.03, place(dimension, value), _text(value), fontsize=8, va="center")
    axis.axvline(len(space), color="black", linewidth=0.8)
    axis.set_xticks(range(len(space) + 1), [*space, "rank (top: best)"])
    axis.set_yticks([])
    axis.set_title(f"{len(trials)} trials, by steps reached and score; the best is red", fontsize=10, loc="left")
    axis.spines[:].set_visible(False)
    report.save_figure(path, figure)


def _bars(path: Path, found: dict[str, float], count: int) -> None:
    """Draw the importance of each dimension."""
    figure, axis = _figure(7, 1.2 + 0.45 * len(found))
    names = sorted(found, key=lambda name: found[name])
    bars = axis.barh(names, [found[name] for name in names], color=report.COLORS[0])
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set(xlim=(0, 1), xlabel="share of the variance of ranks that a dimension explains alone (ε²)")
    axis.set_title(f"{count} trials at the first level", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    report.save_figure(path, figure)
