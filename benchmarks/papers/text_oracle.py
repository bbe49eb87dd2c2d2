"""The synthetic oracle of SeqGAN (Yu et al., 2017, arXiv:1609.05473): maximum likelihood, then policy gradient.

    python benchmarks/papers/text_oracle.py [--oracles 0 1 2 3 4] [--seeds 1] [--published FILE] [--record | --report]

An LSTM with weights from N(0, 1) writes 10,000 sequences of 20 tokens; a generator of the same architecture learns from
them, first by maximum likelihood, then by policy gradient. It is judged by the oracle: the mean of -log p of a token of
its own sequences. That judges quality alone, so each row also has the entropy of the generator, its likelihood of
sequences of the oracle that it has not seen, Self-BLEU and distinct-2, and the maximum-likelihood model at lower
temperatures stands beside.

The authors' own oracle is one row more where `--published` names `save/target_params_py3.pkl` of their repository,
https://github.com/LantaoYu/SeqGAN; it is read as arrays, and nothing in it is executed.

There is one JSON file for each oracle, seed and row, and a run that was stopped continues with what is missing. The
parameters of maximum likelihood are kept in .cache/text-oracle, which may be deleted.
"""

from __future__ import annotations

import io
import json
import pickle
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sections
from sections import recorded

import purerl
from purerl import networks, rewards, statistics
from purerl.core import Distribution, Reward
from purerl.runs import report
from purerl.text import metrics, models
from purerl.text.data import Task
from purerl.text.environment import TextGeneration
from purerl.text.generation import completion_log_probs, generate
from purerl.text.likelihood import Likelihood, likelihood_learner
from purerl.text.rewards import fluency, of_completions

