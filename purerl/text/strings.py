"""BLEU, ROUGE and chrF of strings, with the numbers of sacrebleu and rouge-score: `purerl.text.metrics` on token ids.

Scores are computed in float64. BLEU and chrF are percentages, as in sacrebleu; ROUGE lies in [0, 1], as in rouge-score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from purerl.arguments import check_counts, check_range
from purerl.text import metrics
from purerl.text.metrics import BleuStatistics, Rouge

_PUNCTUATION = r"[{-~\[-` -&(-+:-@/]"  # ASCII without letters, digits, apostrophe, comma, hyphen and full stop
_RULES = (
    (re.compile(f"({_PUNCTUATION})"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")
_ENDS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_FEW, _ROWS = 8, 128  # texts that are compared in one call: with two sizes there are few programs


# --- tokenizers -------------------------------------------------------------------------------------------------------


def tokenize_13a(text: str) -> list[str]:
    """Tokens of WMT's mteval-v13a, sacrebleu's default: case is kept, punctuation is separate except in numbers.

    >>> tokenize_13a("It's 1,000.5 km, isn't it?")
    ["It's", '1,000.5', 'km', ',', "isn't", 'it', '?']
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def tokenize_rouge(text: str) -> list[str]:
    """Tokens of rouge-score without its stemmer: lower case, runs of a to z and 0 to 9; everything else is dropped.

    >>> tokenize_rouge("It's 1,000 km: naïve?")
    ['it', 's', '1', '000', 'km', 'na', 've']
    """
    return _ALPHANUMERIC.findall(text.lower())


def tokenize_chrf(text: str) -> list[str]:
    """The words of chrF++ in sacrebleu: split at white space, and one mark of punctuation at its end, or else start.

    >>> tokenize_chrf("(so it is)...")
    ['(', 'so', 'it', 'is)..', '.']
    """
    words: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _ENDS:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _ENDS:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words


def characters(text: str) -> list[str]:
    """The characters of a text without white space, the tokens of chrF.

    >>> characters("a bc")
    ['a', 'b', 'c']
    """
    return list("".join(text.split()))


# --- texts as arrays --------------------------------------------------------------------------------------------------


def _strings(function: str, name: str, given) -> list[str]:
    if not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"{function}: {name} is {given!r:.100}; it must be a string or a list of strings")
    return list(given)


def _pairs(function: str, candidates, references) -> tuple[list[str], list[list[str]]]:
    """Candidates and the references of each; raises a ValueError for what are not strings, or do not fit."""
    if isinstance(candidates, str):
        candidates, references = [candidates], [references]
    candidates = _strings(function, "candidates", candidates)
    if isinstance(references, str) or not isinstance(references, Sequence) or len(references) != len(candidates):
        listed = isinstance(references, Sequence) and not isinstance(references, str)
        count = len(references) if listed else "no list"
        raise ValueError(
            f"{function}: references has {count} of them; there must be a reference, or a list of references, for each "
            f"of {len(candidates)} candidates"
        )
    if not candidates:
        raise ValueError(f"{function}: candidates is empty; there must be at least one text")
    lists = [[x] if isinstance(x, str) else _strings(function, f"references[{i}]", x) for i, x in enumerate(references)]
    for i, texts in enumerate(lists):
        if not texts:
            raise ValueError(f"{function}: references[{i}] is empty; there must be at least one reference")
    return candidates, lists


def _power(size: int, least: int) -> int:
    """The smallest power of two from `size` and `least`: few shapes, so few programs."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def _padded(rows: list[list[list[int]]], count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `[count, R, size]`, padded by 0, and lengths `[count, R]`."""
    most = _power(max(len(row) for row in rows), 1)
    tokens, lengths = np.zeros((count, most, size), np.int32), np.zeros((count, most), np.int32)
    for i, row in enumerate(rows):
        for k, ids in enumerate(row):
            tokens[i, k, : len(ids)], lengths[i, k] = ids, len(ids)
    return tokens, lengths


