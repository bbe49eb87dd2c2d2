"""The synthetic oracle of SeqGAN (Yu et al., 2017, arXiv:1609.05473): maximum likelihood, then policy gradient.

    python benchmarks/papers/text_oracle.py [--oracles 3] [--seeds 2] [--published target_params_py3.pkl] [--report]

An LSTM with weights from N(0, 1) writes 10,000 sequences of 20 tokens; a generator of the same architecture learns from
them, first by maximum likelihood, then by policy gradient. It is judged by the oracle: the mean of -log p of a token of
its own sequences. That judges quality alone, so each row also has entropy, what the generator makes of sequences that
it has not seen, Self-BLEU and distinct-2, and the maximum-likelihood model at lower temperatures stands beside.

Results are JSON files under results/text-oracle/, one for each oracle, seed and row; a run that was stopped continues
with what is missing. The parameters of maximum likelihood are kept in .cache/text-oracle, which may be deleted.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from text_report import section

import purerl
from purerl import networks, rewards, statistics
from purerl.core import Distribution, Reward
from purerl.runs import report
from purerl.runs.devices import set_up_jax
from purerl.text import metrics, models
from purerl.text.data import Task
from purerl.text.environment import TextGeneration
from purerl.text.generation import completion_log_probs, generate
from purerl.text.likelihood import Likelihood, likelihood_learner
from purerl.text.rewards import fluency, of_completions

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "text-oracle"
KEPT = HERE.parent.parent / ".cache" / "text-oracle"

VOCABULARY, LENGTH, SIZE = 5_000, 20, 32
START = 0  # the prompt: an ordinary token too, as in the authors' code
END = VOCABULARY  # outside the generator's vocabulary, so that every sequence has LENGTH tokens
TRAINING, HELD_OUT, JUDGED = 10_000, 2_000, 10_000  # sequences
BATCH = 64
EPOCH = -(-TRAINING // BATCH)  # updates
PATIENCE, MOST_EPOCHS = 4, 40  # epochs without a better held-out likelihood after which training ends
UPDATES, EVERY, NUM_ENVS = 200, 10, 64  # of policy gradient
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
ORDER = 3  # of the BLEU that is a reward, as in PG-BLEU
PUBLISHED = {"random": 10.310, "maximum likelihood": 9.038, "PG-BLEU": 8.946, "SeqGAN": 8.736}


# --- the LSTM ---------------------------------------------------------------------------------------------------------


def lstm_model(size: int = SIZE) -> models.LanguageModel:
    """SeqGAN's LSTM as a language model: the cache is its state; the bias of the head is the weight of a feature 1.

    Its `prefill` takes rows that are full, which is what prompts of one token need.
    """
    core = networks.lstm(size)

    def init(key):
        shapes = jax.eval_shape(lambda: core.init(jax.random.key(0), size))
        shapes = {
            "embedding": jax.ShapeDtypeStruct((VOCABULARY, size), jnp.float32),
            "lstm": shapes,
            "head": jax.ShapeDtypeStruct((VOCABULARY, size + 1), jnp.float32),
        }
        leaves, tree = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))
        return tree.unflatten([jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)])

    def cache(n, slots):
        del slots  # the state has one size
        h, c = core.memory(n)
        return models.Cache((h,), (c,), jnp.zeros(n, jnp.int32))

    with_one = lambda h: jnp.concatenate([h, jnp.ones((*h.shape[:-1], 1), h.dtype)], axis=-1)

    def step(params, cache, token):
        memory = core.reset((cache.keys[0], cache.values[0]), cache.length == 0)
        y, (h, c) = core.step(params["lstm"], memory, params["embedding"][token])
        return with_one(y), models.Cache((h,), (c,), cache.length + 1)

    def prefill(params, tokens, length, slots):
        del slots
        x = params["embedding"][tokens.T]
        ended = jnp.zeros(x.shape[:2], bool)
        y, _, (h, c) = core.unroll(params["lstm"], core.memory(x.shape[1]), x, ended)
        return with_one(y).swapaxes(0, 1), models.Cache((h,), (c,), jnp.asarray(length, jnp.int32))

    features = lambda params, tokens: prefill(params, tokens, jnp.full(tokens.shape[:1], tokens.shape[1]), 0)[0]
    kernel = lambda params: params["head"]
    logits = lambda params, features: features @ kernel(params).T
    shape = models.GPT2(VOCABULARY, LENGTH + 1, size + 1, 1, 1)  # the sizes alone
    return models.LanguageModel(init, cache, prefill, step, features, logits, shape, kernel)


MODEL = lstm_model()


def draw(key: jax.Array, logits: jax.Array, blocks: int = 50) -> jax.Array:
    """A token from softmax(logits `[N, V]`) by inversion: one uniform number a token, in place of V of Gumbel's.

    The cumulative sums are over blocks and then inside of one. It takes a tenth of the time of `categorical`.
    """
    num = logits.shape[0]
    p = jnp.exp(logits - logits.max(-1, keepdims=True)).reshape(num, blocks, -1)
    before = jnp.cumsum(p.sum(-1), -1)
    u = jax.random.uniform(key, (num, 1)) * before[:, -1:]
    block = jnp.minimum((before <= u).sum(-1), blocks - 1)
    rows = jnp.arange(num)
    rest = u[:, 0] - jnp.where(block > 0, before[rows, block - 1], 0.0)
    inside = (jnp.cumsum(p[rows, block], -1) <= rest[:, None]).sum(-1)
    return (block * p.shape[-1] + jnp.minimum(inside, p.shape[-1] - 1)).astype(jnp.int32)


class Tempered(NamedTuple):
    """The choice of `generate`: softmax(logits / temperature), by inversion."""

    temperature: Any = 1.0

    def __call__(self, key, logits):
        return draw(key, logits / self.temperature)


@partial(jax.jit, static_argnums=2)
def write(params: Any, key: jax.Array, num: int, temperature: Any = 1.0) -> jax.Array:
    """Sequences of a model, int32 `[num, 20]`, in parts of 500."""

    def part(key):
        start = jnp.full((500, 1), START), jnp.ones(500, jnp.int32)
        return generate(MODEL, params, key, *start, LENGTH, END, Tempered(temperature)).tokens

    return jax.lax.map(part, jax.random.split(key, num // 500)).reshape(num, LENGTH)


@jax.jit
def nll(params: Any, tokens: jax.Array, temperature: Any = 1.0) -> jax.Array:
    """The mean of -log p of a token of sequences `[N, 20]`, N a multiple of 500."""

    def part(tokens):
        start = jnp.full((500, 1), START), jnp.ones(500, jnp.int32)
        return -completion_log_probs(MODEL, params, *start, tokens, temperature).mean()

    return jax.lax.map(part, tokens.reshape(-1, 500, LENGTH)).mean()


# --- oracle and data --------------------------------------------------------------------------------------------------


class World(NamedTuple):
    """An oracle, and what it wrote."""

    name: str
    oracle: Any
    training: np.ndarray  # int32 [10000, 20]
    held_out: np.ndarray  # int32 [2000, 20]


class _Arrays(pickle.Unpickler):
    """Reads pickles of lists of NumPy arrays, and of nothing else."""

    def find_class(self, module, name):
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        raise ValueError(f"the file has a {module}.{name}; it must have arrays alone")


def published_oracle(path: Path) -> Any:
    """The weights of the authors' oracle, from `save/target_params_py3.pkl` of their repository."""
    x = [np.asarray(array, np.float32) for array in _Arrays(io.BytesIO(path.read_bytes())).load()]
    gates = lambda k: np.concatenate([x[1 + k], x[4 + k], x[10 + k], x[7 + k]], axis=-1)  # i, f, new, output
    lstm = {"input": gates(0), "recurrent": gates(1), "bias": gates(2)}
    head = np.concatenate([x[13].T, x[14][:, None]], axis=1)
    return jax.tree.map(jnp.asarray, {"embedding": x[0], "lstm": lstm, "head": head})


