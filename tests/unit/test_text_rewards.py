"""Rewards of completions against loops over single completions; what cannot be scored stays out of means."""

import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import losses, rewards
from purerl.core import Agent, Transition
from purerl.testing import check_reward
from purerl.text import rewards as terms
from purerl.text import strings
from purerl.text.data import Pairs, task
from purerl.text.environment import TextGeneration
from purerl.text.models import GPT2, gpt2
from purerl.text.tokens import Tokenizer, byte_tokenizer, character_tokenizer, pad

TOKENIZER = character_tokenizer(["abc"])
PAIRS = Pairs(["ab", "c", "ba", "bb"], [["cabc", "ab"], [], ["bcab"], ["aaca", "b"]])  # one without references
TASK = task(TOKENIZER, PAIRS, 3, 6)
END, V, T, N = TOKENIZER.end, TOKENIZER.size, 6, 10
MODEL = gpt2(GPT2(V, 3 + T, 8, 1, 2))
PARAMS = jax.tree.map(lambda x: x if x.ndim == 1 else 10 * x, jax.jit(MODEL.init)(jax.random.key(0)))


def block_of(texts, index, pad=END, steps=T, end=END):
    """Transitions in which texts were written, one environment each; what follows an end is `pad`."""
    ended = [len(x) < steps for x in texts]
    rows = [[*x, end, *np.broadcast_to(pad, steps)][:steps] for x in texts]
    action = jnp.asarray(np.array(rows, np.int32).T)
    count = np.array([len(x) + e for x, e in zip(texts, ended, strict=True)])
    time = np.arange(steps)[:, None]
    valid, terminated = jnp.asarray(time < count), jnp.asarray(time == count - 1)
    info = {"index": jnp.where(valid, jnp.asarray(index), 7)}  # of another prompt after a reset
    zero = jnp.zeros((steps, len(texts)))
    return Transition(zero, action, zero, zero, terminated, terminated & False, valid, (), info)


SOURCE = np.random.default_rng(1)
TEXTS = [SOURCE.integers(0, END, n).tolist() for n in (0, 1, 2, 3, 4, 4, 5, 6, 6, 5)]
TEXTS[4], TEXTS[2] = TOKENIZER.encode("bcab"), TOKENIZER.encode("ab")
INDEX = np.array([0, 1, 0, 2, 2, 3, 0, 3, 1, 0])
BLOCK = block_of(TEXTS, INDEX)
LAST = np.array([min(len(x), T - 1) for x in TEXTS])


def of_each(given, last=LAST):
    """The reward `[T, N]` of each completion; there is none before its last step, nor after it."""
    given, rows = np.asarray(given), np.arange(given.shape[1])
    elsewhere = given.copy()
    elsewhere[last, rows] = 0
    assert (elsewhere == 0).all() and given.dtype == np.float32
    return given[last, rows]


def slow(score):
    """`score(texts, references of each) -> list` of strings with a token a character; NaN without references."""
    texts = [TOKENIZER.decode(text) for text in TEXTS]
    references = [PAIRS.references[index] for index in INDEX]
    some = [n for n in range(N) if references[n]]
    found = np.full(N, np.nan)
    found[some] = score([texts[n] for n in some], [references[n] for n in some])
    return found


def slow_bleu(order, smoothing):
    return lambda x, refs: strings.sentence_bleu(x, refs, order, smoothing, tokenize=list) / 100


def slow_rouge(name):
    def score(texts, references):
        of_text = lambda text, some: max(strings.rouge(text, y, tokenize=list)[name].f[0] for y in some)
        return [of_text(x, some) for x, some in zip(texts, references, strict=True)]

    return score


def slow_match(texts, references):
    return [len(x) < T and x in some for x, some in zip(texts, references, strict=True)]


