"""The distribution of an action space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.core import Array, Distribution
from purerl.distributions.composite import find, is_distribution, joint, parameterised
from purerl.distributions.families import (
    bernoulli,
    categorical,
    check_bounds,
    flat_bound,
    mask_logits,
    multi_categorical,
    normal,
    squashed,
)


def tree_of(space: Any, closed: Callable[[Any], bool] = lambda space: False) -> Any:
    """Convert a space to a tree whose leaves are Discrete, MultiDiscrete, MultiBinary, Box and `closed` spaces.

    A space that is a leaf is returned unchanged.

    Raises:
      ValueError: for any other space.
    """
    inside = getattr(space, "spaces", None)
    if closed(space) or any(hasattr(space, name) for name in ("n", "nvec", "low")):
        return space
    if inside is not None and type(space).__name__ != "OneOf":  # gymnasium's: one part of several, not all of them
        if hasattr(inside, "keys"):
            return {name: tree_of(inside[name], closed) for name in inside}
        return tuple(tree_of(part, closed) for part in inside)
    allowed = "Discrete, MultiDiscrete, MultiBinary, Box, and Dict and Tuple of them"
    raise ValueError(f"no distribution for the space {space!r}; allowed are {allowed}")


def is_discrete(space: Any) -> bool:
    """Whether a space is Discrete. A MultiBinary too has n, and a shape besides."""
    return hasattr(space, "n") and not tuple(getattr(space, "shape", None) or ())


def first_of(space: Any) -> Any:
    """The lowest value of a Discrete or MultiDiscrete, gymnasium's `start`; 0 for any other space."""
    return getattr(space, "start", 0) if hasattr(space, "n") or hasattr(space, "nvec") else 0


def for_space(space: Any, box=normal) -> Distribution:
    """The action distribution for an action space.

    `categorical` for a Discrete, `multi_categorical` for a MultiDiscrete, `bernoulli` for a MultiBinary (both of
    gymnasium or of `purerl.envs.spaces`), `box(low, high, shape)` for a Box, `joint` for a Dict or Tuple of them,
    nested as they are, and `parameterised` for a `purerl.envs.Parameterised`.

    Choices are counted from 0; `clip_to_space` adds the `start` of a Discrete or MultiDiscrete, for the environment.

    Args:
      space: a space of gymnax or gymnasium.
      box: `normal` (any bounds; actions are clipped for the environment), `tanh_normal` or `beta` (finite bounds).
    Raises:
      ValueError: for any other space.
    """

    def leaf(space):
        if hasattr(space, "branches"):
            return parameterised([for_space(branch, box) for branch in space.branches])
        if hasattr(space, "nvec"):
            return multi_categorical(space.nvec)
        if is_discrete(space):
            return categorical(int(space.n))
        return bernoulli(tuple(space.shape)) if hasattr(space, "n") else box(space.low, space.high, tuple(space.shape))

    tree = jax.tree.map(leaf, tree_of(space, lambda space: hasattr(space, "branches")))
    return tree if is_distribution(tree) else joint(tree)


def map_space(function: Callable[..., Any], space: Any, *trees: Any) -> Any:
    """Apply `function(part, *values)` to the parts of a space that are neither Dict nor Tuple, and to their values."""
    inside = None if hasattr(space, "low") else getattr(space, "spaces", None)
    if inside is None:
        return function(space, *trees)
    if hasattr(inside, "keys"):
        return {name: map_space(function, inside[name], *(tree[name] for tree in trees)) for name in inside}
    return tuple(map_space(function, part, *parts) for part, *parts in zip(inside, *trees, strict=True))


def clip_to_space(space: Any, action: Any) -> Any:
    """Convert an action, as policies have them, to one that the space contains.

    Box parts `[..., *shape]` are clipped to their bounds, and rounded to the nearest if their dtype is that of ints or
    bools; `start` is added to choices, which policies count from 0; all have the dtype that the space declares.
    """

    def convert(part, x):
        declared = getattr(part, "dtype", None)
        dtype = jnp.result_type(x) if declared is None else jax.dtypes.canonicalize_dtype(declared)
        if not hasattr(part, "low"):
            start = first_of(part)
            return jnp.asarray(x, dtype) + np.asarray(start, dtype) if np.any(start) else jnp.asarray(x, dtype)
        # the ints of 64 bits of a NumPy bound would wrap around where numbers have 32
        narrow = lambda bound: bound.astype(np.float32) if getattr(bound, "dtype", None) == np.int64 else bound
        x = jnp.clip(x, narrow(part.low), narrow(part.high))
        return (x if jnp.issubdtype(dtype, jnp.inexact) else jnp.round(x)).astype(dtype)

    return map_space(convert, space, action)


