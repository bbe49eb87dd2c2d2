"""Metrics of text: against slow references in Python, and against the figures of sacrebleu and rouge-score."""

import json
import math
from collections import Counter
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_metrics_golden as golden

from purerl.text import metrics, strings

N, R, T, S = 24, 3, 9, 11
SOURCE = np.random.default_rng(0)
X, Y = SOURCE.integers(0, 3, (N, T)).astype(np.int32), SOURCE.integers(0, 3, (N, R, S)).astype(np.int32)
LENGTHS = SOURCE.permutation(np.arange(N) % (T + 1)).astype(np.int32)
REFERENCE_LENGTHS = SOURCE.integers(0, S + 1, (N, R)).astype(np.int32)
MASK = np.arange(R) < SOURCE.integers(1, R + 1, N)[:, None]
X[:3], LENGTHS[:3] = Y[:3, 0, :T], T  # some candidates have long matches
TEXTS = [tuple(x[:n].tolist()) for x, n in zip(X, LENGTHS, strict=True)]
REFERENCES = [
    [tuple(y[:n].tolist()) for y, n, there in zip(*row, strict=True) if there]
    for row in zip(Y, REFERENCE_LENGTHS, MASK, strict=True)
]


# --- slow references --------------------------------------------------------------------------------------------------


def grams(text, n):
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def slow_statistics(text, references, order):
    matches, totals = [], []
    for n in range(1, order + 1):
        most = Counter()
        for reference in references:
            most |= grams(reference, n)
        matches.append((grams(text, n) & most).total())
        totals.append(grams(text, n).total())
    closest = min((abs(len(r) - len(text)), len(r)) for r in references)[1]
    return matches, totals, len(text), closest


def slow_bleu(statistics, smoothing="exp", value=None, effective=False):
    matches, totals, length, reference_length = statistics
    if not any(matches):
        return 0.0
    precisions, halves = [], 1
    for n, (m, c) in enumerate(zip(matches, totals, strict=True)):
        if smoothing == "add-k" and n:
            m, c = m + value, c + value
        if c == 0:
            break
        if m == 0 and smoothing == "exp":
            halves *= 2
            precisions.append(1 / halves / c)
        else:
            precisions.append(value / c if m == 0 and smoothing == "floor" else m / c)
    orders = len(precisions) if effective else len(matches)
    if len(precisions) < orders or 0 in precisions:
        return 0.0
    return math.exp(min(0, 1 - reference_length / length)) * math.prod(precisions) ** (1 / orders)


def slow_rouge(matches, total, reference_total):
    p, r = matches / max(total, 1), matches / max(reference_total, 1)
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


def slow_lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_chrf(text, reference, order, beta):
    pairs = []
    for n in range(1, order + 1):
        a, b = grams(text, n), grams(reference, n)
        if a and b:
            pairs.append(((a & b).total() / a.total(), (a & b).total() / b.total()))
    p, r = np.mean(pairs, axis=0) if pairs else (0, 0)
    return (1 + beta**2) * p * r / (beta**2 * p + r) if p + r else 0.0


def close(x, y, **tolerance):
    np.testing.assert_allclose(x, y, **{"rtol": 2e-6, "atol": 0, **tolerance})


BLEU = {
    "exp": ("exp", "exp", None),
    "none": ("none", "none", None),
    "floor": ("floor", "floor", 0.1),
    "add-k": ("add-k", "add-k", 1),
    "floor 0.02": (partial(metrics.smooth_floor, value=0.02), "floor", 0.02),
    "add-k 2.5": (partial(metrics.smooth_add_k, k=2.5), "add-k", 2.5),
}


