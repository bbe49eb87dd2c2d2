"""Observations as inputs of a torso."""

from __future__ import annotations

import jax.numpy as jnp

from purerl.core import Array


def as_floats(obs: Array) -> Array:
    """Observations `[B, ...]` as float32; images of uint8, `[B, height, width, channels]`, are divided by 255.

    Other dtypes and shapes keep their values: numbers of kinds, such as tiles of a grid, are no brightness.

    >>> as_floats(jnp.full((1, 1, 1, 1), 51, jnp.uint8)).round(3).item()
    0.2...
    >>> as_floats(jnp.full((1, 1), 51, jnp.uint8)).item()
    51.0
    """
    pixels = obs.dtype == jnp.uint8 and obs.ndim == 4
    return obs.astype(jnp.float32) / 255 if pixels else obs.astype(jnp.float32)
