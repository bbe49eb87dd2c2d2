"""Action spaces that gymnax does not have."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces


class Parameterised(spaces.Dict):
    """A choice among K kinds of action, each with parameters that only have an effect if it is chosen.

    Actions are `{"choice": int, "parameters": (x₁, …, x_K)}`; policies for it are `distributions.parameterised`.

    Args:
      branches: the parameter space of each kind.
    """

    def __init__(self, branches: Sequence[spaces.Space]):
        if len(branches) < 1:
            raise ValueError(f"branches is {branches!r}; there must be at least one kind of action")
        self.branches = tuple(branches)
        super().__init__({"choice": spaces.Discrete(len(branches)), "parameters": spaces.Tuple(self.branches)})


class MultiDiscrete(spaces.Space):
    """Several choices at once, int32 `[*shape of nvec]`; policies for it are `distributions.multi_categorical`.

    Args:
      nvec: the number of options of each choice, ints ≥ 1 of any shape.
    """

    def __init__(self, nvec):
        self.nvec = np.asarray(nvec, np.int32)
        if self.nvec.size < 1 or (self.nvec < 1).any():
            raise ValueError(f"nvec is {nvec!r}; it must be ints of at least 1")
        self.shape, self.dtype = self.nvec.shape, jnp.int32

    def __repr__(self):
        return f"MultiDiscrete({self.nvec.tolist()})"

    def sample(self, key):
        return jax.random.randint(key, self.shape, 0, self.nvec)

    def contains(self, x):
        return jnp.logical_and((x >= 0).all(), (x < self.nvec).all())


class MultiBinary(spaces.Space):
    """Bits, int32 `[*shape]`; policies for it are `distributions.bernoulli`.

    Args:
      n: the number of bits, an int ≥ 1, or a shape.
    """

    def __init__(self, n):
        self.n, self.shape, self.dtype = n, (n,) if isinstance(n, int) else tuple(n), jnp.int32
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"n is {n!r}; it must be an int of at least 1 or a shape")

    def __repr__(self):
        return f"MultiBinary({self.n})"

    def sample(self, key):
        return jax.random.bernoulli(key, 0.5, self.shape).astype(jnp.int32)

    def contains(self, x):
        return jnp.logical_or(x == 0, x == 1).all()
