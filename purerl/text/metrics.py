"""Metrics of text as pure functions of padded token ids: BLEU, ROUGE, chrF, diversity, repetition and perplexity.

Tokens are integers `[..., T]` with lengths `[...]`: a sequence is `tokens[:length]`, and the padding after it never has
an effect. For a mask that is True on a prefix, `length = mask.sum(-1)`. Counts of n-grams are exact: windows are
compared token by token, nothing is hashed. Leading axes broadcast, and all functions can be compiled and vmapped.
Scores lie in [0, 1]. For strings, on the scales of the reference libraries, see `purerl.text.strings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_counts, check_range, check_shapes
from purerl.core import Array


def _check_sequences(function: str, name: str, tokens: Array, length_name: str, length: Array, axes: int = 1) -> None:
    """Raise a ValueError unless tokens and lengths are integers, `[..., T]` and `[...]`, and lengths lie in [0, T]."""
    for key, x in ((name, tokens), (length_name, length)):
        if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
            raise ValueError(f"{function}: {key} has dtype {jnp.result_type(x)}; it must be of integers")
    shape = jnp.shape(tokens)
    if len(shape) < axes:
        raise ValueError(f"{function}: {name} has shape {shape}; it must have at least {axes} axes")
    if jnp.shape(length) != shape[:-1]:
        raise ValueError(
            f"{function}: {length_name} has shape {jnp.shape(length)}; it must be {shape[:-1]}, the shape of {name} "
            "without its last axis"
        )
    check_range(function, 0, shape[-1], **{length_name: length})


def _check_leading(function: str, **shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to which leading axes broadcast; raises a ValueError that names them if they do not."""
    try:
        return jnp.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: leading axes must broadcast, got {given}") from None


# --- n-grams ----------------------------------------------------------------------------------------------------------


def _windows(tokens: Array, n: int) -> list[Array]:
    """The k-th token of the n-gram that starts at each position, for k < n: n arrays `[..., T]`."""
    size = tokens.shape[-1]
    padded = jnp.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, n - 1)])
    return [padded[..., k : k + size] for k in range(n)]


def _starts(size: int, length: Array, orders: Array) -> Array:
    """Where an n-gram of a sequence starts, for each order n: bool `[..., orders, size]`."""
    return jnp.arange(size) <= length[..., None, None] - orders[:, None]


def _orders(order: int) -> Array:
    return jnp.arange(1, order + 1)