def _batches(
    candidates: list[str], references: list[list[str]], tokenize: Callable[[str], Sequence[str]]
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """The number of rows, and candidate, length, references, reference lengths and mask, of some texts at a time."""
    for start in range(0, len(candidates), _ROWS):
        ids: dict[str, int] = {}
        encode = lambda text: [ids.setdefault(token, len(ids)) for token in tokenize(text)]
        some, theirs = candidates[start : start + _ROWS], references[start : start + _ROWS]
        count = _FEW if len(some) <= _FEW else _ROWS
        rows, other_rows = [[encode(x)] for x in some], [[encode(x) for x in texts] for texts in theirs]
        size = _power(max(len(x) for row in (*rows, *other_rows) for x in row), 32)
        tokens, lengths = _padded(rows, count, size)
        others, other_lengths = _padded(other_rows, count, size)
        present = np.array([len(texts) for texts in theirs] + [0] * (count - len(some)))
        mask = np.arange(others.shape[1]) < present[:, None]
        yield len(some), (tokens[:, 0], lengths[:, 0], others, other_lengths, mask)


def _together(parts: list[tuple[int, Any]]) -> Any:
    """The rows of all batches, without those of padding, in arrays of the same structure."""
    cut = [jax.tree.map(lambda x, count=count: np.asarray(x)[:count], part) for count, part in parts]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *cut)


def _in_float64(function: Callable, **options) -> Callable:
    """A function of arrays of counts that NumPy holds, compiled, in float64."""
    program = jax.jit(partial(function, **options))

    def call(*counts):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, program(*jax.tree.map(lambda x: np.asarray(x).astype(np.int64), counts)))

    return call


_bleu_of = jax.jit(metrics.bleu_statistics, static_argnames="order")
_chrf_of = jax.jit(
    lambda x, length, y, lengths, order: metrics.chrf_statistics(x[:, None], length[:, None], y, lengths, order),
    static_argnames="order",
)
_lcs_of = jax.jit(metrics.lcs_length)


@cache
def _bleu_score(smoothing: str | Callable, effective_order: bool) -> Callable:
    return _in_float64(metrics.bleu_score, smoothing=smoothing, effective_order=effective_order)


_rouge_score = _in_float64(metrics.rouge_score)


@cache
def _chrf_score(beta: float) -> Callable:
    return _in_float64(metrics.chrf_score, beta=beta)


@cache
def _best_reference(beta: float) -> Callable:
    return _in_float64(lambda statistics, mask: metrics.best_reference(statistics, mask > 0, beta))


# --- scores -----------------------------------------------------------------------------------------------------------


def _bleu_statistics(function: str, candidates, references, order: int, tokenize) -> list[tuple[int, BleuStatistics]]:
    """The statistics of each batch, with its number of rows."""
    check_counts(function, order=order)
    parts = [
        (count, _bleu_of(*batch, order=max(order, 4)))  # the usual orders share a program
        for count, batch in _batches(*_pairs(function, candidates, references), tokenize)
    ]
    return [(n, x._replace(matches=x.matches[:, :order], totals=x.totals[:, :order])) for n, x in parts]


def bleu(
    candidates: str | Sequence[str],
    references: Sequence,
    order: int = 4,
    smoothing: str | Callable = "exp",
    effective_order: bool = False,
    tokenize: Callable[[str], Sequence[str]] = tokenize_13a,
) -> float:
    """Corpus BLEU in percent: sacrebleu's `corpus_bleu`, with references listed by candidate.

    Args:
      candidates: N strings; one string is a corpus of one.
      references: for each candidate a string, or a list of them; for one string its reference or references.
      order: the largest n, a positive int.
      smoothing, effective_order: as for `metrics.bleu_score`.
      tokenize: string -> tokens.
    Returns:
      A float in [0, 100].
    Raises:
      ValueError: for no candidate, a candidate without a reference, what are not strings, and as for `bleu_score`.
    Reference: Post, 2018, arXiv:1804.08771.

    >>> round(bleu(["The cat sat on the mat."], [["The cat sat on a mat.", "A cat sat there."]]), 4)
    48.8923
    """
    statistics = _bleu_statistics("bleu", candidates, references, order, tokenize)
    total = jax.tree.map(lambda x: x.astype(np.int64), _together(statistics))
    return 100 * float(_bleu_score(smoothing, effective_order)(metrics.corpus_statistics(total)))


def sentence_bleu(
    candidates: str | Sequence[str],
    references: Sequence,
    order: int = 4,
    smoothing: str | Callable = "exp",
    effective_order: bool = True,
    tokenize: Callable[[str], Sequence[str]] = tokenize_13a,
) -> np.ndarray:
    """Sentence BLEU in percent of each candidate: sacrebleu's `sentence_bleu`.

    Args: as for `bleu`.
    Returns:
      float64 `[N]` in [0, 100].
    Raises:
      ValueError: as for `bleu`.

    >>> sentence_bleu(["one two three", "four"], ["one two three", "five"]).round(4).tolist()
    [100.0, 0.0]
    """
    statistics = _bleu_statistics("sentence_bleu", candidates, references, order, tokenize)
    score = _bleu_score(smoothing, effective_order)
    return 100 * _together([(count, score(x)) for count, x in statistics])


