"""Generation against loops over the parallel pass, beam search against every sequence, filters against NumPy."""

import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.text import generation
from purerl.text.generation import beam_search, best_of_n, generate, greedy, min_p, sample, top_k, top_p
from purerl.text.models import GPT2, gpt2
from purerl.text.tokens import byte_tokenizer, pad

END, V, T = 0, 5, 6
MODEL = gpt2(GPT2(vocab_size=V, context=12, width=8, num_layers=2, num_heads=2))
PROMPTS, LENGTH = pad([[3], [4, 1, 2, 2], [1, 1], [2, 4, 3]], fill=END)
N, P = PROMPTS.shape
TEMPERATURE = 0.7
CHOOSE = sample(TEMPERATURE)


@pytest.fixture(scope="module")
def params():
    """Weights large enough that no two tokens are nearly as probable; some texts end, others do not."""
    return jax.tree.map(lambda x: x if x.ndim == 1 else 8 * x, jax.jit(MODEL.init)(jax.random.key(35)))


@pytest.fixture(scope="module")
def features():
    return jax.jit(lambda params, tokens: MODEL.logits(params, MODEL.features(params, tokens)))


@partial(jax.jit, static_argnames=("max_tokens", "choose"))
def generated(params, key, prompts, length, max_tokens=T, choose=CHOOSE):
    return generate(MODEL, params, key, prompts, length, max_tokens, END, choose)


def next_logits(features, params, tokens):
    """float64 logits after a sequence, by the parallel pass over it."""
    row = np.zeros((1, MODEL.shape.context), np.int32)
    row[0, : len(tokens)] = tokens
    return np.asarray(features(params, row), np.float64)[0, len(tokens) - 1]


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


# --- filters ----------------------------------------------------------------------------------------------------------


def slow_top_k(logits, k):
    lowest = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    return [x if x >= lowest else -np.inf for x in logits]


def slow_top_p(logits, p):
    share = np.exp(log_softmax(logits))
    total, lowest = 0.0, None
    for i in np.argsort(-logits, kind="stable"):
        if lowest is None or total < p:
            total, lowest = total + share[i], logits[i]
    return [x if x >= lowest else -np.inf for x in logits]


def slow_min_p(logits, p):
    share = np.exp(log_softmax(logits))
    return [x if s >= p * share.max() else -np.inf for x, s in zip(logits, share, strict=True)]


def test_filters_against_loops():
    rows = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32).round(1)  # with ties
    assert any(len(set(row)) < 9 for row in rows.tolist())
    cases = [(top_k, slow_top_k, k) for k in (1, 2, 5, 9, 30)]
    cases += [(top_p, slow_top_p, p) for p in (1e-6, 0.31, 0.77, 0.993)]
    cases += [(min_p, slow_min_p, p) for p in (0.003, 0.21, 0.66)]
    got = jax.jit(lambda x: [keep(value)(x) for keep, _, value in cases])(rows)
    for (_, slow, value), result in zip(cases, got, strict=True):
        np.testing.assert_array_equal(result, [slow(row.astype(np.float64), value) for row in rows], err_msg=str(value))


def test_filters_that_keep_everything_and_those_that_keep_one():
    wide = jax.random.normal(jax.random.key(0), (4, 30_000))
    tied = jnp.array([[1.0, 2.0, 2.0]])

    def both(x, p):
        after = top_p(0.5)(top_k(2)(x))  # of what the first keeps
        return [top_k(40_000)(x), top_p(p)(x), min_p(1 - p)(x)], [top_k(1)(x), top_p(1e-30)(x), min_p(1.0)(x), after]

    everything, one = jax.jit(both)(wide, 1.0)
    for x in everything:
        np.testing.assert_array_equal(x, wide)
    for x in one[:3]:
        np.testing.assert_array_equal((x > -jnp.inf).sum(-1), 1)
    assert ((one[3] > -jnp.inf).sum(-1) <= 2).all() and (one[3].max(-1) == wide.max(-1)).all()
    for x in jax.jit(both)(tied, 1.0)[1][:3]:
        assert x[0, 0] == -jnp.inf and (x[0, 1:] == 2.0).all()  # what equals the last one kept is kept


