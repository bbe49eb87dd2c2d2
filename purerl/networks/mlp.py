"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class MLP(nn.Module):
    """Dense layers, orthogonal with gain √2. Flattens what it is given: `[B, ...]` leaves to `[B, hidden[-1]]`.

    layer_norm: normalise every layer before its activation. Ba et al., 2016, arXiv:1607.06450.
    """

    hidden: Sequence[int] = (64, 64)
    activation: Callable = nn.tanh
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs):
        flat = [x.reshape(x.shape[0], -1).astype(jnp.float32) for x in jax.tree.leaves(obs)]
        x = flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=nn.initializers.orthogonal(math.sqrt(2)))(x)
            x = self.activation(nn.LayerNorm(epsilon=1e-5)(x) if self.layer_norm else x)
        return x
