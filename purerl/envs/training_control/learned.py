"""Optimisers that are networks: one small network with memory for every coordinate, and two ways to train it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl import losses
from purerl.arguments import check_range
from purerl.core import Array, Key
from purerl.envs.training_control.optimizers import InnerOptimizer, Settings
from purerl.networks.recurrent import Core

SETTINGS = Settings(learning_rate=1.0)


def preprocess(gradient: Array, p: float = 10.0) -> Array:
    """Two numbers of about equal sizes for gradients of all sizes, `[...] -> [..., 2]`.

        (log|g| / p, sign g)  where |g| ≥ e⁻ᵖ,   otherwise  (-1, eᵖ g)

    Reference: Andrychowicz et al., 2016, arXiv:1606.04474, appendix A.

    >>> preprocess(jnp.array([-1.0, 0.0])).tolist()
    [[0.0, -1.0], [-1.0, 0.0]]
    """
    size, least = jnp.abs(gradient), jnp.exp(-p)
    large = jnp.stack([jnp.log(jnp.maximum(size, least)) / p, jnp.sign(gradient)], -1)
    small = jnp.stack([-jnp.ones_like(gradient), jnp.exp(p) * gradient], -1)
    return jnp.where((size >= least)[..., None], large, small)


class LearnedOptimizer(NamedTuple):
    """A family of optimisers: `init(key) -> weights`; `optimizer(weights) -> InnerOptimizer`."""

    init: Callable[[Key], Any]
    optimizer: Callable[[Any], InnerOptimizer]


def coordinatewise(core: Core, scale: float = 0.1) -> LearnedOptimizer:
    """An optimiser that applies one network with memory to the gradient of every coordinate.

        Δθᵢ = α · scale · (w · hᵢ + b),   hᵢ, memoryᵢ = core(preprocess(gᵢ), memoryᵢ)

    α is the learning rate of the settings, as in `of_optax`. The coordinates share weights and have memories of their
    own, so that the optimiser serves any number of them, in any order: it is passed as `TrainingControl(optimizer=)`.

    Args:
      core: such as `networks.stack(networks.lstm(20), networks.lstm(20))`, which is the paper's.
      scale: of updates at the start.
    Raises:
      ValueError: for a scale that is not positive.
    Reference: Andrychowicz et al., 2016, arXiv:1606.04474, section 2.1.

    >>> from purerl import networks
    >>> learned = coordinatewise(networks.lstm(4))
    >>> optimizer = learned.optimizer(learned.init(jax.random.key(0)))
    >>> grads = {"w": jnp.ones((2, 3)), "b": jnp.ones(())}
    >>> update, state = optimizer.update(grads, optimizer.init(grads), grads, SETTINGS)
    >>> update["w"].shape, bool((update["w"] == update["b"]).all())
    ((2, 3), True)
    """
    check_range("coordinatewise", jnp.finfo(float).tiny, jnp.finfo(float).max, scale=scale)

    def init(key):
        core_key, head_key = jax.random.split(key)
        weights = core.init(core_key, 2)
        size = jax.eval_shape(core.step, weights, core.memory(1), jnp.zeros((1, 2)))[0].shape[-1]
        head = jax.random.normal(head_key, (size,)) / jnp.sqrt(size)
        return {"core": weights, "head": head, "bias": jnp.zeros(())}

    def optimizer(weights):
        def update(grads, memory, params, settings):
            del params
            flat, unflatten = ravel_pytree(grads)
            features, memory = core.step(weights["core"], memory, preprocess(flat))
            return unflatten(settings.learning_rate * scale * (features @ weights["head"] + weights["bias"])), memory

        return InnerOptimizer(lambda params: core.memory(ravel_pytree(params)[0].size), update)

    return LearnedOptimizer(init, optimizer)


class Unrolled(NamedTuple):
    """T updates of one problem: losses `[T + 1]`, from that before the first; log π(Δθ) `[T]`; and what follows."""

    losses: Array
    log_prob: Array
    params: Any
    state: Any


def unroll(
    key: Key, optimizer: InnerOptimizer, loss: Callable[[Any], Array], params: Any, state: Any, num_steps: int,
    noise: Any = None,
) -> Unrolled:  # fmt: skip
    """Minimise a loss, and keep what the optimiser's weights are trained by.

    Without noise the losses are differentiable functions of the optimiser's weights; the gradients that it is shown are
    constants, as in the paper. With noise σ the update is an action a ~ N(Δθ, σ²), a constant, with its log-density
    (without the normaliser, which is constant):

        log π(a) = -½ Σᵢ ((aᵢ - Δθᵢ) / σ)²

    Args:
      key: of the noise.  loss: `params -> []`.  state: of `optimizer.init(params)`, or of the unroll before.
      noise: σ > 0; None: without.
    Reference: Andrychowicz et al., 2016, arXiv:1606.04474, figure 2; updates as actions: Li & Malik, 2017,
      arXiv:1606.01885.
    """
    if noise is not None:
        check_range("unroll", jnp.finfo(float).tiny, jnp.finfo(float).max, noise=noise)

    def one(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(jax.lax.stop_gradient(grads), state, params, SETTINGS)
        log_prob = jnp.zeros(())
        if noise is not None:
            flat, unflatten = ravel_pytree(change)
            action = jax.lax.stop_gradient(flat + noise * jax.random.normal(key, flat.shape))
            log_prob, change = -0.5 * jnp.square((action - flat) / noise).sum(), unflatten(action)
        return (jax.tree.map(jnp.add, params, change), state), (value, log_prob)

    (params, state), (values, log_prob) = jax.lax.scan(one, (params, state), jax.random.split(key, num_steps))
    return Unrolled(jnp.append(values, loss(params)), log_prob, params, state)


def unrolled_loss(values: Array) -> Array:
    """Σₜ f(θₜ) over the updates of an unroll, a mean over problems: losses `[T + 1, B]` to a scalar.

    Reference: Andrychowicz et al., 2016, arXiv:1606.04474, eq. 3 with all weights 1.
    """
    return values[1:].sum(0).mean()


def reinforce_loss(values: Array, log_prob: Array) -> Array:
    """REINFORCE's loss for updates as actions, of losses `[T + 1, B]` and log π `[T, B]` of B problems.

        -mean Σₜ log π(aₜ) Âₜ,   Âₜ = log f(θₜ) - log f(θ_T), less the mean of the problems

    The reward is the fall of the log loss, whose sum telescopes.
    """
    gain = jnp.log(values[:-1]) - jnp.log(values[-1])
    advantage = gain - gain.mean(1, keepdims=True)
    return losses.policy_gradient(log_prob, advantage).sum(0).mean()
