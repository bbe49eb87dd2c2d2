"""Errors of invalid input: one readable line, exit code 2."""

from __future__ import annotations

import contextlib
import linecache
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import click

PACKAGE = Path(__file__).resolve().parents[1]


class OneLine(click.ClickException):
    """Invalid input: one readable line; `main` exits with code 2."""


def _in_users_file(error: BaseException) -> str:
    """The last line of a user's own file in the traceback of an error, such as " (own.py:12, in f)"; "" without one."""
    installed = [PACKAGE, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.resolve().is_relative_to(folder) for folder in installed):
            line = linecache.getline(frame.filename, frame.lineno or 0)
            hint = "; --info names the entries of info to keep" if "info[" in line else ""
            return f" ({path.name}:{frame.lineno}, in {frame.name}{hint})"
    return ""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn an error of an input, a file, a disk or a user's own function into one readable line."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except (ValueError, NotImplementedError, OSError) as error:
        raise OneLine(" ".join(f"{error}{_in_users_file(error)}".split())) from error
    except Exception as error:
        where = _in_users_file(error)
        if not where or isinstance(error, click.ClickException):
            raise
        text = str(error).split("\n")[0]
        raise OneLine(" ".join(f"{type(error).__name__}: {text}{where}".split())) from error
