"""Populations of runs: when and how they exchange, a table of their generations, and a picture of the lineages.

The runs of a population are the seeds of one config, whose changes of hyperparameters have a value for each of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import statistics
from purerl.runs import files, report
from purerl.search import pbt, spaces
from purerl.search.pbt import History, ancestors, schedule
from purerl.search.spaces import Interval

TABLE, PICTURE = "population.csv", "population.png"


class Population(NamedTuple):
    """The exchange of a population: what the config of its run has under "population"."""

    interval: int  # environment steps of a generation; the last one has what remains, too
    fraction: float  # of the members, the lowest, that copy one of as many of the highest
    perturb: tuple[float, ...]  # factors, one of which multiplies a hyperparameter after a copy
    resample: float  # the probability of a new value of its interval in place of that
    space: tuple[tuple[str, Interval], ...]  # the hyperparameters that change


def population_of(stored: Mapping[str, Any]) -> Population:
    """The population of a config.

    Raises:
      ValueError: if it is none.
    """
    try:
        space = tuple(spaces.from_json(stored["space"]).items())
        found = Population(**{**stored, "perturb": tuple(stored["perturb"]), "space": space})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{stored!r:.60} is no population: {error}") from error
    _exchange(found)
    return found


@cache
def _exchange(population: Population) -> Any:
    """The compiled exchange of hyperparameters: what a child has of the state is copied apart, by `copied`."""
    change = pbt.perturb(*population.perturb)
    explore = pbt.resample(population.resample, change) if population.resample else change
    return jax.jit(pbt.exchange(dict(population.space), pbt.truncation(population.fraction), explore))


copied = jax.jit(pbt.copied, donate_argnums=0)


def exchanges(plan: Any) -> Sequence[int]:
    """The iterations at which the runs of a plan exchange: a generation after each remains."""
    if plan.population is None:
        return ()
    every = max(1, plan.population.interval // plan.steps_per_update)
    return range(every, plan.num_updates - every + 1, every)


def recorded(plan: Any, iteration: int) -> dict[str, Any] | None:
    """The change of an iteration at which the runs of a plan have exchanged already; None if they have not."""
    return next((x for x in _generations(plan) if x["iteration"] == iteration), None)


def _generations(plan: Any) -> list[dict[str, Any]]:
    """The changes at which generations begin."""
    return [change for change in plan.config["horizons"] if "exchange" in change]


def beginning(points: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The change at which the first generation begins, with a point of a design for each member."""
    exchange = {"parent": list(range(len(points))), "scores": ["-inf"] * len(points)}
    return {"iteration": 0, "exchange": exchange, **{name: [point[name] for point in points] for name in points[0]}}


def _scores(plan: Any, iterations: Sequence[int], rows: Sequence[Mapping[str, Any]], broken: np.ndarray) -> np.ndarray:
    """The scores of the generation to which the last metrics belong, float64 `[R]`.

    The mean return of the last 100 episodes of the generation or more, or the score before if none finished: of the
    run from which the state is. NaN for runs that are broken, -∞ before the first episode.
    """
    begun = max((x for x in _generations(plan) if x["iteration"] < iterations[-1]), key=lambda x: x["iteration"])
    own = [row for at, row in zip(iterations, rows, strict=True) if at > begun["iteration"]]
    episodes, returns = (np.stack([row[name] for row in own]) for name in ("episodes", "episode_return"))
    found = statistics.last_returns(episodes, returns)
    before = np.array([float(x) for x in begun["exchange"]["scores"]])[begun["exchange"]["parent"]]
    return np.where(broken, np.nan, np.where(episodes.sum(0) > 0, found, before))


def change(
    plan: Any, iterations: Sequence[int], rows: Sequence[Mapping[str, Any]], broken: np.ndarray
) -> dict[str, Any]:
    """The exchange after the last metrics: from whom each run goes on, and with which hyperparameters.

    Args:
      iterations, rows: all metrics so far.
      broken: bool `[R]`, the runs whose state is not finite.
    """
    at, population = int(iterations[-1]), plan.population
    scores = _scores(plan, iterations, rows, broken)
    # neither a key of training nor one of an evaluation
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(plan.config["seed"]), 2**31 + 2), at)
    hp, _, parent = _exchange(population)(key, plan.hp(at - 1), (), jnp.asarray(scores, jnp.float32))
    exchange = {"parent": parent.tolist(), "scores": [x if np.isfinite(x) else str(x) for x in scores.tolist()]}
    values = {name: [spaces.rounded(x, value) for value in getattr(hp, name).tolist()] for name, x in population.space}
    return {"iteration": at, "exchange": exchange, **values}


