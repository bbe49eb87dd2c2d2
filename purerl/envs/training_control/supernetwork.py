"""Small networks of any width, activation and skip connection as one masked network, and the table of all of them."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from purerl.core import Array, Key
from purerl.envs.training_control.data import two_spirals

LAYERS = 3
WIDTHS = (2, 4, 12)
ACTIVATIONS = ("identity", "relu", "tanh")
SKIPS = ("no", "yes")
TABLE = Path(__file__).with_name("small_networks.npz")

# the training of which the table has the results
SEEDS, NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 2, 100, 32, 0.03
NUM_TRAIN, NUM_JUDGED = 256, 500
KEY = 26  # the keys of the seeds are split from that of this number


class Parameters(NamedTuple):
    """Weights of L hidden layers of W units and of an output layer with K classes."""

    kernel: Array  # [L, W, W]: from units to units
    bias: Array  # [L, W]
    out_kernel: Array  # [W, K]
    out_bias: Array  # [K]


def architectures() -> np.ndarray:
    """Every architecture, int32 `[M, L, 3]`: indices into `WIDTHS`, `ACTIVATIONS` and `SKIPS`, for every layer.

    The last index changes fastest, so that the number of an architecture is that of its choices in mixed radix.

    >>> architectures().shape, architectures()[1].tolist()
    ((5832, 3, 3), [[0, 0, 0], [0, 0, 0], [0, 0, 1]])
    """
    options = [range(len(x)) for x in (WIDTHS, ACTIVATIONS, SKIPS)] * LAYERS
    return np.array(list(itertools.product(*options)), np.int32).reshape(-1, LAYERS, 3)


def init(key: Key, architecture: Array, num_inputs: int, num_classes: int) -> Parameters:
    """Parameters with weights N(0, 1/fan-in), biases 0. The fan-in is that of the architecture, without masked units.

    Args:
      architecture: int32 `[L, 3]`.  num_inputs: d, at most W.
    """
    size = max(WIDTHS)
    fan_in = jnp.concatenate([jnp.array([num_inputs]), jnp.asarray(WIDTHS)[architecture[:, 0]]])
    hidden_key, out_key = jax.random.split(key)
    kernel = jax.random.normal(hidden_key, (LAYERS, size, size)) / jnp.sqrt(fan_in[:-1, None, None])
    out_kernel = jax.random.normal(out_key, (size, num_classes)) / jnp.sqrt(fan_in[-1])
    return Parameters(kernel, jnp.zeros((LAYERS, size)), out_kernel, jnp.zeros(num_classes))


def apply(params: Parameters, architecture: Array, x: Array) -> Array:
    """Logits of an architecture, `[n, d] -> [n, K]`.

        h₀ = (x, 0, …, 0),   hₗ = mₗ ⊙ (σₗ(hₗ₋₁ Wₗ + bₗ) + sₗ hₗ₋₁),   logits = h_L W_out + b_out

    The mask mₗ is 1 for the units that the layer has, and sₗ is 1 if it has a skip connection, which adds the units
    that both layers have. Masked units get no gradient, so training is that of the small network alone.
    Args:
      architecture: int32 `[L, 3]`, may be traced: one program serves all.
    """
    size = params.bias.shape[-1]
    h = jnp.pad(x, ((0, 0), (0, size - x.shape[-1])))
    for kernel, bias, (width, activation, skip) in zip(params.kernel, params.bias, architecture, strict=True):
        z = h @ kernel + bias
        activated = jnp.where(activation == 0, z, jnp.where(activation == 1, jax.nn.relu(z), jnp.tanh(z)))
        h = jnp.where(jnp.arange(size) < jnp.asarray(WIDTHS)[width], activated + skip * h, 0.0)
    return h @ params.out_kernel + params.out_bias


def train(
    key: Key, architecture: Array, x: Array, y: Array, num_classes: int, num_steps: int, batch_size: int, rate: Any
) -> Parameters:
    """Train an architecture by Adam on the cross-entropy of minibatches drawn with replacement.

    Args:
      architecture: int32 `[L, 3]`.  x: float `[n, d]`.  y: int `[n]`.  rate: the learning rate.
    """
    init_key, batch_key = jax.random.split(key)
    optimizer = optax.adam(rate)

    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, architecture, x), y).mean()

    def step(carry, rows):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, x[rows], y[rows]), state)
        return (jax.tree.map(jnp.add, params, updates), state), None

    params = init(init_key, architecture, x.shape[-1], num_classes)
    rows = jax.random.randint(batch_key, (num_steps, batch_size), 0, len(x))
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), rows)
    return params


def correct(key: Key, architecture: Array) -> Array:
    """Train an architecture on two spirals, and count the correct of 500 validation and 500 test points, int32 `[2]`.

    The key is that of a seed: it has the same data, first weights and minibatches for every architecture.
    """
    data_key, train_key = jax.random.split(key)
    x, y = two_spirals(NUM_TRAIN + 2 * NUM_JUDGED)(data_key)
    fit = train(train_key, architecture, x[:NUM_TRAIN], y[:NUM_TRAIN], 2, NUM_STEPS, BATCH_SIZE, LEARNING_RATE)
    right = apply(fit, architecture, x[NUM_TRAIN:]).argmax(-1) == y[NUM_TRAIN:]
    return right.reshape(2, NUM_JUDGED).sum(-1, dtype=jnp.int32)


def num_parameters(architecture: np.ndarray, num_inputs: int = 2, num_classes: int = 2) -> np.ndarray:
    """Weights and biases of architectures without masked units, `[..., L, 3] -> [...]`.

    >>> num_parameters(np.array([[0, 1, 0], [1, 1, 1], [0, 2, 0]])).item()
    34
    """
    width = np.asarray(WIDTHS)[architecture[..., 0]]
    ends = [np.full((*width.shape[:-1], 1), n) for n in (num_inputs, num_classes)]
    units = np.concatenate([ends[0], width, ends[1]], -1)
    return ((units[..., :-1] + 1) * units[..., 1:]).sum(-1)


@cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """Validation and test accuracy of every architecture and seed, float32 `[M, S]` each.

    They come from `scripts/small_networks.py`, which trains them all.
    Raises:
      ValueError: if the file is not there.
    """
    if not TABLE.exists():
        raise ValueError(f"there is no {TABLE}; scripts/small_networks.py writes it")
    with np.load(TABLE, allow_pickle=False) as data:
        return tuple((data[name] / NUM_JUDGED).astype(np.float32) for name in ("validation", "test"))
