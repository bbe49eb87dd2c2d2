"""Statistics of scores over runs and tasks, in NumPy: arrays are `[runs]` or `[runs, tasks]`.

Reference: Agarwal et al., 2021, arXiv:2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = [
    "Profile",
    "improvement_interval",
    "interval",
    "iqm",
    "last_returns",
    "mean",
    "median",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
]


def _table(function: str, name: str, scores) -> np.ndarray:
    """Scores as float64 `[runs, tasks]`; raises a ValueError if any is NaN."""
    scores = np.asarray(scores, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"{function}: {name} has shape {scores.shape}; it must be [runs] or [runs, tasks], not empty")
    if np.isnan(scores).any():
        raise ValueError(f"{function}: {name} has {int(np.isnan(scores).sum())} NaN; there must be none")
    return scores


def _check_resampling(function: str, confidence: float, num_resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"{function}: confidence is {confidence}; it must be in (0, 1)")
    if not isinstance(num_resamples, int) or num_resamples < 1:
        raise ValueError(f"{function}: num_resamples is {num_resamples!r}; it must be a positive int")


def _resamples(scores: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Scores `[runs, tasks]` with runs resampled with replacement within each task, `[B, runs, tasks]`."""
    runs, tasks = scores.shape
    drawn = np.random.default_rng(seed).integers(runs, size=(num_resamples, runs, tasks))
    return scores[drawn, np.arange(tasks)]


def _ends(values: np.ndarray, confidence: float) -> np.ndarray:
    """Percentiles of resampled values `[B, ...]`: `[2, ...]`."""
    return np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)


