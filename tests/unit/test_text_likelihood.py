"""Maximum likelihood, scores of texts and the assembly of text tasks, against loops."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl.text import assembly, data, evaluation, likelihood, models, strings, tokens
from purerl.text import rewards as text_rewards
from purerl.text.likelihood import Likelihood

MODEL = models.gpt2(models.GPT2(vocab_size=14, context=12, width=8, num_layers=1, num_heads=2))
SUMS = assembly.read("addition:1")


@cache
def params():
    """Larger than those of `init`, so that probabilities differ."""

    @jax.jit
    def noisy(key):
        leaves, tree = jax.tree.flatten(MODEL.init(key))
        noise = [0.3 * jax.random.normal(jax.random.fold_in(key, i), x.shape) for i, x in enumerate(leaves)]
        return tree.unflatten([x + y for x, y in zip(leaves, noise, strict=True)])

    return noisy(jax.random.key(0))


@jax.jit
def nll(tree, ids, mask):
    """-log p of the tokens that count, summed, with all logits at once."""
    log_probs = jax.nn.log_softmax(MODEL.logits(tree, MODEL.features(tree, ids[:, :-1])))
    return -jnp.where(mask, jnp.take_along_axis(log_probs, ids[:, 1:, None], -1)[..., 0], 0.0).sum()


# --- maximum likelihood -----------------------------------------------------------------------------------------------


def test_the_rate_rises_and_falls():
    hp = Likelihood(learning_rate=2.0, warmup_updates=4, anneal_updates=12, final_rate=0.25)
    expected = []
    for u in range(16):
        after = min(max(u - 4, 0) / 8, 1)
        cosine = 0.5 + 1.5 * 0.5 * (1 + np.cos(np.pi * after))
        expected.append(min((u + 1) / 4, 1) * cosine)
    rate = jax.jit(jax.vmap(lambda u: likelihood.learning_rate(hp, u)))
    np.testing.assert_allclose(rate(jnp.arange(16)), expected, rtol=1e-6)
    constant = Likelihood(learning_rate=2.0, warmup_updates=4)
    assert likelihood.learning_rate(constant, jnp.int32(99)) == 2.0


def test_only_matrices_decay():
    optimizer = likelihood.adamw(0.5, 1.0)
    weights = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, weights)
    direction, _ = optimizer.update(zero, optimizer.init(weights), weights)
    np.testing.assert_array_equal(direction["matrix"], 0.5 * weights["matrix"])
    np.testing.assert_array_equal(direction["vector"], zero["vector"])


def test_a_step_is_one_of_the_mean_over_the_tokens_that_count(monkeypatch):
    monkeypatch.setattr(likelihood, "adamw", lambda decay, norm: optax.identity())
    ids = np.random.default_rng(0).integers(0, 14, (3, 8))
    mask = np.arange(7) < np.array([7, 3, 5])[:, None]
    mask[1, 0] = False
    hp = Likelihood(learning_rate=0.1, warmup_updates=0)
    learner = likelihood.likelihood_learner(MODEL, lambda key: (jnp.asarray(ids), jnp.asarray(mask)), hp, params(), 3)
    state, sums = jax.jit(lambda key: learner.step(learner.init(key)))(jax.random.key(1))
    value, gradient = jax.jit(jax.value_and_grad(lambda tree: nll(tree, ids, mask) / mask.sum()))(params())
    np.testing.assert_allclose(sums.metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda x, g: x - 0.1 * g, params(), gradient)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), state.agent.params, expected)
    assert state.iteration == 1 and state.agent.updates == 1 and state.nonfinite == 0


def test_a_learner_of_likelihood_runs_in_the_loop():
    tokenizer = tokens.character_tokenizer(["0123456789+="])
    batches = assembly.batches(tokenizer, SUMS, 11, "", 8)
    model = models.gpt2(MODEL.shape._replace(vocab_size=tokenizer.size))
    make = lambda hp: likelihood.likelihood_learner(model, batches, hp)
    hp = Likelihood(learning_rate=jnp.array([0.0, 3e-2]), warmup_updates=1)
    keys = jnp.stack([jax.random.key(0)] * 2)
    *_, (_, state, metrics) = purerl.run(purerl.batch(make), hp, keys, 40, every=20)
    assert metrics["loss"][1] < metrics["loss"][0] - 0.5
    start = jax.jit(make(Likelihood()).init)(keys[0]).agent.params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, atol=1e-8), state.agent.params, start)


def test_perplexity_counts_no_padding():
    ids = np.random.default_rng(1).integers(0, 14, (5, 7))
    mask = np.arange(6) < np.array([6, 1, 0, 4, 2])[:, None]
    found = likelihood.perplexity(MODEL, params(), ids, mask, batch=2)
    np.testing.assert_allclose(found, np.exp(nll(params(), ids, mask) / mask.sum()), rtol=1e-5)


# --- scores of texts --------------------------------------------------------------------------------------------------


def test_quality_takes_the_best_reference():
    texts, references = ["the cat sat on a mat", "one dog"], [["the cat sat on the mat", "no"], ["one dog"]]
    found = evaluation.quality(texts, references)
    each = [strings.rouge(["the cat sat on a mat"] * 2, references[0]), strings.rouge(["one dog"], ["one dog"])]
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = 50 * (max(each[0][name].f) + each[1][name].f[0])
        np.testing.assert_allclose(found[name], expected)
    assert found["bleu"] == strings.bleu(texts, references) and found["exact"] == 50
    one = evaluation.sentence_scores(texts, references)
    np.testing.assert_allclose(one[1], strings.sentence_bleu(["one dog"], [["one dog"]])[0] / 100 + 1)


def test_diversity_of_texts_by_hand():
    found = evaluation.diversity(["a b a b a b", "a b c", "d e f"])
    assert found["words"] == 4 and found["distinct1"] == 100 * 6 / 12
    np.testing.assert_allclose(found["distinct2"], 100 * 5 / 9, rtol=1e-6)
    np.testing.assert_allclose(found["repetition"], 100 * np.mean([2 / 4, 0, 0]))
    with pytest.raises(ValueError, match="there are 1 texts"):
        evaluation.diversity(["a"])


def test_perplexity_under_a_judge():
    tokenizer = tokens.character_tokenizer(["0123456789+="])
    model = models.gpt2(MODEL.shape._replace(vocab_size=tokenizer.size))
    tree = {**params(), "wte": {"weight": params()["wte"]["weight"][: tokenizer.size]}}
    prompts, texts = ["1+2=", "", "12+3="], ["3", "1234", "9999999"]  # of the last, tokens beyond the context
    logs = []
    for prompt, text in zip(prompts, texts, strict=True):
        before = tokenizer.encode(prompt) or [tokenizer.end]
        after = [*tokenizer.encode(text), *([tokenizer.end] if text != "1234" else [])][: 12 - 5]  # which was cut
        log_probs = jax.nn.log_softmax(model.logits(tree, model.features(tree, np.array([before + after])))[0])
        logs += [log_probs[len(before) - 1 + t, token] for t, token in enumerate(after)]
    found = evaluation.perplexity(model, tree, tokenizer, prompts, texts, [True, False, True], batch=2)
    np.testing.assert_allclose(found, np.exp(-np.mean(logs)), rtol=1e-5)
    with pytest.raises(ValueError, match="a prompt has 12 tokens; it must have fewer than 12"):
        evaluation.perplexity(model, tree, tokenizer, ["1" * 12], ["1"])


# --- assembly ---------------------------------------------------------------------------------------------------------


def test_parts_of_a_source_have_no_prompt_in_common(tmp_path):
    for source in ("addition:2", "sorting:3", "pydoc"):
        parts = [assembly.read(source, part) for part in ("train", "test")]
        train, test = ({*(x.prompts if isinstance(x, data.Pairs) else x)} for x in parts)
        assert train and test and not train & test
    test = assembly.read("addition:2", "test")
    rest, validation = assembly.held_out("addition:2", assembly.read("addition:2"), 0.05)
    for part in (test, rest, validation):  # each has every last digit, of the sum and of both summands
        for digits in (part.references[i][0][-1] for i in range(len(part.prompts))), (p[-2] for p in part.prompts):
            assert np.abs(np.bincount(list(map(int, digits)), minlength=10) / len(part.prompts) - 0.1).max() < 0.05
    assert assembly.read("addition:2", "test") == test
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,reference\n" + "".join(f"{i},{i}\n" for i in range(20)))
    assert len(assembly.read(str(path), "test").prompts) == 2 and assembly.separator(str(path)) == "\n"
    assert assembly.separator("sorting:3") == assembly.separator("pydoc") == ""
    for call, said in (
        (lambda: assembly.read("pydoc", "all"), "part is 'all'"),
        (lambda: assembly.read("addition:x"), r"addition:x: it must be addition:N with a whole number from 1 to 3"),
        (lambda: assembly.tokenizer_of("bpe:x", []), "tokenizer is 'bpe:x'; it must be bpe:SIZE, such as bpe:1000"),
        (
            lambda: assembly.tokenizer_of("words", []),
            "tokenizer is 'words'; it must be bytes, characters, bpe:SIZE, or",
        ),
        (
            lambda: assembly.model_folder(tmp_path),
            "has no model: there is no model.safetensors in it, nor in its folder",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert assembly.is_pairs("bible-kjv-web-test") and not assembly.is_pairs("bible-kjv-test")
    assert assembly.files_of(tmp_path) == [str(path)] == assembly.files_of(path) and assembly.files_of("pydoc") == []
    for name in ("config.json", "manifest.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"has no model yet: the run is not finished; `purerl resume "):
        assembly.model_folder(tmp_path)


def test_terms_by_name_are_those_of_the_module(monkeypatch):
    class Asked:
        def __getattr__(self, name):
            return lambda *given: (name, *given)

    monkeypatch.setattr(assembly, "terms", Asked())
    task = SimpleNamespace(end=5)
    made = {name: make(task, "tokenizer", 9, "model", "params") for name, make in assembly.TERMS.items()}
    assert made == {
        "exact": ("exact_match", task),
        "bleu": ("bleu", task),
        "bleu-1": ("bleu", task, 1),
        "bleu-2": ("bleu", task, 2),
        "rouge-1": ("rouge_1", task),
        "rouge-2": ("rouge_2", task),
        "rouge-l": ("rouge_l", task),
        "chrf": ("chrf", task),
        "sentiment": ("sentiment", "tokenizer", ("vader_lexicon",)),
        "fluency": ("fluency", "model", "params", task),
        "perplexity": ("perplexity", "model", "params", task),
        "repetition": ("repetition_penalty", 5),
        "distinct": ("distinct", 5),
        "overlong": ("overlong_penalty", 5, 9, 2),
    }
    assert assembly.TERMS["overlong"](task, "tokenizer", 3) == ("overlong_penalty", 5, 3, 1)


def test_examples_of_pairs_learn_references_and_their_end():
    tokenizer = tokens.byte_tokenizer()
    pairs = data.Pairs(["ab", "long prompt"], [["c", "de"], ["x"]])
    found = assembly.of_pairs(tokenizer, pairs, 5, "\n")
    assert found.tokens.tolist() == [[97, 98, 10, 99, 256, 256], [97, 98, 10, 100, 101, 256]]
    assert found.mask.tolist() == [[False, False, True, True, False], [False, False, True, True, True]]
    with pytest.raises(ValueError, match="no prompt has at most 3 tokens"):
        assembly.of_pairs(tokenizer, pairs, 2, "\n")


def test_examples_of_texts_have_every_token_once():
    tokenizer = tokens.byte_tokenizer()
    found = assembly.of_texts(tokenizer, ["abcd", "ef"], 3)
    ids = data.stream(tokenizer, ["abcd", "ef"]).tolist()
    assert found.tokens[:, 1:][found.mask].tolist() == ids[1:]
    assert found.tokens[:, :-1][found.mask].tolist() == ids[:-1]


def test_texts_are_prompts_and_what_follows():
    tokenizer = tokens.byte_tokenizer()
    task = assembly.task_of(["abcdefgh", "ij", "klm"], tokenizer, 2, 3, "")
    assert task.prompts.tolist() == [[97, 98], [102, 103], [107, 108]]
    assert task.references.tolist() == [[[99, 100, 101]], [[104, 256, 256]], [[109, 256, 256]]]
    assert task.reference_length.tolist() == [[3], [1], [1]] and task.reference_mask.all()
    with pytest.raises(ValueError, match="the longest text has 8 tokens; a prompt and what follows need 11"):
        assembly.task_of(["abcdefgh"], tokenizer, 10, 10, "")


def test_rewards_by_name_are_the_weighted_terms(key):
    tokenizer = tokens.byte_tokenizer()
    task = assembly.task_of(SUMS, tokenizer, 4, 3, "")
    reward = assembly.reward_of("exact:2, rouge-1", task, tokenizer, 3, MODEL, {})
    tr = completions([[51, 256, 256], [49, 50, 256]], [0, 1])
    _, paid, metrics = reward.apply(key, reward.init(key, tr), tr)
    exact, rouge = text_rewards.exact_match(task)(tr), text_rewards.rouge_1(task)(tr)
    np.testing.assert_allclose(paid, 2 * exact + rouge)
    np.testing.assert_allclose(metrics["weighted/exact"], 2 * exact.sum() / 2)
    wrong = (("blue", "allowed are exact"), ("exact:x", "'x' is not a number"), ("exact:nan", "not finite"))
    for names, said in (*wrong, ("exact:1,exact:2", "exact is there twice")):
        with pytest.raises(ValueError, match=said):
            assembly.reward_of(names, task, tokenizer, 3, MODEL, {})


def completions(actions, index):
    """A block of completions that end by the token 256, or at the last step."""
    actions = np.array(actions).T
    ends = actions == 256
    valid = np.cumsum(ends, 0) - ends == 0
    zero = jnp.zeros(actions.shape)
    info = {"index": jnp.broadcast_to(jnp.array(index), actions.shape)}
    return purerl.Transition((), jnp.asarray(actions), zero, (), ends, ends, jnp.asarray(valid), info=info)


def test_means_over_episodes_leave_out_those_without_a_score():
    tr = completions([[1, 256, 256], [1, 2, 256], [1, 1, 1]], [0, 0, 0])
    x = jnp.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [9.0, 4.0, jnp.nan]])  # 9 is behind the end
    assert purerl.rewards.mean_over_episodes(x, tr) == 3
    assert jnp.isnan(purerl.rewards.mean_over_episodes(jnp.full((3, 3), jnp.nan), tr))


def test_sizes_of_prompts_and_completions():
    tokenizer = tokens.byte_tokenizer()
    assert assembly.longest(data.Pairs(["abc", "d"], [["x"], ["yz"]]), tokenizer, "\n") == (4, 3)
    assert assembly.longest(["text"], tokenizer, "") == (64, 64)
    assert assembly.longest(data.Pairs(["a" * 99], [["b" * 99]]), tokenizer, "") == (64, 64)