def history(plan: Any, iterations: Sequence[int], rows: Sequence[Mapping[str, Any]], broken: np.ndarray) -> History:
    """The generations of a population so far; see `change` for the arguments."""
    begun = [x for x in _generations(plan) if x["iteration"] < iterations[-1]]
    scores = [[float(x) for x in change["exchange"]["scores"]] for change in begun[1:]]
    return History(
        np.array([*(change["iteration"] for change in begun[1:]), iterations[-1]]),
        np.array([*scores, _scores(plan, iterations, rows, broken)]),
        np.array([*(change["exchange"]["parent"] for change in begun[1:]), range(len(broken))]),
        {name: np.array([change[name] for change in begun]) for name, _ in plan.population.space},
    )


def score_of_line(past: History, member: int, iterations: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean return of the last 100 episodes or more of a member of the last generation and its ancestors.

    It is the statistic of a single run, where the score of a generation may be of fewer episodes.
    """
    who = ancestors(past.parents, member)[np.searchsorted(past.iterations, iterations)]
    of = lambda name: np.array([row[name][i] for row, i in zip(rows, who, strict=True)])
    return float(statistics.last_returns(of("episodes"), of("episode_return")))


# --- what is left on disk ---------------------------------------------------------------------------------------------

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


def _segments(edges: np.ndarray, values: np.ndarray, parents: np.ndarray, held: bool) -> np.ndarray:
    """The lines of a picture, float `[K, 2, 2]`: each from a point (x, y) to another.

    Args:
      edges: the beginning of the first generation and the end of each, `[G + 1]`.  values, parents: `[G, n]`.
      held: whether a value holds during its generation; otherwise it is that of its end.
    """
    last = np.take_along_axis(values[:-1], parents[:-1], 1)  # what each member had where it comes from
    begin, end = (np.repeat(x, values.shape[1]) for x in (edges[:-1], edges[1:]))
    ends = np.repeat(edges[1:-1], values.shape[1])
    if held:
        kept = np.stack([np.stack([begin, values.ravel()], -1), np.stack([end, values.ravel()], -1)], 1)
        changed = np.stack([np.stack([ends, last.ravel()], -1), np.stack([ends, values[1:].ravel()], -1)], 1)
        found = np.concatenate([kept, changed])
    else:
        later = np.repeat(edges[2:], values.shape[1])
        found = np.stack([np.stack([ends, last.ravel()], -1), np.stack([later, values[1:].ravel()], -1)], 1)
    return found[np.isfinite(found).all((1, 2))]


def picture(path: Path, history: History, member: int | None = None, title: str = "", unit: str = "updates") -> None:
    """Draw scores and hyperparameters of all generations; the best member and its ancestors are red.

    A line goes from each member to the one that has copied it.

    Args:
      member: whose ancestors are drawn; None: the one of the highest score in the last generation.
      unit: of `history.iterations`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import EngFormatter

    if member is None:
        member = pbt.best(history.scores[-1])
    line = ancestors(history.parents, member)
    panels = {"score": history.scores, **history.hyperparameters}
    best = {"score": history.scores[np.arange(len(line)), line], **schedule(history, member)}
    edges = np.array([0, *history.iterations])
    matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a file is no formula
    size = (7, 1.9 * len(panels) + 0.5)
    figure, axes = plt.subplots(len(panels), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axis, (name, values) in zip(axes[:, 0], panels.items(), strict=True):
        known, held = values[np.isfinite(values)], name != "score"
        if held and len(known) and known.min() > 0 and known.max() > PARTED * known.min():
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
        alone = np.zeros((len(line), 1), int)
        for color, width, shown, parents in (
            (report.COLORS[0], 1, values, history.parents),
            (report.COLORS[4], 2, best[name][:, None], alone),
        ):
            segments = _segments(edges, shown, parents, held)
            axis.add_collection(LineCollection(list(segments), colors=color, linewidths=width, alpha=0.4 * width))
            if not held:
                axis.plot(np.repeat(edges[1:], shown.shape[1]), shown.ravel(), ".", color=color, markersize=1.5 * width)
        axis.autoscale()
        axis.set_ylabel(name.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
    title = title or f"{history.scores.shape[1]} members; the best and its ancestors are red"
    figure.suptitle(title, fontsize=10)
    axes[-1, 0].set_xlim(0, edges[-1])
    axes[-1, 0].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[-1, 0].set_xlabel(unit)
    report.save_figure(path, figure)
