"""Rewards learned from preferences between segments, and rewards given by a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from purerl.arguments import check_counts
from purerl.core import Array, Key, Network, Reward, Transition
from purerl.rewards.intrinsic import ADAM, fit, flatten_time
from purerl.rewards.terms import term


def preference_loss(reward_a: Array, reward_b: Array, preferred) -> Array:
    """Negative log-likelihood of preferences between segments in the Bradley-Terry model.

        P(b over a) = 1 / (1 + e^{Σ r_a - Σ r_b})

    Args:
      reward_a, reward_b: rewards of every step, float `[..., L]`.  preferred: 1 for b, 0 for a, ½ for neither, `[...]`.
    Returns:
      Loss, float `[...]`.
    Reference: Christiano et al., 2017, arXiv:1706.03741, eq. 1; Bradley & Terry, 1952.

    >>> round(preference_loss(jnp.zeros(3), jnp.zeros(3), 1.0).item(), 4)
    0.6931
    """
    if jnp.shape(reward_a) != jnp.shape(reward_b):
        raise ValueError(f"preference_loss: segments have rewards of shapes {reward_a.shape} and {reward_b.shape}")
    gap = reward_b.sum(-1) - reward_a.sum(-1)
    return optax.sigmoid_binary_cross_entropy(gap, jnp.asarray(preferred, gap.dtype))


def learn_preferences(
    key: Key,
    network: Network,
    segments_a: Any,
    segments_b: Any,
    preferred: Array,
    num_steps: int = 500,
    learning_rate=1e-3,
) -> tuple[Any, Array]:
    """Learn reward parameters from preferences between segments, by Adam on `preference_loss` of all pairs.

    Args:
      network: its inputs, leaves `[B, ...]`, to rewards `[B]` or `[B, 1]`.
      segments_a, segments_b: inputs of the network, leaves `[P, L, ...]`: observations, or (observations, actions).
      preferred: `[P]`, see `preference_loss`.
    Returns:
      Parameters, for `modelled`, and the loss of every step, `[num_steps]`.
    """
    check_counts("learn_preferences", num_steps=num_steps)
    num, length = jax.tree.leaves(segments_a)[0].shape[:2]
    params = network.init(key, jax.tree.map(lambda x: x[:, 0], segments_a))
    rewards = lambda params, segments: network.apply(params, flatten_time(segments)).reshape(num, length)
    loss = lambda params: preference_loss(rewards(params, segments_a), rewards(params, segments_b), preferred).mean()
    params, _, values = fit(loss, params, ADAM.init(params), learning_rate, num_steps)
    return params, values


def modelled(network: Network, params: Any, see: Callable[[Transition], Any] = lambda tr: tr.obs) -> Reward:
    """A reward computed by a network, such as one trained by `learn_preferences`; it replaces the current reward.

    Args:
      see: a function of transitions to the inputs of the network, leaves `[T, N, ...]`, as in the segments.
    """

    def reward(tr):
        given = network.apply(params, flatten_time(see(tr)))
        return given.reshape(tr.reward.shape) if given.size == math.prod(tr.reward.shape) else given

    return term(reward, "modelled: network")
