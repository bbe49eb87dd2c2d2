"""A sum tree of priorities: sampling and updates in logarithmic time."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl.core import Array

FAN = 8  # children of a node of the sum tree


def make_tree(size: int) -> tuple[Array, ...]:
    """A tree of zeros: `size` leaves and the levels above, leaves first; each level is padded to multiples of FAN."""
    levels, count = [], size
    while True:
        count = math.ceil(count / FAN) * FAN
        levels.append(jnp.zeros(count))
        if count == FAN:
            return tuple(levels)
        count //= FAN


def set_leaves(tree: tuple[Array, ...], index: Array, value: Array) -> tuple[Array, ...]:
    """Set leaves at `index [B]` and recompute the sums above them, so that rounding errors do not accumulate."""
    levels = [tree[0].at[index].set(value, mode="promise_in_bounds")]
    for level in tree[1:]:
        index = index // FAN
        total = levels[-1].reshape(-1, FAN).at[index].get(mode="promise_in_bounds").sum(-1)
        levels.append(level.at[index].set(total, mode="promise_in_bounds"))
    return tuple(levels)


def find_leaves(tree: tuple[Array, ...], mass: Array) -> Array:
    """The leaf `[B]` at which the cumulative sum exceeds `mass [B]`; never a leaf of priority 0."""
    node = jnp.zeros(mass.shape, jnp.int32)
    for level in reversed(tree):
        children = level.reshape(-1, FAN).at[node].get(mode="promise_in_bounds")
        below, sums = jnp.zeros_like(mass), [jnp.zeros_like(mass)]
        for k in range(FAN):  # in order, so that a child of 0 adds exactly nothing
            below = below + children[..., k]
            sums.append(below)
        mass = jnp.minimum(mass, jnp.nextafter(below, 0.0))
        child = sum((mass >= end).astype(jnp.int32) for end in sums[1:])
        left = jnp.take_along_axis(jnp.stack(sums[:-1], -1), child[..., None], -1)[..., 0]
        mass, node = mass - left, node * FAN + child
    return node


def mass_before(tree: tuple[Array, ...], index: Array) -> Array:
    """The sum of the leaves before each of `index [B]`, float32 `[B]`.

    >>> tree = set_leaves(make_tree(9), jnp.array([0, 5, 8]), jnp.array([1.0, 2.0, 4.0]))
    >>> mass_before(tree, jnp.array([0, 5, 6, 8])).tolist()
    [0.0, 1.0, 3.0, 3.0]
    """
    total = jnp.zeros(index.shape)
    for level in tree:
        siblings = level.reshape(-1, FAN).at[jax.lax.div(index, FAN)].get(mode="promise_in_bounds")
        before = jnp.arange(FAN) < jax.lax.rem(index, FAN)[..., None]
        total = total + jnp.where(before, siblings, 0.0).sum(-1)
        index = jax.lax.div(index, FAN)
    return total
