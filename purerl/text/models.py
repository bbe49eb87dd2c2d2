"""GPT-2's architecture as pure functions, and the policy network whose memory is its cache of keys and values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.linen import initializers

from purerl.arguments import check_counts, check_range
from purerl.core import Array, Distribution, Key, MemoryNetwork, anywhere, where_ended
from purerl.text.objectives import chunked_log_probs

# --- the architecture ---------------------------------------------------------------------------------------------


class GPT2(NamedTuple):
    """The sizes of a model."""

    vocab_size: int  # V
    context: int  # the most tokens of a sequence
    width: int  # W
    num_layers: int
    num_heads: int  # H, each of D = W / H features
    inner: int | None = None  # width of the hidden layer of each MLP; None: 4 W
    epsilon: float = 1e-5  # added to variances by the layer norms


class Cache(NamedTuple):
    """Keys and values of the tokens so far, those of position p in slot p, of S slots."""

    # what is written on a step, [H, D], lies in H pieces: with slots last, each number would be in another cache line
    keys: tuple[Array, ...]  # one a layer, float [N, H, S, D]
    values: tuple[Array, ...]  # one a layer, float [N, H, S, D]
    length: Array  # int32 [N]: tokens so far; the slots from there on have no effect, whatever they hold


def head_kernel(params: Any) -> Array:
    """The head's kernel `[V, W]` in the parameters of `gpt2`: the token embedding, unless there is an own `lm_head`."""
    return params.get("lm_head", params["wte"])["weight"]


class LanguageModel(NamedTuple):
    """A causal language model as a set of pure functions; tokens are int `[N, ...]`, padded on the right.

    `init(key) -> params` initialises the parameters.
    `cache(n, slots) -> Cache` returns an empty cache for n sequences of at most `slots` tokens.
    `prefill(params, tokens [N, P], length [N], slots) -> (features [N, P, W], Cache)` is one parallel pass, whose cache
      holds the first `length` tokens of each row; what follows them has no effect.
    `step(params, cache, token [N]) -> (features [N, W], Cache)` appends one token, at position `cache.length`. Where
      the cache is full it replaces the last token.
    `features(params, tokens [N, L]) -> [N, L, W]` is one parallel pass; column i depends on the tokens 0 ... i.
    `logits(params, features [..., W]) -> [..., V]` are those of the next token.
    `kernel(params) -> [V, W]` is the head: logits = features · kernelᵀ.
    """

    init: Callable[[Key], Any]
    cache: Callable[[int, int], Cache]
    prefill: Callable[[Any, Array, Array, int], tuple[Array, Cache]]
    step: Callable[[Any, Cache, Array], tuple[Array, Cache]]
    features: Callable[[Any, Array], Array]
    logits: Callable[[Any, Array], Array]
    shape: GPT2
    kernel: Callable[[Any], Array] = head_kernel