def test_samples_come_from_the_tempered_and_filtered_softmax():
    logits = jnp.array([0.0, 1.0, 2.0, 3.0])
    draws = jax.jit(sample(0.8, top_k(3)))(jax.random.key(0), jnp.broadcast_to(logits, (40_000, 4)))
    expected = np.exp(np.arange(4) / 0.8) * [0, 1, 1, 1]
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / 40_000, expected / expected.sum(), atol=0.01)


# --- generation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choose",
    [greedy, sample(TEMPERATURE), sample(TEMPERATURE, top_k(3), top_p(0.9))],
    ids=["greedy", "sample", "filters"],
)
def test_generation_is_a_loop_over_the_parallel_pass(choose, params, features):
    key, temperature = jax.random.key(7), getattr(choose, "temperature", 1.0)
    out = jax.tree.map(np.asarray, generated(params, key, PROMPTS, LENGTH, choose=choose))
    texts, ended, away = [PROMPTS[n, : LENGTH[n]].tolist() for n in range(N)], [False] * N, 0.0
    choose = jax.jit(choose)
    for t in range(T):
        logits = np.array([next_logits(features, params, text) for text in texts])
        tokens = choose(jax.random.fold_in(key, t), jnp.asarray(logits, jnp.float32)).tolist()
        for n in range(N):
            if ended[n]:
                assert out.tokens[n, t] == END and out.log_prob[n, t] == 0
                continue
            assert out.tokens[n, t] == tokens[n]
            away = max(away, abs(out.log_prob[n, t] - log_softmax(logits[n] / temperature)[tokens[n]]))
            texts[n].append(tokens[n])
            ended[n] = tokens[n] == END
    print(f"log-probabilities of cached steps and the parallel pass differ by at most {away:.1e}")
    assert away <= 1e-4
    assert out.ended.tolist() == ended
    assert out.length.tolist() == [len(x) - n - e for x, n, e in zip(texts, LENGTH, ended, strict=True)]


def test_log_probs_are_those_of_the_parallel_pass(params):
    out = generated(params, jax.random.key(7), PROMPTS, LENGTH)
    again = jax.jit(partial(generation.completion_log_probs, MODEL, temperature=TEMPERATURE))(
        params, PROMPTS, LENGTH, out.tokens
    )
    there = np.arange(T) < np.asarray(out.length + out.ended)[:, None]
    assert there.any() and not there.all()
    assert np.abs(np.where(there, out.log_prob - again, 0.0)).max() <= 1e-4


def test_a_text_depends_neither_on_padding_nor_on_other_texts(params):
    key = jax.random.key(1)
    one = generated(params, key, PROMPTS, LENGTH)
    others = np.where(np.arange(N)[:, None] == 2, PROMPTS, (PROMPTS + 1) % V)
    wide = np.concatenate([np.where(np.arange(P) < LENGTH[:, None], PROMPTS, 3), np.full((N, 2), 4, np.int32)], 1)
    for prompts, length, rows in ((wide, LENGTH, range(N)), (others, np.where(np.arange(N) == 2, LENGTH, 1), [2])):
        other = generated(params, key, prompts, length)
        for n in rows:
            assert one.tokens[n].tolist() == other.tokens[n].tolist()
            np.testing.assert_allclose(one.log_prob[n], other.log_prob[n], atol=1e-5)


def test_more_tokens_continue_the_same_texts(params):
    few, many = (generated(params, jax.random.key(7), PROMPTS, LENGTH, max_tokens=n) for n in (3, T))
    np.testing.assert_array_equal(few.tokens, many.tokens[:, :3])
    assert (np.asarray(many.length) > 3).any()