def _count(x: Array, y: Array, starts: Array, earlier: bool = False) -> Array:
    """How often the n-gram at each position of x `[..., T]` starts in y `[..., S]`, for n = 1, 2, …

    Windows are compared by Eₙᵢⱼ = [xᵢ = yⱼ] Eₙ₋₁,ᵢ₊₁,ⱼ₊₁, in a scan over i from last to first: memory is linear.
    Args:
      starts: which positions of y are counted, bool `[..., orders, S]`.
      earlier: count only positions j < i.
    Returns:
      int32 `[..., orders, T]`.
    """
    orders, size = starts.shape[-2:]
    leading = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1], starts.shape[:-2])
    one, after = jnp.ones((*leading, 1, size), bool), [(0, 0)] * (len(leading) + 1) + [(0, 1)]

    def row(longer: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        i, token = step
        equal = (token[..., None] == y)[..., None, :]
        # window n at (i, j): the tokens are equal, and so is window n - 1 at (i + 1, j + 1)
        rest = jnp.pad(longer, after)[..., :-1, 1:]
        found = equal & jnp.concatenate([one, rest], -2)
        counted = found & starts & (jnp.arange(size) < i) if earlier else found & starts
        return found, counted.sum(-1, dtype=jnp.int32)

    steps = (jnp.arange(x.shape[-1]), jnp.moveaxis(x, -1, 0))
    _, counts = jax.lax.scan(row, jnp.zeros((*leading, orders, size), bool), steps, reverse=True)
    return jnp.moveaxis(counts, 0, -1)


def ngram_counts(tokens: Array, length: Array, other: Array, other_length: Array, n: int) -> Array:
    """How often each n-gram of a sequence occurs in another, or in itself.

        countᵢ = Σⱼ [xᵢ = yⱼ, …, xᵢ₊ₙ₋₁ = yⱼ₊ₙ₋₁],   0 where no n-gram starts

    Args:
      tokens: x, int `[..., T]`.  length: int `[...]`, in [0, T].
      other: y, int `[..., S]`.  other_length: int `[...]`, in [0, S].
      n: the order, a positive int.
    Returns:
      int32 `[..., T]`.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or n < 1.

    >>> text = jnp.array([5, 6, 5, 6, 0])
    >>> ngram_counts(text, jnp.array(4), text, jnp.array(4), 2).tolist()
    [2, 1, 2, 0, 0]
    """
    check_counts("ngram_counts", n=n)
    _check_sequences("ngram_counts", "tokens", tokens, "length", length)
    _check_sequences("ngram_counts", "other", other, "other_length", other_length)
    _check_leading("ngram_counts", length=jnp.shape(length), other_length=jnp.shape(other_length))
    found = _count(tokens, other, _starts(other.shape[-1], other_length, _orders(n)))[..., -1, :]
    return jnp.where(jnp.arange(tokens.shape[-1]) <= length[..., None] - n, found, 0)


def _totals(length: Array, order: int) -> Array:
    """The number of n-grams of a sequence, for n = 1 to `order`: int32 `[..., order]`."""
    return jnp.maximum(length[..., None] + 1 - _orders(order), 0).astype(jnp.int32)


def _seen(tokens: Array, length: Array, order: int) -> tuple[Array, Array]:
    """How often each n-gram occurs before its position, int32, and where one starts, bool: both `[..., order, T]`."""
    starts = _starts(tokens.shape[-1], length, _orders(order))
    return _count(tokens, tokens, starts, earlier=True), starts


def _matches(candidate: Array, length: Array, found: Array) -> Array:
    """Σ over distinct n-grams of min(count in the candidate, count found `[..., orders, T]`): int32 `[..., orders]`.

    The k-th occurrence of an n-gram, from 0, is a match if it was found more than k times.
    """
    seen, starts = _seen(candidate, length, found.shape[-2])
    return (starts & (seen < found)).sum(-1, dtype=jnp.int32)


def _pair_matches(candidate: Array, length: Array, reference: Array, reference_length: Array, order: int) -> Array:
    """Clipped matches of n-grams, for n = 1 to `order`: int32 `[..., order]`."""
    found = _count(candidate, reference, _starts(reference.shape[-1], reference_length, _orders(order)))
    return _matches(candidate, length, found)


# --- BLEU -------------------------------------------------------------------------------------------------------------


def smooth_none(matches: Array, totals: Array) -> tuple[Array, Array]:
    """Precisions pₙ = mₙ / cₙ without smoothing: BLEU is 0 if an order has no match.

    A smoothing takes the matches m and the totals c of each order, `[..., orders]`, and returns the precisions and the
    totals that it used, `[..., orders]`; the precision of an order without n-grams is 0.

    >>> smooth_none(jnp.array([3, 0]), jnp.array([4, 3]))[0].tolist()
    [0.75, 0.0]
    """
    return matches / jnp.maximum(totals, 1), totals


def smooth_floor(matches: Array, totals: Array, value: float = 0.1) -> tuple[Array, Array]:
    """Precisions pₙ = ε / cₙ where an order has no match; ε is `value`, at least 0.

    Reference: Chen and Cherry, 2014, W14-3346, method 1.

    >>> [round(x, 4) for x in smooth_floor(jnp.array([3, 0]), jnp.array([4, 2]))[0].tolist()]
    [0.75, 0.05]
    """
    some = jnp.maximum(totals, 1)
    return jnp.where((matches == 0) & (totals > 0), value / some, matches / some), totals


def smooth_add_k(matches: Array, totals: Array, k: float = 1.0) -> tuple[Array, Array]:
    """Precisions pₙ = (mₙ + k) / (cₙ + k) for n > 1; k > 0.

    Reference: Lin and Och, 2004; Chen and Cherry, 2014, W14-3346, method 2.

    >>> smooth_add_k(jnp.array([3, 0]), jnp.array([4, 3]))[0].tolist()
    [0.75, 0.25]
    """
    added = jnp.where(jnp.arange(matches.shape[-1]) > 0, k, 0)
    matches, totals = matches + added, totals + added
    return matches / jnp.where(totals > 0, totals, 1), totals


def smooth_exp(matches: Array, totals: Array) -> tuple[Array, Array]:
    """Precisions pₙ = 2⁻ᵏ / cₙ for the k-th order without a match, as in NIST's mteval and sacrebleu's default.

    Reference: Chen and Cherry, 2014, W14-3346, method 3.

    >>> smooth_exp(jnp.array([4, 0, 0]), jnp.array([4, 4, 2]))[0].tolist()
    [1.0, 0.125, 0.125]
    """
    none = (matches == 0) & (totals > 0)
    some = jnp.maximum(totals, 1)
    powers = jnp.left_shift(1, jnp.cumsum(none, -1))
    return jnp.where(none, 1 / (powers * some), matches / some), totals


SMOOTHING: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "none": smooth_none,
    "floor": smooth_floor,
    "add-k": smooth_add_k,
    "exp": smooth_exp,
}


