"""Tables and pictures of the results of runs."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from purerl import statistics
from purerl.runs.progress import Progress, console

MOST_POINTS = 250  # of a curve; more cannot be distinguished
PICTURES = (".png", ".pdf", ".svg")
COLORS = ("#1f6feb", "#d1590b", "#0d8a5f", "#8a3ffc", "#c2255c", "#6b7280", "#b58900", "#0891b2")


class Curve(NamedTuple):
    """One line of a picture: the runs of one configuration."""

    label: str
    steps: np.ndarray  # [K]
    returns: np.ndarray  # [K, S], runs that are not broken; see `smoothed`
    final: np.ndarray  # [S], over the last episodes
    left_out: int  # broken runs


class Panel(NamedTuple):
    """The curves of one picture."""

    title: str
    legend: str  # the names of the swept hyperparameters, whose values are the labels
    curves: list[Curve]


def note(text: str) -> None:
    """Print one line of information, on stderr."""
    console(stderr=True).print(text, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line of the result, on stdout."""
    console().print(text, highlight=False, soft_wrap=True)


def to_resume(directory: Path) -> str:
    """The command that resumes a run, for a shell."""
    return f"purerl resume {shlex.quote(str(directory))}"


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "seed"), counted(2000, "seed")
    ('1 seed', '2,000 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unused(path: Path) -> Path:
    """The path itself, or the first of path-2, path-3, … that does not exist."""
    stem, ending = (path.stem, path.suffix) if path.suffix in (*PICTURES, ".gif") else (path.name, "")
    numbered = (path.with_name(f"{stem}-{n}{ending}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def new_file(path: Path, option: str, endings: Sequence[str]) -> Path:
    """The path, if a file can be created there.

    Raises:
      ValueError: if it exists, has another ending, or its directory does not exist.
    """
    if path.suffix not in endings:
        raise ValueError(f"{option} is {path}; its ending must be one of {', '.join(endings)}")
    if path.exists():
        raise ValueError(f"{option} is {path}, which exists; give another name, or remove it first")
    if not path.parent.is_dir():
        raise ValueError(f"{option} is {path}; there is no directory {path.parent}")
    return path


def scores(final: np.ndarray, digits: int = 1) -> list[str]:
    """Mean, IQM, interval and range of scores `[S]`, as the cells of a table."""
    known = final[~np.isnan(final)]
    if len(known) == 0:
        return ["no episode finished", "", "", ""]
    low, high = statistics.interval(known)
    show = lambda x: f"{x:.{digits}f}"
    middle = [show(known.mean()), show(statistics.iqm(known)), f"{show(low)} .. {show(high)}"]
    return [*middle, f"{show(known.min())} .. {show(known.max())}"]


def grid(title: str, *left: str, metric: str = "return", ends: bool = True) -> Table:
    """An empty table of scores, with the columns `left` before the scores; `ends`: with the range."""
    out = Table(title=title, title_justify="left")
    for name in left:
        out.add_column(name)
    for name in (f"mean {metric}".strip(), "IQM", "95 % interval", *(["min .. max"] if ends else [])):
        out.add_column(name, justify="right", no_wrap=True)
    return out


def table(panel: Panel, metric: str = "episode return") -> None:
    """Print the final values of a metric, one row for each curve."""
    swept = [panel.legend] if panel.legend else []
    out = grid(panel.title, *swept, metric=metric.removeprefix("episode "))
    large = any((np.abs(curve.final) >= 10).any() for curve in panel.curves)
    digits = 1 if metric == "episode return" and large else 3
    for curve in panel.curves:
        cells = scores(curve.final, digits) if len(curve.final) else ["every seed is broken", "", "", ""]
        out.add_row(*([curve.label] if swept else []), *cells)
    console().print(out)
    if metric == "episode return":
        say("return: mean of each seed's last 100 episodes or more")


def cost(total_steps: int, progress: Progress) -> None:
    """Print the time of a run."""
    if not total_steps:
        return
    cached = f" (the cache of compiled programs saved {progress.cache_seconds:.1f} s)" if progress.cache_seconds else ""
    seconds = max(progress.run_seconds, 1e-9)
    say(
        f"{total_steps / seconds:,.0f} steps/s: {total_steps:,} steps of all runs in {seconds:.1f} s, "
        f"after {progress.compile_seconds:.1f} s of compiling{cached}"
    )


def compared(differences: Sequence[tuple[str, Any, Any]]) -> None:
    """Print the entries of two manifests that differ."""
    if not differences:
        say("the manifests do not differ")
        return
    out = Table(title="what differs", title_justify="left")
    for name in ("entry", "then", "now"):
        out.add_column(name, overflow="fold")
    for name, before, now in differences:
        out.add_row(name, str(before), str(now))
    console().print(out)


def smoothed(episodes: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Returns `[K, S]` as a curve: means over the last fortieth of the rows, weighted by episodes.

    If no episode finished, the previous value is repeated; NaN before the first.
    """
    filled = np.array(returns, np.float64)
    width = max(1, len(returns) // 40)
    known = np.where(episodes > 0, returns, 0.0) * episodes
    for k in range(len(filled)):
        count = episodes[max(0, k + 1 - width) : k + 1].sum(axis=0)
        mean = known[max(0, k + 1 - width) : k + 1].sum(axis=0) / np.maximum(count, 1)
        filled[k] = np.where(count > 0, mean, filled[k - 1] if k else np.nan)
    return filled


def _draw(axis: Any, panel: Panel, ordered: bool) -> list[Any]:
    """Draw the curves of a panel, IQM with its interval; return the colour of each."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    count = len(panel.curves)
    colors = list(plt.get_cmap("viridis")(np.linspace(0.05, 0.9, count)))
    if not ordered or count == 1:
        colors = [COLORS[index % len(COLORS)] for index in range(count)]
    shown = []
    for curve, color in zip(panel.curves, colors, strict=True):
        known = ~np.isnan(curve.returns).any(axis=1) & (curve.returns.shape[1] > 0)
        x, values = curve.steps[known], curve.returns[known]
        if len(x) == 0:
            continue
        stride = -(-len(x) // MOST_POINTS)
        x, values = x[::-1][::stride][::-1], values[::-1][::stride][::-1]  # the last point is always included
        shown.append(values)
        bounds = np.array([statistics.interval(row, num_resamples=500) for row in values])
        if count == 1:
            axis.plot(x, values, color=color, alpha=0.18, linewidth=0.8)
        axis.fill_between(x, bounds[:, 0], bounds[:, 1], color=color, alpha=0.2, linewidth=0)
        left_out = f" ({curve.left_out} broken excluded)" if curve.left_out else ""
        axis.plot(x, statistics.iqm(values, axis=1), color=color, linewidth=2, label=(curve.label or "IQM") + left_out)
    axis.set_xlim(0, max([curve.steps[-1] for curve in panel.curves if len(curve.steps)], default=1))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if shown and min(x.min() for x in shown) >= 0:
        axis.set_ylim(bottom=0)
    if count > 1 and shown:
        axis.legend(title=panel.legend or None, fontsize=8, title_fontsize=8, frameon=False)
    return colors


def _bars(axis: Any, panel: Panel, colors: list[Any]) -> None:
    """Draw the final scores of every seed, their IQM and its interval, one position for each curve."""
    for index, (curve, color) in enumerate(zip(panel.curves, colors, strict=True)):
        known = curve.final[~np.isnan(curve.final)]
        if len(known) == 0:
            continue
        low, high = statistics.interval(known)
        middle = float(statistics.iqm(known))
        axis.errorbar(index, middle, [[middle - low], [high - middle]], fmt="o", color=color, capsize=4)
        axis.plot(np.full(len(known), index), known, ".", color=color, alpha=0.35, zorder=0)
    labels = [curve.label for curve in panel.curves]
    axis.set_xticks(range(len(labels)), labels, rotation=30 if len("".join(labels)) > 60 else 0, fontsize=8)
    axis.set_xlabel(panel.legend)
    axis.set_title("at the end: seeds, IQM, 95 % interval", fontsize=10, loc="left")


def save_figure(path: Path, figure: Any) -> None:
    """Write a figure at once, and close it."""
    import matplotlib.pyplot as plt

    try:
        part = path.with_name(f".part-{path.name}")
        figure.savefig(part, dpi=150)
        part.replace(path)
    finally:
        plt.close(figure)


def picture(
    path: Path,
    panels: Sequence[Panel],
    ylabel: str = "episode return",
    columns: int = 3,
    unit: str = "environment steps",
) -> None:
    """Write learning curves: IQM over seeds with its 95 % interval; beside a single sweep, its final scores."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sweep = len(panels) == 1 and bool(panels[0].legend) and len(panels[0].curves) > 1
    across = 2 if sweep else min(columns, len(panels))
    down = -(-len(panels) // across)
    width = (7, 11)[across - 1] if across < 3 else 5 * across
    matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a file is no formula
    figure, axes = plt.subplots(down, across, figsize=(width, 4.2 * down), squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=False):
        colors = _draw(axis, panel, ordered=sweep)
        seeds = {len(curve.final) + curve.left_out for curve in panel.curves}
        number = counted(min(seeds), "seed") if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
        axis.set_title(f"{panel.title}: IQM of {number}, 95 % interval", fontsize=10, loc="left")
        axis.set(xlabel=unit, ylabel=ylabel)
        if sweep:
            _bars(axes[0, 1], panel, colors)
    for axis in list(axes.flat)[len(panels) + sweep :]:
        axis.set_axis_off()
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)
