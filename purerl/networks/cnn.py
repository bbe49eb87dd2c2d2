"""Convolutional torsos."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp


class MinAtarCNN(nn.Module):
    """One 3 x 3 convolution and one dense layer for `[B, 10, 10, channels]` images, as in MinAtar's baselines.

    layer_norm: normalise both layers before their activations.
    Reference: Young & Tian, 2019, arXiv:1903.03176, section 3.
    """

    channels: int = 16
    width: int = 128
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs):
        if obs.ndim != 4:
            raise ValueError(f"MinAtarCNN: obs has shape {obs.shape}; it must be [batch, height, width, channels]")
        gain = nn.initializers.orthogonal(math.sqrt(2))
        # The convolution as one matrix product over 3 x 3 patches: with a kernel of its own for each seed of a vmap
        # it would be a grouped convolution, which makes whole runs several times slower on a CPU.
        height, width = obs.shape[1] - 2, obs.shape[2] - 2
        obs = obs.astype(jnp.float32)
        shifted = [obs[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifted, axis=-1)
        norm = (lambda x: nn.LayerNorm(epsilon=1e-5)(x)) if self.layer_norm else (lambda x: x)
        x = nn.relu(norm(nn.Dense(self.channels, kernel_init=gain)(patches)))
        return nn.relu(norm(nn.Dense(self.width, kernel_init=gain)(x.reshape(x.shape[0], -1))))
