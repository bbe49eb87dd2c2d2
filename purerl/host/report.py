"""Tables and pictures of what a job measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from purerl import statistics

PICTURES = (".png", ".pdf", ".svg")


def note(text: str) -> None:
    """One line for the person who watches."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def unused(path: Path) -> Path:
    """The path itself, or the first of path-2, path-3, … that no file has."""
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(2, 1_000_000))
    return next(p for p in (path, *([] if not path.exists() else numbered)) if not p.exists())


def table(title: str, swept: str, labels: list[str], final: np.ndarray, result: Any) -> None:
    """Print returns `final [G, S]`, one row a configuration, and what the run cost."""
    grid = Table(title=title, title_justify="left")
    for name in [
        *([swept] if swept else []),
        "mean return",
        "IQM",
        "95 % interval",
        "seeds from .. to",
    ]:
        grid.add_column(name, justify="left" if name == swept else "right")
    for label, scores in zip(labels, final, strict=True):
        known = scores[~np.isnan(scores)]
        if len(known) == 0:
            cells = ["no episode finished", "", "", ""]
        else:
            low, high = statistics.interval(known)
            cells = [f"{known.mean():.1f}", f"{statistics.iqm(known):.1f}", f"{low:.1f} .. {high:.1f}"]
            cells.append(f"{known.min():.1f} .. {known.max():.1f}")
        grid.add_row(*([label] if swept else []), *cells)
    console = Console()
    console.print(grid)
    pace = result.total_steps / result.run_seconds
    console.print(
        "return: mean of each seed's last 100 episodes or more\n"
        f"{pace:,.0f} steps/s: {result.total_steps:,} steps of all runs in {result.run_seconds:.1f} s, "
        f"after {result.compile_seconds:.1f} s of compiling",
        highlight=False,
        soft_wrap=True,
    )


def smoothed(episodes: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Returns `[K, ...]` with rows in which nothing finished filled by the last that did; NaN before the first."""
    filled = returns.copy()
    for k in range(1, len(filled)):
        filled[k] = np.where(episodes[k] > 0, filled[k], filled[k - 1])
    return filled


def picture(path: Path, title: str, swept: str, labels: list[str], final: np.ndarray, result: Any) -> None:
    """Write the learning curve: IQM over seeds with its 95 % interval, each seed faintly behind it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    curves = smoothed(result.episodes, result.returns)  # [K, G, S]
    figure, axes = plt.subplots(
        1, 2 if swept else 1, figsize=(11 if swept else 7, 4.2), squeeze=False, layout="constrained"
    )
    axis = axes[0, 0]
    colors = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(labels))) if swept else ["#1f6feb"]
    for index, (label, color) in enumerate(zip(labels, colors, strict=True)):
        scores = curves[:, index]  # [K, S]
        known = ~np.isnan(scores).any(axis=1)
        x, scores = result.steps[known], scores[known]
        if len(x) == 0:
            continue
        bounds = np.array([statistics.interval(row, num_resamples=500) for row in scores])
        if not swept:
            axis.plot(x, scores, color=color, alpha=0.18, linewidth=0.8)
        axis.fill_between(x, bounds[:, 0], bounds[:, 1], color=color, alpha=0.2, linewidth=0)
        axis.plot(x, statistics.iqm(scores, axis=1), color=color, linewidth=2, label=label or "IQM")
    seeds = final.shape[1]
    axis.set(xlabel="environment steps", ylabel="episode return", xlim=(0, result.steps[-1]))
    axis.set_title(f"{title}: IQM of {seeds} seeds, 95 % interval", fontsize=10, loc="left")
    if swept:
        axis.legend(title=swept, fontsize=8, title_fontsize=8, frameon=False)
        bars = axes[0, 1]
        for index, color in enumerate(colors):
            scores = final[index][~np.isnan(final[index])]
            if len(scores) == 0:
                continue
            low, high = statistics.interval(scores)
            middle = float(statistics.iqm(scores))
            bars.errorbar(index, middle, [[middle - low], [high - middle]], fmt="o", color=color, capsize=4)
            bars.plot(np.full(len(scores), index), scores, ".", color=color, alpha=0.35, zorder=0)
        crowded = len("".join(labels)) > 60
        bars.set_xticks(range(len(labels)), labels, rotation=30 if crowded else 0, fontsize=8)
        bars.set_xlabel(swept)
        bars.set_title("last 100 episodes: seeds, IQM, 95 % interval", fontsize=10, loc="left")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not (curves < 0).any():
        axis.set_ylim(bottom=0)
    for panel in axes[0]:
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
