"""Rewards of completions, as terms of `purerl.rewards`: BLEU, ROUGE, fluency, sentiment, any function of strings.

Each function here returns a term, a function of a block of transitions `[T, N]` to rewards `[T, N]`: the score of each
completion at its last valid step, and 0 elsewhere. The block is that of an episodic learner in `TextGeneration`, made
with `info=("index",)`: one completion per environment. A completion that cannot be scored has the reward NaN, which
leaves it out of training and of means. The terms are weighted, clipped and annealed as all rewards are, such as by

    weighted({"bleu": bleu(task), "long": overlong_penalty(task.end, 64, 16)}, {"bleu": 1.0, "long": 0.2})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from purerl.arguments import check_counts, check_functions
from purerl.core import Array, Transition
from purerl.rewards.terms import Term
from purerl.text import metrics, objectives
from purerl.text.data import Task
from purerl.text.environment import equals_a_reference
from purerl.text.generation import Score, completion_log_probs
from purerl.text.models import LanguageModel
from purerl.text.tokens import Tokenizer


def of_completions(score: Score, end: int) -> Term:
    """A score of completions as a reward: at the last valid step of each, and 0 elsewhere.

    Args:
      score: `(tokens [N, T], length [N], ended [N], index [N]) -> float [N]`: the tokens, padded by the end token;
        how many stand before the end token; whether there is one; and the index of the prompt in the task. NaN where
        it cannot be scored.
      end: the id of the end token.
    Returns:
      A function of transitions `[T, N]` to float32 `[T, N]`. When it is applied it raises a ValueError for
      transitions without the index, or a score of another shape.
    """
    check_functions("of_completions", score=score)

    def reward(tr: Transition) -> Array:
        if not isinstance(tr.info, Mapping) or "index" not in tr.info:
            raise ValueError("of_completions: transitions have no info 'index'; give the learner info=('index',)")
        last = tr.valid & (jnp.cumsum(tr.valid, 0) == tr.valid.sum(0))
        tokens = jnp.swapaxes(jnp.where(tr.valid, tr.action, end), 0, 1)
        ended = (tr.valid & (tr.action == end)).any(0)
        value = score(tokens, metrics.lengths_before(tokens, end), ended, tr.info["index"][0])
        if jnp.shape(value) != ended.shape:
            raise ValueError(f"of_completions: score gives shape {jnp.shape(value)}; it must be {ended.shape}")
        return jnp.where(last, value, 0.0).astype(jnp.float32)

    return reward


# --- against references -----------------------------------------------------------------------------------------------


def _against(function: str, task: Task, score: Callable[..., Array]) -> Term:
    """A reward from `score(tokens, length, references [N, R, L], reference_length, reference_mask [N, R]) -> [N]`."""
    if not np.any(task.reference_mask):
        raise ValueError(f"{function}: the task has no references; it must have at least one")
    given = tuple(map(jnp.asarray, (task.references, task.reference_length, task.reference_mask)))

    def of(tokens, length, ended, index):
        references, lengths, mask = (x[index] for x in given)
        value = score(tokens, length, ended, references, lengths, mask)
        return jnp.where(mask.any(-1), value, jnp.nan)

    return of_completions(of, task.end)


def bleu(task: Task, order: int = 4, smoothing: str | Callable = "exp") -> Term:
    """Sentence BLEU against the prompt's references, in [0, 1]: see `metrics.bleu`. Tokens are those of the model.

    Raises:
      ValueError: for a task without references, an order that is not a positive int, or an unknown smoothing.
    """
    check_counts("bleu", order=order)
    if not callable(smoothing) and smoothing not in metrics.SMOOTHING:
        names = ", ".join(metrics.SMOOTHING)
        raise ValueError(f"bleu: smoothing is {smoothing!r}; it must be a function or one of {names}")
    return _against(
        "bleu", task, lambda x, n, _, *references: metrics.bleu(x, n, *references, order=order, smoothing=smoothing)
    )


def _best_rouge(function: str, task: Task, rouge: Callable[..., metrics.Rouge]) -> Term:
    def score(tokens, length, ended, references, lengths, mask):
        f = rouge(tokens[:, None], length[:, None], references, lengths).f
        return jnp.where(mask, f, 0.0).max(-1)

    return _against(function, task, score)


def rouge_1(task: Task) -> Term:
    """The F of ROUGE-1, in [0, 1], the highest over the prompt's references: see `metrics.rouge_n`.

    Raises:
      ValueError: for a task without references.
    """
    return _best_rouge("rouge_1", task, lambda *texts: metrics.rouge_n(*texts, n=1))


def rouge_2(task: Task) -> Term:
    """The F of ROUGE-2, in [0, 1], the highest over the prompt's references: see `metrics.rouge_n`.

    Raises:
      ValueError: for a task without references.
    """
    return _best_rouge("rouge_2", task, lambda *texts: metrics.rouge_n(*texts, n=2))


def rouge_l(task: Task) -> Term:
    """The F of ROUGE-L, in [0, 1], the highest over the prompt's references: see `metrics.rouge_l`.

    Raises:
      ValueError: for a task without references.
    """
    return _best_rouge("rouge_l", task, metrics.rouge_l)


def chrf(task: Task, order: int = 6, beta: float = 2.0) -> Term:
    """chrF of token ids, in [0, 1]: see `metrics.chrf`.

    Its units are tokens, so that it is the chrF of characters only with a tokenizer of characters or bytes; and white
    space counts, other than in `purerl.text.strings.chrf`.

    Raises:
      ValueError: for a task without references, or an order that is not a positive int.
    """
    check_counts("chrf", order=order)
    return _against("chrf", task, lambda x, n, _, *references: metrics.chrf(x, n, *references, order=order, beta=beta))


def exact_match(task: Task) -> Term:
    """1 for a completion that ended and equals one of the prompt's references, otherwise 0.

    Raises:
      ValueError: for a task without references.
    """
    score = lambda tokens, length, ended, *references: ended & equals_a_reference(tokens, length, *references)
    return _against("exact_match", task, score)


# --- of the completion alone ------------------------------------------------------------------------------------------


def length_penalty(end: int, low: int, high: int) -> Term:
    """Minus the number of tokens by which a completion is shorter than `low` or longer than `high`.

        -max(low - L, 0, L - high),   L: tokens before the end token

    Args:
      end: the id of the end token.  low, high: ints, 0 ≤ low ≤ high.
    Raises:
      ValueError: for bounds that are not as above.
    """
    if not 0 <= low <= high:
        raise ValueError(f"length_penalty: low is {low} and high is {high}; it must be 0 <= low <= high")
    outside = lambda length: jnp.maximum(jnp.maximum(low - length, length - high), 0)
    return of_completions(lambda tokens, length, ended, index: -1.0 * outside(length), end)


def overlong_penalty(end: int, max_length: int, cache: int) -> Term:
    """DAPO's soft punishment of overlong completions, in [-1, 0]: see `objectives.overlong_penalty`.

    Raises:
      ValueError: if max_length or cache is not a positive int, or cache > max_length.
    """
    objectives.overlong_penalty(np.zeros(()), max_length, cache)
    return of_completions(lambda tokens, length, *_: objectives.overlong_penalty(length, max_length, cache), end)


def repetition_penalty(end: int, n: int = 3) -> Term:
    """Minus the share of n-grams that occurred earlier in the completion, in (-1, 0]: see `metrics.repetition`.

    Raises:
      ValueError: if n is not a positive int.
    """
    check_counts("repetition_penalty", n=n)
    return of_completions(lambda tokens, length, *_: -metrics.repetition(tokens, length, n), end)


def distinct(end: int, n: int = 2) -> Term:
    """The share of distinct n-grams among those of the completion, in [0, 1]: see `metrics.distinct_n`.

    Raises:
      ValueError: if n is not a positive int.
    """
    check_counts("distinct", n=n)
    return of_completions(lambda tokens, length, *_: metrics.distinct_n(tokens[:, None], length[:, None], n), end)


# --- under a frozen model ---------------------------------------------------------------------------------------------


def _likelihood(model: LanguageModel, params: Any, task: Task, score: Callable[[Array, Array], Array]) -> Term:
    """A reward from `score(log_prob [N, T], mask [N, T]) -> [N]`; the mask has the tokens up to the end token."""
    prompts, prompt_length = jnp.asarray(task.prompts), jnp.asarray(task.prompt_length)

    def of(tokens, length, ended, index):
        log_prob = completion_log_probs(model, params, prompts[index], prompt_length[index], tokens)
        return jax.lax.stop_gradient(score(log_prob, objectives.until_end(tokens, task.end)))

    return of_completions(of, task.end)


def fluency(model: LanguageModel, params: Any, task: Task) -> Term:
    """The mean log-probability of the completion's tokens under a frozen model, given the prompt; at most 0.

        (1/n) Σₜ log p(yₜ | prompt, y₁ … yₜ₋₁),   over the n tokens up to and including the end token

    Args:
      model, params: constants of the compiled program.
    When it is applied it raises a ValueError if prompts and completions are longer than the model's context.
    """
    mean = lambda log_prob, mask: jnp.sum(jnp.where(mask, log_prob, 0.0), -1) / jnp.sum(mask, -1)
    return _likelihood(model, params, task, mean)


def perplexity(model: LanguageModel, params: Any, task: Task) -> Term:
    """The perplexity of the completion under a frozen model, given the prompt: exp(-fluency), at least 1.

    The less, the better: give it a negative weight, or a weight of 0 to report it alone.

    Args:
      model, params: constants of the compiled program.
    """
    return _likelihood(model, params, task, metrics.perplexity)


# --- sentiment --------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
_BREAK, _OTHER, _APOSTROPHE = 0, 1, 2  # classes of bytes; the others are letters and digits of the lexicon
_OUTSIDE, _UNKNOWN = 0, 1  # states: between words, and in a word that does not begin as one of the lexicon


def vader_lexicon() -> dict[str, float]:
    """The words of VADER's lexicon and their valences in [-4, 4], without its emoticons and phrases.

    Raises:
      ValueError: if the package vaderSentiment is not installed.
    Reference: Hutto & Gilbert, 2014, "VADER: a parsimonious rule-based model for sentiment analysis".
    """
    found = find_spec("vaderSentiment")
    if found is None or not found.submodule_search_locations:
        raise ValueError("vader_lexicon needs the package vaderSentiment: pip install 'purerl[text]'")
    text = (Path(found.submodule_search_locations[0]) / "vader_lexicon.txt").read_text(encoding="utf-8")
    rows = (line.split("\t")[:2] for line in text.splitlines() if line.strip())
    return {word: float(valence) for word, valence in rows if _WORD.fullmatch(word)}


def _automaton(lexicon: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The class of each byte `[256]`, the next state `[S, C]`, and the valence of a word that ends in a state `[S]`."""
    letters = sorted({letter for word in lexicon for letter in word} - {"'"})
    kind = np.full(256, _BREAK, np.int32)
    for byte in range(256):
        letter = chr(byte).lower() if byte < 128 else ""
        if byte >= 128 or letter.isalnum():
            kind[byte] = 3 + letters.index(letter) if letter in letters else _OTHER
    kind[ord("'")] = _APOSTROPHE
    following: list[dict[int, int]] = [{}, {}]
    valence = [0.0, 0.0]
    for word, value in lexicon.items():
        state = _OUTSIDE
        for byte in word.encode():
            if int(kind[byte]) not in following[state]:
                following[state][int(kind[byte])] = len(following)
                following.append({})
                valence.append(0.0)
            state = following[state][int(kind[byte])]
        valence[state] = float(value)
    table = np.full((len(following), 3 + len(letters)), _UNKNOWN, np.int32)
    for state, children in enumerate(following):
        table[state, list(children)] = list(children.values())
    table[:, _BREAK] = _OUTSIDE
    return kind, table, np.asarray(valence, np.float32)


