"""Schedules of a traced step with traced end points: no Python branches, so `vmap` over lengths and values works."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl.core import Array

__all__ = [
    "cosine",
    "exponential",
    "linear",
    "times_due",
]


def _fraction(step, num_steps):
    step = jnp.asarray(step, jnp.result_type(step, num_steps, float))
    over = jnp.asarray(step >= num_steps, step.dtype)  # added to both, so that 0 of 0 steps are all of them
    return jax.lax.clamp(0.0, (step + over) / (num_steps + over), 1.0)


def linear(step, start, end, num_steps) -> Array:
    """start + (end - start) · step / num_steps, held at `end` from `num_steps` on, which may be 0.

    >>> linear(50, 1.0, 0.0, 200).item()
    0.75
    """
    return start + (end - start) * _fraction(step, num_steps)


def cosine(step, start, end, num_steps) -> Array:
    """end + ½ (start - end) (1 + cos(π · step / num_steps)), held at `end` from `num_steps` on.

    >>> cosine(100, 1.0, 0.0, 200).round(3).item()
    0.5
    """
    return end + 0.5 * (start - end) * (1 + jnp.cos(jnp.pi * _fraction(step, num_steps)))


def exponential(step, start, end, num_steps) -> Array:
    """start · (end / start)^(step / num_steps), held at `end` from `num_steps` on; both ends > 0.

    >>> exponential(1, 1.0, 0.25, 2).item()
    0.5
    """
    fraction = _fraction(step, num_steps)
    return start ** (1 - fraction) * end**fraction


def times_due(blocks: Array, block: int, period: int) -> Array:
    """The number of multiples of `period` steps in the next block of `block` steps.

        ⌊(b + 1) · block / period⌋ - ⌊b · block / period⌋

    It is exact where neither of the two divides the other, and no count of steps overflows.
    Args:
      blocks: b, blocks of steps so far, int32.  block, period: steps, positive ints.
    Raises:
      ValueError: if their least common multiple is 2³¹ or more.

    >>> sum(times_due(jnp.int32(b), 7, 500).item() for b in range(1000))
    14
    """
    common = math.gcd(block, period)
    block, period = block // common, period // common
    if block * period * common >= 2**31:
        raise ValueError(f"times_due: block is {block * common} and period {period * common}; "
                         "their least common multiple must be below 2 147 483 648")  # fmt: skip
    before = blocks % period  # whole multiples of the period add the same to both
    return (before + 1) * block // period - before * block // period
