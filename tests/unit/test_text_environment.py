"""Text as an environment: its rules by hand, and the policy network in it against generation and the parallel pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.core import Agent, Transition
from purerl.testing import check_env
from purerl.text.data import Pairs, Task, task
from purerl.text.environment import TextGeneration, ended_by_token, equals_a_reference, exact_match
from purerl.text.generation import completion_log_probs, generate, sample
from purerl.text.models import GPT2, gpt2, policy, policy_network
from purerl.text.tokens import character_tokenizer
from purerl.training import evaluation
from purerl.training.environments import vectorized
from purerl.training.rollouts import first_episodes, rollout, start

TOKENIZER = character_tokenizer(["abcd"])
PAIRS = Pairs(["ab", "c", "dca"], [["cd"], ["aa", "b"], ["dd"]])
TASK = task(TOKENIZER, PAIRS, 4, 3)
T, END, V = 4, TOKENIZER.end, TOKENIZER.size
ENV = TextGeneration(TASK, T, vocab_size=V)


RESET = jax.jit(lambda key: ENV.reset_env(key, None))


def stepping(env):
    """A compiled step of an environment."""
    return jax.jit(lambda state, token: env.step_env(None, state, token, None))


STEP = stepping(ENV)


def played(text, key, step=STEP):
    """The steps of an episode in which `text` is written."""
    _, state = RESET(key)
    steps = []
    for token in text:
        obs, state, reward, terminated, info = step(state, np.int32(token))
        steps.append((obs, float(reward), bool(terminated), jax.tree.map(int, info)))
        assert not ENV.is_truncated(state, None)
        if terminated:
            break
    return steps


def test_contract(key):
    check_env(ENV, ENV.default_params, key, num_steps=20)
    alone = TextGeneration(task(TOKENIZER, ["ab", ""], 2, 1), 2)  # no references
    check_env(alone, alone.default_params, key, num_steps=20)
    assert alone.num_actions == V and ENV.default_params.max_steps_in_episode == T


def test_a_reset_draws_every_prompt_and_shows_its_last_token():
    obs, state = jax.jit(jax.vmap(lambda key: ENV.reset_env(key, None)))(jax.random.split(jax.random.key(0), 600))
    counts = np.bincount(state.index, minlength=3)
    assert len(counts) == 3 and np.abs(counts - 200).max() < 50
    for name, given in (("prompt", TASK.prompts), ("length", TASK.prompt_length)):
        np.testing.assert_array_equal(obs[name], given[state.index])
    last = [TOKENIZER.encode(PAIRS.prompts[i])[-1] for i in range(3)]
    np.testing.assert_array_equal(obs["token"], np.array(last)[state.index])


def test_the_rules():
    keys = [jax.random.key(i) for i in range(8)]
    seen = {}
    for key in keys:
        index = int(RESET(key)[1].index)
        for text in ("cd", "b", "aa", "dd", "aab", "cdab"):
            ids = [*TOKENIZER.encode(text), END, END]
            steps = played(ids, key)
            finished = len(text) < T
            assert len(steps) == (len(text) + 1 if finished else T)
            assert [x[2] for x in steps] == [False] * (len(steps) - 1) + [True]
            assert [x[3] for x in steps] == [
                {"index": index, "ended": int(finished and t == len(text))} for t in range(len(steps))
            ]
            assert [int(x[0]["token"]) for x in steps] == ids[: len(steps)]
            assert all((x[0]["prompt"] == TASK.prompts[index]).all() for x in steps)
            right = text in PAIRS.references[index]
            assert [x[1] for x in steps] == [0.0] * (len(steps) - 1) + [float(right)]
            seen[index, right] = True
    assert len(seen) == 6  # each prompt, with right and wrong texts


def test_a_reference_as_long_as_the_limit_needs_its_end():
    score, text = jax.jit(exact_match(TASK), static_argnums=2), TOKENIZER.encode("cd")
    assert score(jnp.array(text), jnp.array(2), 0) == 0.0
    assert score(jnp.array([*text, END]), jnp.array(2), 0) == 1.0


def test_a_score_of_the_user_is_paid_once_at_the_end():
    step = stepping(TextGeneration(TASK, T, lambda tokens, length, index: 10.0 * length + index))
    for key in map(jax.random.key, range(3)):
        index = int(RESET(key)[1].index)
        assert [x[1] for x in played([1, 1, END], key, step)] == [0.0, 0.0, 20.0 + index]
        assert [x[1] for x in played([1, 1, 0, 2, 2], key, step)] == [0.0, 0.0, 0.0, 40.0 + index]


def test_equality_against_lists():
    source = np.random.default_rng(0)
    count, references = 150, 2
    tokens, others = source.integers(0, 2, (count, 3)), source.integers(0, 2, (count, references, 5))
    length, lengths = source.integers(0, 4, count), source.integers(0, 6, (count, references))
    mask = source.random((count, references)) < 0.7
    got = np.asarray(jax.jit(equals_a_reference)(tokens, length, others, lengths, mask))
    wanted = [
        any(there and x[:n].tolist() == y[:m].tolist() for y, m, there in zip(*own, strict=True))
        for x, n, *own in zip(tokens, length, others, lengths, mask, strict=True)
    ]
    assert got.tolist() == wanted and 5 < got.sum() < 40


TEMPERATURE, N, SLOTS = 0.7, 8, 4 + T
MODEL = gpt2(GPT2(V, SLOTS, 8, 2, 2))
CHOOSE = sample(TEMPERATURE)


def test_environment_and_generation_are_one_and_agree_with_the_parallel_pass():
    """The same keys give the same texts: a step of the agent is a step of generation."""
    params = jax.tree.map(lambda x: x if x.ndim == 1 else 10 * x, jax.jit(MODEL.init)(jax.random.key(1)))
    network, distribution = policy_network(MODEL, SLOTS, params, TEMPERATURE), policy(V)
    draw, key = jax.random.key(5), jax.random.key(2)

    def act(key, state, cache, obs):
        step = (cache.length - jnp.where(cache.length > 0, obs["length"] - 1, 0)).max()
        (pi, _), cache = network.step(state, cache, obs)
        action = CHOOSE(jax.random.fold_in(draw, step), pi.features @ pi.kernel.T)
        return action, cache, distribution.log_prob(pi, action)

    nothing = lambda *_: None
    agent = Agent(nothing, network.memory, network.reset, act, nothing, nothing, True)
    world = vectorized(ENV, ENV.default_params)

    @jax.jit
    def both(params):
        position = start(world, agent, jax.random.split(key, N))
        state = {"model": params, "value": {"weight": jnp.zeros(8), "bias": jnp.zeros(())}}
        _, data = rollout(world, agent, state, position, key, T, info=("index", "ended"), episodic=True)
        tr = first_episodes(data.transitions)
        index = tr.info["index"][0]
        prompts, length = jnp.asarray(TASK.prompts)[index], jnp.asarray(TASK.prompt_length)[index]
        out = generate(MODEL, params, draw, prompts, length, T, END, CHOOSE)
        (pi, _), _, _ = network.unroll(state, data.memory, tr.obs, tr.terminated | tr.truncated)
        of_unroll = distribution.log_prob(pi, tr.action)
        return tr, out, completion_log_probs(MODEL, params, prompts, length, out.tokens, TEMPERATURE), of_unroll

    tr, out, parallel, of_unroll = jax.tree.map(np.asarray, both(params))
    there = tr.valid.T
    np.testing.assert_array_equal(np.where(there, tr.action.T, END), out.tokens)
    np.testing.assert_array_equal(there.sum(1) - out.ended, out.length)
    assert out.ended.any() and not out.ended.all() and not (tr.truncated & tr.valid).any()
    np.testing.assert_array_equal((tr.info["ended"] & tr.valid).any(0), out.ended)
    largest = {
        "environment and generation": np.where(there, tr.extras.T - out.log_prob, 0.0),
        "generation and the parallel pass": np.where(there, out.log_prob - parallel, 0.0),
        "environment and the network's unroll": np.where(there, tr.extras.T - of_unroll.T, 0.0),
    }
    largest = {name: float(np.abs(x).max()) for name, x in largest.items()}
    for name, x in largest.items():
        print(f"max |difference of log-probabilities|, {name}: {x:.1e}")
    assert largest["environment and generation"] == 0.0
    assert max(largest.values()) <= 1e-4


def test_the_greedy_agent_is_evaluated_in_it(key):
    """Every episode of an evaluation ends by itself."""
    network, distribution = policy_network(MODEL, SLOTS), policy(V)

    def greedy(state, cache, obs):
        (pi, _), cache = network.step(state, cache, obs)
        return distribution.mode(pi), cache

    nothing = lambda *_: None
    agent = Agent(nothing, network.memory, network.reset, nothing, greedy, nothing)
    params = jax.jit(network.init)(key, None)
    run = lambda key: evaluation.evaluate(ENV, ENV.default_params, agent, params, key, 6, greedy=True)
    got = jax.jit(run)(key)
    assert got.finished.all() and (got.lengths >= 1).all() and (got.lengths <= T).all()


def test_completions_that_ended_by_the_end_token():
    """Of four: at once, later, at the limit, and one whose end belongs to a step after it."""
    ended = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    valid = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0]], bool)
    of = Transition(*[np.zeros((3, 4))] * 4, *[~valid] * 2, valid, info={"ended": jnp.asarray(ended)})
    assert ended_by_token(of).tolist() == [True, True, False, False]


def test_bad_inputs():
    empty = Task(*(x[:0] for x in TASK[:5]), END)
    for call, said in (
        (lambda: TextGeneration(TASK, 0), "max_tokens is 0; it must be a positive int"),
        (lambda: TextGeneration(empty, 3), "the task has no prompts"),
        (lambda: TextGeneration(TASK._replace(prompt_length=np.array([1, 0, 2])), 3), "an empty prompt, at index 1"),
        (lambda: TextGeneration(TASK, 3, score=2.0), "score is 2.0; it must be a function"),
        (lambda: TextGeneration(TASK, 3, vocab_size=END), f"vocab_size is {END}; it must be at least {V}"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
