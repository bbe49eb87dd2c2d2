"""A causal Transformer: acting uses a cache of keys and values, updates process whole blocks in one pass."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers

from purerl.arguments import check_counts
from purerl.core import Array
from purerl.networks.recurrent import Core


class Cache(NamedTuple):
    """The last steps of each environment's episode, a ring buffer: position p is stored in slot p mod context."""

    keys: tuple[Array, ...]  # one a layer, [N, width / num_heads, context]: a product with queries needs no transpose
    values: tuple[Array, ...]  # [N, context, width / num_heads]
    length: Array  # int32 [N]: tokens of the episode so far


def transformer(
    width: int = 64, num_layers: int = 1, num_heads: int = 4, context: int = 64, gated: bool = False
) -> Core:
    """A pre-norm Transformer over the last `context` steps of the episode, this one among them.

        h ← h + Attention(LN(h)),  h ← h + MLP(LN(h)),   y = LN(h)

    The heads share one key and one value (multi-query attention: the cache is read whole on every step, and is
    `num_heads` times smaller so); positions are rotary and count from the episode's start. A reset sets a length to 0
    and changes nothing else. `unroll` is one pass with a mask: a step attends to the cache and the earlier steps of
    its own episode, at most `context` of them, as in acting.

    Args:
      gated: h ← gate(h, ·) in place of both sums, a GRU's gate that starts near h (GTrXL).
    Raises:
      ValueError: if `num_heads` does not divide `width`, or leaves an odd number of features to a head.
    Reference: Vaswani et al., 2017; Shazeer, 2019, arXiv:1911.02150; Su et al., 2021, arXiv:2104.09864; Parisotto et
      al., 2019, arXiv:1910.06764, section 3.
    """
    check_counts("transformer", width=width, num_layers=num_layers, num_heads=num_heads, context=context)
    if width % (2 * num_heads):
        raise ValueError(f"transformer: width is {width}; it must be a multiple of 2 num_heads, {2 * num_heads}")
    size = width // num_heads

    def init(key, num_features):
        embed_key, *layer_keys = jax.random.split(key, 1 + num_layers)
        kernel = initializers.lecun_normal()
        small = initializers.variance_scaling(0.5 / num_layers, "fan_in", "normal")  # what is added to h
        norm = lambda: {"scale": jnp.ones(width), "shift": jnp.zeros(width)}

        def gate(key):
            kernels = [kernel(k, (width, width)) for k in jax.random.split(key, 6)]
            return {"kernels": jnp.stack(kernels), "bias": jnp.full(width, 2.0)}

        def layer(key):
            q, kv, out, up, down, first, second = jax.random.split(key, 7)
            params = {
                "query": kernel(q, (width, width)), "key_value": kernel(kv, (width, 2 * size)),
                "out": small(out, (width, width)), "norms": (norm(), norm()),
                "up": kernel(up, (width, 4 * width)), "down": small(down, (4 * width, width)),
            }  # fmt: skip
            return params | ({"gates": (gate(first), gate(second))} if gated else {})

        layers = [layer(key) for key in layer_keys]
        return {"embed": kernel(embed_key, (num_features, width)), "layers": layers, "norm": norm()}

    def memory(n):
        empty = lambda *shape: tuple(jnp.zeros((n, *shape)) for _ in range(num_layers))
        return Cache(empty(size, context), empty(context, size), jnp.zeros(n, jnp.int32))

    def reset(cache, ended):
        return cache._replace(length=jnp.where(ended, 0, cache.length))

    def project(layer, h, position):
        """Queries [..., heads, size], key and value [..., size] of tokens at their positions [...]."""
        x = _norm(layer["norms"][0], h)
        query = (x @ layer["query"]).reshape(*x.shape[:-1], num_heads, size)
        key, value = jnp.split(x @ layer["key_value"], 2, axis=-1)
        return _rotate(query, position[..., None]), _rotate(key, position), value

    def rest(layer, h, mixed):
        """A layer after its attention has mixed the values, [..., heads, size]."""
        join = [lambda h, y, gate=gate: _gate(gate, h, y) for gate in layer["gates"]] if gated else [jnp.add] * 2
        h = join[0](h, mixed.reshape(*h.shape) @ layer["out"])
        return join[1](h, jax.nn.gelu(_norm(layer["norms"][1], h) @ layer["up"]) @ layer["down"])

    def step(params, cache, x):
        h, position = x @ params["embed"], cache.length
        rows, slot = jnp.arange(x.shape[0]), position % context
        seen = jnp.arange(context) <= position[:, None]  # every slot, once the ring is full
        keys, values = [], []
        for layer, old_keys, old_values in zip(params["layers"], cache.keys, cache.values, strict=True):
            query, key, value = project(layer, h, position)
            keys.append(old_keys.at[rows, :, slot].set(key))
            values.append(old_values.at[rows, slot].set(value))
            h = rest(layer, h, _attend(query[:, None], keys[-1], values[-1], seen[:, None])[:, 0])
        return _norm(params["norm"], h), Cache(tuple(keys), tuple(values), position + 1)

    def unroll(params, cache: Cache, x, ended, next_x=None):
        # environments first: attention is a product over time for each of them
        swap = lambda x: jnp.swapaxes(x, 0, 1)
        x, ended, next_x = swap(x), swap(ended), None if next_x is None else swap(next_x)
        time = jnp.arange(x.shape[1])
        began = jnp.pad(ended[:, :-1], ((0, 0), (1, 0)))
        episode = jnp.cumsum(began, axis=1)  # 0 for the one that the cache is of
        first = jax.lax.cummax(jnp.where(began, time, 0), axis=1)
        position = jnp.where(episode == 0, cache.length[:, None] + time, time - first)
        newest = cache.length[:, None] - 1
        cached = newest - (newest - jnp.arange(context)) % context  # positions in the ring's slots; < 0: none

        back = time[:, None] - time

        def seen(ahead):
            """The attention mask of steps (0 ahead) or successors (1 ahead), bool `[N, T, context + T]`."""
            age = position[:, :, None] + ahead - cached[:, None]
            in_cache = (episode == 0)[:, :, None] & (cached >= 0)[:, None] & (age < context)
            in_block = (episode[:, :, None] == episode[:, None]) & (back >= 0) & (back + ahead < context)
            return jnp.concatenate([in_cache, in_block], axis=-1)

        h, keys, values = x @ params["embed"], [], []
        next_h = None if next_x is None else next_x @ params["embed"]
        for layer, old_keys, old_values in zip(params["layers"], cache.keys, cache.values, strict=True):
            query, key, value = project(layer, h, position)
            all_keys = jnp.concatenate([old_keys, jnp.swapaxes(key, 1, 2)], axis=2)
            all_values = jnp.concatenate([old_values, value], axis=1)
            h = rest(layer, h, _attend(query, all_keys, all_values, seen(0)))
            if next_h is not None:
                query, *own = project(layer, next_h, position + 1)
                next_h = rest(layer, next_h, _attend(query, all_keys, all_values, seen(1), own))
            keys.append(key)
            values.append(value)

        # the ring afterwards: the last episode's last tokens, each in its slot; the others are written nowhere
        rows, last = jnp.arange(x.shape[0])[:, None], position[:, -1:]
        stays = (episode == episode[:, -1:]) & (position > last - context)
        slot = jnp.where(stays, position % context, context)
        pairs = zip(cache.keys, keys, strict=True)
        keys = tuple(ring.at[rows, :, slot].set(x, mode="drop") for ring, x in pairs)
        pairs = zip(cache.values, values, strict=True)
        values = tuple(ring.at[rows, slot].set(x, mode="drop") for ring, x in pairs)
        after = reset(Cache(keys, values, last[:, 0] + 1), ended[:, -1])
        outputs = lambda h: None if h is None else swap(_norm(params["norm"], h))
        return outputs(h), outputs(next_h), after

    return Core(init, memory, reset, step, unroll)