@pytest.mark.parametrize("token, steps", [(END, 1), (1, T)])
def test_the_loop_stops_where_all_have_ended(token, steps, params):
    count = []

    def step(params, cache, last):
        jax.debug.callback(lambda: count.append(1))
        return MODEL.step(params, cache, last)

    always = lambda key, logits: jnp.full(logits.shape[:1], token)
    model = MODEL._replace(step=step)
    run = lambda params, key: generate(model, params, key, PROMPTS, LENGTH, T, END, always)
    out = jax.block_until_ready(jax.jit(run)(params, jax.random.key(0)))
    jax.effects_barrier()
    assert len(count) == steps
    assert (out.length == (0 if token == END else T)).all() and (out.ended == (token == END)).all()


def test_the_best_of_n_is_one_of_n(params):
    num, key = 3, jax.random.key(4)
    favour = jnp.array([0.0, 1.0, -1.0, 3.0, 0.5])

    def score(tokens, length, ended, index):
        total = favour[tokens].sum(-1)
        return jnp.where((index == 1) | (total > 8), jnp.nan, total)  # the second prompt cannot be scored

    program = jax.jit(partial(best_of_n, MODEL, max_tokens=T, end=END, num=num, score=score))
    best, value = program(params, key, PROMPTS, LENGTH, index=jnp.arange(N))
    every = generated(params, key, np.repeat(PROMPTS, num, 0), np.repeat(LENGTH, num), choose=generation.SOFTMAX)
    totals = np.asarray(score(every.tokens, every.length, every.ended, np.repeat(np.arange(N), num))).reshape(N, num)
    assert np.isnan(value[1]) and np.isnan(totals[1]).all()
    for n in range(N):
        at = 0 if n == 1 else int(np.nanargmax(totals[n]))
        np.testing.assert_array_equal(value[n], totals[n, at])
        for x, y in zip(best, every, strict=True):
            np.testing.assert_allclose(x[n], y[n * num + at], atol=1e-5)
    other, value = program(params, key, PROMPTS, LENGTH, index=jnp.array([1, 0, 2, 3]))
    np.testing.assert_array_equal(other.tokens[0], every.tokens[0])  # now it is the first that cannot
    assert np.isnan(value[0]) and not np.isnan(value[1])


# --- beam search ------------------------------------------------------------------------------------------------------

STEPS = 3


@partial(jax.jit, static_argnames="width")
def beams(params, width, length_penalty):
    return beam_search(MODEL, params, PROMPTS, LENGTH, STEPS, END, width, length_penalty)


def slow_scores(features, params, prompt, penalty):
    """The score of every completion of at most STEPS tokens, and its log-probability."""
    logs, found = {}, {}
    for size in range(STEPS):
        for prefix in itertools.product(range(1, V), repeat=size):
            logs[prefix] = log_softmax(next_logits(features, params, [*prompt, *prefix]))
    for prefix, of_next in logs.items():
        before = sum(logs[prefix[:i]][token] for i, token in enumerate(prefix))
        for token in range(V):
            if token == END or len(prefix) == STEPS - 1:
                found[(*prefix, token)] = before + of_next[token]
    return {y: (x / ((5 + len(y)) / 6) ** penalty, x) for y, x in found.items()}


