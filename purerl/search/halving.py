"""Early stopping of trials by their rank: successive halving and Hyperband, as schedules.

A bracket is a list of rungs: so many trials are trained up to so many steps in total, then all but the best of them
end. Trials are numbered from 0; those of a bracket follow those of the bracket before.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from purerl.arguments import check_counts

__all__ = ["Bracket", "Rung", "alive", "best", "cost", "halving", "hyperband", "levels", "power"]


class Rung(NamedTuple):
    """A number of trials, and the total steps up to which each of them is trained."""

    trials: int
    steps: int


Bracket = Sequence[Rung]


def power(number: int, eta: int) -> int:
    """The largest s with ηˢ <= number; a logarithm in floating point would be wrong at powers.

    >>> power(80, 3), power(81, 3), power(243, 3)
    (3, 4, 5)
    """
    return next(s for s in itertools.count() if eta ** (s + 1) > number)


def _check(function: str, steps: int, eta: int, least: int) -> None:
    if not isinstance(steps, int) or steps < 1:  # in all, they may be more than an int32 holds
        raise ValueError(f"{function}: steps is {steps!r}; it must be a positive int")
    check_counts(function, eta=eta, least=least)
    if eta < 2:
        raise ValueError(f"{function}: eta is {eta}; it must be at least 2")
    if least > steps:
        raise ValueError(f"{function}: least is {least}; it must be at most steps, which is {steps}")


def _bracket(trials: int, steps: int, eta: int, s: int) -> list[Rung]:
    return [Rung(trials // eta**i, steps // eta ** (s - i)) for i in range(s + 1)]


def halving(trials: int, steps: int, eta: int = 3, least: int = 1) -> list[Rung]:
    """Successive halving: of n trials the best 1/η are trained η times as long, again and again, up to R steps.

        rᵢ = ⌊R ηⁱ⁻ˢ⌋,   nᵢ = ⌊n η⁻ⁱ⌋,   i = 0 … s,   with the largest s for which n η⁻ˢ >= 1 and R η⁻ˢ >= least

    Args:
      trials: n.  steps: R.  eta: η, at least 2.  least: the fewest steps of a rung.
    Raises:
      ValueError: for numbers that are not positive ints, or if least > steps.
    Reference: Jamieson & Talwalkar, 2016, AISTATS, arXiv:1502.07943; Li et al., 2018, JMLR 18(185), algorithm 1.

    >>> halving(27, 1000)
    [Rung(trials=27, steps=37), Rung(trials=9, steps=111), Rung(trials=3, steps=333), Rung(trials=1, steps=1000)]
    """
    check_counts("halving", trials=trials)
    _check("halving", steps, eta, least)
    return _bracket(trials, steps, eta, min(power(trials, eta), power(steps // least, eta)))


def hyperband(steps: int, eta: int = 3, least: int = 1) -> list[list[Rung]]:
    """Hyperband: brackets of successive halving of about equal cost, from the most trials to the most steps.

        s_max = ⌊log_η(R / least)⌋,   n(s) = ⌈(s_max + 1) ηˢ / (s + 1)⌉,   s = s_max … 0

    Args:
      steps: R, the most steps of a trial.  eta: η, at least 2.  least: the fewest steps of a rung.
    Raises:
      ValueError: for numbers that are not positive ints, or if least > steps.
    Reference: Li et al., 2018, JMLR 18(185), algorithm 1; its table 1 is R = 81, η = 3.

    >>> [[tuple(rung) for rung in bracket] for bracket in hyperband(9)]
    [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)]]
    """
    _check("hyperband", steps, eta, least)
    most = power(steps // least, eta)
    return [_bracket(-(-(most + 1) * eta**s // (s + 1)), steps, eta, s) for s in range(most, -1, -1)]


def cost(brackets: Sequence[Bracket]) -> int:
    """The steps of all trials together, if each goes on from where its last rung ended.

    >>> cost([halving(9, 9)])  # 9 x 1 + 3 x 2 + 1 x 6
    21
    """
    before = lambda bracket: [0, *(rung.steps for rung in bracket)]
    return sum(n * (r - r0) for bracket in brackets for (n, r), r0 in zip(bracket, before(bracket), strict=False))


def levels(brackets: Sequence[Bracket]) -> list[int]:
    """The numbers of steps at which some rung ends, in ascending order."""
    return sorted({rung.steps for bracket in brackets for rung in bracket})


def best(scores: np.ndarray, keep: int, among: np.ndarray) -> np.ndarray:
    """A mask, bool `[n]`, of the `keep` highest of the scores float `[n]` that the mask `among` has.

    NaN is below every number; of equal scores the first counts as higher.

    >>> best(np.array([1.0, np.nan, 3.0, 3.0]), 2, np.array([True, True, False, True])).tolist()
    [True, False, False, True]
    """
    order = np.lexsort((np.arange(len(scores)), -np.where(np.isnan(scores), -np.inf, scores), np.isnan(scores), ~among))
    kept = np.zeros(len(scores), bool)
    kept[order[: min(keep, int(among.sum()))]] = True
    return kept


def alive(brackets: Sequence[Bracket], scores: Mapping[int, np.ndarray], level: int) -> np.ndarray:
    """A mask, bool `[trials]`, of the trials that go on from a level: those that no rung up to it has ended.

    At the last rung of a bracket all of its trials stay, as the finalists of the search.

    Args:
      scores: for each of `levels` up to this one the scores of all trials there, float `[trials]`; those of trials
        that have ended are not read.
      level: one of `levels`, or 0, where all trials begin.
    """
    mask = np.ones(sum(bracket[0].trials for bracket in brackets), bool)
    first = 0
    for bracket in brackets:
        own = slice(first, first + bracket[0].trials)
        for rung, following in itertools.pairwise(bracket):
            if rung.steps <= level:
                mask[own] = best(scores[rung.steps][own], following.trials, mask[own])
        first = own.stop
    return mask
