"""Designs: the points of a space at which trials are run. They do not depend on results."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from purerl.arguments import check_counts
from purerl.search.spaces import Choice, Space, at

__all__ = ["Points", "from_unit", "grid", "random", "sobol"]

Points = list[dict[str, Any]]  # values by the names of the fields


def from_unit(space: Space, places: np.ndarray) -> Points:
    """The points of a space at places float `[n, d]` in [0, 1)."""
    return [{name: at(x, float(u)) for (name, x), u in zip(space.items(), row, strict=True)} for row in places]


def grid(space: Space, count: int) -> Points:
    """Every combination of values: all of a choice, and of an interval `count` at equal distances, its ends included.

    On a logarithmic scale the ratios are equal; one value is the middle.

    Raises:
      ValueError: if count is no positive int.

    >>> from purerl.search.spaces import choice, log_uniform
    >>> grid({"rate": log_uniform(0.01, 1), "epochs": choice(1, 2)}, 3)[1:4]
    [{'rate': 0.01, 'epochs': 2}, {'rate': 0.1, 'epochs': 1}, {'rate': 0.1, 'epochs': 2}]
    """
    check_counts("grid", count=count)
    places = np.linspace(0, 1, count) if count > 1 else [0.5]
    axes = [x.values if isinstance(x, Choice) else [at(x, float(u)) for u in places] for x in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*axes)]


def random(space: Space, count: int, seed: int = 0) -> Points:
    """Independent points, each coordinate from its own distribution. Bergstra & Bengio, 2012, JMLR 13:281.

    Raises:
      ValueError: if count is no positive int.
    """
    check_counts("random", count=count)
    return from_unit(space, np.random.default_rng(seed).random((count, len(space))))


def sobol(space: Space, count: int, seed: int = 0) -> Points:
    """The first points of a scrambled Sobol sequence: in each coordinate, of 2ᵏ points each 2⁻ᵏ of [0, 1) has one.

    Any number of points is admitted; powers of two are balanced.

    Raises:
      ValueError: if count is no positive int.
    Reference: Owen, 1998, Journal of Complexity 14:466 (the scrambling); Joe & Kuo, 2008, SIAM J. Sci. Comput. 30:2635.
    """
    check_counts("sobol", count=count)
    from scipy.stats import qmc  # takes longer to import than the rest of the module

    points = qmc.Sobol(len(space), scramble=True, rng=np.random.default_rng(seed))
    return from_unit(space, points.random_base2(max(count - 1, 0).bit_length())[:count])