class BleuStatistics(NamedTuple):
    """What BLEU is computed from; the statistics of a corpus are the sums of those of its sentences."""

    matches: Array  # clipped matches of each order, int32 [..., orders]
    totals: Array  # n-grams of the candidate of each order, int32 [..., orders]
    length: Array  # of the candidate, int32 [...]
    reference_length: Array  # the closest one of a reference, int32 [...]; -1 without a reference


def closest_length(length: Array, reference_lengths: Array, reference_mask: Array) -> Array:
    """The reference length closest to the candidate's, the smaller of two equally close ones; -1 without a reference.

    Args:
      length: int `[...]`.  reference_lengths: int `[..., R]`.  reference_mask: which are there, bool `[..., R]`.
    Returns:
      int32 `[...]`.

    >>> closest_length(jnp.array(5), jnp.array([7, 3, 5]), jnp.array([True, True, False])).item()
    3
    """
    most = jnp.iinfo(jnp.int32).max
    away = jnp.where(reference_mask, jnp.abs(reference_lengths - length[..., None]), most)
    closest = jnp.where(reference_mask & (away == away.min(-1, keepdims=True)), reference_lengths, most).min(-1)
    return jnp.where(reference_mask.any(-1), closest, -1).astype(jnp.int32)


def brevity_penalty(length: Array, reference_length: Array) -> Array:
    """BP = min(1, e^{1 - r/c}) of candidate length c and reference length r, int `[...]`; 0 if c = 0 < r.

    Reference: Papineni et al., 2002, section 2.2.2.

    >>> [round(x, 4) for x in brevity_penalty(jnp.array([4, 5]), jnp.array([5, 4])).tolist()]
    [0.7788, 1.0]
    """
    short = length < reference_length
    penalty = jnp.exp(jnp.where(short, (length - reference_length) / jnp.maximum(length, 1), 0.0))
    return jnp.where(short & (length == 0), 0.0, penalty)


def _check_references(
    function: str, candidate: Array, length: Array, references: Array, reference_lengths: Array, mask: Array | None
) -> Array:
    """The mask of references, all True for None; raises a ValueError for arrays that do not fit."""
    _check_sequences(function, "candidate", candidate, "length", length)
    _check_sequences(function, "references", references, "reference_lengths", reference_lengths, axes=2)
    shape = jnp.shape(reference_lengths)
    if shape[-1] == 0:
        raise ValueError(f"{function}: references has shape {jnp.shape(references)}; it must have at least one")
    _check_leading(function, candidate=jnp.shape(length), references=shape[:-1])
    if mask is None:
        return jnp.ones(shape, bool)
    if jnp.result_type(mask) != jnp.bool_ or jnp.shape(mask) != shape:
        raise ValueError(
            f"{function}: reference_mask is {jnp.result_type(mask)} {jnp.shape(mask)}; it must be bool {shape}"
        )
    return mask


