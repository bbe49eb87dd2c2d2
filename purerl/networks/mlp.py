"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from purerl.networks.inputs import as_floats


class MLP(nn.Module):
    """Dense layers, orthogonal with gain √2. Inputs are flattened: leaves `[B, ...]` to `[B, hidden[-1]]`.

    Images of uint8 are divided by 255 (`inputs.as_floats`).
    layer_norm: normalise every layer before its activation. Ba et al., 2016, arXiv:1607.06450.
    """

    hidden: Sequence[int] = (64, 64)
    activation: Callable = nn.tanh
    layer_norm: bool = False

    @nn.compact
    def __call__(self, obs):
        flat = [as_floats(x).reshape(x.shape[0], -1) for x in jax.tree.leaves(obs)]
        x = flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=nn.initializers.orthogonal(math.sqrt(2)))(x)
            x = self.activation(nn.LayerNorm(epsilon=1e-5)(x) if self.layer_norm else x)
        return x


class OneHot(nn.Module):
    """One-hot encoding, `[B]` to `[B, num]`, for observations of `envs.Table`: a head on it is a table.

    num: the number of states, counted from 0. Without parameters; `hidden` layers of an `MLP` follow if there are any.
    Raises:
      ValueError: if observations are not integers `[B]`.

    >>> import functools
    >>> from purerl import networks
    >>> network = networks.q_network(2, functools.partial(OneHot, 5))
    >>> network.apply(network.init(jax.random.key(0), jnp.zeros(3, int)), jnp.array([0, 4, 4])).shape
    (3, 2)
    """

    num: int
    hidden: Sequence[int] = ()

    @nn.compact
    def __call__(self, obs):
        if not isinstance(self.num, int) or self.num < 1:
            raise ValueError(f"OneHot: num is {self.num!r}; it must be a positive int")
        if not hasattr(obs, "shape") or obs.ndim != 1 or not jnp.issubdtype(obs.dtype, jnp.integer):
            seen = f"{obs.dtype} {obs.shape}" if hasattr(obs, "shape") else type(obs).__name__
            raise ValueError(f"OneHot: obs is {seen}; it must be integers [B]")
        features = jax.nn.one_hot(obs, self.num)
        return MLP(self.hidden)(features) if self.hidden else features
