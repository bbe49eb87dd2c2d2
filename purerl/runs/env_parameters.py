"""Parameters of environments as options: floats are swept like hyperparameters, as fields of their config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import resets_itself
from purerl.hyperparameters import config, option

PREFIX = "env_"  # of the fields, so that none has the name of a hyperparameter


def fields_of(env_params: Any) -> dict[str, Any]:
    """The parameters of an environment by name: of a dataclass, a NamedTuple or a dict; {} of anything else."""
    if dataclasses.is_dataclass(env_params):
        return {field.name: getattr(env_params, field.name) for field in dataclasses.fields(env_params)}
    if hasattr(env_params, "_asdict"):
        return dict(env_params._asdict())
    return dict(env_params) if isinstance(env_params, Mapping) else {}


def replaced(env_params: Any, changes: Mapping[str, Any]) -> Any:
    """The parameters with some of `fields_of` changed."""
    if hasattr(env_params, "_replace"):
        return env_params._replace(**changes)
    return {**env_params, **changes} if isinstance(env_params, Mapping) else dataclasses.replace(env_params, **changes)


def _kind(x: Any) -> str:
    """The kind of the dtype of one number, such as "f"; "O" of anything else."""
    if isinstance(x, (bool, int, float)):
        return np.asarray(x).dtype.kind
    return getattr(x.dtype, "kind", "O") if hasattr(x, "dtype") and jnp.ndim(x) == 0 else "O"


def checked(env_params: Any, given: Sequence[tuple[str, tuple[float | int | bool, ...]]]) -> tuple[Any, dict[str, Any]]:
    """The parameters with all values that are structure, and the floats `{name: values}` that are hyperparameters.

    Raises:
      ValueError: for an unknown name, one that is given twice, a value of another kind than the parameter's, or
        several values of what is structure.
    """
    known, floats, structure = fields_of(env_params), {}, {}
    for name, values in given:
        if name not in known:
            allowed = ", ".join(known) or "none: the environment has no parameters"
            raise ValueError(f"--env-param: there is no parameter {name!r}; allowed are {allowed}")
        if name in floats or name in structure:
            raise ValueError(f"--env-param: {name} is given twice; give its values with commas between")
        if _kind(known[name]) == "f":
            if not np.isfinite(values).all():
                raise ValueError(f"--env-param: {name} is {values[~np.isfinite(values).argmax()]}; it must be finite")
            if abs(largest := max(values, key=abs)) > float(np.finfo(np.float32).max):
                raise ValueError(f"--env-param: {name} is {largest:g}; the largest float32 is 3.4e+38")
            floats[name] = tuple(map(float, values))
            continue
        wanted = {"b": bool, "i": int, "u": int}.get(_kind(known[name]))
        if wanted is None:
            raise ValueError(f"--env-param: {name} is {known[name]!r:.60} in the environment, and no number")
        if len(values) > 1:
            raise ValueError(f"--env-param: {name} is structure, and has one value for all runs; got {len(values)}")
        value = next(iter(values))
        if type(value) is not wanted:
            kinds = {bool: "true or false", int: "a whole number"}
            raise ValueError(f"--env-param: {name} is {value}; it must be {kinds[wanted]}")
        limits = np.iinfo(getattr(known[name], "dtype", np.int32) if wanted is int else np.int32)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"--env-param: {name} is {value}; it must be in [{limits.min}, {limits.max}]")
        structure[name] = value
    return (replaced(env_params, structure) if structure else env_params), floats


def check_worlds(env: Any, worlds: Sequence[Any]) -> None:
    """Trace a reset with each of the parameters, whose values the environment's own checks see.

    Elsewhere they do not: gymnax compiles `reset`, and a sweep has one program for all values.

    Raises:
      ValueError: what the environment's `reset_env` raises.
    """
    if resets_itself(env):
        return
    key = jax.eval_shape(jax.random.key, 0)
    for world in worlds:
        jax.eval_shape(lambda key, world=world: env.reset_env(key, world), key)


def longest_episode(env_params: Any, time_limit: int | None) -> Any:
    """The number of steps at which an episode ends at the latest: the environment's own limit, or `--time-limit`."""
    own = getattr(env_params, "max_steps_in_episode", None)
    return time_limit if own is None else own


@functools.cache
def extended(config_class: type, names: tuple[str, ...]) -> type:
    """A config class with one more float field for each of the environment's parameters of these names."""
    if not names:
        return config_class
    fields = {PREFIX + name: option(0.0, "a parameter of the environment") for name in names}
    about = {"__annotations__": dict.fromkeys(fields, float), "__doc__": config_class.__doc__}
    return config(type(config_class.__name__, (config_class,), {**fields, **about, "__module__": __name__}))


def of_hp(env_params: Any, hp: Any) -> Any:
    """The parameters with the values that a config of `extended` has."""
    names = [field.name for field in dataclasses.fields(hp) if field.name.startswith(PREFIX)]
    own = {name.removeprefix(PREFIX): getattr(hp, name) for name in names}
    own = {name: value for name, value in own.items() if name in fields_of(env_params)}
    return replaced(env_params, own) if own else env_params


def recorded(env_params: Any, floats: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are numbers, for a manifest: a list where there are several values."""
    single = {name: np.asarray(x).item() for name, x in fields_of(env_params).items() if _kind(x) in "fiub"}
    return single | {name: values[0] if len(values) == 1 else list(values) for name, values in floats.items()}