def _token_classes(tokenizer: Tokenizer, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes of each token's bytes `[V, M]`, and their number `[V]`; one of a run of breaks, or of others."""
    rows = []
    for token in range(tokenizer.size):
        classes = kind[np.frombuffer(tokenizer.decode([token]).encode(), np.uint8)]
        repeated = (classes[1:] == classes[:-1]) & (classes[1:] <= _OTHER)
        rows.append(classes[np.concatenate([np.ones(len(classes[:1]), bool), ~repeated])])
    count = np.array([len(row) for row in rows], np.int32)
    table = np.zeros((len(rows), max(int(count.max()), 1)), np.int32)
    for row, classes in zip(table, rows, strict=True):
        row[: len(classes)] = classes
    return table, count


def sentiment(tokenizer: Tokenizer, lexicon: Mapping[str, float]) -> Term:
    """The sum of the valences of the completion's words that a lexicon has.

    Words are read in the text that the tokens stand for, whatever the tokens are: runs of letters and digits, with
    apostrophes inside. Upper and lower case of ASCII letters are one, and only whole words count.

    Args:
      tokenizer: that of the model.
      lexicon: word -> valence, such as `vader_lexicon()`; words of lower-case ASCII letters, digits and apostrophes.
    Raises:
      ValueError: for an empty lexicon, or the first entry that is not such a word with a finite number.
    """
    if not lexicon:
        raise ValueError("sentiment: lexicon is empty; it must have at least one word")
    for word, value in lexicon.items():
        if not isinstance(word, str) or not _WORD.fullmatch(word) or not np.isfinite(value):
            raise ValueError(
                f"sentiment: lexicon has {word!r}: {value!r}; it must have words of lower-case ASCII letters, digits "
                "and apostrophes inside, and finite numbers"
            )
    kind, *automaton = _automaton(lexicon)
    tables = (*_token_classes(tokenizer, kind), *automaton)

    def score(tokens, length, ended, index):
        classes, counts, following, valence = map(jnp.asarray, tables)
        inside = jnp.arange(tokens.shape[-1]) < length[:, None]
        text, size = _join(classes[tokens], jnp.where(inside, counts[tokens], 0))
        letter = (text != _BREAK) & (text != _APOSTROPHE)
        between = jnp.pad(letter[:, :-1], ((0, 0), (1, 0))) & jnp.pad(letter[:, 1:], ((0, 0), (0, 1)))
        text = jnp.where((text == _APOSTROPHE) & ~between, _BREAK, text)

        def read(at, carry):
            state, total = carry
            total = total + jnp.where(text[:, at] == _BREAK, valence[state], 0.0)
            return following[state, text[:, at]], total

        state, total = jax.lax.fori_loop(0, size.max(), read, (jnp.zeros_like(length), jnp.zeros(length.shape)))
        return total + valence[state]

    return of_completions(score, tokenizer.end)


def _join(pieces: Array, counts: Any) -> tuple[Array, Array]:
    """Pieces `[N, T, M]`, of which `counts [N, T]` are there, one after another: `[N, T M]`, and their number `[N]`."""
    rows, steps, most = pieces.shape
    at = (jnp.cumsum(counts, -1) - counts)[..., None] + jnp.arange(most)
    at = jnp.where(jnp.arange(most) < counts[..., None], at, steps * most)  # out of range: written nowhere
    joined = jnp.zeros((rows, steps * most), pieces.dtype)
    return joined.at[jnp.arange(rows)[:, None, None], at].set(pieces, mode="drop"), counts.sum(-1)


# --- any function of strings ------------------------------------------------------------------------------------------


# Numbers in an argument of a callback. XLA copies what has more than 100 kB in a thread of its own; on a CPU whose
# threads all wait for callbacks, as with an environment on each of two devices of two cores, it would wait for ever.
_PIECE = 2**14


def host(function: Callable[[list[str], list[str]], Sequence[float | None]], tokenizer: Tokenizer, task: Task) -> Term:
    """Any Python function of strings as a reward: the slow way.

    In every update the program waits while the texts are decoded and the function runs, in one call for all of them;
    under `vmap` also in one. The function may be called again for the same texts, so it should be pure. It must not
    call JAX, which waits for the program that waits for it.

    Args:
      function: `(prompts, completions) -> scores`, lists of the same length; None (or NaN): cannot be scored.
      tokenizer: that of the model.  task: whose prompts are completed.
    Returns:
      A term. When it is applied, an exception of the function ends the run, with its message.
    """
    check_functions("host", function=function)
    prompts = [np.asarray(ids)[:n] for ids, n in zip(task.prompts, task.prompt_length, strict=True)]

    def call(*pieces):
        length, index, tokens = np.split(np.concatenate([np.asarray(x) for x in pieces]), [1, 2], axis=1)
        completions = [tokenizer.decode(row[:n].tolist()) for row, n in zip(tokens, length[:, 0], strict=True)]
        given = [tokenizer.decode(prompts[i][prompts[i] != task.end].tolist()) for i in index[:, 0]]
        scores = list(function(given, completions))
        if len(scores) != len(completions):
            raise ValueError(f"host: {function!r} gives {len(scores)} scores for {len(completions)} completions")
        return np.array([np.nan if x is None else x for x in scores], np.float32)

    @custom_vmap
    def of_rows(rows: Array) -> Array:
        number, size = rows.shape
        some = max(_PIECE // size, 1)
        pieces = [rows[i : i + some] for i in range(0, number, some)]
        return jax.pure_callback(call, jax.ShapeDtypeStruct((number,), jnp.float32), *pieces)

    @of_rows.def_vmap
    def _(batch, batched, rows):
        return of_rows(rows.reshape(-1, rows.shape[-1])).reshape(batch, -1), True

    def score(tokens, length, ended, index):
        return of_rows(jnp.concatenate([length[:, None], index[:, None], tokens], axis=1).astype(jnp.int32))

    return of_completions(score, task.end)