def gpt2(shape: GPT2) -> LanguageModel:
    """GPT-2: a pre-norm Transformer with learned positions and a head tied to the token embedding.

        h = wteₜ + wpeₚ;   h ← h + Attention(LN(h)),  h ← h + MLP(LN(h)) in each layer;   logits = LN(h) · wteᵀ

    Attention has H heads softmax(q·k / √D) over a token and those before it; an MLP is c_proj(gelu(c_fc(x))), with the
    approximation of gelu by tanh. Parameters are a tree whose paths are the names of Hugging Face's tensors, such as
    `params["h"][0]["attn"]["c_attn"]["weight"]`, all of them in their shapes: kernels are [in, out]. They are
    initialised by N(0, 0.02²), those of projections onto h by N(0, 0.02² / (2 num_layers)), biases by 0.

    Raises:
      ValueError: if a size is not a positive int, or `num_heads` does not divide `width`; at trace time, if there are
        more tokens than positions or slots.
    Reference: Radford et al., 2019, "Language models are unsupervised multitask learners".

    >>> model = gpt2(GPT2(vocab_size=5, context=8, width=4, num_layers=1, num_heads=2))
    >>> params = model.init(jax.random.key(0))
    >>> features, cache = model.prefill(params, jnp.array([[3, 1, 4]]), jnp.array([2]), 8)
    >>> step, cache = model.step(params, cache, jnp.array([4]))
    >>> model.logits(params, step).shape, cache.length.tolist(), jnp.allclose(step, features[:, 2], atol=1e-5).item()
    ((1, 5), [3], True)
    """
    shape = shape._replace(inner=4 * shape.width if shape.inner is None else shape.inner)
    vocab_size, context, width, num_layers, num_heads, inner, epsilon = shape
    check_counts("gpt2", **{k: v for k, v in shape._asdict().items() if k != "epsilon"})
    if width % num_heads:
        raise ValueError(f"gpt2: width is {width}; it must be a multiple of num_heads, {num_heads}")
    size = width // num_heads

    def init(key):
        token_key, position_key, *layer_keys = jax.random.split(key, 2 + num_layers)
        normal = initializers.normal(0.02)
        onto_h = initializers.normal(0.02 / math.sqrt(2 * num_layers))
        norm = lambda: {"weight": jnp.ones(width), "bias": jnp.zeros(width)}
        dense = lambda key, start, *sizes: {"weight": start(key, sizes), "bias": jnp.zeros(sizes[-1])}

        def layer(key):
            keys = jax.random.split(key, 4)
            attention = {
                "c_attn": dense(keys[0], normal, width, 3 * width),
                "c_proj": dense(keys[1], onto_h, width, width),
            }
            mlp = {"c_fc": dense(keys[2], normal, width, inner), "c_proj": dense(keys[3], onto_h, inner, width)}
            return {"ln_1": norm(), "attn": attention, "ln_2": norm(), "mlp": mlp}

        return {
            "wte": {"weight": normal(token_key, (vocab_size, width))},
            "wpe": {"weight": normal(position_key, (context, width))},
            "h": [layer(key) for key in layer_keys],
            "ln_f": norm(),
        }

    def norm(params, x):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon) * params["weight"] + params["bias"]

    def layer(params, h, attend):
        """h after a layer, and what `attend` stores of its queries, keys and values `[..., H, D]`."""
        of_h = _dense(params["attn"]["c_attn"], norm(params["ln_1"], h))
        heads = (x.reshape(*x.shape[:-1], num_heads, size) for x in jnp.split(of_h, 3, axis=-1))
        mixed, stored = attend(*heads)
        h = h + _dense(params["attn"]["c_proj"], mixed.reshape(h.shape))
        hidden = jax.nn.gelu(_dense(params["mlp"]["c_fc"], norm(params["ln_2"], h)), approximate=True)
        return h + _dense(params["mlp"]["c_proj"], hidden), stored

    def cache(n, slots):
        _check_slots(shape, slots, 0)
        empty = lambda: tuple(jnp.zeros((n, num_heads, slots, size)) for _ in range(num_layers))
        return Cache(empty(), empty(), jnp.zeros(n, jnp.int32))

    def parallel(params, tokens):
        """Features `[N, L, W]`, and keys and values of each layer `[N, L, H, D]`."""
        _check_tokens("tokens [N, L]", tokens, 2)
        length = tokens.shape[1]
        _check_slots(shape, context, length)
        seen = jnp.tri(length, dtype=bool)

        def attend(query, key, value):
            scores = jnp.einsum("nqhd,nkhd->nhqk", query / math.sqrt(size), key)
            weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
            return jnp.einsum("nhqk,nkhd->nqhd", weights, value), (key, value)

        h, stored = params["wte"]["weight"][tokens] + params["wpe"]["weight"][:length], []
        for weights in params["h"]:
            h, of_layer = layer(weights, h, attend)
            stored.append(of_layer)
        return norm(params["ln_f"], h), stored

    def prefill(params, tokens, length, slots):
        features, stored = parallel(params, tokens)
        _check_slots(shape, slots, tokens.shape[1])
        spare = (0, 0), (0, 0), (0, slots - tokens.shape[1]), (0, 0)
        keys, values = (tuple(jnp.pad(x.swapaxes(1, 2), spare) for x in each) for each in zip(*stored, strict=True))
        return features, Cache(keys, values, jnp.asarray(length, jnp.int32))

    def step(params, cache, token):
        _check_tokens("token [N]", token, 1)
        slots = cache.keys[0].shape[2]
        rows, slot = jnp.arange(token.shape[0]), jnp.minimum(cache.length, slots - 1)
        seen = jnp.arange(slots) <= slot[:, None, None]

        def attend(old_keys, old_values, query, key, value):
            keys = old_keys.at[rows, :, slot].set(key)
            values = old_values.at[rows, :, slot].set(value)
            scores = jnp.einsum("nhd,nhsd->nhs", query / math.sqrt(size), keys)
            weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
            return jnp.einsum("nhs,nhsd->nhd", weights, values), (keys, values)

        h, stored = params["wte"]["weight"][token] + params["wpe"]["weight"][slot], []
        for weights, keys, values in zip(params["h"], cache.keys, cache.values, strict=True):
            h, of_layer = layer(weights, h, lambda *heads: attend(keys, values, *heads))
            stored.append(of_layer)
        keys, values = zip(*stored, strict=True)
        return norm(params["ln_f"], h), Cache(keys, values, slot + 1)

    features = lambda params, tokens: parallel(params, tokens)[0]
    logits = lambda params, features: features @ head_kernel(params).T
    return LanguageModel(init, cache, prefill, step, features, logits, shape)


def _dense(params: Any, x: Array) -> Array:
    return x @ params["weight"] + params["bias"]