def world(oracle: int | None, published: Path | None) -> World:
    """Oracle number 0, 1, 2 …, or the authors' own, for None."""
    key = jax.random.fold_in(jax.random.key(1609_05473), 10_000 if oracle is None else oracle)
    weights_key, training_key, held_key = jax.random.split(key, 3)
    params = MODEL.init(weights_key) if oracle is not None else published_oracle(published)
    training, held_out = write(params, training_key, TRAINING), write(params, held_key, HELD_OUT)
    name = "published" if oracle is None else str(oracle)
    return World(name, params, np.asarray(training), np.asarray(held_out))


# --- BLEU against all 10,000 training sequences -----------------------------------------------------------------------


class Table(NamedTuple):
    """The n-grams of a corpus of one order, sorted, and how often one of its sequences has each at most."""

    keys: jax.Array  # int32 [K]
    most: jax.Array  # int32 [K]


def table(keys: np.ndarray) -> tuple[Table, np.ndarray]:
    """The table of n-grams given as ids `[R, W]`, and the index in it of each."""
    unique, index = np.unique(keys, return_inverse=True)
    index = index.reshape(keys.shape)
    row = np.arange(len(keys))[:, None] * len(unique) + index
    pairs, count = np.unique(row, return_counts=True)
    most = np.zeros(len(unique), np.int32)
    np.maximum.at(most, pairs % len(unique), count)
    return Table(jnp.asarray(unique, jnp.int32), jnp.asarray(most)), index


