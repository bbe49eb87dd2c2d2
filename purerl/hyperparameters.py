"""Hyperparameters as pytrees: floats are leaves, all other fields are static structure."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, ClassVar, Literal, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "allowed",
    "config",
    "hints_of",
    "is_float",
    "option",
]


def option(
    default: Any,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    share: float | None = None,
) -> Any:
    """Declare a field of a `@config` class: its default, its documentation and its closed range.

    `open_low` excludes `low` from the range. `share`: the command line's default for this field, as a share of the
    environment steps of the run.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "range": (low, high, open_low), "share": share})


def _admits_none(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in typing.get_args(hint)


def is_float(hint: Any) -> bool:
    """Whether a field with this annotation is data: a float, or a float or None."""
    return hint is float or (_admits_none(hint) and float in typing.get_args(hint))


def hints_of(config: type) -> dict[str, Any]:
    """The annotations of the fields of a `@config` class, by name."""
    return {name: x for name, x in typing.get_type_hints(config).items() if typing.get_origin(x) is not ClassVar}


def allowed(field: dataclasses.Field, hint: Any) -> str:
    """Describe the values that a config field accepts.

    >>> allowed(dataclasses.field(default=1, metadata={"range": (1, None, False)}), int)
    'an integer >= 1'
    """
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    low, high, open_low = field.metadata.get("range", (None, None, False))
    bounds = [f"{'>' if open_low else '>='} {low:g}"] if low is not None else []
    bounds += [f"<= {high:g}"] if high is not None else []
    noun = "a number" if is_float(hint) else {int: "an integer", bool: "True or False"}.get(hint, str(hint))
    return " ".join([noun, " and ".join(bounds)]).strip() + (" or None" if _admits_none(hint) else "")


def _checked(name: str, field: dataclasses.Field, hint: Any, value: Any) -> Any:
    def refuse():
        raise ValueError(f"{name}.{field.name} is {value!r}; it must be {allowed(field, hint)}")

    if value is None and _admits_none(hint):
        return value
    if isinstance(value, Tracer) or type(value) is object:  # traced, or a pytree's placeholder
        return value
    if is_float(hint):
        if isinstance(value, bool | str) or np.asarray(value).dtype.kind not in "fiu":
            refuse()
        value = float(value) if isinstance(value, int | float) else jnp.asarray(value, jnp.result_type(float))
    elif typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            refuse()
    elif hint in (int, bool) and type(value) is not hint:
        refuse()
    low, high, open_low = field.metadata.get("range", (None, None, False))
    numbers = np.asarray(value) if is_float(hint) or hint is int else None
    if numbers is not None:
        if hint is int and abs(value) >= 2**31:  # most of them end in an int32
            raise ValueError(f"{name}.{field.name} is {value!r}; it must be below 2147483648")
        ok = np.isfinite(numbers)
        ok = ok if low is None else ok & ((numbers > low) if open_low else (numbers >= low))
        ok = ok if high is None else ok & (numbers <= high)
        if not ok.all():
            refuse()
    return value


@dataclass_transform(frozen_default=True)
def config(cls):
    """Convert a class of hyperparameters to a frozen dataclass that is a pytree.

    Fields annotated `float` are leaves: they support `vmap` and `grad`, and a new value needs no recompilation.
    Every other field is static structure, such as shapes and loop lengths. A field `float | None` is a leaf if it
    is given; whether it is given is static. Concrete values are checked on construction.

    Raises:
      ValueError: on construction, if a value is not allowed; the message names the field, the value and its range.

    >>> @config
    ... class Settings:
    ...     learning_rate: float = option(1e-3, "step size", low=0.0, open_low=True)
    ...     num_epochs: int = option(4, "passes over the data", low=1)
    >>> jax.tree.leaves(Settings(learning_rate=1))
    [1.0]
    >>> Settings(num_epochs=0)
    Traceback (most recent call last):
    ...
    ValueError: Settings.num_epochs is 0; it must be an integer >= 1
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    hints = hints_of(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    leaves = [name for name in fields if is_float(hints[name])]
    static = [name for name in fields if name not in leaves]
    construct = cls.__init__

    def __init__(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        for name, field in fields.items():
            object.__setattr__(self, name, _checked(cls.__name__, field, hints[name], getattr(self, name)))

    def flatten_with_keys(self):
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in leaves]
        return children, tuple(getattr(self, name) for name in static)

    def flatten(self):
        return [getattr(self, name) for name in leaves], tuple(getattr(self, name) for name in static)

    def unflatten(structure, children):  # past __init__: transformations put tracers and placeholders here
        self = object.__new__(cls)
        for name, value in zip(leaves + static, [*children, *structure], strict=True):
            object.__setattr__(self, name, value)
        return self

    __init__.__wrapped__ = construct  # keeps the signature for help() and editors
    cls.__init__ = __init__
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
