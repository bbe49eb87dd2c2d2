"""Checks of arguments, with errors that name the invalid argument."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "as_numbers",
    "check_arrays",
    "check_counts",
    "check_flags",
    "check_functions",
    "check_one_problem",
    "check_positive",
    "check_present",
    "check_range",
    "check_scalars",
    "check_shapes",
    "check_step_env",
    "check_whole",
    "is_known",
    "on_one_line",
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
LONGEST = 80  # characters of a value in a message


def is_known(*trees: Any) -> bool:
    """Whether no value of these is traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def on_one_line(x: Any) -> str:
    """The first characters of a value as text without line breaks, for messages: arrays are printed in many lines."""
    text = " ".join(line.strip() for line in str(x).splitlines())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def as_numbers(function: str, name: str, x: Any) -> np.ndarray:
    """An argument as an array; a ValueError that names it unless it is a number, or numbers in rows of one length."""
    try:
        array = np.asarray(x)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    real = array.dtype == bool or (jnp.issubdtype(array.dtype, jnp.number) and not np.iscomplexobj(array))
    if isinstance(x, int) or real:
        return array
    raise ValueError(f"{function}: {name} is {on_one_line(repr(x))}; it must be a real number or an array of numbers")


def check_range(function: str, low: Any, high: Any, /, **numbers: Any) -> None:
    """Raise a ValueError that names the first number outside of [low, high]; traced values are not checked."""
    for name, x in numbers.items():
        if is_known(x):
            array = as_numbers(function, name, x)
            if is_known(low, high) and not ((array >= low) & (array <= high)).all():
                raise ValueError(f"{function}: {name} is {on_one_line(x)}; it must lie in [{low}, {high}]")


def check_positive(function: str, /, **numbers: Any) -> None:
    """Raise a ValueError that names the first number that is not positive and finite; traced values are not checked."""
    for name, x in numbers.items():
        if is_known(x) and not ((as_numbers(function, name, x) > 0) & np.isfinite(x)).all():
            raise ValueError(f"{function}: {name} is {on_one_line(x)}; it must be positive and finite")


def check_whole(function: str, low: Any, high: Any, /, **numbers: Any) -> None:
    """As `check_range`, of whole numbers: a float such as 2.0 is one, since nothing is lost where it becomes an int."""
    check_range(function, low, high, **numbers)
    for name, x in numbers.items():
        if is_known(x) and (np.asarray(x) % 1 != 0).any():
            raise ValueError(f"{function}: {name} is {on_one_line(x)}; it must be a whole number")


def check_scalars(function: str, /, **numbers: Any) -> None:
    """Raise a ValueError that names the first argument that is not a single number, traced or not."""
    for name, x in numbers.items():
        _check_axes(function, name, x, 0)


def check_one_problem(function: str, kind: type, params: Any, /, **axes: int) -> None:
    """Raise a ValueError that names the first parameter with other axes than one problem's; `vmap` has several.

    kind: a dataclass of numbers and arrays, traced or not.  params: of it, or with more fields, which are not checked.
    axes: how many those parameters have that are arrays.
    """
    for field in fields(kind):
        _check_axes(function, field.name, getattr(params, field.name), axes.get(field.name, 0))


def _check_axes(function: str, name: str, x: Any, axes: int) -> None:
    shape = np.shape(as_numbers(function, name, x) if is_known(x) else jnp.asarray(x))
    if len(shape) != axes:
        what = f"an array of {axes} axes" if axes > 1 else "an array of 1 axis" if axes else "one number"
        raise ValueError(f"{function}: {name} has shape {shape}; it must be {what}, of one problem at a time")


def check_arrays(function: str, /, **arrays: Any) -> None:
    """Raise a ValueError that names the first argument that is neither a NumPy nor a JAX array."""
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray | jax.Array):
            raise ValueError(f"{function}: {name} is {on_one_line(repr(x))}; it must be an array")


def check_flags(function: str, /, **flags: Any) -> None:
    """Raise a ValueError that names the first argument that is neither True nor False."""
    for name, x in flags.items():
        if not isinstance(x, bool | np.bool_):
            raise ValueError(f"{function}: {name} is {x!r}; it must be True or False")


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
