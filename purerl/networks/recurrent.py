"""Memories between a torso and the heads: recurrent cells, and a linear recurrence that is parallel over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import initializers

from purerl.arguments import check_counts
from purerl.core import Array, Key, where_ended
from purerl.networks.adapters import with_memory


class Core(NamedTuple):
    """Memory as pure functions of features; compare `purerl.core.MemoryNetwork`, which has observations instead.

    `init(key, num_features) -> params`; `memory(n)`; `reset(memory, ended [N])`.
    `step(params, memory, x [N, F]) -> (y [N, H], memory)`.
    `unroll(params, memory, x [T, N, F], ended [T, N], next_x=None) -> (y [T, N, H], next_y or None, memory)`.
    """

    init: Callable[[Key, int], Any]
    memory: Callable[[int], Any]
    reset: Callable[[Any, Array], Any]
    step: Callable[[Any, Any, Array], tuple[Array, Any]]
    unroll: Callable[..., tuple[Array, Array | None, Any]]


def _cell(size: int, biases: list[np.ndarray], start: Callable[[int], Any], cell: Callable, output: Callable) -> Core:
    """A cell `(memory, gates of x·W + b, gates of h·U) -> memory` for any leading axes, and h, read of its memory.

    biases: the initial b of each gate, `[size]`.
    """
    num_gates = len(biases)

    def init(key, num_features):
        keys = jax.random.split(key, 2 * num_gates)
        square, wide = initializers.orthogonal(), initializers.lecun_normal()
        return {
            "input": jnp.concatenate([wide(k, (num_features, size)) for k in keys[:num_gates]], axis=1),
            "recurrent": jnp.concatenate([square(k, (size, size)) for k in keys[num_gates:]], axis=1),
            "bias": jnp.asarray(np.concatenate(biases), jnp.result_type(float)),
        }

    split = lambda x: tuple(jnp.split(x, num_gates, axis=-1))
    project = lambda params, x: x @ params["input"] + params["bias"]
    products = lambda recurrent, memory: split(output(memory) @ recurrent)
    advance = lambda params, memory, x: cell(memory, split(project(params, x)), products(params["recurrent"], memory))
    reset = lambda memory, ended: where_ended(ended, jax.tree.map(jnp.zeros_like, memory), memory)

    def step(params, memory, x):
        memory = advance(params, memory, x)
        return output(memory), memory

    @jax.custom_jvp
    def recur(recurrent, memory, gates, ended):
        """The last memory and that after every step. Gates are split ahead of the loop, whose body then vectorises;
        a body of two steps keeps its products in the matrix library."""

        def one(memory, now):
            gates, end = now
            memory = cell(memory, gates, products(recurrent, memory))
            return reset(memory, end), memory

        return jax.lax.scan(one, memory, (split(gates), ended), unroll=2)

    @recur.defjvp
    def _(primals, tangents):
        """As jax would, but for the products of h with the tangent of U: one for all steps, in place of one a step."""
        recurrent, memory, gates, ended = primals
        d_recurrent, d_memory, d_gates, _ = tangents

        def run(memory, gates, product):
            def one(memory, now):
                gates, product, end = now
                memory = cell(memory, split(gates), split(output(memory) @ recurrent + product))
                return reset(memory, end), memory

            return jax.lax.scan(one, memory, (gates, product, ended))

        (last, after), linear = jax.linearize(run, memory, gates, jnp.zeros_like(gates))
        later = jnp.where(ended[:-1, :, None], 0.0, output(after)[:-1])
        before = jnp.concatenate([output(memory)[None], later])
        return (last, after), linear(d_memory, d_gates, before @ d_recurrent)

    def unroll(params, memory, x, ended, next_x=None):
        # the products with x are one product for all steps, and each successor needs one more evaluation of the cell
        last, after = recur(params["recurrent"], memory, project(params, x), ended)
        return output(after), None if next_x is None else output(advance(params, after, next_x)), last

    return Core(init, start, reset, step, unroll)


def _spans(size: int, longest: float) -> np.ndarray:
    """log τ of time scales from 1 to `longest` steps, evenly spaced: initial biases of a gate."""
    return np.linspace(0.0, np.log(longest), size)


def gru(size: int = 64, longest: float = 1.0) -> Core:
    """Gated recurrent unit.

        r = σ(Wᵣx + Uᵣh),  z = σ(W_z x + U_z h),  n = tanh(W_n x + r ⊙ U_n h),  h' = (1 - z) ⊙ n + z ⊙ h

    Args:
      longest: initial time scales of features are from 1 to `longest` steps. At 1 all features decay by half at every
        step, as is customary; for dependencies over 50 steps, use 100.
    Reference: Cho et al., 2014, arXiv:1406.1078, with r after the product, as cuDNN has it; longest: Tallec &
      Ollivier, 2018, arXiv:1804.11188.
    """
    check_counts("gru", size=size)
    _check_longest("gru", longest)
    zero = np.zeros(size)  # NumPy: a core may be made before jax is set up

    def cell(h, of_x, of_h):
        keep, use = (jax.nn.sigmoid(of_x[i] + of_h[i]) for i in (1, 0))
        return (1 - keep) * jnp.tanh(of_x[2] + use * of_h[2]) + keep * h

    return _cell(size, [zero, _spans(size, longest), zero], lambda n: jnp.zeros((n, size)), cell, lambda h: h)


def lstm(size: int = 64, longest: float | None = None) -> Core:
    """Long short-term memory.

        c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g),  h' = σ(o) ⊙ tanh(c'),   (i, f, g, o) = Wx + Uh + b

    Args:
      longest: initial time scales of features are from 1 to `longest` steps; None: the forget gate's b is 1, as is
        customary.
    Reference: Hochreiter & Schmidhuber, 1997; the forget gate's 1: Jozefowicz et al., 2015; longest: Tallec &
      Ollivier, 2018, arXiv:1804.11188, eq. 16.
    """
    check_counts("lstm", size=size)
    _check_longest("lstm", 1.0 if longest is None else longest)
    zero = np.zeros(size)  # NumPy: a core may be made before jax is set up
    spans = None if longest is None else _spans(size, longest)
    biases = [zero, zero + 1, zero, zero] if spans is None else [-spans, spans, zero, zero]

    def cell(memory, of_x, of_h):
        i, f, g, o = (x + h for x, h in zip(of_x, of_h, strict=True))
        c = jax.nn.sigmoid(f) * memory[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return _cell(size, biases, lambda n: (jnp.zeros((n, size)), jnp.zeros((n, size))), cell, lambda memory: memory[0])


def min_gru(size: int = 64, longest: float = 100.0) -> Core:
    """A GRU whose gates do not depend on h: a linear recurrence, computed for all steps at once in updates.

        z = σ(W_z x + b),  h' = (1 - z) ⊙ h + z ⊙ W_h x

    Its output is a weighted sum of inputs, so a nonlinear layer should follow before the heads: use `stack`.
    `unroll` is an associative scan, log₂ T passes in place of T steps; on a CPU, where passes over memory cost more
    than small steps, a plain scan, which is three times as fast there.
    Args:
      longest: initial time scales of features are from 1 to `longest` steps, b = -log τ.
    Reference: Feng et al., 2024, arXiv:2410.01201, section 3.1; longest: Tallec & Ollivier, 2018, arXiv:1804.11188.
    """
    check_counts("min_gru", size=size)
    _check_longest("min_gru", longest)

    def init(key, num_features):
        kernel = initializers.lecun_normal()
        kernels = [kernel(k, (num_features, size)) for k in jax.random.split(key)]
        bias = jnp.concatenate([-_spans(size, longest), jnp.zeros(size)])
        return {"input": jnp.concatenate(kernels, axis=1), "bias": bias}

    def terms(params, x):
        """a and b of h' = a ⊙ h + b."""
        update, new = jnp.split(x @ params["input"] + params["bias"], 2, axis=-1)
        update = jax.nn.sigmoid(update)
        return 1 - update, update * new

    reset = lambda memory, ended: where_ended(ended, jnp.zeros_like(memory), memory)

    def step(params, h, x):
        a, b = terms(params, x)
        h = a * h + b
        return h, h

    def unroll(params, h, x, ended, next_x=None):
        a, b = terms(params, x)
        b = b.at[0].add(a[0] * h)
        began = jnp.concatenate([jnp.ones_like(ended[:1]), ended[:-1]])  # nothing of before is left in these steps
        a = jnp.where(began[..., None], 0.0, a)
        after = jax.lax.platform_dependent(a, b, cpu=_linear_in_steps, default=_linear_in_passes)
        next_y = None
        if next_x is not None:
            a, b = terms(params, next_x)
            next_y = a * after + b
        return after, next_y, reset(after[-1], ended[-1])

    return Core(init, lambda n: jnp.zeros((n, size)), reset, step, unroll)