def _norm(params: Any, x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["shift"]


def _rotate(x: Array, position: Array) -> Array:
    """Rotary positions of x [..., size] at `position [...]`: pairs of features turned by angles that grow with it."""
    half = x.shape[-1] // 2
    angle = position[..., None] * jnp.exp(-math.log(10_000.0) / half * jnp.arange(half))
    left, right = x[..., :half], x[..., half:]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)


def _attend(query: Array, keys: Array, values: Array, seen: Array, own: Any = None) -> Array:
    """Values [N, S, D] mixed by softmax(q·k / √D) over what is `seen [N, T, S]`; queries [N, T, H, D], keys [N, D, S].

    own: key and value [N, T, D], used only by the query of the same step.
    """
    query = query / math.sqrt(query.shape[-1])
    scores = jnp.where(seen[:, :, None], jnp.einsum("nthd,nds->nths", query, keys), -jnp.inf)
    if own is None:
        return jnp.einsum("nths,nsd->nthd", jax.nn.softmax(scores), values)
    score = jnp.einsum("nthd,ntd->nth", query, own[0])[..., None]
    weights = jax.nn.softmax(jnp.concatenate([scores, score], axis=-1))
    return jnp.einsum("nths,nsd->nthd", weights[..., :-1], values) + weights[..., -1:] * own[1][:, :, None]


def _gate(params: Any, h: Array, y: Array) -> Array:
    """GTrXL's gate: g = (1 - z) ⊙ h + z ⊙ tanh(W y + U(r ⊙ h)), whose z starts near 0."""
    reset_y, reset_h, update_y, update_h, new_y, new_h = params["kernels"]
    reset = jax.nn.sigmoid(y @ reset_y + h @ reset_h)
    update = jax.nn.sigmoid(y @ update_y + h @ update_h - params["bias"])
    return (1 - update) * h + update * jnp.tanh(y @ new_y + (reset * h) @ new_h)