@cache
def everything():
    """One program with every metric, of arrays of a batch: `f(x, lengths, y, reference_lengths, mask)`."""

    def f(x, length, y, lengths, mask):
        one, one_length = y[:, 0], lengths[:, 0]
        statistics = {order: metrics.bleu_statistics(x, length, y, lengths, mask, order) for order in (1, 2, 3, 4)}
        corpus = metrics.corpus_statistics(statistics[4])
        bleu = {
            f"{name}, {effective}": (
                metrics.bleu_score(statistics[4], smoothing, effective),
                metrics.bleu_score(corpus, smoothing, effective),
            )
            for name, (smoothing, *_) in BLEU.items()
            for effective in (False, True)
        }
        return {
            "counts": [metrics.ngram_counts(x, length, one, one_length, n) for n in (1, 2, 5)],
            "statistics": statistics,
            "bleu": bleu,
            "sentence": [metrics.bleu(x, length, y, lengths, mask, order) for order in (1, 2, 3, 4)],
            "corpus": metrics.corpus_bleu(x, length, y, lengths, mask),
            "self": metrics.self_bleu(x[:5], length[:5], order=3),
            "rouge": [metrics.rouge_n(x, length, one, one_length, n) for n in (1, 2)],
            "lcs": metrics.lcs_length(x, length, one, one_length),
            "rouge_l": metrics.rouge_l(x, length, one, one_length),
            "chrf": metrics.chrf(x, length, y, lengths, mask, order=4, beta=3.0),
            "distinct": [metrics.distinct_n(x[:4], length[:4], n) for n in (1, 2, 3)],
            "repetition": [metrics.repetition(x, length, n) for n in (1, 2, 3)],
        }

    return jax.jit(f)


@cache
def found():
    return jax.tree.map(np.asarray, everything()(X, LENGTHS, Y, REFERENCE_LENGTHS, MASK))


def test_counts_of_ngrams_against_a_loop():
    for n, counts in zip((1, 2, 5), found()["counts"], strict=True):
        for text, y, length, row in zip(TEXTS, Y[:, 0], REFERENCE_LENGTHS[:, 0], counts, strict=True):
            other = grams(tuple(y[:length].tolist()), n)
            expected = [other[text[i : i + n]] for i in range(max(len(text) - n + 1, 0))]
            assert row.tolist() == expected + [0] * (T - len(expected))


def test_bleu_against_a_loop():
    got = found()
    for order in (1, 2, 3, 4):
        slow = [slow_statistics(x, y, order) for x, y in zip(TEXTS, REFERENCES, strict=True)]
        for x, expected in zip(got["statistics"][order], zip(*slow, strict=True), strict=True):
            np.testing.assert_array_equal(x, expected)
        close(got["sentence"][order - 1], [slow_bleu(x, effective=True) for x in slow])
    whole = [np.sum(x, axis=0).tolist() for x in zip(*slow, strict=True)]
    for name, (_, smoothing, value) in BLEU.items():
        for effective in (False, True):
            sentence, corpus = got["bleu"][f"{name}, {effective}"]
            close(sentence, [slow_bleu(x, smoothing, value, effective) for x in slow])
            close(corpus, slow_bleu(whole, smoothing, value, effective))
    close(got["corpus"], slow_bleu(whole))
    assert (np.array([x[0] for x in slow])[:, 0] > 0).sum() > 15  # there is something to compare


def test_self_bleu_against_a_loop():
    texts = TEXTS[:5]
    slow = [slow_bleu(slow_statistics(x, texts[:i] + texts[i + 1 :], 3), effective=True) for i, x in enumerate(texts)]
    close(found()["self"], slow)


def test_rouge_against_a_loop():
    got = found()
    references = [tuple(y[:n].tolist()) for y, n in zip(Y[:, 0], REFERENCE_LENGTHS[:, 0], strict=True)]
    for n in (1, 2):
        slow = []
        for x, y in zip(TEXTS, references, strict=True):
            a, b = grams(x, n), grams(y, n)
            slow.append(slow_rouge((a & b).total(), a.total(), b.total()))
        close(np.stack(got["rouge"][n - 1], -1), slow)
    lengths = [slow_lcs(x, y) for x, y in zip(TEXTS, references, strict=True)]
    assert got["lcs"].tolist() == lengths
    close(
        np.stack(got["rouge_l"], -1),
        [slow_rouge(m, len(x), len(y)) for m, x, y in zip(lengths, TEXTS, references, strict=True)],
    )


def test_chrf_against_a_loop():
    slow = [max(slow_chrf(x, y, 4, 3) for y in row) for x, row in zip(TEXTS, REFERENCES, strict=True)]
    close(found()["chrf"], slow)