class Hybrid(NamedTuple):
    """An action space as one choice k among K and one vector x of d numbers, for critics of continuous actions.

    Without discrete parts K = 1, and without continuous parts d = 0, so that agents need no special cases. Parameters
    are those of the choice, then those of x.
    """

    choice: Distribution  # categorical(K)
    continuous: Distribution  # over x [..., d], in the action's own units
    join: Callable[[Array, Array], Any]  # (k [...], x [..., d]) -> action
    split: Callable[[Any], tuple[Array, Array]]  # action -> (k, x)
    mask: Callable[[Array, Any], Array]  # (p, legal) -> p; see `Distribution`
    centre: np.ndarray  # [d], of the bounds of x
    half: np.ndarray  # [d], half of their range
    num_params: int
    num_free: int = 0


def hybrid(space: Any, box: Callable[..., Distribution] = squashed) -> Hybrid:
    """Convert a nesting of Discrete and bounded Box spaces to a `Hybrid`.

    Several Discretes become one choice among all of their combinations. Choices are counted from 0; see `for_space`.

    Args:
      box: `(low [d], high [d], shape) -> Distribution` of all continuous numbers together: `squashed` or
        `deterministic`.
    Raises:
      ValueError: for a bound that is not finite, or any other space.

    >>> from gymnax.environments import spaces
    >>> from purerl.distributions import deterministic
    >>> space = spaces.Dict({"kind": spaces.Discrete(3), "throttle": spaces.Box(0.0, 2.0, (2,))})
    >>> pi = hybrid(space, deterministic)
    >>> pi.choice.num_params, pi.continuous.num_params, pi.join(jnp.array(2), jnp.array([0.5, 1.0]))["kind"].item()
    (3, 2, 2)
    """
    named, structure = jax.tree_util.tree_flatten_with_path(tree_of(space))
    paths, leaves = [path for path, _ in named], [leaf for _, leaf in named]
    if wrong := [leaf for leaf in leaves if not is_discrete(leaf) and not hasattr(leaf, "low")]:
        raise ValueError(f"hybrid: the space has {wrong[0]!r}; allowed are Discrete, Box, and Dict and Tuple of them")
    counts = tuple(int(leaf.n) for leaf in leaves if is_discrete(leaf))
    boxes = [leaf for leaf in leaves if not is_discrete(leaf)]
    shapes = [tuple(leaf.shape) for leaf in boxes]
    ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
    empty = [np.zeros(0, np.float32)]
    low, high = (
        np.concatenate([flat_bound(getattr(leaf, name), leaf.shape) for leaf in boxes] or empty)
        for name in ("low", "high")
    )
    low, high, centre, half = check_bounds("hybrid", low, high, (ends[-1],))
    choice, continuous = categorical(math.prod(counts)), box(low, high, (ends[-1],))

    def join(k, x):
        choices = iter(jnp.unravel_index(k, counts) if counts else ())
        numbers = iter(x[..., a:b].reshape(*k.shape, *s) for a, b, s in zip(ends, ends[1:], shapes, strict=False))
        return structure.unflatten([next(choices if is_discrete(leaf) else numbers) for leaf in leaves])

    def split(action):
        parts = structure.flatten_up_to(action)
        chosen = [a for leaf, a in zip(leaves, parts, strict=True) if is_discrete(leaf)]
        numbers = [a for leaf, a in zip(leaves, parts, strict=True) if not is_discrete(leaf)]
        lead = chosen[0].shape if chosen else numbers[0].shape[: numbers[0].ndim - len(shapes[0])]
        k = jnp.zeros(lead, jnp.int32)
        for count, a in zip(counts, chosen, strict=True):
            k = k * count + a
        x = [a.reshape(*lead, -1) for a in numbers] or [jnp.zeros((*lead, 0))]
        return k.astype(jnp.int32), jnp.concatenate(x, -1)

    def mask(p, legal):
        masks = [find(legal, path) for path, leaf in zip(paths, leaves, strict=True) if is_discrete(leaf)]
        logits, rest = jnp.split(p, [choice.num_params], axis=-1)
        combined = jnp.ones((*p.shape[:-1], 1), bool)
        for count, m in zip(counts, masks, strict=True):
            m = jnp.ones((*p.shape[:-1], count), bool) if m is None else jnp.asarray(m, bool)
            combined = (combined[..., :, None] & m[..., None, :]).reshape(*p.shape[:-1], -1)
        return jnp.concatenate([mask_logits(logits, combined), rest], -1)

    num_params = choice.num_params + continuous.num_params
    return Hybrid(choice, continuous, join, split, mask, centre, half, num_params)
