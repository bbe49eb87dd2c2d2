"""The type of an option that has a value or a space."""

from __future__ import annotations

from typing import Any

import click

from purerl.runs.arguments import Numbers, Sweep, Swept
from purerl.search import spaces

INTERVALS = {"uniform": spaces.uniform, "log_uniform": spaces.log_uniform}


class Spaced(click.ParamType):
    """A value of another type; of several values a choice; of numbers also log_uniform:LOW:HIGH or uniform:LOW:HIGH."""

    def __init__(self, one: click.ParamType):
        self.one = one
        self.name = one.name

    @staticmethod
    def admits(one: click.ParamType) -> bool:
        """Whether an option of a type may have a space: those that may be swept."""
        return isinstance(one, Numbers | Swept)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return "SPACE" if isinstance(self.one, Numbers) else self.one.get_metavar(param, ctx)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        kind, _, bounds = value.partition(":") if isinstance(value, str) else ("", "", "")
        try:
            if kind in INTERVALS and isinstance(self.one, Numbers):
                return INTERVALS[kind](*_pair(value, kind, bounds))
            found = self.one.convert(value, param, ctx)
            several = found.values if isinstance(found, Sweep) else found if isinstance(self.one, Numbers) else ()
            if len(several) > 1 and None in several:
                raise ValueError("none is structure and cannot be in a list with numbers")
            return spaces.choice(*several) if len(several) > 1 else found
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _pair(value: str, kind: str, bounds: str) -> tuple[float, float]:
    try:
        low, high = map(float, bounds.split(":"))
    except ValueError:
        raise ValueError(f"{value!r} is not {kind}:LOW:HIGH") from None
    return low, high