REFERENCED = {
    "bleu": (terms.bleu, slow_bleu(4, "exp")),
    "bleu-2": (lambda task: terms.bleu(task, 2, "add-k"), slow_bleu(2, "add-k")),
    "rouge_1": (terms.rouge_1, slow_rouge("rouge1")),
    "rouge_2": (terms.rouge_2, slow_rouge("rouge2")),
    "rouge_l": (terms.rouge_l, slow_rouge("rougeL")),
    "chrf": (lambda task: terms.chrf(task, 3), lambda x, refs: strings.sentence_chrf(x, refs, 3) / 100),
    "exact_match": (terms.exact_match, slow_match),
}


TERMS = {name: make(TASK) for name, (make, _) in REFERENCED.items()} | {
    "distinct": terms.distinct(END, 2),
    "repetition": terms.repetition_penalty(END, 1),
    "length": terms.length_penalty(END, 2, 4),
    "overlong": terms.overlong_penalty(END, 5, 2),
    "fluency": terms.fluency(MODEL, PARAMS, TASK),
    "perplexity": terms.perplexity(MODEL, PARAMS, TASK),
    "sentiment": terms.sentiment(TOKENIZER, {"ab": 1.5, "c": -1.0}),
    "a user's": terms.of_completions(lambda tokens, *_: 1.0 * tokens.sum(-1), END),
}


@pytest.fixture(scope="module")
def every():
    """All terms of a block, in one program."""
    return jax.jit(lambda tr: {name: term(tr) for name, term in TERMS.items()})


@pytest.mark.parametrize("name", REFERENCED)
def test_terms_against_references(name, every):
    make, score = REFERENCED[name]
    wanted = slow(score)
    np.testing.assert_allclose(of_each(every(BLOCK)[name]), wanted, atol=1e-6)
    assert np.isnan(wanted).sum() == (INDEX == 1).sum() and len(set(wanted[INDEX != 1])) > 1
    with pytest.raises(ValueError, match=f"{name.split('-')[0]}: the task has no references"):
        make(task(TOKENIZER, ["ab"], 3, 1))


def grams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def test_terms_of_the_completion_alone(every):
    share = lambda part, all_of: part / max(len(all_of), 1)
    wanted = {
        "distinct": [share(len(set(grams(x, 2))), grams(x, 2)) for x in TEXTS],
        "repetition": [-share(len(x) - len(set(x)), x) for x in TEXTS],
        "length": [-max(2 - len(x), 0, len(x) - 4) for x in TEXTS],
        "overlong": [min(0.0, max(-1.0, (5 - 2 - len(x)) / 2)) for x in TEXTS],
        "a user's": [sum(x) + END * (T - len(x)) for x in TEXTS],
        "sentiment": [1.5 * (x == "ab") - (x == "c") for x in map(TOKENIZER.decode, TEXTS)],
    }
    for name, x in wanted.items():
        np.testing.assert_allclose(of_each(every(BLOCK)[name]), x, rtol=1e-6, err_msg=name)
        assert len(set(x)) > 1


