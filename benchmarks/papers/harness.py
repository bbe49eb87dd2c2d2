"""Published numbers against ours: compute missing results, one JSON file for each seed, and compare.

`root` is the folder of results: those of the repository, or of one's own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import purerl
from purerl import build, networks, statistics
from purerl.runs import checkpoint, files, report
from purerl.runs.stream import measure

sys.path.append(str(Path(__file__).parents[1]))

import recorded

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Published:
    """A published number: mean, and standard deviation over runs and number of runs, if given."""

    mean: float
    source: str
    std: float | None = None
    runs: int | None = None
    low_is_expected: bool = False  # a negative control: a better result is a failure


@dataclass(frozen=True)
class Entry:
    """One line of the table of reproductions."""

    key: str
    env: str | Callable[[], tuple[Any, Any]]  # an id, or a function that returns (env, env_params)
    agent: Callable
    hp: Any
    num_envs: int
    rollout_length: int
    num_updates: int
    published: Published
    protocol: str  # the measured quantity
    differs: str = "-"  # differences from the published protocol
    frames: int | None = None  # stop after so many valid steps, if blocks also hold invalid ones
    sweep: dict[str, tuple[float, ...]] = field(default_factory=dict)
    network: Callable = networks.actor_critic  # of the policy; of A for Q-learning; (actor, critic) of a hybrid policy
    every: int = 1  # updates that one row of the curve summarises
    reward: Callable[[Any], Any] = lambda hp: None  # hp -> the training reward; None: the environment's
    greedy_episodes: int = 0  # the score is the mean of so many of the final policy; 0: of the last training episodes


def parts(entry: Entry) -> tuple[Any, Any, Callable[[Any], Any]]:
    """The entry's environment, its parameters, and `hp -> Agent`."""
    env, env_params = purerl.make(entry.env) if isinstance(entry.env, str) else entry.env()
    network = lambda subject, hp: entry.network(subject)
    return env, env_params, build.agent(entry.agent, env.action_space(env_params), network=network)


def learner_of(entry: Entry) -> Callable[[Any], Any]:
    """The entry's `hp -> Learner`."""
    env, env_params, agent = parts(entry)
    blocks = entry.num_envs, entry.rollout_length
    return lambda hp: purerl.learner(env, env_params, agent(hp), *blocks, reward=entry.reward(hp))


def greedy_returns(entry: Entry, state: Any, keys: jax.Array) -> np.ndarray:
    """Mean return of the final policies' greedy episodes, `[R]`."""
    env, env_params, agent = parts(entry)

    def play(agent_state, key):
        key = jax.random.fold_in(key, 1)  # not a key of training
        played = purerl.evaluate(env, env_params, agent(entry.hp), agent_state, key, entry.greedy_episodes, greedy=True)
        return played.returns.mean()

    return np.asarray(jax.jit(jax.vmap(play))(state.agent, keys))


def result(entry: Entry, episodes: np.ndarray, returns: np.ndarray, lengths: np.ndarray) -> float:
    """The score of one run, from its updates `[K]`: the mean return of the last ones that hold 100 episodes."""
    if entry.frames is not None:
        frames = np.cumsum(episodes * np.nan_to_num(lengths))
        stop = int(np.searchsorted(frames, entry.frames)) + 1
        if frames[-1] < entry.frames:
            raise ValueError(f"{entry.key}: {entry.num_updates} updates hold {frames[-1]:.0f} of {entry.frames} steps")
        episodes, returns = episodes[:stop], returns[:stop]
    return float(statistics.last_returns(episodes, returns))


def folder(root: Path, entry: Entry, value: float | None = None) -> Path:
    """The folder of an entry's results; a sweep has a folder for every value."""
    return root / entry.key / ("" if value is None else f"{value:g}")