def test_diversity_and_repetition_against_a_loop():
    for n in (1, 2, 3):
        pooled = sum((grams(x, n) for x in TEXTS[:4]), Counter())
        close(found()["distinct"][n - 1], len(pooled) / max(pooled.total(), 1))
        each = [grams(x, n) for x in TEXTS]
        close(found()["repetition"][n - 1], [1 - len(x) / x.total() if x else 0 for x in each])


def test_padding_has_no_effect_bit_for_bit():
    """Other padding, and other tokens and lengths of references that are not there."""
    want, source = jax.tree.leaves(found()), np.random.default_rng(1)
    for low, high in ((0, 3), (-5, 0), (2**31 - 2, 2**31 - 1)):
        pad = lambda x, n, low=low, high=high: np.where(
            np.arange(x.shape[-1]) < n[..., None], x, source.integers(low, high, x.shape)
        ).astype(np.int32)
        x, y = pad(X, LENGTHS), pad(Y, REFERENCE_LENGTHS)
        y = np.where(MASK[..., None], y, source.integers(0, 3, Y.shape)).astype(np.int32)
        lengths = np.where(MASK, REFERENCE_LENGTHS, source.integers(0, S, MASK.shape)).astype(np.int32)
        assert MASK[:, 0].all()
        for a, b in zip(want, jax.tree.leaves(everything()(x, LENGTHS, y, lengths, MASK)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_more_padding_and_more_absent_references_give_the_same():
    f = lambda g: lambda *a: jax.tree.map(np.asarray, jax.jit(g)(*a))
    wide = np.pad(X, ((0, 0), (0, 4)), constant_values=1), LENGTHS, np.pad(Y, ((0, 0), (0, 2), (0, 3)))
    wide = (*wide, np.pad(REFERENCE_LENGTHS, ((0, 0), (0, 2))), np.pad(MASK, ((0, 0), (0, 2))))
    np.testing.assert_array_equal(f(metrics.bleu)(*wide), found()["sentence"][3])
    x, length, y, lengths, _ = wide
    np.testing.assert_array_equal(f(metrics.lcs_length)(x, length, y[:, 0], lengths[:, 0]), found()["lcs"])


def test_a_batch_is_its_members():
    mapped = jax.jit(jax.vmap(metrics.bleu))(X, LENGTHS, Y, REFERENCE_LENGTHS, MASK)
    np.testing.assert_array_equal(mapped, found()["sentence"][3])
    mapped = jax.jit(jax.vmap(metrics.rouge_l))(X, LENGTHS, Y[:, 0], REFERENCE_LENGTHS[:, 0])
    np.testing.assert_array_equal(mapped, found()["rouge_l"])
    # leading axes broadcast: all candidates to the references of the first
    shared = jax.jit(metrics.bleu)(X, LENGTHS, Y[:1], REFERENCE_LENGTHS[:1], MASK[:1])
    slow = [slow_bleu(slow_statistics(x, REFERENCES[0], 4), effective=True) for x in TEXTS]
    close(shared, slow)


# --- identities -------------------------------------------------------------------------------------------------------


def test_a_text_compared_to_itself_has_score_one():
    long = np.maximum(LENGTHS, 4)

    @jax.jit
    def scores(x, n, same, lengths):
        of = (f(x, n, x[:, None], n[:, None]) for f in (metrics.bleu, metrics.chrf))
        return *of, *metrics.rouge_l(x, n, x, n), metrics.self_bleu(same, lengths), metrics.repetition(same, lengths, T)

    *ones, zeros = scores(X, long, np.broadcast_to(X[:1], (3, T)), np.full(3, T, np.int32))
    for x in ones:
        close(x, np.ones(x.shape))
    close(zeros, np.zeros(3))
    close(jax.jit(metrics.distinct_n, static_argnums=2)(np.arange(8).reshape(2, 4), np.array([4, 4]), 2), 1.0)


def test_rouge_swaps_precision_and_recall():
    y, n = Y[:, 0], REFERENCE_LENGTHS[:, 0]
    for f in (metrics.rouge_l, lambda *x: metrics.rouge_n(*x, 2)):
        forward, back = jax.jit(lambda f=f: (f(X, LENGTHS, y, n), f(y, n, X, LENGTHS)))()
        np.testing.assert_array_equal(forward.precision, back.recall)
        np.testing.assert_array_equal(forward.recall, back.precision)
        np.testing.assert_array_equal(forward.f, back.f)
        p, r = np.asarray(forward.precision, np.float64), np.asarray(forward.recall, np.float64)
        close(forward.f, 2 * p * r / np.where(p + r > 0, p + r, 1), atol=1e-7)


def test_lengths_and_the_brevity_penalty_by_hand():
    there = np.array([True, True, True])
    assert metrics.closest_length(jnp.array(5), jnp.array([7, 3, 9]), there).item() == 3
    assert metrics.closest_length(jnp.array(6), jnp.array([7, 3, 9]), there).item() == 7
    assert metrics.closest_length(jnp.array(6), jnp.array([7, 3, 9]), ~there).item() == -1
    penalty = metrics.brevity_penalty(jnp.array([0, 0, 1, 5, 6]), jnp.array([3, 0, 21, 5, 5]))
    close(penalty, [0, 1, math.exp(-20), 1, 1])
    assert metrics.lengths_before(jnp.array([[0, 1], [1, 0], [1, 1]]), 0).tolist() == [0, 1, 2]


def test_perplexity_is_that_of_the_masked_mean():
    log_prob, mask = np.log(SOURCE.uniform(0.01, 1, (4, 7))).astype(np.float32), SOURCE.random((4, 7)) < 0.6
    mask[0] = True
    slow = [math.exp(-np.mean(x[m].astype(np.float64))) for x, m in zip(log_prob, mask, strict=True)]
    close(metrics.perplexity(np.where(mask, log_prob, np.nan), mask), slow)
    close(metrics.perplexity(np.full(5, -math.log(50)), np.ones(5, bool)), 50, rtol=1e-5)
    assert math.isnan(metrics.perplexity(np.zeros(3), np.zeros(3, bool)).item())


def test_without_a_reference_the_score_is_nan():
    """A reward that cannot be scored is NaN, in this row alone; so is the score of a corpus with such a row."""
    mask = MASK.copy()
    mask[4] = False
    for f in (metrics.bleu, metrics.chrf):
        score = np.asarray(jax.jit(f)(X, LENGTHS, Y, REFERENCE_LENGTHS, mask))
        assert np.isnan(score[4]) and np.isfinite(np.delete(score, 4)).all()
    assert math.isnan(jax.jit(metrics.corpus_bleu)(X, LENGTHS, Y, REFERENCE_LENGTHS, mask).item())


def test_texts_of_no_size():

    @jax.jit
    def scores(empty, zero, x, n, y, lengths):
        zeros = metrics.lcs_length(empty, zero, x, n), metrics.lcs_length(x, n, empty, zero)
        zeros += metrics.bleu(empty, zero, y, lengths), metrics.repetition(empty, zero, 2)
        return *zeros, metrics.distinct_n(empty, zero, 2)

    empty, zero = np.zeros((2, 0), np.int32), np.zeros(2, np.int32)
    for score in scores(empty, zero, X[:2], LENGTHS[:2], Y[:2], REFERENCE_LENGTHS[:2]):
        assert not np.asarray(score).any()


BAD = {
    "tokens of floats": (lambda: metrics.repetition(np.zeros(3), np.array(1), 1), "tokens has dtype float32"),
    "lengths of another shape": (lambda: metrics.repetition(X, LENGTHS[:3], 1), r"length has shape \(3,\)"),
    "lengths too large": (lambda: metrics.repetition(X, LENGTHS + T, 1), r"length is .* \[0, 9\]"),
    "negative lengths": (lambda: metrics.repetition(X, LENGTHS - 9, 1), r"length is .* \[0, 9\]"),
    "order 0": (lambda: metrics.repetition(X, LENGTHS, 0), "n is 0; it must be a positive int"),
    "order of BLEU": (lambda: metrics.bleu(X, LENGTHS, Y, REFERENCE_LENGTHS, order=1.5), "order is 1.5"),
    "no reference": (
        lambda: metrics.bleu(X, LENGTHS, Y[:, :0], REFERENCE_LENGTHS[:, :0]),
        r"references has shape \(24, 0, 11\)",
    ),
    "a reference without its axis": (lambda: metrics.bleu(X[0], LENGTHS[0], Y[0, 0], LENGTHS[0]), "reference"),
    "leading axes": (
        lambda: metrics.bleu(X, LENGTHS, Y[:5], REFERENCE_LENGTHS[:5]),
        r"candidate \(24,\), references \(5,\)",
    ),
    "a mask of ints": (lambda: metrics.bleu(X, LENGTHS, Y, REFERENCE_LENGTHS, MASK * 1), "reference_mask is int"),
    "a mask of another shape": (
        lambda: metrics.chrf(X, LENGTHS, Y, REFERENCE_LENGTHS, MASK[:, :1]),
        r"reference_mask is bool \(24, 1\); it must be bool \(24, 3\)",
    ),
    "smoothing": (
        lambda: metrics.bleu(X, LENGTHS, Y, REFERENCE_LENGTHS, smoothing="add"),
        "smoothing is 'add'; it must be a function or one of none, floor, add-k, exp",
    ),
    "a group of one": (lambda: metrics.self_bleu(X[:1], LENGTHS[:1]), "at least two members"),
    "a group without its axis": (lambda: metrics.distinct_n(X[0], LENGTHS[0], 1), "at least 2 axes"),
    "a mask of floats": (lambda: metrics.perplexity(np.zeros(2), np.ones(2)), "mask has dtype float"),
    "shapes of log-probabilities": (lambda: metrics.perplexity(np.zeros(2), np.ones(3, bool)), "shapes must be equal"),
    "references of strings": (lambda: strings.bleu(["a", "b"], ["a"]), "references has 1 of them"),
    "one string for two": (lambda: strings.bleu(["a", "b"], "ab"), "references has no list of them"),
    "no references": (lambda: strings.sentence_bleu(["a"], [[]]), r"references\[0\] is empty"),
    "no candidates": (lambda: strings.chrf([], []), "candidates is empty"),
    "what is no string": (
        lambda: strings.rouge(["a", 3], ["a", "b"]),
        "candidates is .*; it must be a string or a list",
    ),
    "two references for ROUGE": (lambda: strings.rouge(["a"], [["a", "b"]]), r"references\[0\] has 2 texts"),
    "word order": (lambda: strings.chrf("a", "a", word_order=-1), "word_order is -1"),
    "beta": (lambda: strings.sentence_chrf("a", "a", beta=-1.0), "beta is -1.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


# --- strings ----------------------------------------------------------------------------------------------------------


@cache
def table():
    return json.loads(golden.TABLE.read_text(encoding="utf-8"))


def sentence_figures(candidates, references):
    """The figures of `golden.sentence_figures`, `[rows, ...]`."""
    bleu = partial(strings.sentence_bleu, candidates, references)
    rouge = strings.rouge(candidates, [x[0] for x in references])
    figures = {
        "bleu": [bleu(order=n) for n in (1, 2, 3, 4)],
        "smoothing": [bleu(smoothing=name) for name in ("none", "floor", "add-k")],
        "fixed_order": [
            bleu(effective_order=False),
            bleu(effective_order=False, smoothing=partial(metrics.smooth_floor, value=0.5)),
        ],
        "rouge": [x for name in ("rouge1", "rouge2", "rougeL") for x in rouge[name]],
        "chrf": [strings.sentence_chrf(candidates, references, word_order=n) for n in (0, 2)],
    }
    return {name: np.stack(x, 1) for name, x in figures.items()}


def corpus_figures(candidates, references):
    """The figures of `golden.corpus_figures`."""
    bleu, chrf = partial(strings.bleu, candidates, references), partial(strings.chrf, candidates, references)
    scores = [bleu(order=n) for n in (1, 2, 3, 4)] + [bleu(smoothing=name) for name in ("none", "floor", "add-k")]
    return [*scores, chrf(), chrf(word_order=2), chrf(beta=1)]


def check_sentences(candidates, references, figures):
    """Compares with a dict of figures `[rows, ...]`, eight rows at a time: programs of tests are slow."""
    for start in range(0, len(candidates), 8):
        some = slice(start, start + 8)
        for name, x in sentence_figures(candidates[some], references[some]).items():
            np.testing.assert_allclose(x, figures[name][some], rtol=1e-9, atol=0, err_msg=name)


def rows_of_the_table():
    """Candidates, references, and figures by their names."""
    candidates, references, *figures = zip(*table()["rows"], strict=True)
    names = "bleu", "smoothing", "fixed_order", "rouge", "chrf"
    return candidates, references, dict(zip(names, figures, strict=True))


def test_strings_have_the_figures_of_the_table():
    candidates, references, figures = rows_of_the_table()
    rows = [*range(24), *range(len(candidates) - 8, len(candidates))]
    pick = lambda x: [x[i] for i in rows]
    check_sentences(pick(candidates), pick(references), {name: pick(x) for name, x in figures.items()})


@pytest.mark.wide
def test_all_strings_of_the_table_have_its_figures():
    candidates, references, figures = rows_of_the_table()
    assert len(candidates) > 300
    np.testing.assert_allclose(
        strings.sentence_bleu(candidates, references), [x[3] for x in figures["bleu"]], rtol=1e-9
    )
    rouge = strings.rouge(candidates, [x[0] for x in references])
    rouge = np.stack([x for name in ("rouge1", "rouge2", "rougeL") for x in rouge[name]], 1)
    np.testing.assert_allclose(rouge, figures["rouge"], rtol=1e-9)
    np.testing.assert_allclose(strings.bleu(candidates, references), table()["whole"][3], rtol=1e-9)


def test_corpora_have_the_figures_of_the_table():
    candidates, references, *_ = zip(*table()["rows"], strict=True)
    for start, end, expected in table()["corpora"]:
        np.testing.assert_allclose(corpus_figures(candidates[start:end], references[start:end]), expected, rtol=1e-9)


def test_compiled_scores_have_the_figures_of_the_table():
    """In float32 the figures are the same up to its rounding."""
    candidates, references, bleu, *_ = zip(*table()["rows"], strict=True)
    program = jax.jit(metrics.bleu)
    batches = strings._batches(list(candidates), list(references), strings.tokenize_13a)
    for k, (count, batch) in enumerate(batches):
        score = np.asarray(program(*batch))[:count]
        assert score.dtype == np.float32
        close(score, np.array(bleu)[k * 128 : k * 128 + count, 3] / 100, rtol=1e-6)


def test_one_string_is_a_batch_of_one():
    assert strings.bleu("a b c d", "a b c e") == strings.bleu(["a b c d"], [["a b c e"]])
    assert strings.sentence_bleu("a b", ["x", "a b"], order=2).tolist() == [100.0]
    assert strings.rouge("A b", "a, b!")["rouge2"].f.tolist() == [1.0]


def test_more_texts_than_one_call_takes():
    texts = [f"text {i} of many" for i in range(300)]
    scores = strings.sentence_bleu(texts, texts[::-1])
    assert scores.shape == (300,) and scores[7] == strings.sentence_bleu(texts[7], texts[292])[0]
    assert strings.bleu(texts, texts) == pytest.approx(100.0)


def test_strings_have_the_figures_of_the_libraries():
    """Of other texts than those of the table."""
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    rows = [*golden.ODD[-8:], *golden.pairs(24, seed=1)]
    candidates, references = zip(*rows, strict=True)
    expected = [golden.sentence_figures(*row) for row in rows]
    check_sentences(candidates, references, {name: [row[name] for row in expected] for name in expected[0]})
    some = corpus_figures(candidates[-8:], references[-8:])
    np.testing.assert_allclose(some, golden.corpus_figures(rows[-8:]), rtol=1e-9)


def test_tokens_are_those_of_the_libraries():
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    rouge = pytest.importorskip("rouge_score.tokenize")
    chrf = pytest.importorskip("sacrebleu.metrics").CHRF(word_order=2)
    source = np.random.default_rng(2)
    letters = list(" \t\n.,-'0159abZ!&;<>|{}[]()\"/:@~^_`éßİ\u2028\u00a0東")
    texts = ["".join(source.choice(letters, 30)) for _ in range(500)]
    for text in [*golden.sentences()[::10], *(x for x, _ in golden.ODD), *texts]:
        assert strings.tokenize_13a(text) == tokenizer(text.rstrip()).split()
        assert strings.tokenize_rouge(text) == rouge.tokenize(text, None)
        assert strings.tokenize_chrf(text) == chrf._remove_punctuation(text)
