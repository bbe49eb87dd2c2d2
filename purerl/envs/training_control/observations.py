"""What an agent sees of a training: numbers without a unit, so that one agent serves many of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from purerl.core import Array
from purerl.envs.training_control.optimizers import OPTIMIZERS, Settings

BOUND = 10.0  # every observation is clipped to ±BOUND


class Statistics(NamedTuple):
    """A training after its last stretch of K updates: float32 scalars. Nothing of it is of the test part.

    Losses are of the parameters after the stretch, without dropout and label smoothing, natural logarithms.
    """

    left: Array  # fraction of the budget left, in [0, 1]
    log_train: Array
    log_train_before: Array  # before the stretch
    log_validation: Array
    log_validation_before: Array
    log_validation_start: Array  # before the first stretch
    gradient_norm: Array  # mean of ‖g‖ over the minibatches of the stretch; 1 at the start
    gradient_norm_before: Array  # of the stretch before; of this one, if it was the first
    gradient_spread: Array  # standard deviation of ‖g‖ over the minibatches, over its mean; 0 at the start
    update_ratio: Array  # ‖θ' - θ‖ / ‖θ‖ of the stretch; 1 at the start
    straightness: Array  # ‖Σ Δθ‖ / Σ ‖Δθ‖, in [0, 1]: small where updates oscillate; 0 at the start
    settings: Settings  # those of the stretch


def relative(s: Statistics) -> Array:
    """The default for control of the learning rate alone, float32 `[10]`:

    change of the log training loss; change of the log validation loss; log validation loss minus log training loss;
    log validation loss since the start; change of the log gradient norm; standard deviation of gradient norms over
    their mean; log₁₀ ‖Δθ‖/‖θ‖; straightness of the path; log₁₀ learning rate; fraction of the budget left.

    Reference: after Daniel, Taylor & Nowozin, 2016, "Learning step size controllers for robust neural network
      training", and Xu et al., 2019, arXiv:1909.09712, but with relative changes.
    """
    log = lambda x: jnp.log(jnp.maximum(x, 1e-12))
    return jnp.stack(
        [
            s.log_train - s.log_train_before,
            s.log_validation - s.log_validation_before,
            s.log_validation - s.log_train,
            s.log_validation - s.log_validation_start,
            log(s.gradient_norm) - log(s.gradient_norm_before),
            s.gradient_spread,
            log(s.update_ratio) / jnp.log(10.0),
            s.straightness,
            log(s.settings.learning_rate) / jnp.log(10.0),
            s.left,
        ]
    )


def with_settings(s: Statistics) -> Array:
    """`relative` and all settings, float32 `[18]`.

    -log₁₀(1 - momentum), log₁₀ weight decay (at least 1e-6), dropout, label smoothing, and the optimiser, one-hot.
    """
    x = s.settings
    others = [-jnp.log10(1 - x.momentum), jnp.log10(jnp.maximum(x.weight_decay, 1e-6)), x.dropout, x.label_smoothing]
    return jnp.concatenate([relative(s), jnp.stack(others), jax.nn.one_hot(x.optimizer, len(OPTIMIZERS))])
