"""Generation: sampling, greedy and beam search from a language model, each in one compiled program.

Prompts are token ids `[N, P]`, padded on the right; a parallel pass reads them into the model's cache, and a loop adds
one token a step to every text until all have ended. Filters of logits (`top_k`, `top_p`, `min_p`) are for generation:
in training, the tempered softmax is sampled whole, and its log-probability is the one that is stored here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl.arguments import check_counts, check_functions, check_range
from purerl.core import Array, Key
from purerl.text.metrics import lengths_before
from purerl.text.models import LanguageModel
from purerl.text.tokens import Tokenizer, pad

Filter = Callable[[Array], Array]  # logits [..., V] -> logits, -inf for tokens that are not sampled
Choice = Callable[[Key, Array], Array]  # (key, logits [N, V]) -> token, int [N]
Score = Callable[[Array, Array, Array, Array], Array]  # (tokens [N, T], length, ended, index [N]) -> float [N]


class Texts(NamedTuple):
    """N completions as strings, without their prompts."""

    texts: list[str]
    ended: list[bool]  # whether there was an end token


class Completions(NamedTuple):
    """What a model added to N prompts, without the prompts."""

    tokens: Array  # int32 [N, T]: the end token, and from there on nothing else
    length: Array  # int32 [N]: the tokens before the end token
    log_prob: Array  # float32 [N, T]: of the tokens up to and including the end token; 0 after it
    ended: Array  # bool [N]: whether there is an end token


# --- filters of logits ------------------------------------------------------------------------------------------------


def _check_positive(function: str, name: str, x: Any, high: float) -> None:
    if not isinstance(x, Tracer) and not (np.all(np.asarray(x) > 0) and np.all(np.asarray(x) <= high)):
        raise ValueError(f"{function}: {name} is {x}; it must be above 0" + (f", at most {high}" if high < 1e9 else ""))


def top_k(k: int) -> Filter:
    """Keep the k tokens with the largest logits, and those that equal the k-th; all of them if k ≥ V.

    Returns:
      A function of logits `[..., V]`, which gives -inf to the other tokens.
    Raises:
      ValueError: if k is not a positive int.
    Reference: Fan et al., 2018, arXiv:1805.04833.

    >>> top_k(2)(jnp.array([1.0, 3.0, 2.0])).tolist()
    [-inf, 3.0, 2.0]
    """
    check_counts("top_k", k=k)

    def keep(logits: Array) -> Array:
        lowest = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
        return jnp.where(logits >= lowest, logits, -jnp.inf)

    return keep


def top_p(p) -> Filter:
    """Keep the smallest set of the most probable tokens whose probabilities add up to at least p (nucleus sampling).

    Tokens as probable as the least probable of them are kept too; p = 1 keeps all.
    Args:
      p: a number in (0, 1], traced or not.
    Returns:
      A function of logits `[..., V]`, which gives -inf to the other tokens.
    Raises:
      ValueError: if p is out of range.
    Reference: Holtzman et al., 2020, arXiv:1904.09751.

    >>> print(top_p(0.6)(jnp.log(jnp.array([0.5, 0.3, 0.2]))).round(1))
    [-0.7 -1.2 -inf]
    """
    _check_positive("top_p", "p", p, 1.0)

    def keep(logits: Array) -> Array:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        share = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(share, -1) - share
        count = jnp.maximum((before < p).sum(-1, keepdims=True), 1)
        lowest = jnp.take_along_axis(ordered, count - 1, -1)
        # the sum of all shares may be rounded to less than 1
        return jnp.where((p >= 1) | (logits >= lowest), logits, -jnp.inf)

    return keep


def min_p(p) -> Filter:
    """Keep the tokens that are at least p times as probable as the most probable one; p = 0 keeps all.

    Args:
      p: a number in [0, 1], traced or not.
    Returns:
      A function of logits `[..., V]`, which gives -inf to the other tokens.
    Raises:
      ValueError: if p is out of range.
    Reference: Nguyen et al., 2024, arXiv:2407.01082.

    >>> print(min_p(0.5)(jnp.log(jnp.array([0.5, 0.3, 0.2]))).round(1))
    [-0.7 -1.2 -inf]
    """
    check_range("min_p", 0.0, 1.0, p=p)
    return lambda logits: jnp.where(logits >= logits.max(-1, keepdims=True) + jnp.log(p), logits, -jnp.inf)


# --- choices of a token -----------------------------------------------------------------------------------------------


def greedy(key: Key, logits: Array) -> Array:
    """The token with the largest logit, the first of equal ones; the key is not used.

    Args:
      logits: float `[..., V]`.
    Returns:
      int32 `[...]`.
    """
    del key
    return logits.argmax(-1).astype(jnp.int32)


@dataclass(frozen=True)
class Sampling:
    """A choice at random, `(key, logits [N, V]) -> token [N]`: see `sample`."""

    temperature: Any
    filters: tuple[Filter, ...]

    def __call__(self, key: Key, logits: Array) -> Array:
        logits = logits / self.temperature
        for keep in self.filters:
            logits = keep(logits)
        return jax.random.categorical(key, logits).astype(jnp.int32)


def sample(temperature=1.0, *filters: Filter) -> Sampling:
    """A choice from softmax(logits / temperature), after filters in the order given.

    Args:
      temperature: τ > 0, traced or not.  filters: such as `top_k(50)` and `top_p(0.9)`.
    Raises:
      ValueError: if the temperature is not positive, or a filter is no function.

    >>> choose = sample(0.7, top_k(1))
    >>> choose(jax.random.key(0), jnp.array([[0.0, 2.0, 1.0]])).tolist()
    [1]
    """
    _check_positive("sample", "temperature", temperature, np.inf)
    check_functions("sample", **{f"filters[{i}]": keep for i, keep in enumerate(filters)})
    return Sampling(temperature, filters)


SOFTMAX = sample()  # the model's own distribution

# --- generation -------------------------------------------------------------------------------------------------------


def _check_prompts(function: str, model: LanguageModel, prompts: Array, length: Array, max_tokens: int) -> None:
    check_counts(function, max_tokens=max_tokens)
    for name, x, axes in (("prompts", prompts, 2), ("length", length, 1)):
        if jnp.ndim(x) != axes or not jnp.issubdtype(jnp.result_type(x), jnp.integer):
            about, shape = f"{jnp.result_type(x)} {jnp.shape(x)}", "[N, P]" if axes == 2 else "[N]"
            raise ValueError(f"{function}: {name} is {about}; it must be of ints {shape}")
    if jnp.shape(prompts)[0] != jnp.shape(length)[0]:
        raise ValueError(
            f"{function}: prompts {jnp.shape(prompts)} and length {jnp.shape(length)} must have the same N"
        )
    size, context = jnp.shape(prompts)[1], model.shape.context
    check_range(function, 1, size, length=length)
    if size + max_tokens > context:
        raise ValueError(
            f"{function}: max_tokens is {max_tokens}; with prompts of {size} tokens it must be at most "
            f"{context - size}, for the model's context is {context}"
        )


def _prefill(model: LanguageModel, params: Any, prompts: Array, length: Array, max_tokens: int) -> tuple[Any, Array]:
    """The cache of the prompts but for their last tokens, and these `[N]`: a network that acts does the same."""
    count, size = prompts.shape
    last = jnp.take_along_axis(prompts, length[:, None] - 1, axis=1)[:, 0]
    if size == 1:
        return model.cache(count, size + max_tokens), last
    _, cache = model.prefill(params, prompts[:, :-1], length - 1, size + max_tokens)
    return cache, last


def _chosen(logits: Array, token: Array) -> Array:
    """log softmax(logits `[..., V]`) of tokens `[...]`."""
    return jnp.take_along_axis(logits, token[..., None], -1)[..., 0] - jax.nn.logsumexp(logits, -1)


def _complete(
    model: LanguageModel, params: Any, key: Key, cache: Any, last: Array, max_tokens: int, end: int, choose: Choice
) -> Completions:
    """Add tokens to N texts, whose last tokens `[N]` are not in the cache yet, until all have ended."""
    count, temperature = last.shape[0], getattr(choose, "temperature", 1.0)

    def step(state):
        t, last, cache, texts = state
        features, cache = model.step(params, cache, last)
        logits = model.logits(params, features).astype(jnp.float32)
        chosen = choose(jax.random.fold_in(key, t), logits)
        if jnp.shape(chosen) != (count,):
            raise ValueError(f"generate: choose gives tokens of shape {jnp.shape(chosen)}; it must be {(count,)}")
        token = jnp.where(texts.ended, end, chosen).astype(jnp.int32)
        log_prob = jnp.where(texts.ended, 0.0, _chosen(logits / temperature, token))
        texts = texts._replace(
            tokens=texts.tokens.at[:, t].set(token),
            log_prob=texts.log_prob.at[:, t].set(log_prob),
            ended=texts.ended | (token == end),
        )
        return t + 1, token, cache, texts

    empty = Completions(
        jnp.full((count, max_tokens), end, jnp.int32), jnp.zeros(count, jnp.int32),
        jnp.zeros((count, max_tokens)), jnp.zeros(count, bool),
    )  # fmt: skip
    going_on = lambda state: (state[0] < max_tokens) & ~state[-1].ended.all()
    begin = (jnp.zeros((), jnp.int32), last.astype(jnp.int32), cache, empty)
    *_, texts = jax.lax.while_loop(going_on, step, begin)
    return texts._replace(length=lengths_before(texts.tokens, end))


def generate(
    model: LanguageModel,
    params: Any,
    key: Key,
    prompts: Array,
    length: Array,
    max_tokens: int,
    end: int,
    choose: Choice = SOFTMAX,
) -> Completions:
    """Complete N prompts, each until its end token or `max_tokens`.

        xₜ ~ choose(logits of x₁ … xₜ₋₁),   log_probₜ = log softmax(logits / τ)[xₜ]

    τ is the temperature of `choose`, 1 if it has none; filters do not change the log-probability. The key of step t is
    fold_in(key, t): more tokens allowed continue the same texts. What is added to one prompt does not depend on the
    other prompts, nor on the padding.
    Args:
      model, params: the language model.  key: consumed.
      prompts: int `[N, P]`, padded on the right by anything.  length: int `[N]`, in [1, P].
      max_tokens: T, with P + T at most the model's context.  end: the id of the end token.
      choose: `(key, logits [N, V]) -> token [N]`, such as `greedy` or `sample(0.8, top_p(0.9))`.
    Returns:
      `Completions` of shape `[N, T]`.
    Raises:
      ValueError: for arrays that are not as above, or prompts and completions longer than the context.
    """
    _check_prompts("generate", model, prompts, length, max_tokens)
    check_functions("generate", choose=choose)
    prompts, length = jnp.asarray(prompts), jnp.asarray(length)
    cache, last = _prefill(model, params, prompts, length, max_tokens)
    return _complete(model, params, key, cache, last, max_tokens, end, choose)


def best_of_n(
    model: LanguageModel,
    params: Any,
    key: Key,
    prompts: Array,
    length: Array,
    max_tokens: int,
    end: int,
    num: int,
    score: Score,
    index: Array | None = None,
    choose: Choice = SOFTMAX,
) -> tuple[Completions, Array]:
    """The best of `num` completions of each prompt, the first of equal ones.

    Args:
      num: completions of each prompt.
      score: `(tokens [M, T], length [M], ended [M], index [M]) -> [M]` of M = N · num completions, such as those that
        `purerl.text.rewards.of_completions` takes; a NaN is worse than every number.
      index: int `[N]`, passed to the score; None: 0 … N - 1.
      The rest as for `generate`.
    Returns:
      `Completions` `[N, T]`, and their scores, float `[N]`; NaN if no completion of a prompt could be scored.
    Raises:
      ValueError: as for `generate`, or if the score has another shape.
    """
    _check_prompts("best_of_n", model, prompts, length, max_tokens)
    check_counts("best_of_n", num=num)
    check_functions("best_of_n", score=score, choose=choose)
    prompts, length = jnp.asarray(prompts), jnp.asarray(length)
    count = prompts.shape[0]
    start = _prefill(model, params, prompts, length, max_tokens)
    cache, last = jax.tree.map(lambda x: jnp.repeat(x, num, axis=0), start)
    texts = _complete(model, params, key, cache, last, max_tokens, end, choose)
    index = jnp.arange(count) if index is None else jnp.asarray(index)
    value = score(texts.tokens, texts.length, texts.ended, jnp.repeat(index, num))
    if jnp.shape(value) != (count * num,):
        raise ValueError(f"best_of_n: score gives shape {jnp.shape(value)}; it must be {(count * num,)}")
    known = jnp.where(jnp.isnan(value), -jnp.inf, value).reshape(count, num)
    best = jnp.arange(count) * num + known.argmax(-1)
    return jax.tree.map(lambda x: x[best], texts), value[best]


def completion_log_probs(
    model: LanguageModel, params: Any, prompts: Array, length: Array, tokens: Array, temperature=1.0
) -> Array:
    """log softmax(logits / temperature) of every token of completions, in one parallel pass.

    Args:
      prompts: int `[N, P]`.  length: int `[N]`, in [1, P].  tokens: the completions, int `[N, T]`.
    Returns:
      float32 `[N, T]`; after an end token it has no meaning.
    Raises:
      ValueError: for arrays that are not as above, or P + T above the model's context.
    """
    size = jnp.shape(tokens)[-1]
    _check_prompts("completion_log_probs", model, prompts, length, size)
    prompts, length, tokens = jnp.asarray(prompts), jnp.asarray(length), jnp.asarray(tokens)
    at = jnp.arange(prompts.shape[1] + size) - length[:, None]
    own = jnp.pad(prompts, ((0, 0), (0, size)))
    texts = jnp.where(at < 0, own, jnp.take_along_axis(tokens, jnp.clip(at, 0, size - 1), axis=1))
    before = length[:, None] - 1 + jnp.arange(size)
    features = jnp.take_along_axis(model.features(params, texts), before[..., None], axis=1)

    def of_step(inputs):  # the logits of one step of all texts at a time
        features, token = inputs
        return _chosen(model.logits(params, features).astype(jnp.float32) / temperature, token)

    return jax.lax.map(of_step, (features.swapaxes(0, 1), tokens.T)).T


# --- beam search ------------------------------------------------------------------------------------------------------


class Beams(NamedTuple):
    """The B best completions found of N prompts, the best first; a score of -inf where there are fewer."""

    tokens: Array  # int32 [N, B, T]: the end token, and from there on nothing else
    length: Array  # int32 [N, B]: the tokens before the end token
    log_prob: Array  # float32 [N, B]: of the completion, the end token included
    score: Array  # float32 [N, B]
    ended: Array  # bool [N, B]: whether there is an end token


def _best(a: Beams, b: Beams, width: int) -> Beams:
    """The best of both, of equal ones those of a."""
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), a, b)
    _, at = jax.lax.top_k(both.score, width)
    rows = jnp.arange(at.shape[0])[:, None]
    return jax.tree.map(lambda x: x[rows, at], both)


def beam_search(
    model: LanguageModel,
    params: Any,
    prompts: Array,
    length: Array,
    max_tokens: int,
    end: int,
    width: int,
    length_penalty=0.0,
) -> Beams:
    """The most probable completions of N prompts, by a search that keeps `width` of them at each length.

        score(y) = log P(y | prompt) / ((5 + |y|) / 6)^α,   |y|: tokens, with the end token

    The `width` best continuations of a step are kept; those that end leave the search, and the best `width` of all
    that ended are stored. The search ends when what goes on cannot be better than these, or at `max_tokens`, where
    completions without an end token count with their score. With a width of 1 it is greedy; with a width of at least
    V^(T-1) it is exact.
    Args:
      width: B.  length_penalty: α ≥ 0; 0 compares log-probabilities, and more prefers longer texts.
      The rest as for `generate`.
    Returns:
      `Beams` `[N, B, T]`.
    Raises:
      ValueError: as for `generate`, for a width that is not a positive int, or a negative penalty.
    Reference: Wu et al., 2016, arXiv:1609.08144, eq. 14 (without coverage).
    """
    _check_prompts("beam_search", model, prompts, length, max_tokens)
    check_counts("beam_search", width=width)
    check_range("beam_search", 0.0, jnp.inf, length_penalty=length_penalty)
    prompts, length = jnp.asarray(prompts), jnp.asarray(length)
    count, size = prompts.shape[0], model.shape.vocab_size
    rows = jnp.arange(count)[:, None]
    score = lambda log_prob, tokens: log_prob / ((5 + tokens) / 6) ** length_penalty
    same = lambda x, like: jnp.full_like(like, x)

    def step(state):
        t, last, cache, tokens, log_prob, finished = state
        features, cache = model.step(params, cache, last.reshape(-1))
        logits = model.logits(params, features).astype(jnp.float32).reshape(count, width, size)
        total = log_prob[..., None] + jax.nn.log_softmax(logits)
        log_prob, at = jax.lax.top_k(total.reshape(count, width * size), width)
        parent, token = at // size, (at % size).astype(jnp.int32)
        cache = jax.tree.map(lambda x: x[(rows * width + parent).reshape(-1)], cache)
        tokens, ended = tokens[rows, parent].at[:, :, t].set(token), token == end
        own = jnp.where(ended, score(log_prob, t + 1), -jnp.inf)
        finished = _best(finished, Beams(tokens, same(t, token), log_prob, own, jnp.isfinite(own)), width)
        return t + 1, token, cache, tokens, jnp.where(ended, -jnp.inf, log_prob), finished

    def going_on(state):
        t, *_, log_prob, finished = state
        bound = score(log_prob.max(-1), max_tokens)  # log P cannot rise, and no divisor is larger
        return (t < max_tokens) & (bound > finished.score.min(-1)).any()

    start = _prefill(model, params, prompts, length, max_tokens)
    cache, last = jax.tree.map(lambda x: jnp.repeat(x, width, axis=0), start)
    tokens, zero = jnp.full((count, width, max_tokens), end, jnp.int32), jnp.zeros((count, width), jnp.int32)
    nothing = jnp.full((count, width), -jnp.inf)
    finished = Beams(tokens, zero, nothing, nothing, zero > 0)
    last = last.reshape(count, width).astype(jnp.int32)
    begin = (jnp.zeros((), jnp.int32), last, cache, tokens, nothing.at[:, 0].set(0.0), finished)
    *_, tokens, log_prob, finished = jax.lax.while_loop(going_on, step, begin)
    # where the search ended early, these are no better than what ended, and of equal ones those that ended stay
    cut = Beams(tokens, same(max_tokens, zero), log_prob, score(log_prob, max_tokens), zero > 0)
    return _best(finished, cut, width)


# --- texts ------------------------------------------------------------------------------------------------------------

_generate = jax.jit(generate, static_argnames=("model", "max_tokens", "end", "choose"))
_beam_search = jax.jit(beam_search, static_argnames=("model", "max_tokens", "end", "width", "length_penalty"))


def write(
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    key: Key,
    max_tokens: int = 64,
    choose: Choice = SOFTMAX,
    batch: int = 32,
    beam: int | None = None,
    length_penalty: float = 0.0,
) -> Texts:
    """Complete texts, `batch` of them at a time.

    Args:
      tokenizer: that of the model.  prompts: strings; an empty one stands for the end token, which begins texts.
      key: consumed.  max_tokens: the most tokens added to a prompt.
      choose: as for `generate`; made once and passed again, it compiles nothing again.
      beam, length_penalty: the best completion of `beam_search` of that width, in place of `choose`.
    Returns:
      `Texts`: the completions, and which of them ended by themselves.
    Raises:
      ValueError: for a tokenizer of another size than the model's vocabulary, prompts that are not strings, or one
        that is too long.
    """
    check_counts("write", max_tokens=max_tokens, batch=batch)
    size, context = model.shape.vocab_size, model.shape.context
    if tokenizer.size != size:
        raise ValueError(f"write: the tokenizer has {tokenizer.size} tokens; it must have {size}, as the model")
    if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"write: prompts is {prompts!r:.100}; it must be a list of strings")
    if not prompts:
        return Texts([], [])
    ids = [tokenizer.encode(text) or [tokenizer.end] for text in prompts]
    if max_tokens >= context:
        raise ValueError(f"write: max_tokens is {max_tokens}; it must be below {context}, the model's context")
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    if len(ids[longest]) + max_tokens > context:
        raise ValueError(
            f"write: prompt {longest} ({prompts[longest]!r:.40}) has {len(ids[longest])} tokens; with max_tokens of "
            f"{max_tokens} it must have at most {context - max_tokens}, for the model's context is {context}"
        )
    batch = min(batch, len(ids))
    ids += [[tokenizer.end]] * (-len(ids) % batch)  # one shape, so one program
    tokens, length = pad(ids, len(ids[longest]), tokenizer.end)
    texts, ended = [], []
    for i in range(0, len(ids), batch):
        own, part = jax.random.fold_in(key, i), slice(i, i + batch)
        if beam is None:
            out = _generate(model, params, own, tokens[part], length[part], max_tokens, tokenizer.end, choose)
        else:
            given = (tokens[part], length[part], max_tokens, tokenizer.end, beam, length_penalty)
            out = jax.tree.map(lambda x: x[:, 0], _beam_search(model, params, *given))
        texts += [tokenizer.decode(row.tolist()) for row in np.asarray(out.tokens)]
        ended += np.asarray(out.ended).tolist()
    return Texts(texts[: len(prompts)], ended[: len(prompts)])