KEPT = recorded.ROOT / ".cache" / "text-oracle"
VOCABULARY, LENGTH, SIZE = 5_000, 20, 32
START = 0  # the prompt: an ordinary token too, as in the authors' code
END = VOCABULARY  # outside the generator's vocabulary, so that every sequence has LENGTH tokens
TRAINING, HELD_OUT, JUDGED = 10_000, 2_000, 4_000  # sequences
BATCH = 64
EPOCH = -(-TRAINING // BATCH)  # updates
PATIENCE, MOST_EPOCHS = 4, 40  # epochs without a better held-out likelihood after which training ends, and the most
UPDATES, EVERY, NUM_ENVS = 120, 5, 64  # of policy gradient
TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ORDER = 3  # of the BLEU that is a reward, as in PG-BLEU
PUBLISHED = {"random": 10.310, "maximum likelihood": 9.038, "PG-BLEU": 8.946, "SeqGAN": 8.736}

TEXT = """
## The synthetic oracle

Written by `python benchmarks/papers/text_oracle.py --report` from the JSON files under `results/text-oracle/`. An LSTM
with weights from N(0, 1) writes 10,000 sequences of 20 of 5,000 tokens; a generator of the same architecture learns
from them (Yu et al., 2017, arXiv:1609.05473). Oracle NLL is the mean of -log p of a token of the generator's sequences
under the oracle: quality alone. Held-out NLL is that of the oracle's sequences under the generator: coverage. Entropy
is the mean of -log p of the generator's own sequences under itself. All are in nats a token, of {judged:,} sequences;
policy gradient takes {updates} updates of {envs} sequences. Means over {oracles} oracles with one generator each,
intervals of 95 % by bootstrap.

{ours}

Published, for one oracle: random 10.310, maximum likelihood 9.038, PG-BLEU 8.946, SeqGAN 8.736.

![NLL, entropy and the way there](text-oracle.png)

**How each row crosses 8.736, the published NLL of SeqGAN**

{crossings}

**After the last update, against the same oracle's temperature sweep at the same NLL** (differences; less held-out NLL
and Self-BLEU, and more entropy, are better)

{matched}

**The authors' own oracle** (`save/target_params_py3.pkl` of their repository, `--published`)

{authors}

{curve}

What is reached, and what it means:

- Policy gradient lowers the oracle's NLL far below every published figure, with a reward that does not see the oracle
  (BLEU-3 against the 10,000 training sequences) as with the oracle's own score, which is the upper bound of what
  reinforcement can do for this measure. Without a KL it does so by collapse: entropy falls to 2 nats with BLEU and
  below 1 with the oracle's score, Self-BLEU rises above 0.8, and held-out sequences become less likely than under
  uniform tokens (log 5000 = 8.52). An NLL below that of the oracle's own sequences, about 6, is a sign of collapse,
  not of quality.
- The published figures need no reinforcement. The maximum-likelihood model crosses 8.736 at a temperature of about
  0.7, with the entropy that the arms have where they cross it; arXiv:1811.02549 says the same of text GANs. Copies of
  training sequences have the NLL of the oracle itself and full diversity: the measure does not see memory.
- Maximum likelihood: the held-out likelihood is best after two or three epochs, at an NLL of 9.6 to 9.8. Trained
  longer, the model has a lower NLL, less entropy and a worse held-out likelihood, as at a lower temperature. SeqGAN
  trains for 120 epochs, and 9.038 is of such a model; ours stops early, so that its first row is above it. Under the
  authors' oracle, trained on, it has 9.09 after 40 epochs, near the authors' 9.07.
- A KL to the maximum-likelihood model makes a difference: with the oracle's score, RLOO with β = 0.1 ends with more
  entropy and a better held-out likelihood than the temperature of the same NLL, at the same Self-BLEU. This is a gain
  of reinforcement, though from the oracle's own score. With BLEU and β = 0.01 held-out sequences are more likely too,
  but Self-BLEU is higher and distinct-2 lower: no clear gain. Under the authors' oracle, of which there is one run,
  these weights of the KL do not prevent collapse: it gives some sequences less than 1 nat a token, and they are found.
- Control: minus the KL to the oracle as the reward (RLOO with the oracle as the reference, β = 1) pays for entropy as
  well. In as many updates neither NLL nor entropy nor held-out likelihood moves: what the other arms gain in NLL they
  gain mostly from entropy.
- Uniform tokens have an NLL of about 11.2 under our oracles and 11.4 under the authors', not the published 10.310,
  which is near that of tokens drawn by their training frequencies. The authors' oracle gives its own sequences 5.77.

What differs from the paper: rewards are of whole sequences, without Monte Carlo search for every token; BLEU is that
of `purerl.text.metrics` with smoothing `exp` against all training sequences (PG-BLEU: a sample of 40 %); there is no
discriminator; reinforcement has Adam with a learning rate of 3e-3 and gradients clipped to a norm of 1, chosen on
another oracle; maximum likelihood stops early. Alike are architecture, start token, initial weights N(0, 0.1²), Adam
with 0.01, batches of 64 and clipping to 5 in maximum likelihood, and 64 sequences in an update of reinforcement.
"""


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
    found, index = [], np.zeros((len(texts), LENGTH + 1), np.int64)
    for n in range(1, ORDER + 1):
        one, index = table(index[:, :-1] * VOCABULARY + texts[:, n - 1 :])
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
        wanted = index[:, :width] * VOCABULARY + last
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
    wanted = metrics.bleu(
        tokens, np.full(len(tokens), LENGTH), batch, np.broadcast_to(length, batch.shape[:2]), order=3
    )
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


class Fitted(NamedTuple):
    """Parameters with the best held-out likelihood, those after the last epoch, and the curve over epochs."""

    best: Any
    last: Any
    curve: list[dict[str, float]]


def maximum_likelihood(world: World, seed: int, at_least: int) -> Fitted:
    """SeqGAN's Adam, batch and initial weights, until the held-out likelihood has not been better for 4 epochs."""
    kept = KEPT / f"{world.name}-{seed}.npz"
    tree = jax.tree.structure(world.oracle)
    if kept.exists():
        with np.load(kept) as file:
            of = lambda name: jax.tree.unflatten(tree, [file[f"{name}{i}"] for i in range(tree.num_leaves)])
            return Fitted(of("best"), of("last"), json.loads(str(file["curve"])))
    texts = jnp.asarray(np.concatenate([np.full((TRAINING, 1), START, np.int32), world.training], axis=1))
    mask, held_out = jnp.ones((BATCH, LENGTH), bool), jnp.asarray(world.held_out)

    def batch(key):
        return texts[jax.random.randint(key, (BATCH,), 0, TRAINING)], mask

    init_key, key, judge_key = jax.random.split(jax.random.fold_in(jax.random.key(7), seed), 3)
    start = jax.tree.map(lambda x: 0.1 * x, MODEL.init(init_key))
    hp = Likelihood(learning_rate=0.01, warmup_updates=1.0, weight_decay=0.0, max_grad_norm=5.0)
    make = lambda hp: likelihood_learner(MODEL, batch, hp, start, chunk=2)
    curve, best, last = [], start, start
    for update, state, rows in purerl.run(make, hp, key, MOST_EPOCHS * EPOCH, EPOCH):
        last = jax.tree.map(np.asarray, state.agent.params)
        sample = write(last, jax.random.fold_in(judge_key, update), 2000)
        row = {
            "training_nll": rows["loss"],
            "held_out_nll": nll(last, held_out),
            "oracle_nll": nll(world.oracle, sample),
            "entropy": nll(last, sample),
        }
        curve.append({"epoch": update // EPOCH} | {name: round(float(x), 4) for name, x in row.items()})
        report.note(f"oracle {world.name}, seed {seed}: {curve[-1]}")
        since = len(curve) - 1 - int(np.argmin([x["held_out_nll"] for x in curve]))
        best = last if since == 0 else best
        if since >= PATIENCE and len(curve) >= at_least:
            break
    named = {f"{name}{i}": x for name, p in (("best", best), ("last", last)) for i, x in enumerate(jax.tree.leaves(p))}
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, curve=json.dumps(curve), **named)
    return Fitted(best, last, curve)


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
    term: str | None  # the reward: "bleu", "oracle" or none
    about: str
    towards_oracle: bool = False  # the KL is to the oracle, not to the maximum-likelihood model
    late: bool = False  # starts from the last epoch of maximum likelihood, not from the best


LEARNING_RATE = 3e-3
REINFORCE = partial(purerl.SequenceREINFORCE, learning_rate=LEARNING_RATE)
RLOO = partial(purerl.RLOO, learning_rate=LEARNING_RATE, group_size=NUM_ENVS)
GRPO = partial(purerl.GRPO, learning_rate=LEARNING_RATE, group_size=NUM_ENVS)
ARMS = {
    "bleu-reinforce": Arm(purerl.sequence_reinforce, REINFORCE(), "bleu", "BLEU: REINFORCE, moving average"),
    "bleu-rloo-kl": Arm(purerl.rloo, RLOO(kl_cost=0.01), "bleu", "BLEU: RLOO, KL to maximum likelihood, β = 0.01"),
    "oracle-reinforce": Arm(purerl.sequence_reinforce, REINFORCE(), "oracle", "oracle: REINFORCE, moving average"),
    "oracle-grpo": Arm(purerl.grpo, GRPO(), "oracle", "oracle: GRPO"),
    "oracle-rloo-kl": Arm(purerl.rloo, RLOO(kl_cost=0.1), "oracle", "oracle: RLOO, KL to maximum likelihood, β = 0.1"),
    "reverse-kl": Arm(purerl.rloo, RLOO(kl_cost=1.0), None, "minus KL to the oracle: RLOO", towards_oracle=True),
    "bleu-late": Arm(purerl.sequence_reinforce, REINFORCE(), "bleu", "BLEU, from the last epoch: REINFORCE", late=True),
}


def learner_of(arm: Arm) -> Callable[[Any], Any]:
    """`{"start", "oracle"} -> Learner`. Both terms are reported; the corpus is the state of the reward."""
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
        reference = {"reference": {"model": hp["oracle"]}} if arm.towards_oracle else {}
        agent = arm.agent(network, policy(), arm.hp, **reference)
        return purerl.learner(
            ENV, ENV.default_params, agent, NUM_ENVS, LENGTH, Reward(empty, apply), info=("index",), returns="training"
        )

    return make


def reinforced(make: Callable, world: World, corpus: tuple[Table, ...], start: Any, seed: int) -> tuple[Any, list]:
    """The parameters after policy gradient from those of maximum likelihood, and the curve of its own samples."""
    hp = {"start": start, "oracle": world.oracle}
    state = make(hp).init(jax.random.fold_in(jax.random.key(11), seed))
    state = state._replace(reward=jax.tree.map(jnp.copy, corpus))  # copies: the state is donated
    curve, params = [], None
    for update, now, rows in purerl.run(make, hp, None, UPDATES, EVERY, state=state):
        named = {"oracle_nll": -rows["oracle"], **{x: rows[x] for x in ("bleu", "entropy", "kl") if x in rows}}
        curve.append({"update": update} | {name: round(float(x), 4) for name, x in named.items()})
        params = now.agent.params["model"]
    return params, curve


# --- rows -------------------------------------------------------------------------------------------------------------


def stored(folder: Path, row: str, compute: Callable[[], dict]) -> None:
    """Compute a row unless its file is there."""
    path = folder / f"{row}.json"
    if path.exists():
        return
    began = time.perf_counter()
    record = {"row": row, "oracle": folder.name.rsplit("-", 1)[0], "seed": int(folder.name.rsplit("-", 1)[1])}
    rounded = {name: round(x, 4) if isinstance(x, float) else x for name, x in compute().items()}
    record |= rounded | recorded.made_with()
    recorded.save(path, record)
    report.note(f"{folder.name}/{row}: {rounded.get('oracle_nll')} in {time.perf_counter() - began:.0f} s")


def without_learning(world: World) -> dict[str, np.ndarray]:
    """Sequences that no generator wrote: of the oracle, copied, by frequency, and uniform."""
    rng = np.random.default_rng(0)
    return {
        "oracle-itself": np.resize(world.held_out, (JUDGED, LENGTH)),
        "copies": world.training[:JUDGED],
        "frequencies": rng.choice(world.training.reshape(-1), (JUDGED, LENGTH)),
        "uniform": rng.integers(0, VOCABULARY, (JUDGED, LENGTH), dtype=np.int32),
    }


def compute_rows(folder: Path, world: World, seed: int, makes: dict[str, Callable]) -> None:
    """All rows of one oracle and seed."""
    of_authors = world.name == "published"
    rows = [*ARMS] if of_authors else [name for name, arm in ARMS.items() if not arm.late]
    if all((folder / f"{row}.json").exists() for row in (*rows, *(f"temperature-{t}" for t in TEMPERATURES))):
        return
    corpus, key = tables(world.training), jax.random.fold_in(jax.random.key(13), seed)
    for row, tokens in without_learning(world).items():
        stored(folder, row, lambda: judged(world, corpus, jnp.asarray(tokens)))
    fitted = maximum_likelihood(world, seed, MOST_EPOCHS if of_authors else 0)
    recorded.save(folder / "curve.json", {"curve": fitted.curve})
    best = 1 + int(np.argmin([x["held_out_nll"] for x in fitted.curve]))
    stored(folder, "maximum-likelihood", lambda: judge(world, corpus, fitted.best, key) | {"epochs": best})
    last = {"epochs": len(fitted.curve)}
    stored(folder, "maximum-likelihood-last", lambda: judge(world, corpus, fitted.last, key) | last)
    for temperature in TEMPERATURES:
        row = f"temperature-{temperature}"
        stored(folder, row, lambda: judge(world, corpus, fitted.best, key, temperature) | {"temperature": temperature})
    for row in rows:
        arm = ARMS[row]

        def learned():
            start = fitted.last if arm.late else fitted.best
            params, curve = reinforced(makes[row], world, corpus, start, seed)
            hp = {name: x for name, x in vars(arm.hp).items() if x is not None}
            return judge(world, corpus, params, key) | {"curve": curve, "hyperparameters": hp}

        stored(folder, row, learned)


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    makes = {name: learner_of(arm) for name, arm in ARMS.items()}
    for number, oracle in enumerate([*([None] if given.published else []), *given.oracles]):
        own = world(oracle, given.published)
        if number == 0:
            check_bleu(own)
        for seed in range(given.seeds):
            compute_rows(root / f"{own.name}-{seed}", own, seed, makes)


# --- the report -------------------------------------------------------------------------------------------------------

NAMES = {
    "uniform": "tokens drawn uniformly",
    "frequencies": "tokens drawn by their training frequencies",
    "maximum-likelihood": "**maximum likelihood**, best held-out epoch",
    "maximum-likelihood-last": "maximum likelihood, last epoch",
    **{f"temperature-{t}": f"the best epoch at temperature {t}" for t in TEMPERATURES},
    **{row: f"reward {arm.about}" for row, arm in ARMS.items()},
    "copies": "training sequences, copied",
    "oracle-itself": "the oracle itself",
}
COLUMNS = {
    "oracle_nll": "oracle NLL",
    "entropy": "entropy",
    "held_out_nll": "held-out NLL",
    "self_bleu": "Self-BLEU-3",
    "distinct2": "distinct-2",
    "bleu": "BLEU-3 to training",
}


def rows_of(found: sections.Found, row: str, published: bool) -> list[dict]:
    """The records of a row: of the authors' oracle, or of those of ours that have all arms."""
    whole = lambda rows: all(name in rows for name, arm in ARMS.items() if not arm.late)
    folders = [rows for name, rows in sorted(found.items()) if name.startswith("published") == published]
    return [rows[row] for rows in folders if (published or whole(rows)) and row in rows]


def mean_of(records: list[dict], column: str, interval: bool = False) -> str:
    """The mean over records, with a 95 % bootstrap interval if asked for."""
    values = np.array([x[column] for x in records if column in x])
    if not len(values):
        return "-"
    text = f"{values.mean():.3f}"
    if interval and len(values) > 1:
        low, high = statistics.interval(values, statistics.mean)
        text += f" [{low:.3f}, {high:.3f}]"
    return text


def table_of(found: sections.Found, published: bool) -> str:
    lines = ["| " + " | ".join(["row", *COLUMNS.values()]) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for row, name in NAMES.items():
        records = rows_of(found, row, published)
        if records and len(records) >= len(rows_of(found, "uniform", published)):  # of all oracles
            cells = [mean_of(records, column, column == "oracle_nll") for column in COLUMNS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep(found: sections.Found, published: bool, oracle: str | None = None) -> dict[str, np.ndarray]:
    """The columns of the maximum-likelihood model over temperatures, means over oracles or those of one."""
    rows = {t: rows_of(found, f"temperature-{t}", published) for t in TEMPERATURES}
    rows[1.0] = rows_of(found, "maximum-likelihood", published)
    rows = {
        t: [x for x in row if oracle in (None, x["oracle"])] for t, row in rows.items() if len(row) == len(rows[1.0])
    }
    columns = {name: np.array([np.mean([x[name] for x in row]) for row in rows.values()]) for name in COLUMNS}
    return columns | {"temperature": np.array([*rows])}


def crossing(record: dict, level: float) -> tuple[float, float] | None:
    """Updates until the oracle's NLL falls below a level, and entropy there, both interpolated; None if it does not."""
    curve = record["curve"]
    nlls = np.array([x["oracle_nll"] for x in curve])
    if not (nlls <= level).any():
        return None
    at = max(int(np.argmax(nlls <= level)), 1)
    share = (nlls[at - 1] - level) / (nlls[at - 1] - nlls[at])
    of = lambda name: curve[at - 1][name] * (1 - share) + curve[at][name] * share
    return of("update"), of("entropy")


def crossings(found: sections.Found, level: float) -> str:
    """Where each arm crosses a level of the oracle's NLL, and where the temperature sweep does."""
    lines = ["| row | runs that reach it | after updates | entropy there |", "|---|---|---|---|"]
    own = sweep(found, False)
    temperature, entropy = (np.interp(level, own["oracle_nll"], own[name]) for name in ("temperature", "entropy"))
    lines.append(f"| the best epoch at temperature {temperature:.2f} | - | 0 | {entropy:.2f} |")
    for row in ARMS:
        if records := rows_of(found, row, False):
            reached = [x for x in (crossing(record, level) for record in records) if x is not None]
            updates, entropy = np.mean(reached, axis=0) if reached else (np.nan, np.nan)
            cells = f"{updates:.0f} | {entropy:.2f}" if reached else "- | -"
            lines.append(f"| {NAMES[row]} | {len(reached)} of {len(records)} | {cells} |")
    return "\n".join(lines)


def matched(found: sections.Found) -> str:
    """Each arm after its last update against the same oracle's temperature sweep at the same NLL."""
    columns = ("entropy", "held_out_nll", "self_bleu", "distinct2")
    lines = ["| row | runs inside of the sweep | " + " | ".join(COLUMNS[x] for x in columns) + " |", "|---" * 6 + "|"]
    for row in [*ARMS, "maximum-likelihood-last"]:
        records, differences = rows_of(found, row, False), []
        for record in records:
            own, level = sweep(found, False, record["oracle"]), record["oracle_nll"]
            if own["oracle_nll"][0] <= level <= own["oracle_nll"][-1]:
                differences.append([record[x] - np.interp(level, own["oracle_nll"], own[x]) for x in columns])
        cells = ["-"] * 4
        if differences:
            cells = [f"{x:+.2f}" for x in np.mean(differences, axis=0)]
        if len(differences) > 2:
            ends = [statistics.interval(values, statistics.mean) for values in np.array(differences).T]
            cells = [f"{x} [{low:+.2f}, {high:+.2f}]" for x, (low, high) in zip(cells, ends, strict=True)]
        if records:
            lines.append(f"| {NAMES[row]} | {len(differences)} of {len(records)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(found: sections.Found, file: Path) -> None:
    """Maximum likelihood; NLL and entropy against updates; NLL against entropy, held-out NLL and Self-BLEU."""
    import matplotlib.pyplot as plt

    figure, ((fit, against, entropy), (path, coverage, alike)) = plt.subplots(2, 3, figsize=(17, 9.5))
    of_row = partial(rows_of, found)
    curve = (of_row("curve", True) or of_row("curve", False))[0]["curve"]
    for name, label in (
        ("oracle_nll", "oracle's NLL of its samples"), ("held_out_nll", "its NLL of held-out sequences"),
        ("training_nll", "its NLL of training sequences"), ("entropy", "its entropy"),
    ):  # fmt: skip
        fit.plot([x["epoch"] for x in curve], [x[name] for x in curve], label=label)
    best = 1 + int(np.argmin([x["held_out_nll"] for x in curve]))
    fit.axvline(best, color="grey", linestyle=":", label="best held-out epoch")
    whose = "the authors' oracle" if of_row("curve", True) else "our first oracle"
    fit.set(title=f"maximum likelihood, {whose}", xlabel="epoch", ylabel="nats a token")
    places = {"maximum likelihood": (0.01, "bottom"), "PG-BLEU": (0.3, "top"), "SeqGAN": (0.01, "top")}
    for ax in (fit, against):
        for name, (x, va) in places.items():
            ax.axhline(PUBLISHED[name], color="lightgrey", linewidth=0.8, zorder=0)
            given = {"fontsize": 7, "va": va, "color": "grey"}
            ax.annotate(f"published: {name}", (x, PUBLISHED[name]), xycoords=("axes fraction", "data"), **given)
    own, start = sweep(found, False), of_row("maximum-likelihood", False)
    of = lambda rows, name: np.mean([r[name] for r in rows])
    itself, late = of_row("oracle-itself", False), of_row("maximum-likelihood-last", False)
    for ax, name in ((path, "entropy"), (coverage, "held_out_nll"), (alike, "self_bleu")):
        ax.plot(
            own["oracle_nll"],
            own[name],
            "k.-",
            label=f"maximum likelihood, temperature {own['temperature'][0]} to 1",
            zorder=3,
        )
        ax.plot(of(late, "oracle_nll"), of(late, name), "kx", label="maximum likelihood, last epoch", zorder=3)
        value = "oracle_nll" if name in ("entropy", "held_out_nll") else name  # the oracle's own entropy, but for noise
        ax.plot(of(itself, "oracle_nll"), of(itself, value), "k*", label="the oracle itself", zorder=3)
    for row, arm in ARMS.items():
        records = of_row(row, False)
        if not records:
            continue
        updates, lines = [0, *(x["update"] for x in records[0]["curve"])], {}
        for ax, name in ((against, "oracle_nll"), (entropy, "entropy")):
            values = np.array([[of(start, name), *(x[name] for x in r["curve"])] for r in records])
            (line,) = ax.plot(updates, values.mean(0), label=arm.about)
            ax.fill_between(updates, values.min(0), values.max(0), alpha=0.15, linewidth=0)
            lines[name] = values.mean(0)
        colour = line.get_color()
        path.plot(lines["oracle_nll"], lines["entropy"], color=colour, linewidth=1)
        for ax, name in ((path, "entropy"), (coverage, "held_out_nll"), (alike, "self_bleu")):
            label = arm.about if ax is alike else None  # colours are those of all panels
            ax.plot(of(records, "oracle_nll"), of(records, name), "o", color=colour, label=label)
    against.set(title="policy gradient: oracle's NLL of its samples", xlabel="update", ylabel="nats a token")
    entropy.set(title="policy gradient: entropy of the generator", xlabel="update", ylabel="nats a token")
    path.set(title="quality and entropy on the way: upper left is better", ylabel="entropy")
    coverage.set(title="quality and coverage at the end: lower left is better", ylabel="NLL of held-out sequences")
    alike.set(title="quality and likeness at the end: lower left is better", ylabel="Self-BLEU-3")
    for ax in (path, coverage, alike):
        ax.set_xlabel("oracle's NLL of its samples")
    for ax, place in ((fit, "center right"), (path, "lower right"), (alike, (0.4, 0.39))):
        ax.legend(fontsize=7, loc=place)
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def first_epochs(found: sections.Found) -> str:
    """The course of maximum likelihood on the authors' oracle, in a sentence."""
    records = rows_of(found, "curve", True)
    if not records:
        return ""
    curve = records[0]["curve"]
    some = [x for x in curve if x["epoch"] in (1, 2, 4, 6, 11, 16, 21, 31, len(curve))]
    nlls, epochs = ", ".join(f"{x['oracle_nll']:.2f}" for x in some), ", ".join(str(x["epoch"]) for x in some)
    return (
        f"Maximum likelihood has an NLL of {nlls} there after {epochs} epochs; the authors' log has 10.17 after 1,\n"
        "9.43 after 6, 9.24 after 11, 9.12 after 16 and 9.07 after 116."
    )


def section(found: sections.Found) -> str:
    """The section of TEXT.md."""
    numbers = {"judged": JUDGED, "updates": UPDATES, "envs": NUM_ENVS, "oracles": len(rows_of(found, "uniform", False))}
    parts = {"curve": first_epochs(found), "authors": table_of(found, True)}
    if numbers["oracles"]:
        parts |= {"crossings": crossings(found, PUBLISHED["SeqGAN"]), "matched": matched(found)}
    return TEXT.format_map(defaultdict(str, ours=table_of(found, False), **parts, **numbers))


def by_row(found: sections.Found) -> sections.Found:
    """The rows, each of all oracles and seeds."""
    return {row: {name: rows[row] for name, rows in found.items() if row in rows} for row in NAMES}


def main() -> None:
    """Compute what is missing, then report."""
    parser = sections.parser(__doc__, 1, "oracle")
    parser.add_argument("--oracles", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="numbers of our oracles")
    parser.add_argument("--published", type=Path, help="save/target_params_py3.pkl of the authors' repository")
    sections.main(
        parser, "text-oracle", "TEXT.md", "oracle", compute, section, picture,
        value=lambda x: x["oracle_nll"], seeds=by_row, one_device=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
