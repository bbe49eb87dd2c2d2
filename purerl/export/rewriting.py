"""Rewrite a program for converters that know fewer primitives: others that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl.core import Array
from purerl.export.interpreter import inlined

_ONE = 0x3F800000  # the bits of 1.0 in float32; those of [1, 2) follow, in steps of 2^-23


def _remainder(eqn: Any, x: Array, y: Array) -> list[Array]:
    """x - y · trunc(x / y), of ints."""
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.integer):
        return [eqn.primitive.bind(x, y, **eqn.params)]
    return [x - y * jax.lax.div(x, y)]


def _bitcast(eqn: Any, x: Array) -> list[Array]:
    """1 + (x - 1.0's bits) · 2^-23, the number in [1, 2) of bits that `jax.random.uniform` made of random ones."""
    if eqn.invars[0].aval.dtype != jnp.uint32 or eqn.params["new_dtype"] != jnp.float32:
        return [eqn.primitive.bind(x, **eqn.params)]
    mantissa = jax.lax.convert_element_type(x, jnp.int32) - jnp.int32(_ONE)
    return [1 + mantissa.astype(jnp.float32) * np.float32(2.0**-23)]


def _gather(eqn: Any, x: Array, index: Array) -> list[Array]:
    """A slice, where a gather reads one known place of one axis, and all of the others."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    known = not isinstance(index, Tracer) and np.shape(index) == (1,)
    one = known and len(numbers.start_index_map) == 1 and not numbers.operand_batching_dims
    if not one or {*numbers.collapsed_slice_dims} - {*numbers.start_index_map}:
        return [eqn.primitive.bind(x, index, **eqn.params)]
    (axis,) = numbers.start_index_map
    start = int(np.asarray(index)[0])
    part = jax.lax.slice_in_dim(x, start, start + int(sizes[axis]), axis=axis)
    return [jax.lax.squeeze(part, numbers.collapsed_slice_dims)]


def _scatter(eqn: Any, x: Array, index: Array, update: Array) -> list[Array]:
    """A selection, where row i of an array is set at place `index[i, 1]` of one axis, as a cache is written.

    That the first index is the row's own number is not checked here: the comparison of outputs does.
    """
    numbers = eqn.params["dimension_numbers"]
    places = numbers.scatter_dims_to_operand_dims
    if len(places) != 2 or places[0] != 0 or numbers.inserted_window_dims != places or index.ndim != 2:
        return [eqn.primitive.bind(x, index, update, **eqn.params)]
    axis, wide = places[1], [1] * x.ndim
    slots = jnp.arange(x.shape[axis], dtype=index.dtype).reshape([*wide[:axis], -1, *wide[axis + 1 :]])
    place = jax.lax.squeeze(jax.lax.slice_in_dim(index, 1, 2, axis=1), (1,))
    here = jax.lax.expand_dims(place, range(1, x.ndim)) == slots
    return [jnp.where(here, jnp.expand_dims(update, axis), x)]


RULES = {"rem": _remainder, "bitcast_convert_type": _bitcast, "gather": _gather, "scatter": _scatter}


def simplified(function: Callable[..., tuple[Any, ...]], shapes: list[Any]) -> Callable[..., tuple[Any, ...]]:
    """The function without calls, known intermediate results and unused ones, and with `RULES` applied.

    Args:
      shapes: of its arguments, `jax.ShapeDtypeStruct`s; sizes may be symbolic.
    """
    rewritten = inlined(jax.make_jaxpr(function)(*shapes), RULES, fold=True)
    return inlined(jax.make_jaxpr(rewritten)(*shapes), fold=True)
