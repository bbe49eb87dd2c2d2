"""Types of the option values of a run. Errors name the given value and the allowed ones."""

from __future__ import annotations

from typing import Any

import click


class Numbers(click.ParamType):
    """One number, or several separated by commas: a sweep. `none` is allowed if the field is optional."""

    name = "FLOAT[,...]"

    def __init__(self, optional: bool):
        self.optional = optional

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float | None, ...]:
        if isinstance(value, (tuple, list)):  # from the default of an option, or from a file
            value = ",".join("none" if x is None else str(x) for x in value)
        try:
            return tuple(self._one(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, nor numbers with commas between", param, ctx)

    def _one(self, text: str) -> float | None:
        return None if self.optional and text.lower() == "none" else float(text)


class Count(click.ParamType):
    """A positive whole number, such as 5e5, that fits into an int32 unless it is a `total`, counted in Python."""

    name = "COUNT"

    def __init__(self, total: bool = False):
        self.total = total

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            number = float(value)
            if number < 1 or number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a positive whole number", param, ctx)
        if number >= 2**31 and not self.total:
            self.fail(f"{value!r} is too large; it must be below 2147483648", param, ctx)
        return int(number)


class Seed(click.ParamType):
    """The seed of a key: a whole number from 0 to 2³¹ - 1."""

    name = "SEED"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if not str(value).isdecimal() or int(value) >= 2**31:
            self.fail(f"{value!r} is not a whole number from 0 to 2147483647", param, ctx)
        return int(value)


class Widths(click.ParamType):
    """Positive whole numbers, separated by commas."""

    name = "INT,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        return tuple(Count().convert(part.strip(), param, ctx) for part in str(value).split(","))


class Entries(click.ParamType):
    """Whole numbers from 0, separated by commas."""

    name = "INT,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        return tuple(click.IntRange(0).convert(part.strip(), param, ctx) for part in str(value).split(","))


class Names(click.ParamType):
    """Names, separated by commas."""

    name = "NAME,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} is not a list of names with commas between", param, ctx)
        return names