def tables(texts: np.ndarray) -> tuple[Table, ...]:
    """The tables of orders 1 to 3; an n-gram is the pair of an (n-1)-gram's index and a token."""
    found, keys = [], texts.astype(np.int64)
    for n in range(1, ORDER + 1):
        if n > 1:
            keys = index[:, :-1] * VOCABULARY + texts[:, n - 1 :]  # noqa: F821 (of the order before)
        one, index = table(keys)
        found.append(one)
    return tuple(found)


def bleu(corpus: tuple[Table, ...], tokens: jax.Array) -> jax.Array:
    """Sentence BLEU of sequences `[N, 20]` against all sequences of a corpus: `metrics.bleu` by look-up."""
    matches, index, known = [], jnp.zeros_like(tokens), jnp.ones(tokens.shape, bool)
    earlier = jnp.tril(jnp.ones((LENGTH, LENGTH), bool), -1)
    same = jnp.ones((*tokens.shape, LENGTH), bool)
    for n, (keys, most) in enumerate(corpus, 1):
        width = LENGTH - n + 1
        last = tokens[:, n - 1 :]
        wanted = last if n == 1 else index[:, :width] * VOCABULARY + last
        index = jnp.minimum(jnp.searchsorted(keys, wanted), len(keys) - 1)
        known = known[:, :width] & (keys[index] == wanted)
        same = same[:, :width, :width] & (last[:, :, None] == last[:, None, :])
        seen = (same & earlier[:width, :width]).sum(-1)
        matches.append((known & (seen < most[index])).sum(-1))
    matches = jnp.stack(matches, -1)
    totals = jnp.broadcast_to(LENGTH + 1 - jnp.arange(1, ORDER + 1), matches.shape)
    length = jnp.full(tokens.shape[:1], LENGTH)
    return metrics.bleu_score(metrics.BleuStatistics(matches, totals, length, length))


