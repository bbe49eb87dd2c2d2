"""The nouns: what a transition, an agent, a reward, a distribution, a network and a learner are. Types only."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Array = jax.Array
Key = jax.Array  # typed: jax.random.key(seed). First argument, consumed.


class Transition(NamedTuple):
    """One step of N environments, or a time-major `[T, N, ...]` block of steps."""

    obs: Any
    action: Any
    reward: Array
    next_obs: Any  # the true successor, never the observation after a reset
    terminated: Array  # the MDP ended: no value follows
    truncated: Array  # the clock ended it: bootstrap from next_obs
    valid: Array  # False after the first end in an episodic block; True elsewhere
    extras: Any = ()  # what `act` returned beside the action
    info: Any = ()  # the leaves of the environment's info that the learner was asked to keep


class Rollout(NamedTuple):
    """What an agent learns from: a block of transitions and the memory that acted in them."""

    transitions: Transition  # leaves [T, N, ...]
    memory: Any  # actor memory before the first step, leaves [N, ...]; () if none


class Agent(NamedTuple):
    """An algorithm as pure functions; compare `optax.GradientTransformation`.

    `init(key, obs) -> state` from the first real observations `[N, ...]`.
    `memory(n) -> memory` at an episode's start, for n environments.
    `reset(memory, ended [N]) -> memory` clears what ended episodes must not remember.
    `act(key, state, memory, obs) -> (action, memory, extras)` explores.
    `greedy(state, memory, obs) -> (action, memory)` does not: no key, deterministic.
    `update(key, state, rollout) -> (state, metrics)`: metrics are a dict of scalars, finite while all is well.
    `episodic`: `update` needs blocks of whole episodes (see `purerl.learner`).
    """

    init: Callable[[Key, Any], Any]
    memory: Callable[[int], Any]
    reset: Callable[[Any, Array], Any]
    act: Callable[[Key, Any, Any, Any], tuple[Any, Any, Any]]
    greedy: Callable[[Any, Any, Any], tuple[Any, Any]]
    update: Callable[[Key, Any, Rollout], tuple[Any, dict[str, Array]]]
    episodic: bool = False


class Reward(NamedTuple):
    """A reward as pure functions, applied to a block before the agent's `update`.

    `init(key, transition) -> state` from an example step `[N, ...]`.
    `apply(key, state, transitions) -> (state, reward [T, N], metrics)`.
    """

    init: Callable[[Key, Transition], Any]
    apply: Callable[[Key, Any, Transition], tuple[Any, Array, dict[str, Array]]]


def _no_draw(key: Key, p: Array) -> tuple[Any, Array]:
    raise ValueError("this Distribution was made without draw; give it (key, p) -> (action, log_prob)")


class Distribution(NamedTuple):
    """A family of distributions as pure functions of its parameters `p [..., num_params]`.

    `sample(key, p) -> action [...]`, `log_prob(p, action) -> [...]`, `entropy(p) -> [...]`,
    `mode(p) -> action`, `kl(p, q) -> [...]` which is KL(p ‖ q).
    The last `num_free` parameters are learned values that do not depend on the observation.
    `draw(key, p) -> (action, log_prob)`: both at once, and differentiable in p where the family is reparametrised.
    `mask(p, legal) -> p` of which no action that is not legal happens; None where no mask is known.
    """

    sample: Callable[[Key, Array], Any]
    log_prob: Callable[[Array, Any], Array]
    entropy: Callable[[Array], Array]
    mode: Callable[[Array], Any]
    kl: Callable[[Array, Array], Array]
    num_params: int
    num_free: int = 0
    draw: Callable[[Key, Array], tuple[Any, Array]] = _no_draw
    mask: Callable[[Array, Any], Array] | None = None


class Network(Protocol):
    """Anything with these two methods; a `flax.linen.Module` has them. Leaves of obs are `[B, ...]`."""

    def init(self, key: Key, obs: Any, /) -> Any: ...

    def apply(self, params: Any, obs: Any, /) -> Any: ...


class MemoryNetwork(NamedTuple):
    """A network that remembers its episode. Leaves of obs are `[N, ...]`; in `unroll` `[T, N, ...]`.

    `init(key, obs) -> params`.
    `memory(n) -> memory` at an episode's start, for n environments.
    `reset(memory, ended [N]) -> memory`: an episode's start where one ended.
    `step(params, memory, obs) -> (outputs, memory)`: what acting does.
    `unroll(params, memory, obs, ended [T, N], next_obs=None) -> (outputs, next_outputs, memory)`: the same for T steps
      at once, from the memory before the first and with a reset after every step that `ended`. `next_outputs[t]` is
      what `step` gives for `next_obs[t]` after step t, before any reset: V(next_obs) at a truncation. None without
      next_obs.

    `purerl.memory.with_memory` makes one of a feed-forward `Network`; its memory is ().
    """

    init: Callable[[Key, Any], Any]
    memory: Callable[[int], Any]
    reset: Callable[[Any, Array], Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    unroll: Callable[..., tuple[Any, Any, Any]]


class Learner(NamedTuple):
    """A training run as two pure functions. `state.iteration` counts the updates done.

    `init(key) -> state`; `step(state) -> (state, sums)`, where `sums` is a `purerl.training.Sums`.
    """

    init: Callable[[Key], Any]
    step: Callable[[Any], tuple[Any, Any]]


def option(
    default: Any,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    share: float | None = None,
) -> Any:
    """A field of a `@config` class: its default, what it means, and the closed range it must lie in.

    `open_low` leaves `low` itself out of the range. `share`: what the command line takes for it where it is not given,
    as a share of the environment steps of the run.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "range": (low, high, open_low), "share": share})


