"""Programs for converters that know fewer primitives compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from purerl.export import rewriting


def names(function, *shapes):
    """The primitives of a function, calls included."""
    return {eqn.primitive.name for eqn in jax.make_jaxpr(function)(*shapes).jaxpr.eqns}


def cache(keys, slot, new):
    return keys.at[jnp.arange(keys.shape[0]), :, slot].set(new)


def uniform_of(bits):
    """As jax.random makes a number in [0, 1) of bits."""
    one = jnp.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(jax.lax.shift_right_logical(bits, jnp.uint32(9)) | one, jnp.float32) - 1.0


CASES = {
    "rem": (lambda x: (x % 3, jnp.fmod(x, 3)), [np.arange(-9, 9, dtype=np.int32)]),
    "bitcast_convert_type": (
        lambda bits: (uniform_of(bits),),
        [np.array([0, 511, 512, 2**31, 2**32 - 1], np.uint32)],
    ),
    "gather": (lambda x: (x[..., 2], x[..., 1:2], x[:, -1]), [np.arange(24, dtype=np.float32).reshape(2, 3, 4)]),
    "scatter": (
        lambda *given: (cache(*given),),
        [
            np.zeros((3, 2, 4), np.float32),
            np.array([3, 0, 2], np.int32),
            np.arange(1, 7, dtype=np.float32).reshape(3, 2),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_primitive_is_rewritten_as_others_that_compute_the_same(name):
    function, arrays = CASES[name]
    (batch,) = export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in arrays]
    rewritten = rewriting.simplified(function, shapes)
    now = names(rewritten, *shapes)
    assert not now & {*CASES, "jit", "pjit"}
    for x, y in zip(
        export.export(jax.jit(rewritten))(*shapes).call(*arrays), function(*map(jnp.asarray, arrays)), strict=True
    ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_what_has_no_rule_stays_as_it_is():
    row = jax.ShapeDtypeStruct((4,), jnp.float32)
    place = jax.ShapeDtypeStruct((2,), jnp.int32)
    function = lambda x, i: (x[i], x.at[i].set(1.0), jax.lax.rem(x, 3.0), jax.lax.bitcast_convert_type(x, jnp.int32))
    rewritten = rewriting.simplified(function, [row, place])
    assert {"gather", "scatter", "rem", "bitcast_convert_type"} <= names(rewritten, row, place)
    given = jnp.array([1.0, 2.0, 7.0, 9.0]), jnp.array([3, 1])
    for x, y in zip(rewritten(*given), function(*given), strict=True):
        np.testing.assert_array_equal(x, y)


def test_constants_are_computed_at_once_and_what_is_unused_is_left_out():
    function = lambda x: (x + jnp.exp(jnp.arange(3.0)) * 2, jnp.tanh(x))[:1]
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert names(rewriting.simplified(function, [shape]), shape) == {"add"}
