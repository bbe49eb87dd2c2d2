"""Errors of invalid input: one readable line, exit code 2."""

from __future__ import annotations

import contextlib
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import click

PACKAGE = Path(__file__).resolve().parents[1]


class OneLine(click.ClickException):
    """Invalid input: one readable line, and one more for the place in a user's file; `main` exits with code 2."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _in_users_file(error: BaseException) -> str:
    """The last line of a user's own file in the tracebacks of an error, such as "own.py:12, in f: x / 0", or ""."""
    installed = [PACKAGE, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))]
    for cause in _causes(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            path = Path(frame.filename)
            if path.is_file() and not any(path.resolve().is_relative_to(folder) for folder in installed):
                line = linecache.getline(frame.filename, frame.lineno or 0).strip()
                hint = "; --info names the entries of info to keep" if "info[" in line else ""
                return f"{path.name}:{frame.lineno}, in {frame.name}: {line}{hint}"
    return ""


def _said(text: str, where: str) -> OneLine:
    return OneLine(" ".join(text.split()) + (f"\n  {where}" if where else ""))


def _settle(error: BaseException) -> None:
    """See `processes.settle`; without jax there are no others."""
    if several := sys.modules.get("purerl.training.processes"):
        several.settle(error)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn an error of an input, a file, a disk or a user's own function into one readable line.

    If a user's own file is in its traceback, a second line has the last place there.
    """
    try:
        yield
    except click.exceptions.Exit:
        raise
    except (ValueError, NotImplementedError, OSError) as error:
        _settle(error)
        raise _said(str(error), _in_users_file(error)) from error
    except Exception as error:
        _settle(error)
        where = _in_users_file(error)
        if not where or isinstance(error, click.ClickException):
            raise
        text = str(error).split("\n")[0]
        raise _said(f"{type(error).__name__}: {text}", where) from error
