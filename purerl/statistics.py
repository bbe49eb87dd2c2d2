"""Statistics of scores over runs and tasks, in NumPy: arrays are `[runs]` or `[runs, tasks]`.

Reference: Agarwal et al., 2021, arXiv:2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def iqm(scores, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Interquartile mean: the mean of what is left without the lowest and the highest quarter of all scores.

    Of n scores, ⌊n/4⌋ are cut at either end, over runs and tasks together.

    Args:
      scores: float `[runs]` or `[runs, tasks]`.  axis: None takes all of them.
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
    return np.sort(scores, axis=axis).take(range(cut, count - cut), axis=axis).mean(axis=axis)


def mean(scores, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The mean, as a statistic to pass by name."""
    return np.mean(np.asarray(scores, np.float64), axis=axis)


def interval(
    scores, statistic: Callable = iqm, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Stratified bootstrap interval: runs are drawn with replacement within each task; percentiles are its ends.

    Args:
      scores: float `[runs]` or `[runs, tasks]`.
      statistic: `(scores, axis) -> number`, such as `iqm` or `mean`.
      confidence: in (0, 1).
      seed: of the resampling, so that the same scores give the same interval.
    Returns:
      `(low, high)`; both are the statistic itself if there is one run.
    Raises:
      ValueError: for no scores, or a confidence outside of (0, 1).
    Reference: Agarwal et al., 2021, section 4.1.

    >>> interval([3.0, 3.0, 3.0])
    (3.0, 3.0)
    """
    scores = np.asarray(scores, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if scores.size == 0:
        raise ValueError("interval: there are no scores")
    if not 0 < confidence < 1:
        raise ValueError(f"interval: confidence is {confidence}; it must be in (0, 1)")
    runs, tasks = scores.shape
    drawn = np.random.default_rng(seed).integers(runs, size=(num_resamples, runs, tasks))
    values = statistic(scores[drawn, np.arange(tasks)], axis=(1, 2))
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def last_returns(episodes, returns, at_least: int = 100) -> np.ndarray:
    """A run's result: mean return of the last rows that together hold `at_least` episodes, or of all rows.

    Args:
      episodes: how many episodes finished, int `[K]` or `[K, runs]`.
      returns: their mean returns, float of the same shape, NaN where none finished.
      at_least: how many episodes to go back for.
    Returns:
      float `[]` or `[runs]`; NaN where no episode finished at all.

    >>> float(last_returns([60, 0, 60, 60], [1.0, np.nan, 2.0, 4.0]))
    3.0
    """
    episodes, returns = np.asarray(episodes)[::-1], np.asarray(returns, np.float64)[::-1]
    so_far = np.cumsum(episodes, axis=0) - episodes
    counts = np.where(so_far < at_least, episodes, 0)
    total = (counts * np.where(counts > 0, returns, 0.0)).sum(axis=0)
    return np.where(counts.sum(axis=0) > 0, total / np.maximum(counts.sum(axis=0), 1), np.nan)


def probability_of_improvement(x, y) -> float:
    """P(X > Y): how likely a run of X beats a run of Y on a task, ties counted half, averaged over tasks.

    Args:
      x, y: float `[runs]` or `[runs, tasks]`, with the same tasks.
    Raises:
      ValueError: if the tasks differ in number.
    Reference: Agarwal et al., 2021, section 4.3 (the Mann-Whitney U statistic).

    >>> probability_of_improvement([1.0, 2.0], [1.0, 0.0])
    0.875
    """
    x, y = (np.asarray(s, np.float64) for s in (x, y))
    x, y = (s[:, None] if s.ndim == 1 else s for s in (x, y))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"probability_of_improvement: x has {x.shape[1]} tasks and y {y.shape[1]}")
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    return float(wins.mean())
