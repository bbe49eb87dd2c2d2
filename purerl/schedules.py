"""Schedules of a traced step with traced ends: no branch in Python, so lengths and values may be swept."""

from __future__ import annotations

import jax.numpy as jnp

from purerl.core import Array


def _fraction(step, num_steps):
    return jnp.clip(step / num_steps, 0.0, 1.0)


def linear(step, start, end, num_steps) -> Array:
    """start + (end - start) · step / num_steps, held at `end` from `num_steps` on.

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
    return start * (end / start) ** _fraction(step, num_steps)