def iqm(scores, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Interquartile mean: the mean of the scores without the lowest and the highest quarter.

    Of n scores, ⌊n/4⌋ are discarded at either end, over runs and tasks together. It is NaN if a score is NaN.

    Args:
      scores: float `[runs]` or `[runs, tasks]`.  axis: None: all axes.
    Raises:
      ValueError: if there is no score.

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    scores = np.asarray(scores, np.float64)
    if axis is None:
        scores, axis = scores.reshape(-1), 0
    if isinstance(axis, tuple):
        kept = [a for a in range(scores.ndim) if a not in [b % scores.ndim for b in axis]]
        scores, axis = scores.transpose(*kept, *axis).reshape(*[scores.shape[a] for a in kept], -1), -1
    count = scores.shape[axis]
    if count == 0:
        raise ValueError("iqm: there are no scores")
    cut = count // 4
    kept = np.sort(scores, axis=axis).take(range(cut, count - cut), axis=axis).mean(axis=axis)
    return np.where(np.isnan(scores).any(axis=axis), np.nan, kept)[()]  # a sort puts NaN among what is discarded


def mean(scores, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The mean of scores, float `[runs]` or `[runs, tasks]`, over `axis`; None: over all axes."""
    return np.mean(np.asarray(scores, np.float64), axis=axis)


def median(scores, axis: tuple[int, int] | None = None) -> np.ndarray:
    """The median over tasks of each task's mean over runs; for a single task that is the mean.

    Args:
      scores: float `[runs]` or `[runs, tasks]`.
      axis: the axes of runs and of tasks, in this order; None: as above.
    Raises:
      ValueError: if there is no score, or axis is neither None nor two axes.
    Reference: Agarwal et al., 2021, section 4.3 (the aggregate that the IQM replaces).

    >>> float(median([[0.0, 1.0, 8.0], [2.0, 3.0, 8.0]]))
    2.0
    """
    scores = np.asarray(scores, np.float64)
    if axis is None:
        scores = scores[:, None] if scores.ndim == 1 else scores
        axis = (0, 1)
    if not isinstance(axis, tuple) or len(axis) != 2:
        raise ValueError(f"median: axis is {axis!r}; it must be None, or the axes of runs and of tasks")
    if scores.size == 0:
        raise ValueError("median: there are no scores")
    return np.median(np.moveaxis(scores, axis, (-2, -1)).mean(-2), axis=-1)


def optimality_gap(scores, axis: int | tuple[int, ...] | None = None, target: float = 1.0) -> np.ndarray:
    """Optimality gap: (1/n) Σ max(target - x, 0), the mean shortfall from a target. Lower is better; 0 is the minimum.

    Args:
      scores: float `[runs]` or `[runs, tasks]`, normalised so that the target means the same for all tasks.
      axis: None: all axes.  target: γ, such as 1 for human scores; give `interval` a `functools.partial`.
    Raises:
      ValueError: if there is no score.
    Reference: Agarwal et al., 2021, section 4.3.

    >>> float(optimality_gap([0.5, 3.0]))
    0.25
    """
    scores = np.asarray(scores, np.float64)
    if scores.size == 0:
        raise ValueError("optimality_gap: there are no scores")
    return np.maximum(target - scores, 0.0).mean(axis=axis)


def interval(
    scores, statistic: Callable = iqm, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Stratified percentile bootstrap interval: runs are resampled with replacement within each task.

    Args:
      scores: float `[runs]` or `[runs, tasks]`.
      statistic: `(scores, axis) -> number`, such as `iqm` or `mean`.
      confidence: in (0, 1).
      seed: the seed of the resampling, so that the same scores give the same interval.
    Returns:
      `(low, high)`; both are the statistic itself if there is one run.
    Raises:
      ValueError: for no scores, scores that are not finite, or a confidence outside of (0, 1).
    Reference: Agarwal et al., 2021, section 4.1.

    >>> interval([3.0, 3.0, 3.0])
    (3.0, 3.0)
    """
    scores = np.asarray(scores, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.size == 0:
        raise ValueError("interval: there are no scores")
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"interval: scores of shape {scores.shape} must be finite, [runs] or [runs, tasks]")
    _check_resampling("interval", confidence, num_resamples)
    values = statistic(_resamples(scores, num_resamples, seed), axis=(1, 2))
    low, high = _ends(values, confidence)
    return float(low), float(high)


class Profile(NamedTuple):
    """A performance profile: the share of scores above each threshold, and its intervals; floats `[K]`."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def performance_profile(
    scores, thresholds, of_means: bool = False, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Profile:
    """The share of runs whose score is above τ, averaged over tasks, with pointwise bootstrap intervals.

        F(τ) = 1/M Σₘ 1/N Σₙ 1[xₙₘ > τ]        (runs n, tasks m)

    Args:
      scores: float `[runs]` or `[runs, tasks]`, normalised so that a threshold means the same for all tasks.
      thresholds: τ, float `[K]`.
      of_means: use the mean score of each task in place of the scores of runs; the profile is the share of tasks.
      confidence, num_resamples, seed: as in `interval`; the intervals are pointwise, not simultaneous.
    Raises:
      ValueError: for no scores, NaN among them, thresholds that are not a vector, or a confidence outside of (0, 1).
    Reference: Agarwal et al., 2021, section 4.2 (score distributions); Dolan & Moré, 2002.

    >>> performance_profile([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 9.0]).share.tolist()
    [1.0, 0.5, 0.0]
    """
    scores, thresholds = _table("performance_profile", "scores", scores), np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or thresholds.size == 0 or np.isnan(thresholds).any():
        raise ValueError(f"performance_profile: thresholds are {thresholds}; they must be a vector of numbers")
    _check_resampling("performance_profile", confidence, num_resamples)
    scored, resampled = scores, _resamples(scores, num_resamples, seed)
    if of_means:
        scored, resampled = scores.mean(0, keepdims=True), resampled.mean(1, keepdims=True)
    share = np.array([(scored > tau).mean() for tau in thresholds])
    low, high = _ends(np.stack([(resampled > tau).mean((1, 2)) for tau in thresholds], axis=1), confidence)
    return Profile(share, low, high)


def last_returns(episodes, returns, at_least: int = 100) -> np.ndarray:
    """The result of a run: the mean return of the last rows with at least `at_least` episodes in total, or of all rows.

    Args:
      episodes: the number of finished episodes, int `[K]` or `[K, runs]`.
      returns: their mean returns, float of the same shape, NaN where no episode finished.
      at_least: the minimum number of episodes.
    Returns:
      float `[]` or `[runs]`; NaN if no episode finished.

    >>> float(last_returns([60, 0, 60, 60], [1.0, np.nan, 2.0, 4.0]))
    3.0
    """
    episodes, returns = np.asarray(episodes)[::-1], np.asarray(returns, np.float64)[::-1]
    so_far = np.cumsum(episodes, axis=0) - episodes
    counts = np.where(so_far < at_least, episodes, 0)
    total = (counts * np.where(counts > 0, returns, 0.0)).sum(axis=0)
    return np.where(counts.sum(axis=0) > 0, total / np.maximum(counts.sum(axis=0), 1), np.nan)


def _wins(function: str, x, y) -> np.ndarray:
    """Whether runs of x score higher than runs of y, ties counted half: `[runs of x, runs of y, tasks]`."""
    x, y = _table(function, "x", x), _table(function, "y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{function}: x has {x.shape[1]} tasks and y {y.shape[1]}")
    return (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])


def probability_of_improvement(x, y) -> float:
    """P(X > Y): the probability that X scores higher than Y on a task, ties counted half, averaged over tasks.

    Args:
      x, y: float `[runs]` or `[runs, tasks]`, with the same tasks.
    Raises:
      ValueError: if the tasks differ in number, or for no scores or NaN among them.
    Reference: Agarwal et al., 2021, section 4.3 (the Mann-Whitney U statistic).

    >>> probability_of_improvement([1.0, 2.0], [1.0, 0.0])
    0.875
    """
    return float(_wins("probability_of_improvement", x, y).mean())


def improvement_interval(
    x, y, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Stratified bootstrap interval of `probability_of_improvement`: runs of X and of Y are resampled in each task.

    Args:
      x, y: float `[runs]` or `[runs, tasks]`, with the same tasks.
      confidence, num_resamples, seed: as in `interval`.
    Returns:
      `(low, high)`, in [0, 1]. If every run of one is above every run of the other, both are 1 or 0: the bootstrap
      cannot estimate the probability of an outcome that did not occur.
    Raises:
      ValueError: if the tasks differ in number, for no scores or NaN among them, or a confidence outside of (0, 1).
    Reference: Agarwal et al., 2021, section 4.3.

    >>> improvement_interval([3.0, 4.0], [1.0, 2.0])
    (1.0, 1.0)
    """
    wins = _wins("improvement_interval", x, y)
    _check_resampling("improvement_interval", confidence, num_resamples)
    rng, values = np.random.default_rng(seed), np.zeros(num_resamples)

    def counts(runs):
        """How often each run was sampled, `[B, runs]`."""
        drawn = rng.integers(runs, size=(num_resamples, runs)) + runs * np.arange(num_resamples)[:, None]
        return np.bincount(drawn.reshape(-1), minlength=num_resamples * runs).reshape(num_resamples, runs)

    for of_task in np.moveaxis(wins, -1, 0):  # one task at a time: all at once needs B times the memory of the wins
        values += ((counts(len(of_task)) @ of_task) * counts(of_task.shape[1])).sum(1) / wins.size
    low, high = _ends(values, confidence)
    return float(low), float(high)
