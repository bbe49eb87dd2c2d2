"""Inner optimisers, whose learning rate and other settings are data: an agent may change them at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl.arguments import check_range
from purerl.core import Array

SGD, MOMENTUM, RMSPROP, ADAM = range(4)
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
EPSILON = 1e-8


class Settings(NamedTuple):
    """The settings of a training, all of them data: scalars, float32 but for the last two."""

    learning_rate: Any = 0.01  # > 0
    momentum: Any = 0.9  # in [0, 1); of Adam it is β₁, and SGD and RMSProp have none
    weight_decay: Any = 0.0  # ≥ 0, decoupled
    dropout: Any = 0.0  # in [0, 1), for models that have dropout
    label_smoothing: Any = 0.0  # in [0, 1], for classes
    optimizer: Any = MOMENTUM  # int32, an index of OPTIMIZERS
    stop: Any = False  # bool: training ends here


def as_arrays(settings: Settings) -> Settings:
    """Settings as arrays of their dtypes, floats of the default float type."""
    floats = {name: jnp.asarray(getattr(settings, name), jnp.result_type(float)) for name in Settings._fields[:-2]}
    return Settings(
        **floats, optimizer=jnp.asarray(settings.optimizer, jnp.int32), stop=jnp.asarray(settings.stop, bool)
    )


class InnerOptimizer(NamedTuple):
    """An optimiser as pure functions; compare `optax.GradientTransformation`.

    `init(params) -> state`; `update(grads, state, params, settings) -> (updates, state)`, updates to be added.
    `evaluated(params, state) -> params`: the parameters to be judged, where they are not those that are trained.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any, Settings], tuple[Any, Any]]
    evaluated: Callable[[Any, Any], Any] = lambda params, state: params


class Moments(NamedTuple):
    """Moving sums of gradients and of their squares, and the products of the decays so far, for Adam's correction."""

    first: Any
    second: Any
    first_decay: Array  # float32 []
    second_decay: Array  # float32 []


def first_order() -> InnerOptimizer:
    """SGD, momentum, RMSProp and Adam in one shape; the settings say which, so that a change compiles nothing.

        m ← β m + a g,   v ← δ v + (1 - δ) g²,   Δθ = -α (m̂ / d + λ θ)

    | optimizer | β | a | δ | d | m̂ |
    |---|---|---|---|---|---|
    | SGD | 0 | 1 | 0.9 | 1 | m |
    | momentum μ | μ | 1 | 0.9 | 1 | m |
    | RMSProp | 0 | 1 | 0.9 | √v + ε | m |
    | Adam | μ | 1 - μ | 0.999 | √(v / (1 - Π δ)) + ε | m / (1 - Π β) |

    ε = 1e-8. For constant settings they are `optax.sgd(α, μ)`, `optax.rmsprop(α, 0.9, 1e-8, eps_in_sqrt=False)` and
    `optax.adamw(α, μ, weight_decay=λ)`; the weight decay λ is decoupled in all of them.

    Reference: Kingma & Ba, 2015, arXiv:1412.6980, algorithm 1; Tieleman & Hinton, 2012, lecture 6.5; Loshchilov &
      Hutter, 2019, arXiv:1711.05101, algorithm 2.
    """

    def init(params):
        zeros, one = jax.tree.map(jnp.zeros_like, params), jnp.ones((), jnp.result_type(float))
        return Moments(zeros, jax.tree.map(jnp.zeros_like, params), one, one)

    def update(grads, state, params, settings):
        kind = settings.optimizer
        of_kind = lambda *xs: jnp.asarray(xs, jnp.result_type(float))[kind]
        is_adam, adaptive = kind == ADAM, (kind == RMSPROP) | (kind == ADAM)
        beta, decay = of_kind(0, 1, 0, 1) * settings.momentum, of_kind(0.9, 0.9, 0.9, 0.999)
        gain = jnp.where(is_adam, 1 - beta, 1.0)
        first = jax.tree.map(lambda m, g: beta * m + gain * g, state.first, grads)
        second = jax.tree.map(lambda v, g: decay * v + (1 - decay) * jnp.square(g), state.second, grads)
        after = Moments(first, second, state.first_decay * beta, state.second_decay * decay)
        first_scale = jnp.where(is_adam, 1 / (1 - after.first_decay), 1.0)
        second_scale = jnp.where(is_adam, 1 / (1 - after.second_decay), 1.0)

        def change(m, v, p):
            direction = first_scale * m / jnp.where(adaptive, jnp.sqrt(second_scale * v) + EPSILON, 1.0)
            return -settings.learning_rate * (direction + settings.weight_decay * p)

        return jax.tree.map(change, first, second, params), after

    return InnerOptimizer(init, update)


def of_optax(transformation: optax.GradientTransformation, evaluated: Callable | None = None) -> InnerOptimizer:
    """Any optimiser of optax; its updates are multiplied by the learning rate, and other settings are not used.

    Args:
      transformation: with a learning rate of 1, such as `optax.lion(1.0)`, or `optax.contrib.prodigy()` at a rate of 1.
      evaluated: `(params, state) -> params`, such as `optax.contrib.schedule_free_eval_params` in the other order.
    """

    def update(grads, state, params, settings):
        updates, state = transformation.update(grads, state, params)
        return jax.tree.map(lambda x: settings.learning_rate * x, updates), state

    identity = InnerOptimizer._field_defaults["evaluated"]
    return InnerOptimizer(transformation.init, update, evaluated or identity)


class Hypergradient(NamedTuple):
    """The learning rate α, and the direction of the last update, of which it is a multiple."""

    rate: Array  # float32 []
    direction: Any


def hypergradient(initial: Any, step: Any, momentum: Any = 0.9) -> InnerOptimizer:
    """Hypergradient descent: momentum whose learning rate follows its own gradient.

        αₜ = αₜ₋₁ + β gₜ · uₜ₋₁,   uₜ = μ uₜ₋₁ + gₜ,   Δθ = -αₜ uₜ

    The first update has the initial rate. Updates are multiplied by the learning rate of the settings.
    Reference: Baydin et al., 2018, arXiv:1703.04782, eq. 5, whose u is that of SGD or of Nesterov's momentum.
    Args:
      initial: α₀.  step: β ≥ 0.  momentum: μ in [0, 1).

    >>> optimizer, settings = hypergradient(0.1, 0.01, 0.0), Settings(learning_rate=1.0)
    >>> state = optimizer.init(jnp.zeros(2))
    >>> for grads in (jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])):
    ...     update, state = optimizer.update(grads, state, None, settings)
    >>> round(state.rate.item(), 4)
    0.13
    """
    check_range("hypergradient", 0, float("inf"), initial=initial, step=step)

    def init(params):
        return Hypergradient(jnp.asarray(initial, jnp.result_type(float)), jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params, settings):
        del params
        rate = state.rate + step * optax.tree.vdot(grads, state.direction)
        direction = jax.tree.map(lambda u, g: momentum * u + g, state.direction, grads)
        change = jax.tree.map(lambda u: -settings.learning_rate * rate * u, direction)
        return change, Hypergradient(rate, direction)

    return InnerOptimizer(init, update)