def _admits_none(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in typing.get_args(hint)


def _is_float(hint: Any) -> bool:
    return hint is float or (_admits_none(hint) and float in typing.get_args(hint))


def allowed(field: dataclasses.Field, hint: Any) -> str:
    """What a config field accepts, in words.

    >>> allowed(dataclasses.field(default=1, metadata={"range": (1, None, False)}), int)
    'an integer >= 1'
    """
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    low, high, open_low = field.metadata.get("range", (None, None, False))
    bounds = [f"{'>' if open_low else '>='} {low:g}"] if low is not None else []
    bounds += [f"<= {high:g}"] if high is not None else []
    noun = "a number" if _is_float(hint) else {int: "an integer", bool: "True or False"}.get(hint, str(hint))
    return " ".join([noun, " and ".join(bounds)]).strip() + (" or None" if _admits_none(hint) else "")


def _checked(name: str, field: dataclasses.Field, hint: Any, value: Any) -> Any:
    def refuse():
        raise ValueError(f"{name}.{field.name} is {value!r}; it must be {allowed(field, hint)}")

    if value is None and _admits_none(hint):
        return value
    if isinstance(value, Tracer) or type(value) is object:  # traced, or a pytree's placeholder
        return value
    if _is_float(hint):
        if isinstance(value, bool | str) or np.asarray(value).dtype.kind not in "fiu":
            refuse()
        value = float(value) if isinstance(value, int | float) else jnp.asarray(value, jnp.result_type(float))
    elif typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            refuse()
    elif hint in (int, bool) and type(value) is not hint:
        refuse()
    low, high, open_low = field.metadata.get("range", (None, None, False))
    numbers = np.asarray(value) if _is_float(hint) or hint is int else None
    if numbers is not None:
        ok = np.isfinite(numbers)
        ok = ok if low is None else ok & ((numbers > low) if open_low else (numbers >= low))
        ok = ok if high is None else ok & (numbers <= high)
        if not ok.all():
            refuse()
    return value


@dataclass_transform(frozen_default=True)
def config(cls):
    """Make a class of hyperparameters: a frozen dataclass that is a pytree.

    Fields annotated `float` are leaves: data that `vmap`, `grad` and a new value pass through without
    compiling again. Every other field is structure: shapes and loop lengths. A field `float | None` is
    a leaf when it is there; whether it is there is structure. Concrete values are checked when constructed.

    Raises:
      ValueError: on construction, naming the field, the value and what is allowed.

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
    hints = {k: h for k, h in typing.get_type_hints(cls).items() if typing.get_origin(h) is not ClassVar}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    leaves = [name for name in fields if _is_float(hints[name])]
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


def check_counts(function: str, **counts: Any) -> None:
    """Raise a ValueError that names the first count that is not a positive int."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{function}: {name} is {count!r}; it must be a positive int")


def check_range(function: str, low: Any, high: Any, /, **numbers: Any) -> None:
    """Raise a ValueError that names the first number outside of [low, high]; what is traced is not looked at."""
    for name, x in numbers.items():
        known = not any(isinstance(value, Tracer) for value in (low, high, x))
        if known and not ((np.asarray(x) >= low) & (np.asarray(x) <= high)).all():
            raise ValueError(f"{function}: {name} is {x}; it must lie in [{low}, {high}]")


def check_functions(function: str, /, **parts: Any) -> None:
    """Raise a ValueError that names the first that can not be called."""
    for name, part in parts.items():
        if not callable(part):
            raise ValueError(f"{function}: {name} is {part!r}; it must be a function")


def check_shapes(function: str, **arrays: Any) -> None:
    """Raise a ValueError that names the arrays and their shapes unless all shapes are equal."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{function}: shapes must be equal, got " + ", ".join(f"{k} {v}" for k, v in shapes.items()))
