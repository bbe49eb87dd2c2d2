"""Types of the option values of a run. Errors name the given value and the allowed ones."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

import click
from click.shell_completion import CompletionItem


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


class Sweep(NamedTuple):
    """Several values of an option that is structure: one program for each."""

    values: tuple[Any, ...]


class Swept(click.ParamType):
    """One value of a type, or several with `between` between them: a sweep, one program for each."""

    def __init__(self, one: click.ParamType, between: str = ","):
        self.one, self.between = one, between
        self.name = f"{one.name}[{between}...]"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self.one.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return self.one.shell_complete(ctx, param, incomplete)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, str) and self.between in value:
            parts = (part.strip() for part in value.split(self.between))
            return Sweep(tuple(self.one.convert(part, param, ctx) for part in parts))
        return self.one.convert(value, param, ctx)


class Count(click.ParamType):
    """A positive whole number, such as 5e5, 100k or 1M, that fits into an int32 unless it is a `total`."""

    name = "COUNT"
    UNITS: ClassVar = {"k": 10**3, "M": 10**6, "G": 10**9}

    def __init__(self, total: bool = False):
        self.total = total

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            text = str(value).strip()
            unit = self.UNITS.get(text[-1:], 1)
            number = float(Decimal(text[:-1]) * unit) if unit > 1 else float(text)
            if number < 1 or number != int(number):
                raise ValueError
        except (ValueError, ArithmeticError):
            self.fail(f"{value!r} is not a positive whole number", param, ctx)
        if number >= 2**31 and not self.total:
            self.fail(f"{value!r} is too large; it must be below 2147483648", param, ctx)
        return int(number)


class Range(click.FloatRange):
    """A number in a range, which NaN is not in."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)
        return number


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


class Assignment(click.ParamType):
    """A name and its values, NAME=VALUE[,...]: numbers, true or false."""

    name = "NAME=VALUE[,...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[float | int | bool, ...]]:
        name, values = value.partition("=")[::2] if isinstance(value, str) else value
        parts = values.split(",") if isinstance(values, str) else values
        if not name or not values:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name.strip().replace("-", "_"), tuple(self._one(part, param, ctx) for part in parts)

    def _one(self, value: Any, param: Any, ctx: Any) -> float | int | bool:
        text = str(value).strip().lower()
        if text in ("true", "false"):
            return text == "true"
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(text)
        return self.fail(f"{value!r} is not a number, true or false", param, ctx)
