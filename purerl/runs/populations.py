"""Populations on disk: a table of their generations, and a picture of schedules and lineages."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from purerl.runs import files, report
from purerl.search.pbt import History, ancestors, schedule

PARTED = 100.0  # values are drawn on a logarithmic scale if the largest is so many times the smallest


def write(path: Path, history: History) -> None:
    """Write a row for each member of each generation, as CSV: its score, its parent and its hyperparameters."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["iteration", "member", "score", "parent", *history.hyperparameters])
    for g, iteration in enumerate(history.iterations):
        for member in range(history.scores.shape[1]):
            values = [x[g, member] for x in history.hyperparameters.values()]
            rows.writerow([iteration, member, history.scores[g, member], history.parents[g, member], *values])
    files.write(path, text.getvalue())


def _broken_lines(values: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Values float `[2G - 1, n]`, from `[G, n]`: between generations their mean, or NaN where a member has copied."""
    out = np.full((2 * len(values) - 1, values.shape[1]), np.nan)
    out[::2] = values
    stayed = parents[:-1] == np.arange(values.shape[1])
    out[1::2] = np.where(stayed, (values[:-1] + values[1:]) / 2, np.nan)
    return out


def picture(path: Path, history: History, member: int | None = None, title: str = "") -> None:
    """Draw scores and hyperparameters of all generations; the best member and its ancestors are red.

    Lines end where a member has copied another.

    Args:
      member: whose ancestors are drawn; None: the one of the highest score in the last generation.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if member is None:
        member = int(np.where(np.isfinite(history.scores[-1]), history.scores[-1], -np.inf).argmax())
    line = ancestors(history.parents, member)
    panels = {"score": history.scores, **history.hyperparameters}
    best: dict[str, Any] = {"score": history.scores[np.arange(len(line)), line], **schedule(history, member)}
    between = (history.iterations[:-1] + history.iterations[1:]) / 2
    at = np.empty(2 * len(history.iterations) - 1)
    at[::2], at[1::2] = history.iterations, between
    size = (7, 1.9 * len(panels) + 0.5)
    figure, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis, (name, values) in zip(axes[:, 0], panels.items(), strict=True):
        known = values[np.isfinite(values)]
        if name != "score" and len(known) and known.min() > 0 and known.max() > PARTED * known.min():
            axis.set_yscale("log")
        axis.plot(at, _broken_lines(values, history.parents), color=report.COLORS[0], alpha=0.35, linewidth=1)
        axis.plot(history.iterations, best[name], color=report.COLORS[4], linewidth=2)
        axis.set_ylabel(name.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_title(title or f"{values.shape[1]} members; the best and its ancestors are red", loc="left")
    axes[-1, 0].set_xlabel("updates")
    report.save_figure(path, figure)