def run(root: Path, entry: Entry, num_seeds: int) -> int:
    """Train every seed (of every value of a sweep) that has no file yet, in one program; return how many they are."""
    (name, values), *_ = [*entry.sweep.items(), (None, (None,))]
    missing = [
        (value, seed)
        for value in values
        for seed in range(num_seeds)
        if not (folder(root, entry, value) / f"{seed}.json").exists()
    ]
    if not missing:
        return 0
    hp = entry.hp
    if name is not None:
        hp = type(hp)(**{**vars(hp), name: jnp.array([value for value, _ in missing])})
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.array([seed for _, seed in missing]))
    report.note(f"{entry.key}: {len(missing)} runs")
    block = entry.num_envs * entry.rollout_length
    measured = measure(learner_of(entry), hp, keys, jax.devices(), entry.num_updates, entry.every, block)
    data, hashes = measured.metrics, files.hashes(checkpoint.to_host(measured.state), len(missing))
    greedy = greedy_returns(entry, measured.state, keys) if entry.greedy_episodes else None
    for index, (value, seed) in enumerate(missing):
        episodes, returns, lengths = (data[n][:, index] for n in ("episodes", "episode_return", "episode_length"))
        rows = np.array_split(np.arange(len(episodes)), 50)
        curve = [statistics.last_returns(episodes[p], returns[p], at_least=10**9) for p in rows]
        value_of_run = result(entry, episodes, returns, lengths) if greedy is None else float(greedy[index])
        record = {
            "key": entry.key,
            "seed": seed,
            **({name: value} if name else {}),
            "value": round(value_of_run, 4),
            "steps": entry.num_updates * entry.num_envs * entry.rollout_length,
            "sha256": hashes[index],
            "curve": [None if math.isnan(x) else round(float(x), 2) for x in curve],
            "hyperparameters": {k: v for k, v in vars(entry.hp).items()} | ({name: value} if name else {}),
            **recorded.made_with("gymnax"),
        }
        recorded.save(folder(root, entry, value) / f"{seed}.json", record)
    return len(missing)


def _records(root: Path, entry: Entry, value: float | None = None) -> list[dict[str, Any]]:
    paths = sorted(folder(root, entry, value).glob("*.json"), key=lambda path: int(path.stem))
    return [recorded.read(path) for path in paths]


def scores(root: Path, entry: Entry, value: float | None = None) -> np.ndarray:
    """The scores of all seeds that have been run."""
    return np.array([record["value"] for record in _records(root, entry, value)])


def seeds(root: Path, entry: Entry) -> dict[str, dict[int, recorded.Seed]]:
    """Every seed that has been run, for `recorded.beside`."""
    (name, values), *_ = [*entry.sweep.items(), ("", (None,))]
    return {
        entry.key + (f", {name} {value:g}" if name else ""): {
            record["seed"]: recorded.Seed(record["value"], record["curve"], record.get("sha256"))
            for record in _records(root, entry, value)
        }
        for value in values
    }


def verdict(ours: np.ndarray, published: Published) -> str:
    """Reproduced where |difference| ≤ 2 √(s₁²/k₁ + s₂²/k₂), or better; s₂ = 0 if none was published."""
    difference = ours.mean() - published.mean
    spread = ours.var(ddof=1) / len(ours) + (published.std or 0.0) ** 2 / (published.runs or 1)
    if abs(difference) <= 2 * math.sqrt(spread):
        return "reproduced"
    if published.low_is_expected:
        return "**does not fail as published**" if difference > 0 else "fails, as published"
    return "better" if difference > 0 else f"**not reached** ({difference:+.1f})"


def row(root: Path, entry: Entry) -> str:
    """One line of the table, in Markdown."""
    ours, published = scores(root, entry), entry.published
    if len(ours) < 2:
        return f"| {entry.key} | {published.mean:g} | not run | | | | |"
    low, high = statistics.interval(ours, statistics.mean)
    printed = f"{published.mean:g}" + (f" ± {published.std:g}" if published.std is not None else "")
    printed += f" ({published.runs} runs)" if published.runs else ""
    return (
        f"| {entry.key} | {printed}, {published.source} | {ours.mean():.2f} [{low:.2f}, {high:.2f}] | {len(ours)} "
        f"| {verdict(ours, published)} | {entry.protocol} | {entry.differs} |"
    )
