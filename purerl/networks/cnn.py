"""Convolutional torsos."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp


class MinAtarCNN(nn.Module):
    """One 3 x 3 convolution and one dense layer for `[B, 10, 10, channels]` images, as MinAtar's own baselines have.

    Reference: Young & Tian, 2019, arXiv:1903.03176, section 3.
    """

    channels: int = 16
    width: int = 128

    @nn.compact
    def __call__(self, obs):
        if obs.ndim != 4:
            raise ValueError(f"MinAtarCNN: obs has shape {obs.shape}; it must be [batch, height, width, channels]")
        gain = nn.initializers.orthogonal(math.sqrt(2))
        x = nn.relu(nn.Conv(self.channels, (3, 3), padding="VALID", kernel_init=gain)(obs.astype(jnp.float32)))
        return nn.relu(nn.Dense(self.width, kernel_init=gain)(x.reshape(x.shape[0], -1)))
