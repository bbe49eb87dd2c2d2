"""Algorithms, one file each: config, loss, update. Common parts are in `purerl.agents.parts`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Any

__all__ = ["check_name", "names", "of_sequences"]


def names() -> dict[str, str]:
    """The agents of the package with the first lines of their docstrings, read without importing them."""
    folder = Path(__file__).parent
    agents = sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.ispkg)
    doc = lambda name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return {name: doc(name).split("\n")[0] for name in agents}


def check_name(name: str) -> None:
    """Raise a ValueError unless the package has an agent of this name, or it is a user's FILE.py:name."""
    if ".py:" not in name and name not in names():
        raise ValueError(f"there is no agent {name!r}; allowed are {', '.join(names())}, or your own FILE.py:name")


def of_sequences() -> dict[str, str]:
    """The agents of `names` that learn from policies over whole episodes, as language models do."""
    chosen = ("grpo", "rloo", "sequence_reinforce", "sequence_ppo")
    return {name: names()[name] for name in chosen}


def __getattr__(name: str) -> Any:  # agents are loaded when they are first used
    if name == "parts" or name in names():
        return importlib.import_module(f"purerl.agents.{name}")
    raise AttributeError(f"module 'purerl.agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "parts", *names()]
