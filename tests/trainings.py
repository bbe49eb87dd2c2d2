"""A user's own training for `purerl optimise`: a model, data and a loss."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

_GENERATOR = np.random.default_rng(0)
_X = _GENERATOR.normal(size=(60, 3)).astype(np.float32)


network_of_one = nn.Dense(1)


def network():
    return nn.Dense(2)


def wide():
    return nn.Dense(5)


data = _X, (_X[:, 0] > 0).astype(int)
truths = _X, _X[:, 0] > 0
words = _X, np.full(60, "word")
ragged = [[0.0], [0.0, 1.0]], [0, 1]
nobody = _X[:0], np.zeros(0, int)
three = _X[:3], np.zeros(3, int)
numbers_of_years = _X, np.arange(60) + 1965


def drawn(key):
    x = jax.random.normal(key, (60, 3))
    return x, 2.0 * x[:, 0]  # numbers to predict


def rarely_of_three_classes(key):
    kinds_key, y_key = jax.random.split(key)
    num = jnp.where(jax.random.bernoulli(kinds_key, 0.2), 3, 2)
    return jnp.zeros((60, 3)), jax.random.randint(y_key, (60,), 0, num)


def loss(outputs, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], -1)[:, 0]


def mean_loss(outputs, y):
    return loss(outputs, y).mean()


def infinite(outputs, y):
    return loss(outputs, y) / 0


def below_zero(outputs, y):
    return loss(outputs, y) - 9


def of_one_logit(outputs, y):
    return jax.nn.softplus((1 - 2 * y) * outputs[:, 0])


lion = optax.lion(1.0)
