"""Scores of written texts: quality against references, diversity, and perplexity under a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.text import metrics, strings
from purerl.text.generation import Texts, completion_log_probs
from purerl.text.models import LanguageModel
from purerl.text.tokens import Tokenizer, pad

GROUP = 32  # texts that Self-BLEU compares with each other


def quality(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Corpus BLEU-1 and BLEU-4, ROUGE-1, 2 and L (F, the best reference), chrF, and the share of exact matches.

    Args:
      candidates: N texts.  references: one or more for each.
    Returns:
      Numbers in percent, named `bleu`, `bleu1`, `rouge1`, `rouge2`, `rougeL`, `chrf`, `exact`.
    Raises:
      ValueError: for no candidate, or one without a reference.

    >>> scores = quality(["the cat sat", "a dog"], [["the cat sat"], ["the dog", "a dog ran"]])
    >>> [round(scores[name], 1) for name in ("bleu1", "rouge1", "rougeL", "chrf", "exact")]
    [100.0, 90.0, 90.0, 76.6, 50.0]
    """
    flat = [(i, text) for i, texts in enumerate(references) for text in texts]
    of_pairs = strings.rouge([candidates[i] for i, _ in flat], [text for _, text in flat])
    owner = np.array([i for i, _ in flat])
    best = {name: np.zeros(len(candidates)) for name in of_pairs}
    for name, score in of_pairs.items():
        np.maximum.at(best[name], owner, np.asarray(score.f))
    exact = [text in known for text, known in zip(candidates, references, strict=True)]
    return {
        "bleu": strings.bleu(candidates, references),
        "bleu1": strings.bleu(candidates, references, order=1),
        **{name: 100 * float(f.mean()) for name, f in best.items()},
        "chrf": strings.chrf(candidates, references),
        "exact": 100 * float(np.mean(exact)),
    }


def sentence_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Sentence BLEU + ROUGE-L of the best reference, each in [0, 1]: by this the best of several texts is chosen.

    Args:
      candidates: N texts.  references: one or more for each.
    Returns:
      float64 `[N]`.

    >>> sentence_scores(["the cat sat on it"], [["the cat sat on it"]]).round(2).tolist()
    [2.0]
    """
    flat = [(i, text) for i, texts in enumerate(references) for text in texts]
    f = strings.rouge([candidates[i] for i, _ in flat], [text for _, text in flat])["rougeL"].f
    best = np.zeros(len(candidates))
    np.maximum.at(best, [i for i, _ in flat], np.asarray(f))
    return strings.sentence_bleu(candidates, references) / 100 + best


def best_by_references(tries: Sequence[Texts], references: Sequence[Sequence[str]]) -> Texts:
    """The completion with the highest sentence BLEU + ROUGE-L of several, for each of N prompts.

    Args:
      tries: N completions each.  references: one or more for each prompt.

    >>> worse, better = Texts(["the mat", "a cat"], [True, True]), Texts(["the mat", "the cat"], [True, False])
    >>> best_by_references([worse, better], [["the mat"], ["the cat sat"]])
    Texts(texts=['the mat', 'the cat'], ended=[True, False])
    """
    best = np.stack([sentence_scores(found.texts, references) for found in tries]).argmax(0)
    pick = lambda rows: [rows[k][i] for i, k in enumerate(best)]
    return Texts(*map(pick, zip(*tries, strict=True)))


_self_bleu = jax.jit(partial(metrics.self_bleu, smoothing="exp"))


def diversity(candidates: Sequence[str]) -> dict[str, float]:
    """Self-BLEU-4 within groups of 32 texts, distinct-1 and 2 over all, repeated trigrams, and length, all of words.

    Args:
      candidates: N texts, N ≥ 2; a last group that is not full is left out of Self-BLEU if there are others.
    Returns:
      `self_bleu`, `distinct1`, `distinct2`, `repetition` in percent, and `words`, the mean length.
    Raises:
      ValueError: for fewer than two texts.

    >>> scores = diversity(["one two three", "one two three", "four five six"])
    >>> [round(scores[name], 1) for name in ("self_bleu", "distinct1", "distinct2", "repetition", "words")]
    [66.7, 66.7, 66.7, 0.0, 3.0]
    """
    if len(candidates) < 2:
        raise ValueError(f"diversity: there are {len(candidates)} texts; there must be two at least")
    number: dict[str, int] = {}
    words = [[number.setdefault(w, len(number) + 1) for w in strings.tokenize_rouge(text)] for text in candidates]
    ids, length = pad(words, max(max(map(len, words)), 4))
    size = min(GROUP, len(words))
    whole = len(words) // size * size
    groups = ids[:whole].reshape(-1, size, ids.shape[1]), length[:whole].reshape(-1, size)
    percent = lambda x: 100 * float(np.mean(np.asarray(x)))
    return {
        "self_bleu": percent(jax.lax.map(lambda group: _self_bleu(*group), groups)),
        "distinct1": percent(metrics.distinct_n(ids, length, 1)),
        "distinct2": percent(metrics.distinct_n(ids, length, 2)),
        "repetition": percent(metrics.repetition(ids, length, 3)),
        "words": float(length.mean()),
    }


def perplexity(
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    completions: Sequence[str],
    ended: Sequence[bool] | None = None,
    batch: int = 32,
) -> float:
    """Perplexity of a token of the completions given their prompts, under a frozen model.

        exp(-Σ log p / number of tokens)

    Args:
      model, params, tokenizer: the judge, whose tokens need not be those of the writer.
      prompts, completions: N texts each.  ended: which completions ended by themselves: of these the end token counts
        too; None: all.  batch: texts in one pass of the network.
    Tokens beyond the model's context do not count.
    Raises:
      ValueError: if a prompt fills the model's context.
    """
    before = [tokenizer.encode(text) or [tokenizer.end] for text in prompts]
    size, context = max(map(len, before)), model.shape.context
    if size >= context:
        raise ValueError(f"perplexity: a prompt has {size} tokens; it must have fewer than {context}, the context")
    ended = [True] * len(completions) if ended is None else ended
    ends = [[tokenizer.end] if last else [] for last in ended]
    after = [[*tokenizer.encode(x), *end][: context - size] for x, end in zip(completions, ends, strict=True)]
    steps = max(max(map(len, after)), 1)
    fill = -len(before) % batch
    (x, n), (y, _) = pad(before, size, tokenizer.end), pad(after, steps, tokenizer.end)
    mask = np.arange(steps) < np.array([len(b) for b in after])[:, None]
    rows = [np.concatenate([a, np.repeat(a[:1], fill, axis=0)]) for a in (x, n, y)]
    mask = np.concatenate([mask, np.zeros((fill, steps), bool)])

    @jax.jit
    def total(params, x, n, y, mask):
        return jnp.where(mask, completion_log_probs(model, params, x, n, y), 0.0).sum()

    parts = [slice(i, i + batch) for i in range(0, len(mask), batch)]
    log_prob = sum(float(total(params, *(a[part] for a in rows), mask[part])) for part in parts)
    return float(np.exp(-log_prob / mask.sum()))