@pytest.mark.parametrize("penalty", [0.0, 0.8, 3.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty, params, features):
    width = V ** (STEPS - 1)
    out = jax.tree.map(np.asarray, beams(params, width, penalty))
    for n in range(N):
        found = slow_scores(features, params, PROMPTS[n, : LENGTH[n]].tolist(), penalty)
        best = sorted(found.items(), key=lambda item: -item[1][0])[:width]
        np.testing.assert_allclose(out.score[n], [score for _, (score, _) in best], atol=1e-4)
        for k, (tokens, (_, log_prob)) in enumerate(best[:8]):
            assert out.tokens[n, k].tolist() == [*tokens] + [END] * (STEPS - len(tokens))
            assert out.ended[n, k] == (END in tokens) and out.length[n, k] == len(tokens) - (END in tokens)
            assert abs(out.log_prob[n, k] - log_prob) < 1e-4


def slow_beam(features, params, prompt, width, penalty):
    """Beam search with lists."""
    score = lambda x, size: x / ((5 + size) / 6) ** penalty
    alive, finished = [((), 0.0)], []
    for t in range(STEPS):
        longer = [
            ((*y, token), x + log)
            for y, x in alive
            for token, log in enumerate(log_softmax(next_logits(features, params, [*prompt, *y])))
        ]
        kept = sorted(longer, key=lambda item: -item[1])[:width]
        finished += [(score(x, t + 1), y) for y, x in kept if y[-1] == END]
        alive = [(y, x) for y, x in kept if y[-1] != END]
    return sorted(finished + [(score(x, STEPS), y) for y, x in alive], reverse=True)[:width]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_beams_against_lists(width, params, features):
    for penalty in (0.0, 2.0):
        out = beams(params, width, penalty)
        for n in range(N):
            best = slow_beam(features, params, PROMPTS[n, : LENGTH[n]].tolist(), width, penalty)
            for k, (score, tokens) in enumerate(best):
                assert out.tokens[n, k].tolist() == [*tokens] + [END] * (STEPS - len(tokens))
                assert abs(out.score[n, k] - score) < 1e-4


def test_a_beam_goes_on_while_a_longer_text_may_win():
    """A text of ones, which at first is less probable than the two that end, and does not end."""
    end = np.array([0.45, 0.6, *[0.01] * (T - 2)])
    model = MODEL._replace(
        shape=MODEL.shape._replace(vocab_size=2),
        cache=lambda count, size: jnp.zeros(count, jnp.int32),
        step=lambda params, cache, last: (cache, cache + 1),
        logits=lambda params, step: jnp.log(jnp.stack([end, 1 - end], -1))[step],
    )
    out = beam_search(model, (), np.ones((1, 1), np.int32), np.ones(1, np.int32), T, END, 2, length_penalty=3.0)
    logs = [np.log(1 - end[:k]).sum() + (np.log(end[k]) if k < T else 0.0) for k in range(T + 1)]
    scores = [log / ((5 + min(k + 1, T)) / 6) ** 3 for k, log in enumerate(logs)]
    assert np.argmax(scores) == T and scores[0] > logs[T] and scores[1] > logs[T]
    assert out.tokens[0, 0].tolist() == [1] * T and not out.ended[0, 0]
    np.testing.assert_allclose(out.score[0, 0], scores[T], rtol=1e-4)


def test_a_beam_of_one_is_greedy(params):
    wanted = generated(params, jax.random.key(0), PROMPTS, LENGTH, max_tokens=STEPS, choose=greedy)
    for penalty in (0.0, 3.0):
        out = beams(params, 1, penalty)
        np.testing.assert_array_equal(out.tokens[:, 0], wanted.tokens)
        np.testing.assert_array_equal(out.length[:, 0], wanted.length)
        np.testing.assert_array_equal(out.ended[:, 0], wanted.ended)
        np.testing.assert_allclose(out.log_prob[:, 0], wanted.log_prob.sum(-1), atol=1e-4)
    assert wanted.ended.any() and not wanted.ended.all()


# --- strings ----------------------------------------------------------------------------------------------------------


def test_strings_are_completed_in_batches():
    tokenizer = byte_tokenizer()
    model = gpt2(GPT2(tokenizer.size, 16, 8, 1, 2))
    params = jax.tree.map(lambda x: x if x.ndim == 1 else 20 * x, jax.jit(model.init)(jax.random.key(0)))
    prompts, key = ["ab", "", "é and", "x"], jax.random.key(0)
    write = partial(generation.write, model, params, tokenizer, key=key, max_tokens=5, choose=greedy)
    texts, ended = write(prompts, batch=3)
    tokens, length = pad([tokenizer.encode(x) or [tokenizer.end] for x in prompts], fill=1)
    out = jax.jit(lambda params: generate(model, params, key, tokens, length, 5, tokenizer.end, greedy))(params)
    assert texts == [tokenizer.decode(row.tolist()) for row in np.asarray(out.tokens)]
    assert ended == out.ended.tolist()
    assert write(prompts, batch=4, choose=None, beam=1) == (texts, ended)
    assert write([]) == ([], []) and len(set(texts)) > 1
    for call, said in (
        (
            lambda: write(["ab", "a" * 12]),
            r"prompt 1 \('aaaaaaaaaaaa'\) has 12 tokens; with max_tokens of 5 it must have",
        ),
        (lambda: write("ab"), "prompts is 'ab'; it must be a list of strings"),
        (lambda: write([b"ab"]), "it must be a list of strings"),
        (lambda: write(["ab"], batch=0), "batch is 0; it must be a positive int"),
        (lambda: generation.write(MODEL, {}, tokenizer, ["ab"], key), "the tokenizer has 257 tokens; it must have 5"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_every_batch_of_texts_is_sampled_anew():
    tokenizer = SimpleNamespace(size=V, end=END, encode=lambda text: [1], decode=str)
    alike = MODEL._replace(
        cache=lambda count, size: jnp.zeros(count, jnp.int32),
        step=lambda params, cache, last: (cache, cache),
        logits=lambda params, features: jnp.zeros((*features.shape, V)),
    )
    texts, _ = generation.write(alike, (), tokenizer, ["a"] * 4, jax.random.key(0), max_tokens=T, batch=2)
    assert len(set(texts)) == 4


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs(params):
    key, ids, sizes = jax.random.key(0), np.ones((2, 3), np.int32), np.array([1, 3])
    run = lambda prompts=ids, length=sizes, steps=4, **more: jax.eval_shape(
        lambda: generate(MODEL, params, key, prompts, length, steps, END, **more)
    )
    best = lambda num, score: jax.eval_shape(lambda: best_of_n(MODEL, params, key, ids, sizes, 4, END, num, score))
    for call, said in (
        (lambda: run(steps=10), r"max_tokens is 10; with prompts of 3 tokens it must be at most 9, for"),
        (lambda: run(steps=0), "max_tokens is 0; it must be a positive int"),
        (lambda: run(ids[0]), r"prompts is int32 \(3,\); it must be of ints \[N, P\]"),
        (lambda: run(ids * 1.0), "prompts is float"),
        (lambda: run(ids[0]), r"prompts is int32 \(3,\); it must be of ints \[N, P\]"),
        (lambda: run(length=np.ones((2, 1), np.int32)), r"length is int32 \(2, 1\); it must be of ints \[N\]"),
        (lambda: run(length=np.array([0, 3])), r"length is \[0 3\]; it must lie in \[1, 3\]"),
        (lambda: run(length=np.array([1])), r"prompts \(2, 3\) and length \(1,\) must have the same N"),
        (lambda: run(choose=3), "choose is 3; it must be a function"),
        (lambda: run(choose=lambda key, x: x), r"choose gives tokens of shape \(2, 5\); it must be \(2,\)"),
        (lambda: sample(0.0), "sample: temperature is 0.0; it must be above 0"),
        (lambda: sample(1.0, 5), r"sample: filters\[0\] is 5; it must be a function"),
        (lambda: top_k(0), "top_k: k is 0"),
        (lambda: top_p(0.0), "top_p: p is 0.0; it must be above 0, at most 1.0"),
        (lambda: top_p(1.1), "top_p: p is 1.1"),
        (lambda: min_p(-0.1), r"min_p: p is -0.1; it must lie in \[0.0, 1.0\]"),
        (lambda: beam_search(MODEL, params, ids, sizes, 2, END, 0), "width is 0"),
        (lambda: beam_search(MODEL, params, ids, sizes, 2, END, 2, -1.0), "length_penalty is -1.0"),
        (lambda: best(0, max), "num is 0"),
        (lambda: best(2, lambda tokens, *_: tokens), r"best_of_n: score gives shape \(4, 4\); it must be \(4,\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()