def bleu_statistics(
    candidate: Array,
    length: Array,
    references: Array,
    reference_lengths: Array,
    reference_mask: Array | None = None,
    order: int = 4,
) -> BleuStatistics:
    """Clipped matches of n-grams, their totals, and lengths.

        mₙ = Σ_g min(count of g in the candidate, maxᵣ count of g in reference r),   over distinct n-grams g

    Args:
      candidate: int `[..., T]`.  length: int `[...]`, in [0, T].
      references: int `[..., R, S]`, R ≥ 1.  reference_lengths: int `[..., R]`, in [0, S].
      reference_mask: which references are there, bool `[..., R]`; None: all.
      order: the largest n, a positive int.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or no reference.
    Reference: Papineni et al., 2002, P02-1040.

    >>> the = jnp.array([7, 7, 7, 0])
    >>> x = bleu_statistics(the, jnp.array(3), jnp.array([[7, 8, 7, 9]]), jnp.array([4]), order=2)
    >>> x.matches.tolist(), x.totals.tolist(), x.reference_length.item()
    ([2, 0], [3, 2], 4)
    """
    check_counts("bleu_statistics", order=order)
    mask = _check_references("bleu_statistics", candidate, length, references, reference_lengths, reference_mask)
    return _bleu_statistics(candidate, length, references, reference_lengths, mask, order)


def _bleu_statistics(candidate: Array, length: Array, references: Array, lengths: Array, mask: Array, order: int):
    starts = _starts(references.shape[-1], lengths, _orders(order)) & mask[..., None, None]
    found = _count(candidate[..., None, :], references, starts).max(-3)
    closest = closest_length(length, lengths, mask)
    length = jnp.broadcast_to(length, closest.shape).astype(jnp.int32)
    return BleuStatistics(_matches(candidate, length, found), _totals(length, order), length, closest)


def bleu_score(statistics: BleuStatistics, smoothing: str | Callable = "exp", effective_order: bool = False) -> Array:
    """BLEU of the statistics of a sentence or of a corpus.

        BLEU = BP exp((1/N) Σₙ log pₙ),   0 without any match

    Args:
      statistics: `BleuStatistics`.
      smoothing: a name of `SMOOTHING` (none, floor, add-k, exp), or a function `(matches, totals) -> (precisions,
        totals)`, such as `partial(smooth_floor, value=0.01)`.
      effective_order: whether N is the largest order of which the candidate has an n-gram, not the order of the
        statistics: for single sentences.
    Returns:
      float `[...]` in [0, 1]; NaN without a reference.
    Raises:
      ValueError: if there is no smoothing of this name.
    Reference: Papineni et al., 2002, P02-1040; Post, 2018, arXiv:1804.08771.

    >>> x = BleuStatistics(jnp.array([4, 2]), jnp.array([4, 4]), jnp.array(4), jnp.array(4))
    >>> round(bleu_score(x).item(), 4)
    0.7071
    """
    if not callable(smoothing) and smoothing not in SMOOTHING:
        names = ", ".join(SMOOTHING)
        raise ValueError(f"bleu_score: smoothing is {smoothing!r}; it must be a function or one of {names}")
    smooth: Any = smoothing if callable(smoothing) else SMOOTHING[smoothing]
    precisions, totals = smooth(statistics.matches, statistics.totals)
    orders = totals.shape[-1]
    used = jnp.maximum((totals > 0).sum(-1), 1) if effective_order else jnp.full(totals.shape[:-1], orders)
    logs = jnp.where(jnp.arange(orders) < used[..., None], jnp.log(precisions), 0.0).sum(-1)
    score = brevity_penalty(statistics.length, statistics.reference_length) * jnp.exp(logs / used)
    score = jnp.where(statistics.matches.any(-1), score, 0.0)
    return jnp.where(statistics.reference_length < 0, jnp.nan, score)


def bleu(
    candidate: Array,
    length: Array,
    references: Array,
    reference_lengths: Array,
    reference_mask: Array | None = None,
    order: int = 4,
    smoothing: str | Callable = "exp",
    effective_order: bool = True,
) -> Array:
    """Sentence BLEU of each candidate, with sacrebleu's defaults for sentences.

    Args: as for `bleu_statistics` and `bleu_score`; order 1 to 4 gives BLEU-1 to BLEU-4.
    Returns:
      float `[...]` in [0, 1]; NaN without a reference.
    Raises:
      ValueError: as for `bleu_statistics` and `bleu_score`.

    >>> cat = jnp.array([1, 2, 3, 4, 5, 6])
    >>> round(bleu(cat, jnp.array(5), cat[None], jnp.array([6])).item(), 4)
    0.8187
    """
    statistics = bleu_statistics(candidate, length, references, reference_lengths, reference_mask, order)
    return bleu_score(statistics, smoothing, effective_order)