def _check_tokens(name: str, tokens: Array, ndim: int) -> None:
    if jnp.ndim(tokens) != ndim or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise ValueError(f"gpt2: {name} must be ints of that shape, got {jnp.result_type(tokens)} {jnp.shape(tokens)}")


def _check_slots(shape: GPT2, slots: int, tokens: int) -> None:
    """Raise a ValueError unless tokens <= slots <= context."""
    check_counts("gpt2", slots=slots)
    if slots > shape.context:
        raise ValueError(f"gpt2: slots is {slots}; the model has {shape.context} positions (its context)")
    if tokens > slots:
        raise ValueError(f"gpt2: a sequence of {tokens} tokens does not fit; there is room for {slots}")


# --- an agent's network -------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """Parameters of a distribution over tokens: softmax(features · kernelᵀ / temperature)."""

    features: Array  # float [..., W]
    kernel: Array  # float [V, W]
    temperature: Array  # float scalar


def policy_network(
    model: LanguageModel, slots: int, params: Any = None, temperature: float | Array = 1.0, value: bool = True
) -> MemoryNetwork:
    """A language model as the network of an agent that appends a token at each step; its memory is the cache.

    Observations are a dict of `prompt` int32 `[N, P]`, padded on the right; `length` int32 `[N]`, its number of tokens;
    and `token` int32 `[N]`, the newest token: after a reset the last one of the prompt. Outputs are the `Head` of the
    next token, for `policy`, and the value `[N]`, linear in the features and 0 at the start.

    `step` first passes the prompts of new episodes through the model in parallel, all but their last token, in a branch
    that is skipped where no episode is new, under `vmap` too. `unroll` is one parallel pass over prompts and tokens, so
    its blocks have to start with a reset and hold one episode of each environment (`episodic`).

    Args:
      slots: the most tokens of a prompt and its completion together, P + T; at most the model's context.
      params: those that `init` returns, such as pretrained ones; None: of `model.init`.
      temperature: > 0, of the softmax that is sampled and trained.
      value: whether there is a value head; without one, the values are 0.
    Returns:
      A `MemoryNetwork` with parameters `{"model": ..., "value": {"weight" [W], "bias" []}}`.
    Raises:
      ValueError: if slots or temperature are out of range; at trace time, if prompt and steps do not fit in the slots.

    >>> network = policy_network(gpt2(GPT2(vocab_size=5, context=8, width=4, num_layers=1, num_heads=2)), 8)
    >>> obs = {"prompt": jnp.array([[3, 1, 0]]), "length": jnp.array([2]), "token": jnp.array([1])}
    >>> (pi, value), cache = network.step(network.init(jax.random.key(0), obs), network.memory(1), obs)
    >>> pi.features.shape, pi.kernel.shape, value.tolist(), cache.length.tolist()
    ((1, 4), (5, 4), [0.0], [2])
    """
    _check_slots(model.shape, slots, 0)
    check_range("policy_network", 1e-6, math.inf, temperature=temperature)

    def init(key, obs):
        del obs  # parameters do not depend on it
        # copies: a training run may donate the buffers of its state
        own = {"model": model.init(key) if params is None else jax.tree.map(jnp.array, params)}
        head = {"weight": jnp.zeros(model.shape.width), "bias": jnp.zeros(())}
        return own | ({"value": head} if value else {})

    def outputs(params, features):
        head = Head(features, model.kernel(params["model"]), jnp.asarray(temperature, features.dtype))
        if not value:
            return head, jnp.zeros(features.shape[:-1])
        return head, features @ params["value"]["weight"] + params["value"]["bias"]

    def reset(cache, ended):
        return cache._replace(length=jnp.where(ended, 0, cache.length))

    def with_prompts(params, cache, obs):
        """The cache, with all but the last token of its prompt in each row that is empty."""
        _check_slots(model.shape, slots, obs["prompt"].shape[1])
        prompt = obs["prompt"][:, :-1]
        if not prompt.shape[1]:
            return cache
        new = cache.length == 0

        def fill():
            _, filled = model.prefill(params, prompt, obs["length"] - 1, prompt.shape[1])
            end = prompt.shape[1]
            start = lambda old, x: old.at[:, :, :end].set(where_ended(new, x, old[:, :, :end]))
            pairs = (cache.keys, filled.keys), (cache.values, filled.values)
            keys, values = (tuple(map(start, *pair)) for pair in pairs)
            return Cache(keys, values, where_ended(new, filled.length, cache.length))

        return jax.lax.cond(anywhere(new), fill, lambda: cache)

    def step(params, cache, obs):
        features, cache = model.step(params["model"], with_prompts(params["model"], cache, obs), obs["token"])
        return outputs(params, features), cache

    def unroll(params, memory, obs, ended, next_obs=None):
        del memory  # blocks start with a reset
        steps, width = ended.shape[0], obs["prompt"].shape[-1]
        before, tokens = obs["length"][0] - 1, obs["token"].T
        if next_obs is not None:
            tokens = jnp.concatenate([tokens[:, :1], next_obs["token"].T], axis=1)
        number = tokens.shape[1]
        _check_slots(model.shape, slots, width - 1 + number)
        # row n: its prompt but for the last token, then its tokens, and anything behind them
        prompt = jnp.pad(obs["prompt"][0], ((0, 0), (0, number - 1)))
        step_of = jnp.arange(prompt.shape[1]) - before[:, None]
        own = jnp.take_along_axis(tokens, jnp.clip(step_of, 0, number - 1), axis=1)
        features, cache = model.prefill(params["model"], jnp.where(step_of < 0, prompt, own), before + steps, slots)
        # as slices: the gradient of a gather of single columns is slow on a CPU
        of_steps = jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, number))(features, before)
        of_steps = jnp.swapaxes(of_steps, 0, 1)
        after = None if next_obs is None else outputs(params, of_steps[1:])
        return outputs(params, of_steps[:steps]), after, reset(cache, ended[-1])

    return MemoryNetwork(init, lambda n: model.cache(n, slots), reset, step, unroll, episodic=True)