def stack(*layers: Core | nn.Module) -> Core:
    """Compose memories, each on the outputs of the previous one; a module is a layer without memory.

    The outputs of a linear recurrence are sums of its inputs. A nonlinear layer after it and a second memory give gates
    that depend on the past.
    Raises:
      ValueError: without layers, or where one is neither a memory nor a module.

    >>> from purerl.networks import MLP
    >>> core = stack(min_gru(32), MLP((32,)), min_gru(8))
    >>> y, memory = core.step(core.init(jax.random.key(0), 4), core.memory(5), jnp.ones((5, 4)))
    >>> y.shape, [m.shape for m in jax.tree.leaves(memory)]
    ((5, 8), [(5, 32), (5, 8)])
    """
    for layer in layers:
        if not isinstance(layer, Core | nn.Module):
            raise ValueError(f"stack: a layer is {layer!r}; it must be a memory, such as gru(), or a module")
    if not layers:
        raise ValueError("stack: no layers are given; it takes at least one")
    cores = [layer if isinstance(layer, Core) else _without_memory(layer) for layer in layers]

    def through(advance, params, memory, *x):
        """The outputs of the last core, and the memories of all."""
        memories = []
        for core, p, m in zip(cores, params, memory, strict=True):
            *x, m = advance(core, p, m, *x)
            memories.append(m)
        return *x, tuple(memories)

    def init(key, num_features):
        params, width = [], num_features
        for k, core in zip(jax.random.split(key, len(cores)), cores, strict=True):
            params.append(core.init(k, width))
            y, _ = jax.eval_shape(core.step, params[-1], core.memory(1), jnp.zeros((1, width)))
            width = y.shape[-1]
        return tuple(params)

    def reset(memory, ended):
        return tuple(core.reset(m, ended) for core, m in zip(cores, memory, strict=True))

    def step(params, memory, x):
        return through(lambda core, *now: core.step(*now), params, memory, x)

    def unroll(params, memory, x, ended, next_x=None):
        advance = lambda core, p, m, x, next_x: core.unroll(p, m, x, ended, next_x)
        return through(advance, params, memory, x, next_x)

    return Core(init, lambda n: tuple(core.memory(n) for core in cores), reset, step, unroll)


def _without_memory(module: nn.Module) -> Core:
    """Convert a module to a core without memory."""
    network = with_memory(module)
    init = lambda key, num_features: network.init(key, jnp.zeros((1, num_features)))
    return Core(init, network.memory, network.reset, network.step, network.unroll)


def _linear_in_steps(a: Array, b: Array) -> Array:
    """hₜ = aₜ ⊙ hₜ₋₁ + bₜ from h = 0, `[T, ...]`, by a scan."""

    def step(h, now):
        h = now[0] * h + now[1]
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(a[0]), (a, b))[1]


def _linear_in_passes(a: Array, b: Array) -> Array:
    """The same by an associative scan."""
    return jax.lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a, b))[1]


def _check_longest(function: str, longest: float) -> None:
    if not longest >= 1:
        raise ValueError(f"{function}: longest is {longest!r}; it must be at least 1")
