"""A user's own training for `purerl optimise`: a model, data and a loss."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_GENERATOR = np.random.default_rng(0)
_X = _GENERATOR.normal(size=(60, 3)).astype(np.float32)


def network():
    return nn.Dense(2)


def wide():
    return nn.Dense(5)


data = _X, (_X[:, 0] > 0).astype(int)


def drawn(key):
    x = jax.random.normal(key, (60, 3))
    return x, 2.0 * x[:, 0]  # numbers to predict


def loss(outputs, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], -1)[:, 0]


def mean_loss(outputs, y):
    return loss(outputs, y).mean()


def infinite(outputs, y):
    return loss(outputs, y) / 0
