"""Checks of arguments, with errors that name the invalid argument."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "check_counts",
    "check_functions",
    "check_present",
    "check_range",
    "check_shapes",
    "check_step_env",
    "resets_itself",
]


def check_counts(function: str, **counts: Any) -> None:
    """Raise a ValueError that names the first count that is not a positive int, or too large for an int32."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{function}: {name} is {count!r}; it must be a positive int")
        if count >= 2**31:
            raise ValueError(f"{function}: {name} is {count!r}; it must be below 2147483648")


def resets_itself(env: Any) -> bool:
    """Whether an environment overrides gymnax's `step` and resets itself, as gymnax's wrappers do."""
    from gymnax.environments.environment import Environment

    return not hasattr(type(env), "step_env") or getattr(type(env), "step", None) is not Environment.step


def check_step_env(function: str, env: Any) -> None:
    """Raise a ValueError if an environment has a `step` or `reset` of its own, which a caller of `step_env` skips.

    What gymnax's own environments add there are statistics of several episodes (DeepSea), which nothing reads.
    """
    methods = {name: getattr(type(env), name, None) for name in ("step", "reset")}
    of_gymnax = lambda method: getattr(method, "__module__", "").startswith("gymnax.environments.")
    own = next((name for name, method in methods.items() if not of_gymnax(method)), "")
    if own:
        raise ValueError(
            f"{function}: {type(env).__name__} has its own {own}, which would be skipped, since {own}_env is called: "
            f"override {own}_env instead, or apply its wrapper last"
        )


def check_present(function: str, **trees: Any) -> None:
    """Raise a ValueError that names the first pytree whose memory was given up, as by `training.run`."""
    for name, tree in trees.items():
        gone = lambda x: isinstance(x, jax.Array) and not isinstance(x, Tracer) and x.is_deleted()
        if any(map(gone, jax.tree.leaves(tree))):
            raise ValueError(
                f"{function}: {name} was donated: a run went on from it, perhaps an interrupted one, and reused its "
                "memory. Start again from a key, from a later state, or from a copy made before: "
                "jax.tree.map(jnp.copy, state)"
            )


POSITIVE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)  # bounds of `check_range`
NOT_NEGATIVE = 0, POSITIVE[1]


def check_range(function: str, low: Any, high: Any, /, **numbers: Any) -> None:
    """Raise a ValueError that names the first number outside of [low, high]; traced values are not checked."""
    for name, x in numbers.items():
        known = not any(isinstance(value, Tracer) for value in (low, high, x))
        if known and not ((np.asarray(x) >= low) & (np.asarray(x) <= high)).all():
            raise ValueError(f"{function}: {name} is {x}; it must lie in [{low}, {high}]")


def check_functions(function: str, /, **parts: Any) -> None:
    """Raise a ValueError that names the first argument that is not callable."""
    for name, part in parts.items():
        if not callable(part):
            raise ValueError(f"{function}: {name} is {part!r}; it must be a function")


def check_shapes(function: str, **arrays: Any) -> None:
    """Raise a ValueError that names the arrays and their shapes unless all shapes are equal."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{function}: shapes must be equal, got " + ", ".join(f"{k} {v}" for k, v in shapes.items()))
