"""Errors of invalid input: one readable line, exit code 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click


class OneLine(click.ClickException):
    """Invalid input: one readable line; `main` exits with code 2."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn an error of an input, a file or a disk into one readable line."""
    try:
        yield
    except (ValueError, NotImplementedError, OSError) as error:
        raise OneLine(" ".join(str(error).split())) from error
