"""Inner models: what is trained inside an environment, and the loss that it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_counts
from purerl.core import Array, Key, Network
from purerl.networks.heads import Head
from purerl.networks.recurrent import Core


class Model(NamedTuple):
    """An inner model as pure functions. A network without `train`, such as a flax module, is one too.

    `init(key, x [B, ...]) -> params`; `apply(params, x [B, ...]) -> outputs [B, ...]`, for evaluation.
    `train(key, params, x, rate) -> outputs`: with dropout at a rate, float [], in [0, 1); None if it has no dropout.
    """

    init: Callable[[Key, Any], Any]
    apply: Callable[[Any, Any], Any]
    train: Callable[[Key, Any, Any, Any], Any] | None = None


def drop(key: Key, x: Array, rate: Any) -> Array:
    """Dropout: every entry is 0 with probability `rate`, otherwise divided by 1 - rate. The rate may be traced.

    Reference: Srivastava et al., 2014, "Dropout: a simple way to prevent neural networks from overfitting", section 10.

    >>> drop(jax.random.key(0), jnp.ones(4), 0.0).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return (jax.random.uniform(key, x.shape) >= rate) * x / (1 - rate)


def with_head(torso: Network, num_outputs: int, dropout: bool = False) -> Model:
    """A dense layer on a torso: `x [B, ...]` to outputs `[B, num_outputs]`, such as logits.

    Args:
      torso: from inputs `[B, ...]` to features `[B, F]`: `networks.MLP((32,))`, `networks.MinAtarCNN(8, 32)`,
        `over_time(networks.gru(32))`, `over_time(networks.transformer(32))`, or any flax module.
      dropout: whether features are dropped in training, at the rate of the settings.
    Raises:
      ValueError: if `num_outputs` is not a positive int.

    >>> from purerl import networks
    >>> model = with_head(over_time(networks.gru(8)), 3)
    >>> x = jnp.ones((5, 4, 4, 1))
    >>> model.apply(model.init(jax.random.key(0), x), x).shape
    (5, 3)
    """
    check_counts("with_head", num_outputs=num_outputs)
    head = Head(num_outputs, 1.0)

    def init(key, x):
        torso_key, head_key = jax.random.split(key)
        params = torso.init(torso_key, x)
        features = jax.eval_shape(torso.apply, params, x)
        return {"torso": params, "head": head.init(head_key, jnp.zeros(features.shape, features.dtype))}

    def apply(params, x):
        return head.apply(params["head"], torso.apply(params["torso"], x))

    def train(key, params, x, rate):
        return head.apply(params["head"], drop(key, torso.apply(params["torso"], x), rate))

    return Model(init, apply, train if dropout else None)


def over_time(core: Core) -> Model:
    """A recurrent or attention core on inputs as sequences: `x [B, T, ...]` to the features `[B, H]` of the last step.

    Of images `[B, height, width, channels]` the rows are the steps.
    """
    steps = lambda x: jnp.swapaxes(x.reshape(*x.shape[:2], -1), 0, 1)  # [T, B, F]
    init = lambda key, x: core.init(key, steps(x).shape[-1])

    def apply(params, x):
        x = steps(x)
        outputs, _, _ = core.unroll(params, core.memory(x.shape[1]), x, jnp.zeros(x.shape[:2], bool))
        return outputs[-1]

    return Model(init, apply)


class Objective(NamedTuple):
    """What an inner model is trained for.

    `loss(outputs [B, ...], y [B, ...], label_smoothing []) -> [B]`, whose mean is positive, for its logarithm;
    `score(outputs, y) -> []`, of which more is better and 0 is that of a model which has diverged.
    """

    loss: Callable[[Array, Array, Any], Array]
    score: Callable[[Array, Array], Array]


def cross_entropy(outputs: Array, y: Array, label_smoothing: Any = 0.0) -> Array:
    """-Σ qᵢ log softmax(outputs)ᵢ,   q = (1 - ε) one-hot(y) + ε / C, of logits `[..., C]` and classes `[...]`.

    Reference: Szegedy et al., 2016, arXiv:1512.00567, section 7.

    >>> round(cross_entropy(jnp.zeros((1, 4)), jnp.zeros(1, int)).item(), 4)
    1.3863
    """
    log_probs = jax.nn.log_softmax(outputs)
    # a product with the one-hot vector: its gradient is not a scatter
    q = (1 - label_smoothing) * jax.nn.one_hot(y, outputs.shape[-1]) + label_smoothing / outputs.shape[-1]
    return -(q * log_probs).sum(-1)


def accuracy(outputs: Array, y: Array) -> Array:
    """The share of examples whose largest logit is that of their class: `[B, C]` and `[B]` to `[]`."""
    return (outputs.argmax(-1) == y).mean()


def squared_error(outputs: Array, y: Array, label_smoothing: Any = 0.0) -> Array:
    """½ Σ (outputs - y)², `[B, ...]` and `[B, ...]` to `[B]`; label smoothing does not apply."""
    del label_smoothing
    return 0.5 * jnp.square(outputs - y).sum(tuple(range(1, y.ndim)))


def r_squared(outputs: Array, y: Array) -> Array:
    """Coefficient of determination, 1 - Σ (outputs - y)² / Σ (y - ȳ)²: 0 for predictions as good as the mean.

    outputs, y: float `[B, ...]`; the result is a scalar.
    """
    return 1 - jnp.square(outputs - y).sum() / jnp.maximum(jnp.square(y - y.mean(0)).sum(), 1e-12)


classification = Objective(cross_entropy, accuracy)
regression = Objective(squared_error, r_squared)


def check_outputs(outputs: Any, y: Any, num_classes: int | None, hint: str = "") -> None:
    """Raise a ValueError unless shaped outputs are logits of the classes of y, or have the shape of y.

    Args:
      num_classes: C, of integer y; None if it is unknown.  hint: the end of the error.
    """
    shape = getattr(outputs, "shape", None)
    if jnp.issubdtype(y.dtype, jnp.integer):
        wanted = f"({y.shape[0]}, {num_classes or 'C'}), a logit for each class"
        right = shape is not None and len(shape) == 2 and shape[0] == y.shape[0] and num_classes in (None, shape[1])
    else:
        wanted, right = f"{y.shape}, the shape of y, floats to predict (classes are ints)", shape == y.shape
    if not right:
        found = f"a {type(outputs).__name__}" if shape is None else f"outputs of shape {shape}"
        raise ValueError(
            f"TrainingControl: the model gives {found} for {y.shape[0]} examples; it must be {wanted}{hint}"
        )


def check_objective(objective: Objective, outputs: Any, y: Any) -> None:
    """Raise a ValueError unless the loss of shaped outputs has a number for each example, and the score is one."""
    loss = jax.eval_shape(objective.loss, outputs, y, jnp.zeros(()))
    score = jax.eval_shape(objective.score, outputs, y)
    for name, found, wanted in (("loss", loss, y.shape[:1]), ("score", score, ())):
        if getattr(found, "shape", None) != wanted:
            what = f"shape {found.shape}" if hasattr(found, "shape") else f"a {type(found).__name__}"
            raise ValueError(f"TrainingControl: the {name} of {y.shape[0]} examples has {what}; it must have {wanted}")
