"""Neural architecture search on tables of trained networks, with the exact expectation of random search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts
from purerl.core import Array, Key
from purerl.envs.training_control import nas_bench_graph as bench
from purerl.envs.training_control import supernetwork


class SearchSpace(NamedTuple):
    """M architectures, each given by one or several sequences of D choices, and their scores.

    decisions: the name and the options of each decision, in order (jax sorts what a dict has).
    index: int32 `[C₁, …, C_D]`: the architecture of each sequence, -1 for sequences that are illegal.
    validation, test: scores, float32 `[M]`. Searches see the first only.
    costs: other columns, float32 `[M]` each.
    """

    decisions: Sequence[tuple[str, Sequence[Any]]]
    index: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    costs: Mapping[str, np.ndarray] = {}


def small_networks() -> SearchSpace:
    """5,832 small networks: width, activation and skip connection of each of three layers, trained on two spirals.

    A score is the mean accuracy of two seeds on 500 points each: at most 0.937, of networks without an activation at
    most 0.638. The accuracies of the two seeds have a correlation of 0.58. Every sequence is another network.

    >>> space = small_networks()
    >>> space.index.shape, space.decisions[0]
    ((3, 3, 2, 3, 3, 2, 3, 3, 2), ('width 1', (2, 4, 12)))
    """
    options = {
        "width": supernetwork.WIDTHS,
        "activation": supernetwork.ACTIVATIONS,
        "skip": supernetwork.SKIPS,
    }
    decisions = tuple((f"{name} {i + 1}", x) for i in range(supernetwork.LAYERS) for name, x in options.items())
    validation, test = (x.mean(-1) for x in supernetwork.table())
    index = np.arange(len(validation), dtype=np.int32).reshape([len(x) for _, x in decisions])
    parameters = supernetwork.num_parameters(supernetwork.architectures()).astype(np.float32)
    return SearchSpace(decisions, index, validation, test, {"parameters": parameters})


def nas_bench_graph(data_set: str) -> SearchSpace:
    """NAS-Bench-Graph: a list of links, then one of nine operations for each of four nodes; 26,206 networks.

    All 59,049 sequences but those of four skips are networks; many are the same one. The data set "proteins" has five
    operations and 2,021 networks. The costs are `latency` and `parameters`, in the units of the benchmark.

    Reference: Qin et al., 2022, arXiv:2206.09166.
    Args:
      data_set: one of cora, citeseer, pubmed, cs, physics, photo, computers, arxiv and proteins.
    Raises:
      ValueError: for another data set, or if the package is not installed; it names the extra.
    """
    found, index = bench.table(data_set)
    operations = bench.operations_of(data_set)
    decisions = ("inputs", bench.LINKS), *((f"operation {i}", operations) for i in range(1, 5))
    single = lambda x: x.astype(np.float32)
    costs = {"latency": single(found.latency), "parameters": single(found.parameters)}
    return SearchSpace(decisions, index, single(found.validation), single(found.test), costs)


def choices_of(space: SearchSpace, architecture: int) -> dict[str, Any]:
    """The choices that give an architecture, by decision; the first sequence if there are several.

    Raises:
      ValueError: for a number that the space does not have.

    >>> choices_of(small_networks(), 1)["skip 3"]
    'yes'
    """
    found = np.argwhere(space.index == architecture)
    if architecture < 0 or not len(found):
        raise ValueError(f"choices_of: architecture is {architecture!r}; it must be in 0 .. {space.index.max()}")
    return {name: x[i] for (name, x), i in zip(space.decisions, found[0], strict=True)}


# --- the environment --------------------------------------------------------------------------------------------------


@struct.dataclass
class ArchitectureSearchParams:
    """score: of each architecture, float32 `[M]`.  max_steps_in_episode: D, read by evaluation alone."""

    score: Any
    max_steps_in_episode: int


class ArchitectureSearchState(NamedTuple):
    """The choices so far `[D]`, -1 where there is none yet, their number in mixed radix, and the steps taken; int32."""

    choices: Array
    prefix: Array
    time: Array


class ArchitectureSearch(Environment):
    """Choose an architecture, one decision after another; the reward of the last one is its validation score.

    The other rewards are 0, γ should be 1, and an episode is one query of the table. Observations are
    `{"choices": float32 [D + D A], "action_mask": bool [A]}`: the number of the decision and the choices so far, each
    one-hot, and the options that lead to an architecture, where A is the largest number of options. A choice without
    one ends the episode with the lowest score. `info` has the `architecture`, -1 before the last step. The scores are
    parameters, so that tables of one space share one program.

    The controller of Zoph & Le, 2017, is a policy trained by REINFORCE with a moving average as baseline:

    >>> import purerl
    >>> from purerl import build, training
    >>> env = ArchitectureSearch(small_networks())
    >>> agent = build.agent(purerl.sequence_reinforce, env.action_space(), build.body(hidden=(32,)))
    >>> hp = purerl.SequenceREINFORCE(learning_rate=0.03, baseline_decay=0.9)
    >>> learner = purerl.learner(env, env.default_params, agent(hp), num_envs=10, rollout_length=9)
    >>> _, metrics = jax.jit(lambda key: training.train(learner, key, 100, 50))(jax.random.key(0))
    >>> bool(metrics["episode_return"][1] > small_networks().validation.mean())
    True

    Reference: Zoph & Le, 2017, arXiv:1611.01578, section 3.2.
    Args:
      space: such as `nas_bench_graph("cora")`; None: `small_networks()`.
    Raises:
      ValueError: for a space whose sequences name other architectures than it has scores of.
    """

    name: str = "ArchitectureSearch-v0"

    def __init__(self, space: SearchSpace | None = None):
        self.space = space = small_networks() if space is None else space
        options, num = tuple(len(x) for _, x in space.decisions), len(space.validation)
        if space.index.shape != options:
            raise ValueError(f"ArchitectureSearch: index has shape {space.index.shape}; the decisions have {options}")
        if not 0 <= space.index.max() < num or not np.isfinite(space.validation).all():
            raise ValueError(f"ArchitectureSearch: index ends at {space.index.max()}; there must be finite scores of "
                             f"all, and there are {np.isfinite(space.validation).sum()}")  # fmt: skip
        self._options, self._legal = options, legal_choices(space.index)
        self._offsets = np.cumsum([0, *(math.prod(options[:t]) for t in range(len(options) - 1))], dtype=np.int32)

    @property
    def num_actions(self) -> int:
        return max(self._options)

    @property
    def default_params(self) -> ArchitectureSearchParams:
        return ArchitectureSearchParams(self.space.validation, len(self._options))

    def reset_env(self, key, params):
        del key
        zero = jnp.zeros((), jnp.int32)
        state = ArchitectureSearchState(jnp.full(len(self._options), -1, jnp.int32), zero, zero)
        return self._see(state, jnp.zeros((), bool)), state

    def step_env(self, key, state, action, params):
        action, score = jnp.asarray(action, jnp.int32), jnp.asarray(params.score, jnp.float32)
        options = jnp.asarray(self._options, jnp.int32)[state.time]
        legal = jnp.asarray(self._legal)[jnp.asarray(self._offsets)[state.time] + state.prefix, action]
        prefix = state.prefix * options + jnp.minimum(action, options - 1)
        last = legal & (state.time == len(self._options) - 1)
        index = jnp.asarray(self.space.index.reshape(-1), jnp.int32)
        architecture = jnp.where(last, index[jnp.where(last, prefix, 0)], -1)
        reward = jnp.where(last, score[architecture], jnp.where(legal, 0.0, score.min()))
        choices = state.choices.at[state.time].set(action)
        state, terminated = ArchitectureSearchState(choices, prefix, state.time + 1), last | ~legal
        return self._see(state, terminated), state, reward, terminated, {"architecture": architecture}

    def _see(self, state, ended):
        num = len(self._options)
        chosen = jax.nn.one_hot(state.choices, self.num_actions, dtype=jnp.float32)
        row = jnp.asarray(self._offsets)[jnp.minimum(state.time, num - 1)] + state.prefix
        # nothing is chosen after the end, but a policy without a legal action would be NaN
        legal = ended | jnp.asarray(self._legal)[jnp.where(ended, 0, row)]
        now = jax.nn.one_hot(state.time, num, dtype=jnp.float32)
        return {"choices": jnp.append(now, chosen.reshape(-1)), "action_mask": legal}

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params):
        mask = spaces.Box(0, 1, (self.num_actions,), jnp.bool_)
        size = len(self._options) * (1 + self.num_actions)
        return spaces.Dict({"choices": spaces.Box(0.0, 1.0, (size,), jnp.float32), "action_mask": mask})


def legal_choices(index: np.ndarray) -> np.ndarray:
    """The options after each sequence of fewer than D choices that some architecture has, bool `[P, A]`.

    Args:
      index: int `[C₁, …, C_D]`, -1 for illegal sequences.
    Returns:
      Rows for P = 1 + C₁ + C₁C₂ + … sequences, the shorter ones first, those of a length in mixed radix; columns for
      the largest number A of options.

    >>> legal_choices(np.array([[0, 1, -1], [-1, -1, -1]])).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    """
    rows = []
    for t, options in enumerate(index.shape):
        possible = (index >= 0).reshape(math.prod(index.shape[:t]), options, -1).any(-1)
        rows.append(np.pad(possible, ((0, 0), (0, max(index.shape) - options))))
    return np.concatenate(rows)


# --- random search, exactly -------------------------------------------------------------------------------------------


def expected_best_of_distinct(scores: Any, num_draws: int) -> float:
    """The expected maximum of n scores drawn uniformly without replacement, in float64.

        Σᵢ s₍ᵢ₎ C(i-1, n-1) / C(N, n),   s₍₁₎ ≤ … ≤ s₍N₎

    Args:
      scores: `[N]`.  num_draws: n, at most N.
    Raises:
      ValueError: for another n.

    >>> expected_best_of_distinct([0.0, 1.0, 2.0], 2)  # (1 + 2 + 2) / 3
    1.6666666666666665
    """
    check_counts("expected_best_of_distinct", num_draws=num_draws)
    s = np.sort(np.asarray(scores, np.float64))[::-1]
    if num_draws > len(s):
        raise ValueError(f"expected_best_of_distinct: num_draws is {num_draws}; there are {len(s)} scores")
    i = np.arange(len(s), num_draws, -1)
    weight = num_draws / len(s) * np.cumprod(np.append(1.0, (i - num_draws) / (i - 1)))
    return float(weight @ s[: len(weight)])


def expected_best_of_independent(scores: Any, num_draws: int, weights: Any = None) -> float:
    """The expected maximum of n independent draws, in float64.

        Σᵢ s₍ᵢ₎ (Fᵢⁿ - Fᵢ₋₁ⁿ),   Fᵢ = Σ_{j≤i} w₍ⱼ₎ / Σⱼ wⱼ

    Args:
      scores: `[N]`.  num_draws: n.
      weights: relative probabilities `[N]`, such as the sequences of each architecture, which a uniform policy draws:
        `np.bincount(index[index >= 0])`. None: all equal.
    Raises:
      ValueError: for a count that is not positive, or weights that are negative, all 0 or of another shape.

    >>> expected_best_of_independent([0.0, 1.0], 2), expected_best_of_independent([0.0, 1.0], 2, [3, 1])
    (0.75, 0.4375)
    """
    check_counts("expected_best_of_independent", num_draws=num_draws)
    s = np.asarray(scores, np.float64)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != s.shape or not (w >= 0).all() or not 0 < w.sum() < math.inf:
        raise ValueError(f"expected_best_of_independent: weights must be {s.shape} numbers of at least 0, not all 0")
    order = np.argsort(s)
    below = np.append(0.0, np.cumsum(w[order])) / w.sum()
    return float(np.diff(below**num_draws) @ s[order])


# --- regularised evolution --------------------------------------------------------------------------------------------


def regularized_evolution(
    key: Key, index: Any, score: Array, num_queries: int, population: int = 50, sample: int = 10
) -> Array:
    """Evolution in which the oldest member dies: the architectures of each query, int32 `[n]`.

    The first ones are random legal sequences. Then the best of a sample of the population, drawn with replacement, is
    mutated: another option of one decision, both uniform among those that give a legal sequence. The child replaces
    the oldest member. An architecture may be queried several times.

    Reference: Real et al., 2019, arXiv:1802.01548, algorithm 1.
    Args:
      index: int `[C₁, …, C_D]`, not traced; see `SearchSpace`.  score: float `[M]`.
      num_queries: n, at least the population.
    Raises:
      ValueError: for counts that are none.

    >>> space = small_networks()
    >>> found = regularized_evolution(jax.random.key(0), space.index, space.validation, 200)
    >>> found.shape, bool(space.validation[found].max() > space.validation.mean())
    ((200,), True)
    """
    check_counts("regularized_evolution", num_queries=num_queries, population=population, sample=sample)
    if population > num_queries:
        raise ValueError(f"regularized_evolution: num_queries is {num_queries}; the population has {population}")
    index, score = np.asarray(index, np.int32), jnp.asarray(score)
    flat, options = jnp.asarray(index.reshape(-1)), np.array(index.shape)
    strides = np.append(np.cumprod(options[:0:-1])[::-1], 1).astype(np.int32)
    column = np.arange(options.max(), dtype=np.int32)

    def mutate(key, sequence):
        """Another sequence, of those that differ in one choice."""
        chosen = sequence // strides % options.astype(np.int32)
        others = sequence + (column - chosen[:, None]) * strides[:, None]
        allowed = (column < options[:, None]) & (column != chosen[:, None])
        allowed &= flat[jnp.where(allowed, others, 0)] >= 0
        probability = allowed / jnp.maximum(allowed.sum(-1, keepdims=True), 1)
        at = jax.random.categorical(key, jnp.log(probability).reshape(-1))
        return others.reshape(-1)[at]

    def step(members, x):
        key, oldest = x
        sample_key, mutate_key = jax.random.split(key)
        drawn = members[jax.random.randint(sample_key, (sample,), 0, population)]
        child = mutate(mutate_key, drawn[score[flat[drawn]].argmax()])
        return members.at[oldest].set(child), flat[child]

    first_key, key = jax.random.split(key)
    members = jax.random.choice(first_key, jnp.asarray(np.flatnonzero(index >= 0), jnp.int32), (population,))
    ages = jnp.arange(num_queries - population) % population
    children = jax.lax.scan(step, members, (jax.random.split(key, num_queries - population), ages))[1]
    return jnp.concatenate([flat[members], children])