def check_bleu(world: World) -> None:
    """The look-up equals the library's BLEU, on mixtures of sequences that share many n-grams."""
    references = world.training[:40]
    one, two = world.training[20:60], world.training[100:140]
    tokens = np.concatenate([one, np.where(np.arange(LENGTH) % 7 < 4, one, two), np.roll(one, 3, 1) // 9 * 9])
    tokens[:10, 5:] = tokens[:10, :15]
    length = np.full(len(references), LENGTH)
    batch = np.broadcast_to(references, (len(tokens), *references.shape))
    wanted = metrics.bleu(tokens, np.full(len(tokens), LENGTH), batch, np.broadcast_to(length, batch.shape[:2]), order=3)
    np.testing.assert_allclose(bleu(tables(references), jnp.asarray(tokens)), wanted, rtol=1e-6)


# --- judging ----------------------------------------------------------------------------------------------------------


@jax.jit
def diversity(tokens: jax.Array) -> dict[str, jax.Array]:
    """Self-BLEU-3 in groups of 200 sequences, distinct-2 in groups of 1,000, and different sequences."""
    groups, many = tokens[:1000].reshape(5, 200, LENGTH), tokens.reshape(-1, 1000, LENGTH)
    lengths = lambda x: jnp.full(x.shape[:-1], LENGTH)
    own = jax.lax.map(lambda x: metrics.self_bleu(x, lengths(x), 3), groups)
    return {
        "self_bleu": own.mean(),
        "distinct2": metrics.distinct_n(many, lengths(many), 2).mean(),
        "tokens_used": (jnp.zeros(VOCABULARY).at[tokens[:1000]].add(1) > 0).sum(),
    }


def judged(world: World, corpus: tuple[Table, ...], tokens: jax.Array) -> dict[str, float]:
    """What can be said of sequences alone."""
    values = {"oracle_nll": nll(world.oracle, tokens), **diversity(tokens), "bleu": bleu(corpus, tokens[:2000]).mean()}
    return {name: float(x) for name, x in values.items()}


def judge(world: World, corpus: tuple[Table, ...], params: Any, key: jax.Array, temperature: float = 1.0) -> dict:
    """A generator's row. Its entropy is the mean of -log p of its own sequences, under itself."""
    tokens = write(params, key, JUDGED, temperature)
    of_itself, of_others = (nll(params, x, temperature) for x in (tokens, world.held_out))
    return judged(world, corpus, tokens) | {"entropy": float(of_itself), "held_out_nll": float(of_others)}


# --- maximum likelihood -----------------------------------------------------------------------------------------------


def maximum_likelihood(world: World, seed: int) -> tuple[Any, dict]:
    """The parameters with the best held-out likelihood, and the curve: SeqGAN's Adam, batch and initial weights."""
    texts = jnp.asarray(np.concatenate([np.full((TRAINING, 1), START, np.int32), world.training], axis=1))
    mask = jnp.ones((BATCH, LENGTH), bool)

    def batch(key):
        return texts[jax.random.randint(key, (BATCH,), 0, TRAINING)], mask

    init_key, key, judge_key = jax.random.split(jax.random.fold_in(jax.random.key(7), seed), 3)
    start = jax.tree.map(lambda x: 0.1 * x, MODEL.init(init_key))
    hp = Likelihood(learning_rate=0.01, warmup_updates=1.0, weight_decay=0.0, max_grad_norm=5.0)
    make = lambda hp: likelihood_learner(MODEL, batch, hp, start, chunk=2)
    held_out = jnp.asarray(world.held_out)
    curve, best, params = [], np.inf, start
    for update, state, rows in purerl.run(make, hp, key, MOST_EPOCHS * EPOCH, EPOCH):
        now = state.agent.params
        sample = write(now, jax.random.fold_in(judge_key, update), 2000)
        row = {
            "epoch": update // EPOCH,
            "training_nll": float(rows["loss"]),
            "held_out_nll": float(nll(now, held_out)),
            "oracle_nll": float(nll(world.oracle, sample)),
            "entropy": float(nll(now, sample)),
        }
        curve.append({name: round(x, 4) for name, x in row.items()})
        report.note(f"oracle {world.name}, seed {seed}: {curve[-1]}")
        if row["held_out_nll"] < best:
            best, params = row["held_out_nll"], jax.tree.map(np.asarray, now)
        if len(curve) - 1 - int(np.argmin([x["held_out_nll"] for x in curve])) >= PATIENCE:
            break
    return params, {"curve": curve, "last": jax.tree.map(np.asarray, now)}


# --- policy gradient --------------------------------------------------------------------------------------------------


def policy() -> Distribution:
    """Tokens of the head, drawn by inversion. No arm pays for entropy, so its gradient is left out."""
    own = models.policy(VOCABULARY, chunk=2 * BATCH)
    return own._replace(
        sample=lambda key, p: draw(key, p.features @ p.kernel.T / p.temperature),
        entropy=lambda p: jax.lax.stop_gradient(own.entropy(p)),
    )


TASK = Task(
    np.full((1, 1), START, np.int32), np.ones(1, np.int32), np.zeros((1, 0, 1), np.int32),
    np.zeros((1, 0), np.int32), np.zeros((1, 0), bool), END,
)  # fmt: skip
ENV = TextGeneration(TASK, LENGTH, score=lambda tokens, length, index: jnp.zeros(()), vocab_size=VOCABULARY + 1)


class Arm(NamedTuple):
    """One way of reinforcement."""

    agent: Callable
    hp: Any
    term: str  # the reward: "bleu" or "oracle"
    about: str


LEARNING_RATE = 3e-3
REINFORCE = partial(purerl.SequenceREINFORCE, learning_rate=LEARNING_RATE)
RLOO = partial(purerl.RLOO, learning_rate=LEARNING_RATE, group_size=NUM_ENVS)
GRPO = partial(purerl.GRPO, learning_rate=LEARNING_RATE, group_size=NUM_ENVS)
ARMS = {
    "bleu-reinforce": Arm(purerl.sequence_reinforce, REINFORCE(), "bleu", "REINFORCE, moving average"),
    "bleu-rloo-kl": Arm(purerl.rloo, RLOO(kl_cost=0.002), "bleu", "RLOO, KL to maximum likelihood"),
    "oracle-reinforce": Arm(purerl.sequence_reinforce, REINFORCE(), "oracle", "REINFORCE, moving average"),
    "oracle-grpo": Arm(purerl.grpo, GRPO(), "oracle", "GRPO"),
    "oracle-rloo-kl": Arm(purerl.rloo, RLOO(kl_cost=0.05), "oracle", "RLOO, KL to maximum likelihood"),
}


def learner_of(arm: Arm) -> Callable[[Any], Any]:
    """`{"start", "oracle"} -> Learner`. Both terms are reported, one is learned from; the corpus is the reward's state."""
    weights = {"bleu": float(arm.term == "bleu"), "oracle": float(arm.term == "oracle")}

    def make(hp):
        network = models.policy_network(MODEL, LENGTH + 1, hp["start"], value=False)
        oracle = fluency(MODEL, hp["oracle"], TASK)

        def apply(key, corpus, tr):
            score = of_completions(lambda tokens, length, ended, index: bleu(corpus, tokens), END)
            total = rewards.weighted({"bleu": score, "oracle": oracle}, weights, rewards.mean_over_episodes)
            _, reward, about = total.apply(key, total.init(key, tr), tr)
            return corpus, reward, about

        empty = lambda key, tr: tuple(Table(jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)) for _ in range(ORDER))
        agent = arm.agent(network, policy(), arm.hp)
        return purerl.learner(
            ENV, ENV.default_params, agent, NUM_ENVS, LENGTH, Reward(empty, apply), info=("index",), returns="training"
        )

    return make


def reinforced(
    make: Callable, world: World, corpus: tuple[Table, ...], start: Any, seed: int, updates: int = UPDATES
) -> tuple[Any, list]:
    """The parameters after policy gradient from those of maximum likelihood, and the curve of its own samples."""
    hp = {"start": start, "oracle": world.oracle}
    state = make(hp).init(jax.random.fold_in(jax.random.key(11), seed))
    curve, params = [], None
    # a copy: the state is donated
    for update, now, rows in purerl.run(
        make, hp, None, updates, EVERY, state=state._replace(reward=jax.tree.map(jnp.copy, corpus))
    ):
        named = {"oracle_nll": -rows["oracle"], **{x: rows[x] for x in ("bleu", "entropy", "kl") if x in rows}}
        curve.append({"update": update} | {name: round(float(x), 4) for name, x in named.items()})
        params = now.agent.params["model"]
    return params, curve