def test_likelihood_under_a_frozen_model(every):
    texts = [TASK.prompts[i, : TASK.prompt_length[i]].tolist() for i in INDEX]
    new = [[*text, END][:T] for text in TEXTS]
    ids, _ = pad([x + y for x, y in zip(texts, new, strict=True)], 3 + T, END)
    logits = np.asarray(jax.jit(lambda ids: MODEL.logits(PARAMS, MODEL.features(PARAMS, ids)))(ids), np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = [np.mean([logs[n, len(texts[n]) - 1 + t, token] for t, token in enumerate(new[n])]) for n in range(N)]
    np.testing.assert_allclose(of_each(every(BLOCK)["fluency"]), wanted, atol=1e-4)
    np.testing.assert_allclose(of_each(every(BLOCK)["perplexity"]), np.exp(-np.array(wanted)), rtol=1e-4)


def test_what_follows_an_end_has_no_effect_bit_for_bit(every):
    other = block_of(TEXTS, INDEX, pad=[0, 1, 2, 1, 0, 2])
    assert (other.action != BLOCK.action).any()
    for x, y in zip(jax.tree.leaves(every(BLOCK)), jax.tree.leaves(every(other)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_contract(key):
    check_reward(rewards.term(TERMS["length"]), BLOCK, key)


# --- sentiment --------------------------------------------------------------------------------------------------------

LEXICON = {"good": 2.0, "goods": 0.25, "goo": 32.0, "not": -1.0, "isn't": -0.5, "x1": 8.0, "o": 0.125}
PIECES = [
    " good",
    "good",
    "s",
    "'",
    " not",
    "GOOD",
    " is",
    "n't",
    "x1",
    "é",
    ", ",
    "\n",
    "o",
    "goo",
    "d",
    "--",
    " ",
    "G",
]


def pieces():
    """A tokenizer whose tokens are pieces of words, and the last one the end token."""
    end = len(PIECES)
    decode = lambda ids: "".join(PIECES[i] for i in ids[: ids.index(end) if end in ids else None])
    return Tokenizer(lambda text: [], decode, end + 1, end, lambda folder: None)


def slow_sentiment(text, lexicon):
    words = re.findall(rb"[0-9a-z\x80-\xff]+(?:'[0-9a-z\x80-\xff]+)*", text.encode().lower())
    return sum(lexicon.get(word.decode(errors="replace"), 0.0) for word in words)


@pytest.mark.parametrize("tokenizer", [pieces(), byte_tokenizer()], ids=["pieces", "bytes"])
def test_sentiment_counts_whole_words_of_the_text(tokenizer):
    steps, end = 14, tokenizer.end
    source = np.random.default_rng(2)
    if end == 256:
        words = ["Good", "good's", "'good'", "not", "isn't", "(goo)", "ISN'T", "no t", "good\ngoods", "x1", "good", "'"]
        texts = [" ".join(source.choice(words, 3)).encode()[:steps] for _ in range(80)]
        texts = [list(x) for x in (*texts, b"goo\xc3\xa9 goo", b"\xffgood not", b"good''s good'")]
    else:
        texts = [source.integers(0, end, source.integers(0, steps + 1)).tolist() for _ in range(300)]
    wanted = [slow_sentiment(tokenizer.decode(x), LEXICON) for x in texts]
    tr = block_of(texts, np.zeros(len(texts), int), steps=steps, end=end)
    got = of_each(jax.jit(terms.sentiment(tokenizer, LEXICON))(tr), [min(len(x), steps - 1) for x in texts])
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert len(set(wanted)) > 12


@pytest.mark.skipif(find_spec("vaderSentiment") is None, reason="the extra text is not installed")
def test_the_lexicon_of_vader():
    lexicon = terms.vader_lexicon()
    assert len(lexicon) > 7000 and lexicon["good"] == 1.9 and ":)" not in lexicon
    text = "A wonderful, HAPPY day: no disaster; goodness!"
    tr = block_of([list(text.encode())], np.array([0]), steps=50, end=256)
    got = of_each(jax.jit(terms.sentiment(byte_tokenizer(), lexicon))(tr), [len(text)])
    words = ("wonderful", "happy", "no", "disaster", "goodness")
    np.testing.assert_allclose(got, sum(lexicon[x] for x in words), rtol=1e-5)
    np.testing.assert_allclose(got, slow_sentiment(text, lexicon), rtol=1e-5)


def test_without_the_lexicon_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(terms, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package vaderSentiment: pip install 'purerl\[text\]'"):
        terms.vader_lexicon()


# --- host -------------------------------------------------------------------------------------------------------------


def test_any_function_of_strings():
    calls = []

    def score(prompts, texts):
        calls.append((prompts, texts))
        return [None if "cc" in x else len(p) + x.count("a") / 4 for p, x in zip(prompts, texts, strict=True)]

    term = terms.host(score, TOKENIZER, TASK)
    strings = [TOKENIZER.decode(x) for x in TEXTS]
    prompts = [PAIRS.prompts[i] for i in INDEX]
    wanted = np.array([np.nan if x is None else x for x in score(prompts, strings)], np.float32)
    assert np.isnan(wanted).any() and not np.isnan(wanted).all()
    calls.clear()
    np.testing.assert_array_equal(of_each(jax.jit(term)(BLOCK)), wanted)
    assert calls == [(prompts, strings)]
    calls.clear()
    several = jax.tree.map(lambda x: jnp.stack([x, x]), BLOCK)
    given = jax.jit(jax.vmap(term))(several)
    np.testing.assert_array_equal(given[1][LAST, np.arange(N)], wanted)
    assert calls == [(prompts * 2, strings * 2)]  # one call for all of them


def test_no_argument_of_the_callback_is_large_enough_for_a_deadlock(monkeypatch):
    """XLA copies arguments above 100 kB in another thread, and with two devices on two cores there may be none."""
    steps, number, seeds, calls = 200, 300, 2, []

    def record(function, like, *given):
        calls.append([x.size * x.dtype.itemsize for x in given])
        return jnp.zeros(like.shape, like.dtype)

    monkeypatch.setattr(jax, "pure_callback", record)
    term = terms.host(lambda prompts, texts: [0.0] * len(texts), TOKENIZER, TASK)
    like = lambda x: jax.ShapeDtypeStruct((seeds, steps, number), x.dtype)
    jax.eval_shape(jax.vmap(term), jax.tree.map(like, BLOCK))
    assert sum(calls[-1]) == 4 * seeds * number * (steps + 2) and max(calls[-1]) <= 2**16


def test_errors_of_a_function_of_strings_keep_their_message():
    def broken(prompts, texts):
        raise RuntimeError(f"the judge is away, with {len(texts)} texts")

    for function, said in (
        (broken, f"the judge is away, with {N} texts"),
        (lambda prompts, texts: [1.0], f"gives 1 scores for {N} completions"),
    ):
        with pytest.raises(Exception, match=said):
            jax.block_until_ready(jax.jit(terms.host(function, TOKENIZER, TASK))(BLOCK))


# --- what cannot be scored --------------------------------------------------------------------------------------------


def test_the_mean_is_over_what_can_be_scored():
    source = np.random.default_rng(0)
    x, valid = source.normal(size=(5, 6)).astype(np.float32), source.random((5, 6)) < 0.7
    x[2, 1], valid[2, 1] = np.nan, True
    x[3, 4], valid[3, 4] = np.nan, False  # it does not count
    wanted = np.mean([x[t, n] for n in range(6) if n != 1 for t in range(5) if valid[t, n]])
    mean = jax.jit(losses.scorable_mean)
    np.testing.assert_allclose(mean(x, valid), wanted, rtol=1e-5)
    assert np.isnan(mean(x * np.nan, valid)) and mean(x, np.zeros_like(valid)) == 0
    x[0, 0], valid[0, 0] = np.inf, True
    assert np.isinf(mean(x, valid))
    np.testing.assert_array_equal(mean(np.ones((5, 6), np.float32), valid), 1.0)


def writer():
    """An agent that writes at random, and reports the rewards that it is given."""

    def act(key, state, memory, obs):
        return jax.random.randint(key, obs["token"].shape, 0, V), memory, ()

    def update(key, state, data):
        tr = data.transitions
        unscorable = (tr.valid & jnp.isnan(tr.reward)).any(0)
        total = jnp.where(tr.valid, tr.reward, 0.0).sum(0)
        means = {"score": jnp.where(unscorable, 0.0, total).sum(), "steps": jnp.where(unscorable, 0, tr.valid).sum()}
        return state, {"unscorable": unscorable.sum(), **means}

    greedy = lambda state, memory, obs: (obs["token"], memory)
    return Agent(lambda key, obs: (), lambda n: (), lambda memory, ended: memory, act, greedy, update, True)


def test_a_run_goes_on_where_some_texts_cannot_be_scored(key):
    env = TextGeneration(TASK, T, vocab_size=V)

    @jax.jit
    def run(key, weight, none):
        known = lambda tokens, length, ended, index: jnp.where((index == 1) | none, jnp.nan, 1.0 + length)
        parts = {"known": terms.of_completions(known, END), "length": terms.length_penalty(END, 1, 2)}
        reward = rewards.weighted(parts, {"known": weight, "length": 1.0})
        learner = purerl.learner(env, env.default_params, writer(), 32, T, reward, info=("index",))
        state, sums = learner.step(learner.init(key))
        return state.nonfinite, sums.metrics

    broken, metrics = run(key, 1.0, False)
    assert broken == 0 and 3 < metrics["unscorable"] < 20 and np.isfinite(list(metrics.values())).all()
    np.testing.assert_allclose(metrics["reward"], metrics["score"] / metrics["steps"], rtol=1e-5)
    assert metrics["reward"] != metrics["known"] and metrics["known"] > 0
    broken, metrics = run(key, 0.0, False)  # the term is only reported
    assert broken == 0 and metrics["unscorable"] == 0 and metrics["known"] > 0 and metrics["weighted/known"] == 0
    np.testing.assert_allclose(metrics["reward"], metrics["length"], rtol=1e-5)
    broken, metrics = run(key, 1.0, True)  # nothing can be scored: that is an error
    assert broken == 1 and np.isnan(metrics["reward"]) and metrics["unscorable"] == 32


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    apply = lambda term, tr=BLOCK: jax.eval_shape(lambda tr: term(tr), tr)
    for call, said in (
        (lambda: terms.of_completions(3, END), "of_completions: score is 3; it must be a function"),
        (lambda: apply(TERMS["bleu"], BLOCK._replace(info=())), r"give the learner info=\('index',\)"),
        (lambda: apply(TERMS["bleu"], BLOCK._replace(info={"ended": 0})), r"give the learner info=\('index',\)"),
        (
            lambda: apply(terms.of_completions(lambda x, *_: x, END)),
            r"of_completions: score gives shape \(10, 6\); it must be \(10,\)",
        ),
        (lambda: terms.bleu(TASK, 0), "bleu: order is 0; it must be a positive int"),
        (lambda: terms.bleu(TASK, 4, "some"), "bleu: smoothing is 'some'; it must be a function or one of none,"),
        (lambda: terms.chrf(TASK, 0), "chrf: order is 0"),
        (lambda: terms.distinct(END, 0), "distinct: n is 0"),
        (lambda: terms.repetition_penalty(END, 0), "repetition_penalty: n is 0"),
        (lambda: terms.length_penalty(END, 3, 2), "low is 3 and high is 2; it must be 0 <= low <= high"),
        (lambda: terms.length_penalty(END, -1, 2), "low is -1 and high is 2; it must be 0 <= low <= high"),
        (lambda: terms.sentiment(TOKENIZER, {3: 1.0}), "lexicon has 3: 1.0; it must have words of"),
        (lambda: terms.overlong_penalty(END, 2, 3), "cache is 3; it must be at most max_length"),
        (lambda: terms.sentiment(TOKENIZER, {}), "sentiment: lexicon is empty"),
        (lambda: terms.sentiment(TOKENIZER, {"ok": 1.0, ":)": 2.0}), "lexicon has ':\\)': 2.0; it must have words of"),
        (lambda: terms.sentiment(TOKENIZER, {"ok": np.nan}), "lexicon has 'ok': nan"),
        (lambda: terms.host(None, TOKENIZER, TASK), "host: function is None; it must be a function"),
        (
            lambda: apply(terms.fluency(gpt2(GPT2(V, T, 8, 1, 2)), PARAMS, TASK)),
            "max_tokens is 6; with prompts of 3 tokens it must be at most 3",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()
