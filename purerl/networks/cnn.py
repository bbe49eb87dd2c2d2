"""Convolutional torsos."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from purerl.core import Array
from purerl.networks.inputs import as_floats

SMALLEST_FOR_MINATAR = 3  # height and width of its convolution
SMALLEST_FOR_NATURE = 36  # height and width at which three convolutions of NatureCNN leave one number


def patches(x: Array, size: int, stride: int = 1) -> Array:
    """Patches of images `[B, H, W, C]`, each flattened by row, column and channel: `[B, H', W', size² C]`.

    H' = ⌊(H - size) / stride⌋ + 1. A dense layer on them is a convolution without padding. With a kernel of its own for
    each seed of a vmap `lax.conv` is a grouped convolution, which makes whole runs several times slower on a CPU.

    >>> patches(jnp.arange(9.0).reshape(1, 3, 3, 1), 2).shape
    (1, 2, 2, 4)
    """
    down, across = ((n - size) // stride + 1 for n in x.shape[1:3])
    part = lambda i, j: x[:, i : i + stride * (down - 1) + 1 : stride, j : j + stride * (across - 1) + 1 : stride]
    return jnp.concatenate([part(i, j) for i in range(size) for j in range(size)], axis=-1)


def _checked(name: str, obs: Array, smallest: int) -> Array:
    if obs.ndim != 4 or min(obs.shape[1:3]) < smallest:
        raise ValueError(
            f"{name}: obs has shape {obs.shape}; it must be [batch, height, width, channels], at least {smallest} high "
            "and wide"
        )
    return as_floats(obs)


def _normalized(layer_norm: bool) -> Callable[[Array], Array]:
    return (lambda x: nn.LayerNorm(epsilon=1e-5)(x)) if layer_norm else (lambda x: x)


class MinAtarCNN(nn.Module):
    """One 3 x 3 convolution and one dense layer for `[B, 10, 10, channels]` images, as in MinAtar's baselines.

    Images of uint8 are divided by 255. layer_norm: normalise both layers before their activations.
    Reference: Young & Tian, 2019, arXiv:1903.03176, section 3.
    """

    channels: int = 16
    width: int = 128
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs):
        obs = _checked("MinAtarCNN", obs, SMALLEST_FOR_MINATAR)
        gain, norm = nn.initializers.orthogonal(math.sqrt(2)), _normalized(self.layer_norm)
        x = nn.relu(norm(nn.Dense(self.channels, kernel_init=gain)(patches(obs, 3))))
        return nn.relu(norm(nn.Dense(self.width, kernel_init=gain)(x.reshape(x.shape[0], -1))))


class NatureCNN(nn.Module):
    """Three convolutions and one dense layer for images `[B, height, width, channels]`, such as Atari's of 84 x 84.

    Kernels of 8, 4 and 3 with strides of 4, 2 and 1, without padding. Images of uint8 are divided by 255.
    layer_norm: normalise all layers before their activations.
    Raises:
      ValueError: for images that are less than 36 high or wide.
    Reference: Mnih et al., 2015, doi:10.1038/nature14236, methods.

    >>> import jax
    >>> images = jnp.zeros((2, 84, 84, 4), jnp.uint8)
    >>> jax.eval_shape(lambda key: NatureCNN().init_with_output(key, images)[0], jax.random.key(0)).shape
    (2, 512)
    """

    width: int = 512
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs):
        x = _checked("NatureCNN", obs, SMALLEST_FOR_NATURE)
        gain, norm = nn.initializers.orthogonal(math.sqrt(2)), _normalized(self.layer_norm)
        for channels, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(norm(nn.Dense(channels, kernel_init=gain)(patches(x, size, stride))))
        return nn.relu(norm(nn.Dense(self.width, kernel_init=gain)(x.reshape(x.shape[0], -1))))
