"""Heads: what an agent reads off a torso."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from purerl.core import Distribution
from purerl.networks.mlp import MLP


class Head(nn.Module):
    """A dense layer with few outputs, `[B, F] -> [B, size]`, kernel `[size, F]`.

    XLA's CPU backend takes three times as long for the gradient of a layer so narrow whose kernel is `[F, size]`.
    """

    size: int
    gain: float

    @nn.compact
    def __call__(self, features):
        kernel = self.param("kernel", nn.initializers.orthogonal(self.gain), (self.size, features.shape[-1]))
        return features @ kernel.T + self.param("bias", nn.initializers.zeros, (self.size,))


class ActorCritic(nn.Module):
    """`obs [B, ...] -> (policy parameters [B, num_params], value [B])`. See `actor_critic`."""

    num_params: int
    num_free: int
    torso: Callable[[], nn.Module]
    shared: bool

    @nn.compact
    def __call__(self, obs):
        features = self.torso()(obs)
        pi = Head(self.num_params - self.num_free, 0.01)(features)
        if self.num_free:
            free = self.param("free", nn.initializers.zeros, (self.num_free,))
            pi = jnp.concatenate([pi, jnp.broadcast_to(free, (*pi.shape[:-1], self.num_free))], axis=-1)
        value = Head(1, 1.0)(features if self.shared else self.torso()(obs))
        return pi, value[..., 0]


def actor_critic(policy: Distribution, torso: Callable[[], nn.Module] = MLP, shared: bool = False) -> ActorCritic:
    """A policy and a value function on two torsos, or on one that both train.

    Args:
      policy: whose parameters the actor gives (gain 0.01, so that it starts near uniform); those it calls free
        are one learned vector.
      torso: makes a module from observations `[B, ...]` to features `[B, F]`: `MLP`, `MinAtarCNN`, or
        `functools.partial(MLP, hidden=(256, 256), activation=nn.relu)`.
      shared: one torso for both.
    """
    return ActorCritic(policy.num_params, policy.num_free, torso, shared)