def corpus_statistics(statistics: BleuStatistics) -> BleuStatistics:
    """The statistics of a corpus: the sums of those of its sentences over their last leading axis.

    >>> rows = BleuStatistics(jnp.array([[2], [1]]), jnp.array([[4], [3]]), jnp.array([4, 3]), jnp.array([5, 3]))
    >>> [x.tolist() for x in corpus_statistics(rows)]
    [[3], [7], 7, 8]
    """
    closest = statistics.reference_length
    return BleuStatistics(
        statistics.matches.sum(-2),
        statistics.totals.sum(-2),
        statistics.length.sum(-1),
        jnp.where((closest < 0).any(-1), -1, closest.sum(-1)),
    )


def corpus_bleu(
    candidates: Array,
    lengths: Array,
    references: Array,
    reference_lengths: Array,
    reference_mask: Array | None = None,
    order: int = 4,
    smoothing: str | Callable = "exp",
    effective_order: bool = False,
) -> Array:
    """BLEU of a corpus: matches, totals and lengths are summed over sentences.

    Args:
      candidates: int `[..., N, T]`.  references: int `[..., N, R, S]`.
      The rest as for `bleu_statistics` and `bleu_score`.
    Returns:
      float `[...]` in [0, 1]; NaN if a candidate has no reference.
    Raises:
      ValueError: as for `bleu_statistics` and `bleu_score`, or if there is no axis of sentences.

    >>> text = jnp.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    >>> round(corpus_bleu(text, jnp.array([4, 3]), text[:, None], jnp.array([[4], [4]])).item(), 4)
    0.8669
    """
    _check_sequences("corpus_bleu", "candidates", candidates, "lengths", lengths, axes=2)
    statistics = bleu_statistics(candidates, lengths, references, reference_lengths, reference_mask, order)
    return bleu_score(corpus_statistics(statistics), smoothing, effective_order)


def self_bleu(
    tokens: Array, lengths: Array, order: int = 4, smoothing: str | Callable = "exp", effective_order: bool = True
) -> Array:
    """Sentence BLEU of each member of a group with all others as references: the higher, the less diverse.

    Args:
      tokens: int `[..., G, T]`, G ≥ 2.  lengths: int `[..., G]`.  The rest as for `bleu`.
    Returns:
      float `[..., G]` in [0, 1]; the Self-BLEU of the group is the mean.
    Raises:
      ValueError: for a group of one, and as for `bleu`.
    Reference: Zhu et al., 2018, arXiv:1802.01886.

    >>> self_bleu(jnp.array([[1, 2, 3], [1, 2, 3], [4, 5, 6]]), jnp.array([3, 3, 3])).tolist()
    [1.0, 1.0, 0.0]
    """
    check_counts("self_bleu", order=order)
    _check_sequences("self_bleu", "tokens", tokens, "lengths", lengths, axes=2)
    group = tokens.shape[-2]
    if group < 2:
        raise ValueError(f"self_bleu: tokens has shape {tokens.shape}; a group must have at least two members")
    others = ~jnp.eye(group, dtype=bool)
    statistics = _bleu_statistics(tokens, lengths, tokens[..., None, :, :], lengths[..., None, :], others, order)
    return bleu_score(statistics, smoothing, effective_order)


# --- ROUGE ------------------------------------------------------------------------------------------------------------


class Rouge(NamedTuple):
    """Precision, recall and their harmonic mean, float `[...]` in [0, 1]."""

    precision: Array
    recall: Array
    f: Array


def rouge_score(matches: Array, total: Array, reference_total: Array) -> Rouge:
    """Precision, recall and F of counts.

        P = m / c,   R = m / r,   F = 2 P R / (P + R) = 2 m / (c + r);   0 where there is nothing to match

    Args:
      matches: m, int `[...]`.  total: c, of the candidate, int `[...]`.  reference_total: r, int `[...]`.
    Returns:
      `Rouge` of floats `[...]`.

    >>> [x.item() for x in rouge_score(jnp.array(2), jnp.array(4), jnp.array(2))][:2]
    [0.5, 1.0]
    """
    of = lambda count: matches / jnp.maximum(count, 1)
    return Rouge(of(total), of(reference_total), 2 * of(total + reference_total))


def _check_pair(function: str, candidate: Array, length: Array, reference: Array, reference_length: Array) -> None:
    _check_sequences(function, "candidate", candidate, "length", length)
    _check_sequences(function, "reference", reference, "reference_length", reference_length)
    _check_leading(function, candidate=jnp.shape(length), reference=jnp.shape(reference_length))


