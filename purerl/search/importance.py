"""The importance of each dimension of a space for the scores of trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from purerl.search.spaces import Choice, Space, place

__all__ = ["importance", "ranks", "variance_explained"]

MOST_BINS = 8
PER_BIN = 4  # trials, at least


def ranks(scores: np.ndarray) -> np.ndarray:
    """The ranks of scores float `[n]`, from 0, equal scores by the mean of theirs; NaN is below every number.

    >>> ranks(np.array([5.0, np.nan, 7.0, 5.0])).tolist()
    [1.5, 0.0, 3.0, 1.5]
    """
    known = np.where(np.isnan(scores), -np.inf, scores)
    below, equal = (known[None] < known[:, None]).sum(1), (known[None] == known[:, None]).sum(1)
    return below + (equal - 1) / 2


def variance_explained(groups: np.ndarray, values: np.ndarray) -> float:
    """The share of the variance of values float `[n]` between the groups int `[n]`, without what chance explains.

        η² = Σ_g n_g (ȳ_g - ȳ)² / Σ_i (y_i - ȳ)²,   ε² = 1 - (1 - η²) (n - 1) / (n - G),   at least 0

    η² estimates the first-order Sobol index; with G groups it is about (G - 1) / (n - 1) if nothing depends on them,
    which ε² subtracts. 0 if all values are equal, or every group has one member.

    Reference: Kelley, 1935, PNAS 21:554 (ε²); Saltelli et al., 2008, Global Sensitivity Analysis, section 1.2.7.

    >>> variance_explained(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 2.0, 2.0]))
    1.0
    """
    names, which = np.unique(groups, return_inverse=True)
    count, total = len(values), ((values - values.mean()) ** 2).sum()
    if total == 0 or count == len(names):
        return 0.0
    sizes = np.bincount(which)
    between = (sizes * (np.bincount(which, values) / sizes - values.mean()) ** 2).sum()
    return max(0.0, float(1 - (1 - between / total) * (count - 1) / (count - len(names))))


def _groups(dimension: Any, values: Sequence[Any]) -> np.ndarray:
    """The value of a choice, or one of several bins of an interval with about as many trials each."""
    places = np.array([place(dimension, value) for value in values])
    if isinstance(dimension, Choice):
        return places
    bins = max(2, min(MOST_BINS, len(values) // PER_BIN))
    order = np.argsort(np.argsort(places, kind="stable"), kind="stable")
    return order * bins // len(values)


def importance(space: Space, points: Sequence[dict[str, Any]], scores: np.ndarray) -> dict[str, float]:
    """The importance of each dimension: the share of the variance of the scores' ranks that it explains alone.

    The trials are grouped by the values of a choice, or in up to 8 bins of an interval with 4 trials or more; see
    `variance_explained`. What only dimensions together explain counts for none of them.

    Args:
      points: the trials' values.  scores: float `[n]`, all after as many steps; NaN is the lowest.

    >>> from purerl.search.spaces import choice
    >>> points = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    >>> importance({"a": choice(0, 1), "b": choice(0, 1)}, points, np.array([1.0, 1.0, 9.0, 9.0]))
    {'a': 1.0, 'b': 0.0}
    """
    ordered = ranks(np.asarray(scores, float))
    return {name: variance_explained(_groups(x, [p[name] for p in points]), ordered) for name, x in space.items()}
