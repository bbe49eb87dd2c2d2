"""Losses, one number an element: `[...] -> [...]`. Take the mean over `valid` yourself, with `masked_mean`."""

from __future__ import annotations

import jax.numpy as jnp

from purerl.core import Array, check_shapes


def masked_mean(x: Array, valid: Array) -> Array:
    """Mean of `x [...]` where `valid [...]` is True; 0 where nothing is, and no NaN from what is masked.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])).item()
    2.0
    """
    check_shapes("masked_mean", x=x, valid=valid)
    return jnp.where(valid, x, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def standardize(x: Array, valid: Array, epsilon: float = 1e-8) -> Array:
    """(x - mean) / (std + ε) with mean and population deviation over `valid`; constant x gives 0, not NaN.

    >>> standardize(jnp.array([1.0, 3.0]), jnp.ones(2, bool)).round(3).tolist()
    [-1.0, 1.0]
    """
    mean = masked_mean(x, valid)
    variance = masked_mean(jnp.square(x - mean), valid)
    # sqrt has no finite slope at 0, and differentiation through training passes here
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return (x - mean) / (deviation + epsilon)


def policy_gradient(log_prob: Array, advantage: Array) -> Array:
    """-log π(a|s) Â, whose gradient is REINFORCE's.

    Args:
      log_prob, advantage: float `[...]`; the advantage is a constant: stop its gradient.
    Reference: Williams, 1992, eq. 11.

    >>> policy_gradient(jnp.array(-0.5), jnp.array(2.0)).item()
    1.0
    """
    check_shapes("policy_gradient", log_prob=log_prob, advantage=advantage)
    return -log_prob * advantage


def ppo_clip(log_ratio: Array, advantage: Array, clip) -> Array:
    """The negative clipped surrogate.

        -min(ρ Â, clip(ρ, 1 - ε, 1 + ε) Â),   ρ = π(a|s) / π_old(a|s)

    Args:
      log_ratio: log ρ, float `[...]`.  advantage: float `[...]`.  clip: ε, a scalar > 0.
    Reference: Schulman et al., 2017, arXiv:1707.06347, eq. 7.

    >>> [round(x.item(), 3) for x in ppo_clip(jnp.log(jnp.array([1.5, 1.5])), jnp.array([1.0, -1.0]), 0.2)]
    [-1.2, 1.5]
    """
    check_shapes("ppo_clip", log_ratio=log_ratio, advantage=advantage)
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def squared(prediction: Array, target: Array) -> Array:
    """½ (prediction - target)²: the ½ is here and nowhere else.

    >>> squared(jnp.array(3.0), jnp.array(1.0)).item()
    2.0
    """
    check_shapes("squared", prediction=prediction, target=target)
    return 0.5 * jnp.square(prediction - target)


def clipped_value(value: Array, old_value: Array, target: Array, clip) -> Array:
    """PPO's pessimistic value loss: the larger of the plain one and one whose change is clipped.

        ½ max((V - G)², (V_old + clip(V - V_old, ±ε) - G)²)

    Args:
      value, old_value, target: float `[...]`.  clip: ε in units of the return, so scale it with the reward.

    >>> round(clipped_value(jnp.array(1.0), jnp.array(0.0), jnp.array(1.0), 0.2).item(), 3)
    0.32
    """
    check_shapes("clipped_value", value=value, old_value=old_value, target=target)
    held = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(squared(value, target), squared(held, target))