def policy(vocab_size: int, chunk: int | None = None) -> Distribution:
    """The distribution over tokens softmax(features · kernelᵀ / temperature), whose parameters are a `Head`.

    Tokens are int32 `[...]` for features `[..., W]`. The head is a part of the distribution, so that only `chunk` rows
    of logits have to be in memory at once, in the gradient too, which computes them again.

    Args:
      vocab_size: V.
      chunk: the most tokens whose logits are in memory at once in `log_prob`, `entropy` and `kl`; None: all.
    Raises:
      ValueError: if an argument is not a positive int; at trace time, if the shapes do not agree.

    >>> p = Head(jnp.ones((3, 2)), jnp.zeros((4, 2)), jnp.ones(()))
    >>> print(policy(4, chunk=2).log_prob(p, jnp.array([0, 1, 2])).round(4))
    [-1.3863 -1.3863 -1.3863]
    """
    check_counts("policy", vocab_size=vocab_size, chunk=1 if chunk is None else chunk)

    def logits(p, features=None):
        _check_head(vocab_size, p)
        x = (p.features if features is None else features) @ p.kernel.T
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) / p.temperature

    def of_each(function, *features):
        """function of rows `[W]` of the features, `[...]`."""
        rows = tuple(x.reshape(-1, x.shape[-1]) for x in features)
        apply = lambda rows: function(*rows)
        if chunk is None or len(rows[0]) <= chunk:
            out = jax.vmap(apply)(rows)
        else:
            out = jax.lax.map(jax.checkpoint(apply), rows, batch_size=chunk)
        return out.reshape(features[0].shape[:-1])

    def sample(key, p):
        return jax.random.categorical(key, logits(p)).astype(jnp.int32)

    def log_prob(p, action):
        _check_head(vocab_size, p, action)
        rows, tokens = p.features.reshape(1, -1, p.features.shape[-1]), action.reshape(1, -1)
        if chunk is not None and tokens.size > chunk:
            return chunked_log_probs(rows, p.kernel.T, None, tokens, chunk, p.temperature).reshape(action.shape)
        every = logits(p)
        return jnp.take_along_axis(every, action[..., None], -1)[..., 0] - jax.nn.logsumexp(every, -1)

    def entropy(p):
        def one(features):
            log_probs = jax.nn.log_softmax(logits(p, features))
            return -(jnp.exp(log_probs) * log_probs).sum()

        return of_each(one, p.features)

    def kl(p, q):
        def one(of_p, of_q):
            log_p, log_q = jax.nn.log_softmax(logits(p, of_p)), jax.nn.log_softmax(logits(q, of_q))
            return (jnp.exp(log_p) * (log_p - log_q)).sum()

        return of_each(one, p.features, q.features)

    def sample_and_log_prob(key, p):
        action = sample(key, p)
        return action, log_prob(p, action)

    mode = lambda p: logits(p).argmax(-1).astype(jnp.int32)
    return Distribution(
        sample, log_prob, entropy, mode, kl, num_params=vocab_size, sample_and_log_prob=sample_and_log_prob
    )


def _check_head(vocab_size: int, p: Head, action: Array | None = None) -> None:
    features, kernel = jnp.shape(p.features), jnp.shape(p.kernel)
    if kernel != (vocab_size, features[-1]):
        raise ValueError(f"policy: kernel is {kernel}; for features {features} it must be {(vocab_size, features[-1])}")
    if action is not None and jnp.shape(action) != features[:-1]:
        raise ValueError(f"policy: tokens {jnp.shape(action)} and features {features} must agree but for the last axis")