def rouge_n(candidate: Array, length: Array, reference: Array, reference_length: Array, n: int) -> Rouge:
    """ROUGE-N: clipped matches m of n-grams, over those of the candidate and of the reference.

        precision = m / c,   recall = m / r,   F = 2 m / (c + r);   0 without n-grams

    Args:
      candidate: int `[..., T]`.  length: int `[...]`.  reference: int `[..., S]`.  reference_length: int `[...]`.
      n: the order, a positive int.
    Returns:
      `Rouge` of floats `[...]`.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or n < 1.
    Reference: Lin, 2004, W04-1013.

    >>> score = rouge_n(jnp.array([1, 2, 3]), jnp.array(3), jnp.array([1, 2, 4, 5]), jnp.array(4), 1)
    >>> [round(x.item(), 4) for x in score]
    [0.6667, 0.5, 0.5714]
    """
    check_counts("rouge_n", n=n)
    _check_pair("rouge_n", candidate, length, reference, reference_length)
    matches = _pair_matches(candidate, length, reference, reference_length, n)
    return rouge_score(*(x[..., -1] for x in (matches, _totals(length, n), _totals(reference_length, n))))


def lcs_length(candidate: Array, length: Array, reference: Array, reference_length: Array) -> Array:
    """The length of the longest common subsequence.

        Lᵢⱼ = Lᵢ₋₁,ⱼ₋₁ + 1 if xᵢ = yⱼ, else max(Lᵢ₋₁,ⱼ, Lᵢ,ⱼ₋₁)

    A scan over i with one row Lᵢ as its state; along a row the recursion is a cumulative maximum.
    Args:
      candidate: x, int `[..., T]`.  length: int `[...]`.  reference: y, int `[..., S]`.  reference_length: int `[...]`.
    Returns:
      int32 `[...]`.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, or lengths out of range.

    >>> lcs_length(jnp.array([1, 2, 3, 4]), jnp.array(4), jnp.array([2, 9, 4]), jnp.array(3)).item()
    2
    """
    _check_pair("lcs_length", candidate, length, reference, reference_length)
    size = reference.shape[-1]
    there = jnp.arange(size) < reference_length[..., None]
    leading = jnp.broadcast_shapes(jnp.shape(length), jnp.shape(reference_length))
    before = [(0, 0)] * len(leading) + [(1, 0)]

    def next_row(row: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        i, token = step
        equal = there & (token[..., None] == reference) & (i < length[..., None])
        diagonal = jnp.pad(row, before)[..., :size] + equal
        return jax.lax.cummax(jnp.maximum(row, diagonal), axis=len(leading)), None

    steps = (jnp.arange(candidate.shape[-1]), jnp.moveaxis(candidate, -1, 0))
    row, _ = jax.lax.scan(next_row, jnp.zeros((*leading, size), jnp.int32), steps)
    return row.max(-1, initial=0)


def rouge_l(candidate: Array, length: Array, reference: Array, reference_length: Array) -> Rouge:
    """ROUGE-L: the longest common subsequence, of length l, over the lengths of candidate and reference.

        precision = l / c,   recall = l / r,   F = 2 l / (c + r);   0 for empty texts

    Args: as for `lcs_length`.
    Returns:
      `Rouge` of floats `[...]`.
    Raises:
      ValueError: as for `lcs_length`.
    Reference: Lin, 2004, W04-1013, section 3.1, with β = 1.

    >>> score = rouge_l(jnp.array([1, 2, 3]), jnp.array(3), jnp.array([1, 9, 3, 8]), jnp.array(4))
    >>> [round(x.item(), 4) for x in score]
    [0.6667, 0.5, 0.5714]
    """
    return rouge_score(lcs_length(candidate, length, reference, reference_length), length, reference_length)


# --- chrF -------------------------------------------------------------------------------------------------------------


def chrf_statistics(
    candidate: Array, length: Array, reference: Array, reference_length: Array, order: int = 6
) -> Array:
    """N-grams of the candidate, of the reference, and clipped matches, of each order.

    Args:
      candidate: int `[..., T]`.  length: int `[...]`.  reference: int `[..., S]`.  reference_length: int `[...]`.
      order: the largest n, a positive int.
    Returns:
      int32 `[..., order, 3]`; the candidate's n-grams are not counted for an order of which the reference has none.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or order < 1.

    >>> chrf_statistics(jnp.array([1, 2, 3]), jnp.array(3), jnp.array([1, 2]), jnp.array(2), order=3).tolist()
    [[3, 2, 2], [2, 1, 1], [0, 0, 0]]
    """
    check_counts("chrf_statistics", order=order)
    _check_pair("chrf_statistics", candidate, length, reference, reference_length)
    matches = _pair_matches(candidate, length, reference, reference_length, order)
    reference_totals = jnp.broadcast_to(_totals(reference_length, order), matches.shape)
    totals = jnp.where(reference_totals > 0, _totals(length, order), 0)
    return jnp.stack([totals, reference_totals, matches], -1)


def chrf_score(statistics: Array, beta: float = 2.0) -> Array:
    """chrF of the statistics of a sentence or, summed over sentences, of a corpus.

        F = (1 + β²) P R / (β² P + R),   P and R: means over the orders of which both texts have n-grams

    Args:
      statistics: int `[..., orders, 3]` of `chrf_statistics`; negative without a reference.
      beta: β > 0, how much more recall counts than precision.
    Returns:
      float `[...]` in [0, 1]; 0 without a match, NaN without a reference.
    Reference: Popović, 2015, W15-3049, with the orders of sacrebleu 2.

    >>> round(chrf_score(jnp.array([[4, 2, 2], [3, 1, 0]])).item(), 4)
    0.4167
    """
    total, reference_total, matches = (statistics[..., k] for k in range(3))
    both = (total > 0) & (reference_total > 0)
    count = jnp.maximum(both.sum(-1), 1)
    precision = jnp.where(both, matches / jnp.maximum(total, 1), 0.0).sum(-1) / count
    recall = jnp.where(both, matches / jnp.maximum(reference_total, 1), 0.0).sum(-1) / count
    weighted = beta**2 * precision + recall
    score = (1 + beta**2) * precision * recall / jnp.where(weighted > 0, weighted, 1.0)
    return jnp.where((statistics < 0).any((-2, -1)), jnp.nan, score)


def best_reference(statistics: Array, reference_mask: Array, beta: float = 2.0) -> Array:
    """The statistics of the reference with the highest chrF, the first of equal ones; -1 without a reference.

    Args:
      statistics: int `[..., R, orders, 3]`.  reference_mask: bool `[..., R]`.  beta: as for `chrf_score`.
    Returns:
      int `[..., orders, 3]`.

    >>> best_reference(jnp.array([[[4, 4, 1]], [[4, 4, 2]]]), jnp.array([True, True])).tolist()
    [[4, 4, 2]]
    """
    best = jnp.where(reference_mask, chrf_score(statistics, beta), -1.0).argmax(-1)
    chosen = jnp.take_along_axis(statistics, best[..., None, None, None], axis=-3)[..., 0, :, :]
    return jnp.where(reference_mask.any(-1)[..., None, None], chosen, -1)


def chrf(
    candidate: Array,
    length: Array,
    references: Array,
    reference_lengths: Array,
    reference_mask: Array | None = None,
    order: int = 6,
    beta: float = 2.0,
) -> Array:
    """Sentence chrF of each candidate: the highest over its references. Tokens are characters without white space.

    Args:
      candidate: int `[..., T]`.  length: int `[...]`, in [0, T].
      references: int `[..., R, S]`, R ≥ 1.  reference_lengths: int `[..., R]`, in [0, S].
      reference_mask: which references are there, bool `[..., R]`; None: all.
      order: the largest n, a positive int.  beta: as for `chrf_score`.
    Returns:
      float `[...]` in [0, 1]; NaN without a reference.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or no reference.
    Reference: Popović, 2015, W15-3049.

    >>> text = jnp.array([1, 2, 3, 4, 5, 6, 7])
    >>> chrf(text, jnp.array(7), text[None], jnp.array([7])).item()
    1.0
    """
    mask = _check_references("chrf", candidate, length, references, reference_lengths, reference_mask)
    each = chrf_statistics(candidate[..., None, :], length[..., None], references, reference_lengths, order)
    return chrf_score(best_reference(each, mask, beta), beta)


# --- without a reference ----------------------------------------------------------------------------------------------


def distinct_n(tokens: Array, lengths: Array, n: int) -> Array:
    """Distinct-n: the share of distinct n-grams among all n-grams of a group, counted by sorting.

    Args:
      tokens: int `[..., G, T]`, the sequences of a group, or of a group of one.  lengths: int `[..., G]`.
      n: the order, a positive int.
    Returns:
      float `[...]` in [0, 1]; 0 without n-grams.
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or n < 1.
    Reference: Li et al., 2016, arXiv:1510.03055.

    >>> distinct_n(jnp.array([[1, 2, 1, 2], [1, 2, 9, 9]]), jnp.array([4, 2]), 2).item()
    0.5
    """
    check_counts("distinct_n", n=n)
    _check_sequences("distinct_n", "tokens", tokens, "lengths", lengths, axes=2)
    pooled = (*tokens.shape[:-2], tokens.shape[-2] * tokens.shape[-1])
    starts = (jnp.arange(tokens.shape[-1]) <= lengths[..., None] - n).reshape(pooled)
    keys = [~starts, *(x.reshape(pooled) for x in _windows(tokens, n))]
    absent, *ordered = jax.lax.sort(keys, dimension=-1, num_keys=n + 1)
    new = jnp.zeros_like(absent[..., 1:])
    for x in ordered:
        new = new | (x[..., 1:] != x[..., :-1])
    distinct = (new & ~absent[..., 1:]).sum(-1) + (~absent[..., :1]).sum(-1)
    return distinct / jnp.maximum(starts.sum(-1), 1)


def repetition(tokens: Array, length: Array, n: int) -> Array:
    """The share of n-grams that occurred earlier in the same sequence.

        Σᵢ [(xᵢ, …, xᵢ₊ₙ₋₁) occurs at some j < i] / number of n-grams,   0 without n-grams

    Args:
      tokens: x, int `[..., T]`.  length: int `[...]`, in [0, T].  n: the order, a positive int.
    Returns:
      float `[...]` in [0, 1).
    Raises:
      ValueError: for tokens or lengths that are not integers, shapes that do not fit, bad lengths, or n < 1.
    Reference: Welleck et al., 2020, arXiv:1908.04319, seq-rep-n.

    >>> repetition(jnp.array([1, 2, 1, 2, 1]), jnp.array(5), 2).item()
    0.5
    """
    check_counts("repetition", n=n)
    _check_sequences("repetition", "tokens", tokens, "length", length)
    seen, starts = (x[..., -1, :] for x in _seen(tokens, length, n))
    return (starts & (seen > 0)).sum(-1) / jnp.maximum(starts.sum(-1), 1)


def perplexity(log_prob: Array, mask: Array) -> Array:
    """Perplexity e^{-(1/n) Σ log p(xₜ | x₁…ₜ₋₁)} over the n tokens where `mask`.

    Args:
      log_prob: float `[..., T]`; masked elements may be NaN.  mask: bool `[..., T]`.
      For a corpus as a whole, reshape both to one axis.
    Returns:
      float `[...]`; NaN without a token.
    Raises:
      ValueError: if shapes differ or the mask is not bool.

    >>> round(perplexity(jnp.log(jnp.array([0.25, 0.25, 0.0])), jnp.array([True, True, False])).item(), 4)
    4.0
    """
    check_shapes("perplexity", log_prob=log_prob, mask=mask)
    if jnp.result_type(mask) != jnp.bool_:
        raise ValueError(f"perplexity: mask has dtype {jnp.result_type(mask)}; it must be bool")
    total, count = jnp.where(mask, log_prob, 0.0).sum(-1), mask.sum(-1)
    return jnp.where(count > 0, jnp.exp(-total / jnp.maximum(count, 1)), jnp.nan)


def lengths_before(tokens: Array, end: int) -> Array:
    """The number of tokens before the first end token, all if there is none.

    Args:
      tokens: int `[..., T]`.  end: the id of the end token.
    Returns:
      int32 `[...]`, in [0, T].

    >>> lengths_before(jnp.array([[5, 6, 0, 0], [5, 6, 7, 8]]), 0).tolist()
    [2, 4]
    """
    return (jnp.cumsum(tokens == end, -1) == 0).sum(-1, dtype=jnp.int32)
