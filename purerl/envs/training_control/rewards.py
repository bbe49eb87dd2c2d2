"""Rewards of a stretch of training, as functions of the inner loss before and after it."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from purerl.core import Array

# (loss before [], loss after [], whether the budget ends [] bool) -> reward []
LossReward = Callable[[Array, Array, Array], Array]


def log_loss(loss: Array) -> Array:
    """log max(L, 1e-30), `[...] -> [...]`: finite where a loss is 0."""
    return jnp.log(jnp.maximum(loss, 1e-30))


def fall_of_log_loss(before: Array, after: Array, last: Array) -> Array:
    """log L - log L', in nats, `[...]`: scale-free. With γ = 1 an episode's sum is log L₀ - log of the final loss.

    With γ < 1 an early fall counts more than a late one: such a reward is short-sighted (Wu et al., 2018,
    arXiv:1803.02021).
    """
    del last
    return log_loss(before) - log_loss(after)


def fall_of_loss(before: Array, after: Array, last: Array) -> Array:
    """L - L', in units of the loss, `[...]`. With γ = 1 the sum over an episode is L₀ minus the final loss."""
    del last
    return before - after


def final_log_loss(before: Array, after: Array, last: Array) -> Array:
    """-log of the final loss on the last step of the budget, otherwise 0.

    >>> final_log_loss(2.0, jnp.exp(jnp.array([1.0, 1.0])), jnp.array([False, True])).tolist()
    [0.0, -1.0]
    """
    del before
    return jnp.where(last, -log_loss(after), 0.0)
