"""Spaces of hyperparameters as data: intervals of numbers, and choices.

>>> space = {"learning_rate": log_uniform(1e-4, 1e-2), "num_epochs": choice(4, 8)}
>>> [at(dimension, 0.5) for dimension in space.values()]
[0.001, 8]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from purerl.hyperparameters import hints_of, is_float

__all__ = [
    "Choice",
    "Interval",
    "at",
    "check",
    "choice",
    "from_json",
    "log_uniform",
    "place",
    "rounded",
    "to_json",
    "uniform",
]

DIGITS = 6  # significant ones of a value that is taken from an interval


class Interval(NamedTuple):
    """Numbers in [low, high]; `log`: their logarithms are uniform in place of themselves."""

    low: float
    high: float
    log: bool = False


class Choice(NamedTuple):
    """Values of which each is as probable as the others."""

    values: tuple[Any, ...]


Dimension = Interval | Choice
Space = Mapping[str, Dimension]


def _interval(function: str, low: float, high: float, log: bool) -> Interval:
    if not np.isfinite([low, high]).all() or not low < high or (log and low <= 0):
        raise ValueError(f"{function} is [{low:g}, {high:g}]; it must be finite numbers, the first "
                         f"{'positive and ' if log else ''}below the second")  # fmt: skip
    return Interval(float(low), float(high), log)


def uniform(low: float, high: float) -> Interval:
    """The interval [low, high]: x = low + u (high - low), u uniform in [0, 1).

    Raises:
      ValueError: unless both are finite and low < high.

    >>> at(uniform(0.1, 0.3), 0.5)
    0.2
    """
    return _interval("uniform", low, high, log=False)


def log_uniform(low: float, high: float) -> Interval:
    """The interval [low, high] on a logarithmic scale: x = low (high / low)ᵘ, u uniform in [0, 1).

    Raises:
      ValueError: unless both are finite and 0 < low < high.

    >>> at(log_uniform(1e-4, 1e-2), 0.5)
    0.001
    """
    return _interval("log_uniform", low, high, log=True)


def choice(*values: Any) -> Choice:
    """One of several values: of floats they share one program, of structure each has a program of its own.

    Raises:
      ValueError: for no value, or one that is given twice.

    >>> [at(choice(4, 8, 16), u) for u in (0.0, 0.3, 0.7)]
    [4, 4, 16]
    """
    if not values or len({*map(repr, values)}) < len(values):
        raise ValueError(f"choice is {', '.join(map(str, values)) or 'empty'}; it must be values that differ")
    return Choice(values)


def at(dimension: Dimension, u: float) -> Any:
    """The value at a place u in [0, 1): the inverse of its distribution function.

    A number of an interval is rounded to six significant digits, so that it is the same on a command line.
    """
    if isinstance(dimension, Choice):
        return dimension.values[min(int(u * len(dimension.values)), len(dimension.values) - 1)]
    low, high, log = dimension
    return rounded(dimension, low * (high / low) ** u if log else low + u * (high - low))


def rounded(interval: Interval, value: float) -> float:
    """A value of an interval, to six significant digits; float32 holds them, so that such a value stays as it is.

    >>> rounded(uniform(0.0, 0.3), 1 / 3), rounded(uniform(0.0, 1.0), 1 / 3)
    (0.3, 0.333333)
    """
    return min(max(float(f"{value:.{DIGITS}g}"), interval.low), interval.high)


def place(dimension: Dimension, value: Any) -> float:
    """The place in [0, 1] of a value; of a choice, the middle of its part.

    >>> round(place(log_uniform(1e-4, 1e-2), 1e-3), 6), place(choice(4, 8), 8)
    (0.5, 0.75)
    """
    if isinstance(dimension, Choice):
        return (dimension.values.index(value) + 0.5) / len(dimension.values)
    low, high, value = np.log((*dimension[:2], value)) if dimension.log else (*dimension[:2], value)
    return float((value - low) / (high - low))


def check(space: Space, config: type, structure: Sequence[str] = ()) -> None:
    """Raise a ValueError unless a config, or what else is structure, has every field of a space and admits its values.

    Args:
      config: a class with the `@config` decorator, whose fields declare their ranges.
      structure: names of other options, all of whose values must be choices.

    >>> from purerl import PPO
    >>> check({"clip": uniform(0.0, 0.3)}, PPO)
    Traceback (most recent call last):
    ...
    ValueError: PPO.clip is 0.0; it must be a number > 0
    """
    hints = hints_of(config)
    fields = [field.name for field in dataclasses.fields(config)]
    if not space:
        raise ValueError(f"the space is empty; its fields may be {', '.join(fields)}")
    for name, dimension in space.items():
        if name not in fields and name not in structure:
            allowed = ", ".join([*fields, *structure])
            raise ValueError(f"the space names {name}, which {config.__name__} has not; allowed are {allowed}")
        if isinstance(dimension, Interval) and not (name in hints and is_float(hints[name])):
            raise ValueError(f"{name} is structure and has no interval; give a choice of values")
        if name in fields:
            for value in dimension.values if isinstance(dimension, Choice) else dimension[:2]:
                config(**{name: value})


def to_json(space: Space) -> dict[str, Any]:
    """A space as an object of JSON: an interval as an object, a choice as a list."""
    return {name: list(x.values) if isinstance(x, Choice) else x._asdict() for name, x in space.items()}


def from_json(stored: Any) -> dict[str, Dimension]:
    """The space that `to_json` made; lists inside a choice are tuples, such as widths.

    Raises:
      ValueError: if it is not one.
    """
    as_tuple = lambda x: tuple(x) if isinstance(x, list) else x
    try:
        return {name: choice(*map(as_tuple, x)) if isinstance(x, list) else Interval(**x) for name, x in stored.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{stored!r:.60} is no space: {error}") from error