def rouge(
    candidates: str | Sequence[str],
    references: str | Sequence[str],
    tokenize: Callable[[str], Sequence[str]] = tokenize_rouge,
) -> dict[str, Rouge]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of each candidate: rouge-score without its stemmer.

    Args:
      candidates: N strings, or one.  references: a string for each.  tokenize: string -> tokens.
    Returns:
      `rouge1`, `rouge2`, `rougeL`, each a `Rouge` of precision, recall and F, float64 `[N]` in [0, 1].
    Raises:
      ValueError: for no candidate, or what is not a string, or not one reference for each candidate.
    Reference: Lin, 2004, W04-1013.

    >>> scores = rouge("the cat sat", "The cat has sat!")
    >>> {name: round(float(score.f[0]), 4) for name, score in scores.items()}
    {'rouge1': 0.8571, 'rouge2': 0.4, 'rougeL': 0.8571}
    """
    texts, listed = _pairs("rouge", candidates, references)
    for i, of_one in enumerate(listed):
        if len(of_one) != 1:
            raise ValueError(f"rouge: references[{i}] has {len(of_one)} texts; it must be one")
    parts = []
    for count, (x, length, y, y_length, _) in _batches(texts, listed, tokenize):
        of = _chrf_of(x, length, y, y_length, order=2)[:, 0]
        lcs = _lcs_of(x, length, y[:, 0], y_length[:, 0])
        fewer = lambda size: np.maximum(size - 1, 0)  # bigrams
        matches = np.stack([of[:, 0, 2], of[:, 1, 2], lcs])
        totals, reference_totals = (np.stack([n, fewer(n), n]) for n in (length, y_length[:, 0]))
        parts.append((count, jax.tree.map(np.transpose, _rouge_score(matches, totals, reference_totals))))
    scores = _together(parts)
    return {name: Rouge(*(x[:, k] for x in scores)) for k, name in enumerate(("rouge1", "rouge2", "rougeL"))}


def _chrf_statistics(function: str, candidates, references, char_order: int, word_order: int, beta: float):
    check_counts(function, char_order=char_order)
    if not isinstance(word_order, int) or word_order < 0:
        raise ValueError(f"{function}: word_order is {word_order!r}; it must be an int, at least 0")
    check_range(function, np.finfo(float).tiny, np.finfo(float).max, beta=beta)
    texts, listed = _pairs(function, candidates, references)
    units = [(characters, char_order)] + [(tokenize_chrf, word_order)] * (word_order > 0)
    parts = [[(n, x, _chrf_of(*x[:4], order=order)) for n, x in _batches(texts, listed, by)] for by, order in units]
    best = []
    for same in zip(*parts, strict=True):  # characters and words of the same texts
        count, (*_, mask), _ = same[0]
        each = np.concatenate([np.asarray(statistics) for *_, statistics in same], -2)
        best.append((count, _best_reference(beta)(each, mask)))
    return best


def chrf(
    candidates: str | Sequence[str],
    references: Sequence,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2.0,
) -> float:
    """Corpus chrF in percent, or chrF++ with a word order of 2: sacrebleu's `corpus_chrf`.

    Args:
      candidates, references: as for `bleu`; of several references the one with the highest score counts.
      char_order: the largest n of characters, a positive int.  word_order: that of words, an int ≥ 0.
      beta: β > 0, how much more recall counts than precision.
    Returns:
      A float in [0, 100].
    Raises:
      ValueError: as for `bleu`, and for orders and β out of range.
    Reference: Popović, 2015, W15-3049, and 2017, W17-4770.

    >>> round(chrf("the cat sat", "the cat has sat"), 4)
    46.3349
    """
    statistics = _chrf_statistics("chrf", candidates, references, char_order, word_order, beta)
    return 100 * float(_chrf_score(beta)(_together(statistics).sum(0)))


def sentence_chrf(
    candidates: str | Sequence[str],
    references: Sequence,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2.0,
) -> np.ndarray:
    """Sentence chrF in percent of each candidate: sacrebleu's `sentence_chrf`.

    Args: as for `chrf`.
    Returns:
      float64 `[N]` in [0, 100].
    Raises:
      ValueError: as for `chrf`.

    >>> sentence_chrf(["abc", ""], ["abc", "abc"]).tolist()
    [100.0, 0.0]
    """
    statistics = _chrf_statistics("sentence_chrf", candidates, references, char_order, word_order, beta)
    return 100 * _together([(count, _chrf_score(beta)(x)) for count, x in statistics])
