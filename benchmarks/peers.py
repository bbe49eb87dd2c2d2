"""Whether the packages that a benchmark compares with are installed, said before it starts."""

from __future__ import annotations

import importlib.util
import sys


def missing(*modules: str) -> list[str]:
    """The modules that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def need(install: str, *modules: str) -> None:
    """Exit with one line that says what to install, unless all modules are installed."""
    if gone := missing(*modules):
        sys.exit(f"{', '.join(gone)} not installed: pip install {install}")


def note(install: str, *modules: str) -> None:
    """Say that the comparison with modules that are not installed is left out."""
    if gone := missing(*modules):
        print(f"without {', '.join(gone)}, not installed: pip install {install}", file=sys.stderr)
