"""GPT-2: a slow reference, figures of transformers, the cache against the parallel pass, and folders on disk."""

import json
import math
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
from golden import inside_of
from text_models_golden import EXPECTED, FOLDER, random_model

from purerl import a2c, distributions, reinforce
from purerl.text import assembly, huggingface, models
from purerl.text import tokens as tokens_of_text

SHAPE = models.GPT2(vocab_size=11, context=16, width=8, num_layers=2, num_heads=2, inner=12)
MODEL = models.gpt2(SHAPE)
LENGTH, SLOTS = 6, 14
KEY = jax.random.key(0)
PREFILL = jax.jit(MODEL.prefill, static_argnums=3)
STEP = jax.jit(MODEL.step)
FEATURES = jax.jit(MODEL.features)


@cache
def params():
    """Parameters far from their initial values: biases are not 0, norms not 1, and attention is not uniform."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.float32(x + 0.3 * random.normal(size=x.shape)), jax.jit(MODEL.init)(KEY))


@cache
def tokens():
    return np.random.default_rng(1).integers(SHAPE.vocab_size, size=(4, LENGTH)).astype(np.int32)


# --- the architecture -------------------------------------------------------------------------------------------------


def reference_logits(shape, p, sequence):
    """Logits `[L, V]` of one sequence, in float64, one token and one head at a time."""
    p = jax.tree.map(np.float64, p)
    dense = lambda q, x: x @ q["weight"] + q["bias"]
    size = shape.width // shape.num_heads

    def norm(q, x):
        return (x - x.mean()) / np.sqrt(x.var() + shape.epsilon) * q["weight"] + q["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    h = [p["wte"]["weight"][token] + p["wpe"]["weight"][i] for i, token in enumerate(sequence)]
    for layer in p["h"]:
        qkv = [np.split(dense(layer["attn"]["c_attn"], norm(layer["ln_1"], x)), 3) for x in h]
        for i in range(len(h)):
            mixed = []
            for head in range(shape.num_heads):
                own = slice(head * size, (head + 1) * size)
                scores = np.array([qkv[i][0][own] @ qkv[j][1][own] / math.sqrt(size) for j in range(i + 1)])
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed.append(sum(w * qkv[j][2][own] for j, w in enumerate(weights)))
            h[i] = h[i] + dense(layer["attn"]["c_proj"], np.concatenate(mixed))
        for i in range(len(h)):
            hidden = gelu(dense(layer["mlp"]["c_fc"], norm(layer["ln_2"], h[i])))
            h[i] = h[i] + dense(layer["mlp"]["c_proj"], hidden)
    return np.array([norm(p["ln_f"], x) @ p.get("lm_head", p["wte"])["weight"].T for x in h])


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_against_a_slow_reference(tied):
    p = params() if tied else params() | {"lm_head": {"weight": params()["wte"]["weight"][::-1] * 0.5}}
    logits = MODEL.logits(p, FEATURES(p, tokens()))
    for row, sequence in zip(logits, tokens(), strict=True):
        np.testing.assert_allclose(row, reference_logits(SHAPE, p, sequence), atol=2e-5)


def test_the_initial_values_are_those_of_gpt2():
    shape = models.GPT2(vocab_size=300, context=128, width=64, num_layers=3, num_heads=4)
    p = jax.jit(models.gpt2(shape).init)(KEY)
    assert p["h"][0]["mlp"]["c_fc"]["weight"].shape == (64, 256)  # inner is 4 W
    onto_h = 0.02 / math.sqrt(6)
    for name, x in huggingface._named(p).items():
        if name.endswith("bias"):
            assert not x.any(), name
        elif "ln_" in name:
            assert (x == 1).all(), name
        else:
            np.testing.assert_allclose(x.std(), onto_h if "c_proj" in name else 0.02, rtol=0.05, err_msg=name)
            assert abs(x.mean()) < 5 * x.std() / math.sqrt(x.size), name
    assert len({float(x.ravel()[0]) for x in jax.tree.leaves(p) if x.ndim == 2}) == 4 * 3 + 2  # no key is used twice


# --- the cache --------------------------------------------------------------------------------------------------------


def by_steps(p, prompt, length, rest):
    """Features `[N, 1 + R, W]` of the last token of prompts and of the tokens `rest [N, R]`, by prefill and steps."""
    features, cache = PREFILL(p, prompt, length, SLOTS)
    out = [np.asarray(features)[np.arange(len(prompt)), length - 1]]
    for token in rest.T:
        features, cache = STEP(p, cache, token)
        out.append(features)
    return np.stack(out, axis=1), cache


def test_steps_equal_the_parallel_pass_for_prompts_of_unequal_length():
    length = np.array([1, 3, 6, 4], np.int32)
    rest = np.random.default_rng(2).integers(SHAPE.vocab_size, size=(4, 5)).astype(np.int32)
    features, cache = by_steps(params(), tokens(), length, rest)
    assert cache.length.tolist() == (length + 5).tolist()
    for i, n in enumerate(length):
        alone = FEATURES(params(), np.concatenate([tokens()[i, :n], rest[i]])[None])[0]
        np.testing.assert_allclose(features[i], alone[n - 1 :], atol=1e-5)
        single, of_row = by_steps(params(), tokens()[i : i + 1, :n], np.array([n]), rest[i : i + 1])
        np.testing.assert_allclose(features[i], single[0], atol=1e-5)
        for keys, own in zip(cache.keys, of_row.keys, strict=True):
            np.testing.assert_allclose(keys[i, :, : n + 5], own[0, :, : n + 5], atol=1e-5)
        for values, own in zip(cache.values, of_row.values, strict=True):
            np.testing.assert_allclose(values[i, :, : n + 5], own[0, :, : n + 5], atol=1e-5)


def test_steps_from_an_empty_cache_equal_the_parallel_pass():
    cache, out = MODEL.cache(4, LENGTH), []
    for token in tokens().T:
        features, cache = STEP(params(), cache, token)
        out.append(features)
    np.testing.assert_allclose(np.stack(out, 1), FEATURES(params(), tokens()), atol=1e-5)


def test_what_stands_behind_the_prompt_has_no_effect_on_any_bit():
    length = np.array([1, 3, 6, 4], np.int32)
    rest = np.random.default_rng(2).integers(SHAPE.vocab_size, size=(4, 3)).astype(np.int32)
    other = np.where(np.arange(LENGTH) < length[:, None], tokens(), (tokens() + 5) % SHAPE.vocab_size)
    assert (other != tokens()).any()
    one, two = (by_steps(params(), x, length, rest)[0] for x in (tokens(), other))
    np.testing.assert_array_equal(one, two)


def test_what_an_earlier_episode_left_in_the_cache_has_no_effect_on_any_bit():
    _, cache = PREFILL(params(), tokens(), np.full(4, LENGTH, np.int32), SLOTS)
    used, unused = cache._replace(length=jnp.zeros(4, jnp.int32)), MODEL.cache(4, SLOTS)
    for token in tokens().T[:3]:
        (one, used), (two, unused) = (STEP(params(), x, token) for x in (used, unused))
        np.testing.assert_array_equal(one, two)


def test_a_token_changes_nothing_before_it():
    other = tokens().copy()
    other[:, 4] = (other[:, 4] + 1) % SHAPE.vocab_size
    one, two = FEATURES(params(), tokens()), FEATURES(params(), other)
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert (np.abs(one - two)[:, 4:].max(-1) > 1e-3).all()


def test_a_full_cache_replaces_its_last_token():
    _, cache = PREFILL(params(), tokens(), np.full(4, LENGTH, np.int32), LENGTH)
    features, cache = STEP(params(), cache, tokens()[:, 0])
    assert cache.length.tolist() == [LENGTH] * 4
    replaced = np.concatenate([tokens()[:, :-1], tokens()[:, :1]], axis=1)
    np.testing.assert_allclose(features, FEATURES(params(), replaced)[:, -1], atol=1e-5)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("width is 8; it must be a multiple of num_heads, 3", lambda: models.gpt2(SHAPE._replace(num_heads=3))),
        ("vocab_size is 0; it must be a positive int", lambda: models.gpt2(SHAPE._replace(vocab_size=0))),
        ("inner is 1.5", lambda: models.gpt2(SHAPE._replace(inner=1.5))),
        ("slots is 17; the model has 16 positions", lambda: MODEL.cache(2, 17)),
        ("slots is 0", lambda: MODEL.cache(2, 0)),
        ("17 tokens does not fit; there is room for 16", lambda: MODEL.features(params(), jnp.zeros((1, 17), int))),
        (
            "6 tokens does not fit; there is room for 5",
            lambda: MODEL.prefill(params(), tokens(), np.full(4, 6), 5),
        ),
        ("tokens .N, L. must be ints", lambda: MODEL.features(params(), jnp.zeros((1, 3)))),
        ("token .N. must be ints", lambda: MODEL.step(params(), MODEL.cache(1, 4), jnp.zeros((1, 1), int))),
        ("slots is 99", lambda: models.policy_network(MODEL, 99)),
        ("temperature is 0", lambda: models.policy_network(MODEL, 9, temperature=0.0)),
        ("chunk is 0; it must be a positive int", lambda: models.policy(4, chunk=0)),
        ("vocab_size is -1", lambda: models.policy(-1)),
        (
            r"kernel is \(5, 3\); for features \(2, 3\) it must be \(4, 3\)",
            lambda: models.policy(4).entropy(models.Head(jnp.ones((2, 3)), jnp.ones((5, 3)), 1.0)),
        ),
        (
            r"tokens \(3,\) and features \(2, 3\)",
            lambda: models.policy(4).log_prob(models.Head(jnp.ones((2, 3)), jnp.ones((4, 3)), 1.0), jnp.zeros(3, int)),
        ),
    ],
)
def test_bad_arguments_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


# --- an agent's network -----------------------------------------------------------------------------------------------

T, PROMPT = 5, np.array([1, 3, 6, 4], np.int32)


@cache
def network():
    return models.policy_network(MODEL, LENGTH + T, params())


@cache
def network_params():
    p = network().init(KEY, block()[0])
    return p | {"value": {"weight": jnp.linspace(-1, 1, SHAPE.width), "bias": jnp.float32(0.3)}}


@cache
def block():
    """Observations of a block `[T, N, ...]`, of their successors, and `ended`: row 1 ends in the middle."""
    written = np.random.default_rng(3).integers(SHAPE.vocab_size, size=(T, 4)).astype(np.int32)
    repeat = lambda x: np.broadcast_to(x, (T, *x.shape))
    last = tokens()[np.arange(4), PROMPT - 1]
    shared = {"prompt": repeat(tokens()), "length": repeat(PROMPT)}
    ended = np.zeros((T, 4), bool)
    ended[2, 1] = ended[T - 1, 0] = ended[T - 1, 3] = True
    return shared | {"token": np.concatenate([last[None], written[:-1]])}, shared | {"token": written}, ended


def acted():
    """Outputs of `step` over the block, and of one step more for each successor; the memory afterwards."""
    obs, next_obs, _ = block()
    step = jax.jit(network().step)
    memory, out, after = network().memory(4), [], []
    for t in range(T):
        now, later = (jax.tree.map(lambda x: x[t], x) for x in (obs, next_obs))
        output, memory = step(network_params(), memory, now)
        out.append(output)
        after.append(step(network_params(), memory, later)[0])
    stack = lambda outputs: jax.tree.map(lambda *x: np.stack(x), *outputs)
    return stack(out), stack(after), memory


def test_one_parallel_pass_gives_the_outputs_of_steps():
    obs, next_obs, ended = block()
    (pi, value), (next_pi, next_value), memory = jax.jit(network().unroll)(
        network_params(), network().memory(4), obs, ended, next_obs
    )
    (pi_by_steps, value_by_steps), (next_by_steps, next_value_by_steps), after = acted()
    assert pi.features.shape == (T, 4, SHAPE.width) and value.shape == (T, 4)
    valid = np.ones((T, 4), bool)
    valid[3:, 1] = False
    for ours, steps in [
        (pi.features, pi_by_steps.features),
        (value, value_by_steps),
        (next_pi.features, next_by_steps.features),
        (next_value, next_value_by_steps),
    ]:
        np.testing.assert_allclose(ours[valid], steps[valid], atol=1e-5)
    np.testing.assert_array_equal(pi.kernel, params()["wte"]["weight"])
    assert memory.length.tolist() == [0, PROMPT[1] + T - 1, PROMPT[2] + T - 1, 0]
    for ours, steps in zip(memory.keys, after.keys, strict=True):
        n = PROMPT[2] + T - 1
        np.testing.assert_allclose(ours[2, :, :n], steps[2, :, :n], atol=1e-5)
    alone, nothing, _ = jax.jit(network().unroll)(network_params(), network().memory(4), obs, ended)
    assert nothing is None
    np.testing.assert_allclose(alone[0].features, pi.features, atol=1e-5)
    np.testing.assert_allclose(alone[1], value, atol=1e-5)


def test_the_value_is_linear_in_the_features_and_0_at_first():
    obs = jax.tree.map(lambda x: x[0], block()[0])
    step = jax.jit(network().step)
    (pi, value), _ = step(network_params(), network().memory(4), obs)
    np.testing.assert_allclose(value, pi.features @ np.linspace(-1, 1, SHAPE.width) + 0.3, atol=1e-5)
    first = network().init(KEY, obs)
    (_, value), _ = step(first, network().memory(4), obs)
    assert not value.any()
    without = models.policy_network(MODEL, SLOTS, value=False)
    assert set(without.init(KEY, obs)) == {"model"}
    (_, value), _ = jax.jit(without.step)({"model": params()}, without.memory(4), obs)
    assert value.shape == (4,) and not value.any()


def test_pretrained_parameters_are_copied():
    """A training run donates the buffers of its state."""
    own = network().init(KEY, None)["model"]
    given = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params())}
    assert not given & {x.unsafe_buffer_pointer() for x in jax.tree.leaves(own)}
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), own, params()))
    new = models.policy_network(MODEL, SLOTS).init(KEY, None)["model"]
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), new, MODEL.init(KEY)))


def test_a_new_episode_changes_no_bit_of_the_others():
    obs = block()[0]
    first, second, later = (jax.tree.map(lambda x: x[t], obs) for t in range(3))
    step = jax.jit(network().step)
    _, memory = step(network_params(), network().memory(4), first)
    _, memory = step(network_params(), memory, second)  # where the prompt ends: not what stands there in the prompt
    (plain, _), after = step(network_params(), memory, later)
    begun = network().reset(memory, jnp.array([False, True, False, False]))
    mixed = later | {"token": np.where([False, True, False, False], first["token"], later["token"])}
    (pi, _), after_one = step(network_params(), begun, mixed)
    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(pi.features[others], plain.features[others])
    for ours, theirs in zip((*after_one.keys, *after_one.values), (*after.keys, *after.values), strict=True):
        np.testing.assert_array_equal(ours[others], theirs[others])
    (fresh, _), _ = step(network_params(), network().memory(4), first)
    np.testing.assert_array_equal(pi.features[1], fresh.features[1])
    assert after_one.length.tolist() == [PROMPT[0] + 2, PROMPT[1], PROMPT[2] + 2, PROMPT[3] + 2]


def test_prompts_are_skipped_in_a_vmapped_program_too():
    """Prompts are read in a loop of at most one round, whose condition is one for the whole batch."""
    obs = jax.tree.map(lambda x: jnp.asarray(x[0])[None].repeat(2, 0), block()[0])
    memory = jax.tree.map(lambda x: x[None].repeat(2, 0), network().memory(4))
    step = jax.vmap(lambda memory, obs: network().step(network_params(), memory, obs))
    jaxpr = jax.make_jaxpr(step)(memory, obs).jaxpr
    (loop,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "while"]
    assert [x.aval.shape for x in loop.outvars if x.aval.dtype == bool] == [()]
    products = lambda jaxpr: sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)
    of_step = 2 * 6  # in each layer four kernels, scores and mixed values
    assert products(loop.params["body_jaxpr"].jaxpr) == of_step and products(jaxpr) == of_step + 1  # and the value
    (pi, _), after = jax.jit(step)(memory, obs)
    (alone, _), after_alone = jax.jit(network().step)(
        network_params(), network().memory(4), jax.tree.map(lambda x: x[0], obs)
    )
    np.testing.assert_allclose(pi.features[1], alone.features, atol=1e-5)
    assert after.length[1].tolist() == after_alone.length.tolist() == PROMPT.tolist()


def test_agents_of_such_a_network_learn_from_whole_episodes():
    p = models.policy(SHAPE.vocab_size)
    assert network().episodic and a2c(network(), p).episodic and reinforce(network(), p).episodic
    assert not a2c(network()._replace(episodic=False), p).episodic


def test_a_prompt_that_does_not_fit_is_named():
    small = models.policy_network(MODEL, LENGTH + T - 1)
    obs, next_obs, ended = block()
    with pytest.raises(ValueError, match="11 tokens does not fit; there is room for 10"):
        small.unroll(network_params(), None, obs, ended, next_obs)
    tiny = models.policy_network(MODEL, LENGTH - 1)
    with pytest.raises(ValueError, match="6 tokens does not fit; there is room for 5"):
        tiny.step(network_params(), tiny.memory(4), jax.tree.map(lambda x: x[0], obs))


# --- the policy -------------------------------------------------------------------------------------------------------

V, W = 13, 5


@cache
def heads():
    """Two heads of features [3, 4, W] with temperatures, and tokens."""
    random = np.random.default_rng(4)
    make = lambda temperature: models.Head(
        jnp.float32(random.normal(size=(3, 4, W))), jnp.float32(random.normal(size=(V, W))), jnp.float32(temperature)
    )
    return make(0.7), make(1.3), jnp.asarray(random.integers(V, size=(3, 4)), jnp.int32)


def log_probs(p):
    logits = np.float64(p.features) @ np.float64(p.kernel).T / float(p.temperature)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("chunk", [None, 5, 12, 100])
def test_the_policy_is_a_softmax_whatever_the_chunk(chunk):
    p, q, action = heads()
    log_p, log_q, pi = log_probs(p), log_probs(q), models.policy(V, chunk)
    of_action = np.take_along_axis(log_p, np.asarray(action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(pi.log_prob(p, action), of_action, atol=1e-5)
    np.testing.assert_allclose(pi.entropy(p), -(np.exp(log_p) * log_p).sum(-1), atol=1e-5)
    np.testing.assert_allclose(pi.kl(p, q), (np.exp(log_p) * (log_p - log_q)).sum(-1), atol=1e-5)
    np.testing.assert_array_equal(pi.mode(p), log_p.argmax(-1))
    assert not pi.kl(p, p).any() and pi.num_params == V
    both, other = pi.sample_and_log_prob(KEY, p)
    np.testing.assert_array_equal(both, pi.sample(KEY, p))
    np.testing.assert_allclose(other, pi.log_prob(p, both), atol=1e-6)


def objective(chunk):
    pi = models.policy(V, chunk)
    return lambda p, q, action: (pi.log_prob(p, action) + 0.3 * pi.entropy(p) - 0.7 * pi.kl(p, q)).sum()


def test_gradients_in_chunks_are_those_of_the_plain_computation():
    p, q, action = heads()
    plain, chunked = (jax.jit(jax.grad(objective(c), argnums=(0, 1)))(p, q, action) for c in (None, 5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, chunked)
    assert all(x.any() for x in jax.tree.leaves(plain))


def largest(jaxpr):
    """The most elements of an array in a program."""
    own = [math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    return max(own + [largest(inner) for eqn in jaxpr.eqns for inner in inside_of(eqn.params)], default=0)


def test_no_array_has_the_logits_of_all_tokens():
    p = models.Head(jnp.ones((8, 9, W)), jnp.ones((V, W)), jnp.ones(()))
    sizes = {}
    for chunk in (None, 6):
        program = jax.grad(objective(chunk), argnums=(0, 1))
        sizes[chunk] = largest(jax.make_jaxpr(program)(p, p, jnp.zeros((8, 9), jnp.int32)).jaxpr)
    assert sizes[None] == 8 * 9 * V
    assert sizes[6] == 8 * 9 * W  # the features; of the logits there are 6 V at once


def test_samples_have_the_probabilities_of_the_softmax():
    p, _, _ = heads()
    num = 20_000
    one = models.Head(jnp.broadcast_to(p.features[0, 0], (num, W)), p.kernel, p.temperature)
    frequency = np.bincount(models.policy(V).sample(KEY, one), minlength=V) / num
    probs = np.exp(log_probs(p)[0, 0])
    assert (np.abs(frequency - probs) < 4.5 * np.sqrt(probs * (1 - probs) / num)).all()


def test_log_probabilities_have_the_temperature_of_the_network():
    obs = jax.tree.map(lambda x: x[0], block()[0])
    hot = models.policy_network(MODEL, SLOTS, temperature=2.0)
    (pi, _), _ = jax.jit(hot.step)(network_params(), hot.memory(4), obs)
    logits = MODEL.logits(params(), pi.features)
    plain = distributions.categorical(SHAPE.vocab_size).log_prob(logits / 2.0, obs["token"])
    np.testing.assert_allclose(models.policy(SHAPE.vocab_size).log_prob(pi, obs["token"]), plain, atol=1e-5)


# --- folders ----------------------------------------------------------------------------------------------------------


@cache
def expected():
    return safetensors.numpy.load_file(FOLDER / EXPECTED)


def greedy(model, p, prompt, num_tokens):
    step = jax.jit(model.step)
    features, memory = jax.jit(model.prefill, static_argnums=3)(
        p, prompt, np.full(len(prompt), prompt.shape[1], np.int32), prompt.shape[1] + num_tokens
    )
    token = model.logits(p, features[:, -1]).argmax(-1)
    out = [token]
    for _ in range(num_tokens - 1):
        features, memory = step(p, memory, token)
        token = model.logits(p, features).argmax(-1)
        out.append(token)
    return np.stack(out, axis=1)


def test_logits_and_greedy_text_are_those_of_transformers():
    model, p = huggingface.load(FOLDER)
    logits = model.logits(p, jax.jit(model.features)(p, expected()["tokens"]))
    np.testing.assert_allclose(logits, expected()["logits"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(greedy(model, p, expected()["prompt"], 40), expected()["greedy"])
    assert len(np.unique(expected()["greedy"])) > 5


def equal(p, q):
    return jax.tree.structure(p) == jax.tree.structure(q) and jax.tree.all(
        jax.tree.map(lambda a, b: a.dtype == b.dtype == jnp.float32 and (a == b).all(), p, q)
    )


class End:
    """A tokenizer, as far as `save` uses it."""

    size, end = 11, 7

    @staticmethod
    def save(folder):
        (folder / "tokenizer.json").write_text('{"added_tokens": [{"id": 7, "content": "<end>"}]}')


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_is_loaded(tmp_path, tied):
    p = params() if tied else params() | {"lm_head": {"weight": params()["wte"]["weight"] + 1}}
    huggingface.save(tmp_path / "new", SHAPE, p, End)
    model, loaded = huggingface.load(tmp_path / "new")
    assert model.shape == SHAPE and equal(loaded, p)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == 7 and config["tie_word_embeddings"] is tied
    own = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert own["eos_token"] == "<end>" and own["model_max_length"] == SHAPE.context
    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {x.name for x in (tmp_path / "new").iterdir()} == files


def changed(folder, change=lambda tensors: tensors, **config):
    """A saved folder with changed tensors and config."""
    huggingface.save(folder, SHAPE, params())
    tensors = safetensors.flax.load_file(folder / "model.safetensors")
    safetensors.flax.save_file(change(dict(tensors)), folder / "model.safetensors")
    old = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(old | config))
    return folder


def cast(dtype):
    return lambda tensors: {name: x.astype(dtype) for name, x in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {name.removeprefix("transformer."): x for name, x in t.items()},
        lambda t: t | {"lm_head.weight": t["transformer.wte.weight"]},
        lambda t: t | {"transformer.h.0.attn.bias": jnp.ones((1, 1, 4, 4), jnp.uint8)},
        lambda t: t | {"transformer.h.1.attn.masked_bias": jnp.zeros(())},
    ],
)
def test_forms_in_which_models_are_published(tmp_path, change):
    _, loaded = huggingface.load(changed(tmp_path, change))
    assert equal(loaded, params())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    _, loaded = huggingface.load(changed(tmp_path, cast(dtype)))
    assert equal(loaded, jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params()))


def without(name):
    return lambda tensors: {key: x for key, x in tensors.items() if key != name}


BAD = [
    ("missing: h.1.mlp.c_fc.bias$", without("transformer.h.1.mlp.c_fc.bias"), {}),
    ("not expected: surprise$", lambda t: t | {"surprise": jnp.ones(2)}, {}),
    (r"wrong shape: ln_f.bias \(7,\), not \(8,\)$", lambda t: t | {"transformer.ln_f.bias": jnp.ones(7)}, {}),
    (
        "wrong dtype: ln_f.bias I32, not one of F16, BF16, F32$",
        lambda t: t | {"transformer.ln_f.bias": jnp.ones(8, jnp.int32)},
        {},
    ),
    (
        "missing: wpe.weight; not expected: other; wrong shape: ln_f.bias",
        lambda t: without("transformer.wpe.weight")(t) | {"other": jnp.ones(2), "transformer.ln_f.bias": jnp.ones(7)},
        {},
    ),
    ("missing: h.2.attn.c_attn.bias, .* and 6 more$", lambda t: t, {"n_layer": 3}),
    ("has 28 tensors; the config's n_layer is 1000000", lambda t: t, {"n_layer": 1_000_000}),
    ("missing: lm_head.weight", lambda t: t, {"tie_word_embeddings": False}),
    (
        "lm_head.weight differs from wte.weight",
        lambda t: t | {"lm_head.weight": t["transformer.wte.weight"] + 1},
        {},
    ),
    ("same name with and without 'transformer.'", lambda t: t | {"ln_f.bias": jnp.ones(8)}, {}),
    ("activation_function is 'relu'; only 'gelu_new' is supported", lambda t: t, {"activation_function": "relu"}),
    ("scale_attn_by_inverse_layer_idx is True", lambda t: t, {"scale_attn_by_inverse_layer_idx": True}),
    ("scale_attn_weights is False", lambda t: t, {"scale_attn_weights": False}),
    ("reorder_and_upcast_attn is True", lambda t: t, {"reorder_and_upcast_attn": True}),
    ("add_cross_attention is True", lambda t: t, {"add_cross_attention": True}),
    ("model_type is 'llama'; only 'gpt2' is supported", lambda t: t, {"model_type": "llama"}),
    ("vocab_size is '11'; it must be a positive int", lambda t: t, {"vocab_size": "11"}),
    ("multiple of num_heads", lambda t: t, {"n_head": 3}),
    ("layer_norm_epsilon is 'x'", lambda t: t, {"layer_norm_epsilon": "x"}),
    ("layer_norm_epsilon is 1.5; it must be a number in", lambda t: t, {"layer_norm_epsilon": 1.5}),
]


@pytest.mark.parametrize(("message", "change", "config"), BAD, ids=[x[0][:40] for x in BAD])
def test_what_does_not_fit_is_named_in_one_line(tmp_path, message, change, config):
    with pytest.raises(ValueError, match=message) as raised:
        huggingface.load(changed(tmp_path, change, **config))
    assert "\n" not in str(raised.value)


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json"):
        huggingface.load(tmp_path / "nowhere")
    folder = changed(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no safetensors file, or is damaged"):
        huggingface.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"has no model.safetensors$"):
        huggingface.load(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="in several files are not supported"):
        huggingface.load(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        huggingface.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        huggingface.load(folder)


def test_pickled_weights_are_not_opened(tmp_path):
    folder = changed(tmp_path)
    (folder / "model.safetensors").unlink()
    ran = tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {ran}'\ntR.".encode())
    with pytest.raises(ValueError, match=r"pytorch_model.bin are not read, because reading them can execute code"):
        huggingface.load(folder)
    assert not ran.exists()


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    huggingface.save(tmp_path, SHAPE, params())

    def fails(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fails)
    with pytest.raises(OSError, match=r"cannot be written: the disk is full"):
        huggingface.save(tmp_path, SHAPE, jax.tree.map(jnp.zeros_like, params()))
    assert {x.name for x in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert equal(huggingface.load(tmp_path)[1], params())


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"params are not those of .*wrong shape: h.0.attn.c_attn.bias"):
        huggingface.save(tmp_path, SHAPE._replace(width=10), params())

    class Large(End):
        size = 12

    with pytest.raises(ValueError, match="the tokenizer has 12 tokens, and the model 11"):
        huggingface.save(tmp_path, SHAPE, params(), Large)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
def test_a_padded_vocabulary_is_cut_to_that_of_the_tokenizer(tmp_path, tied):
    tokenizer, shape = tokens_of_text.byte_tokenizer(), SHAPE._replace(vocab_size=264)
    p = models.gpt2(shape).init(KEY)
    if not tied:
        p = p | {"lm_head": {"weight": p["wte"]["weight"] + 1.0}}
    huggingface.save(tmp_path, shape, p, tokenizer)
    model, cut, read = assembly.load_model(tmp_path)
    assert read.size == model.shape.vocab_size == 257
    assert equal(cut, {name: {"weight": x["weight"][:257]} if x is p[name] and name in ("wte", "lm_head") else x
                       for name, x in p.items()})  # fmt: skip
    h = jax.random.normal(KEY, (3, SHAPE.width))
    padded = models.gpt2(shape).logits(p, h)
    np.testing.assert_allclose(model.logits(cut, h), padded[..., :257], atol=1e-6)


@pytest.mark.parametrize("size", [256, 259, 520])  # less, no multiple of 8, and more than padding
def test_a_tokenizer_of_another_model_is_refused(tmp_path, size):
    shape, tokenizer = SHAPE._replace(vocab_size=size), tokens_of_text.byte_tokenizer()
    huggingface.save(tmp_path, shape, models.gpt2(shape).init(KEY))
    tokenizer.save(tmp_path)
    with pytest.raises(ValueError, match=f"the tokenizer has 257 tokens and the model {size}; they do not belong"):
        assembly.load_model(tmp_path)


# --- where transformers is installed ----------------------------------------------------------------------------------

TEXT = "Two words , and 3 more:  naïve ☃!"


def their_logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()


def test_a_larger_model_in_half_precision_has_the_logits_of_transformers(tmp_path):
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = random_model(3, n_embd=128, n_layer=4, n_head=4, vocab_size=500, n_positions=96, n_inner=200)
    theirs.half().save_pretrained(tmp_path)
    model, p = huggingface.load(tmp_path)
    ids = np.random.default_rng(5).integers(500, size=(3, 48)).astype(np.int32)
    logits = model.logits(p, jax.jit(model.features)(p, ids))
    error = np.abs(logits - their_logits(theirs.to(torch.float32), ids)).max()
    print(f"largest difference of logits {error:.1e}, largest logit {np.abs(logits).max():.1f}")
    assert error < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_is_saved(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    p = params() if tied else params() | {"lm_head": {"weight": params()["wte"]["weight"][::-1] * 0.5}}
    huggingface.save(tmp_path, SHAPE, p)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    logits = MODEL.logits(p, FEATURES(p, tokens()))
    np.testing.assert_allclose(logits, their_logits(theirs.eval(), tokens()), atol=1e-4)


@pytest.mark.parametrize("make", [tokens_of_text.byte_tokenizer, lambda: tokens_of_text.character_tokenizer([TEXT])])
def test_transformers_reads_the_tokenizer_that_is_saved(tmp_path, make):
    transformers = pytest.importorskip("transformers")
    tokenizer = make()
    shape = SHAPE._replace(vocab_size=tokenizer.size)
    huggingface.save(tmp_path, shape, models.gpt2(shape).init(KEY), tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == list(tokenizer.encode(TEXT))
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end
    assert theirs.decode(tokenizer.encode(TEXT)) == TEXT
