"""Milestones of a run: checkpoints that are kept, greedy evaluations during training, the best state of each run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.runs import checkpoint, files
from purerl.runs.env_parameters import longest_episode
from purerl.training import processes
from purerl.training.loop import as_arrays
from purerl.training.sharding import one_by_one

BEST, KEPT = "best", "kept"  # a checkpoint and a folder among the checkpoints
METRIC = "evaluation_return"
EPISODES = 100


def is_due(every: int | None, before: int, now: int) -> bool:
    """Whether a multiple of `every` steps lies in (before, now].

    >>> is_due(100, 90, 110), is_due(100, 100, 190), is_due(None, 0, 100)
    (True, False, False)
    """
    return every is not None and now // every > before // every


def evaluator(
    env: Any, params_of: Callable[[Any], Any], agent: Callable[[Any], Any], hp_of: Callable[[int], Any],
    config: dict[str, Any], num_updates: int, every: int, num_runs: int,
) -> Callable[[Any], dict[str, np.ndarray]]:  # fmt: skip
    """A function of the learners' state that gives the mean return of greedy episodes, `[R]`; NaN where none is due.

    They are due where a multiple of `evaluate_every` steps was passed since the chunk before, and at the end.

    Args:
      params_of: hp -> the environment's parameters.  agent: hp -> Agent.
      hp_of: iteration -> hyperparameters with leaves `[R]`, or scalars.
      num_updates, every: updates of the run and of a chunk.
    Raises:
      ValueError: if an episode may last forever.
    """
    wanted, steps = config["evaluate_every"], config["num_envs"] * config["rollout_length"]
    limit = longest_episode(params_of(hp_of(0)), config["time_limit"])
    if limit is None:
        raise ValueError(f"--evaluate-every is {wanted}; episodes of this environment have no limit: give --time-limit")
    # neither a key of training nor one of `purerl evaluate`
    key = jax.random.fold_in(jax.random.key(config["seed"]), 2**31 + 1)

    def one(hp, state, key):
        played = training.evaluate(env, params_of(hp), agent(hp), state, key, EPISODES, limit, greedy=True)
        return played.returns.mean()

    @jax.jit
    def play(hp, states, iteration, runs):
        keys = jax.vmap(lambda run: jax.random.fold_in(jax.random.fold_in(key, iteration), run))(runs)
        if config["isolate_seeds"]:
            return one_by_one(lambda hp, given: one(hp, *given), hp, (states, keys))
        return jax.vmap(one, (jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, hp), 0, 0))(hp, states, keys)

    def measure(state: Any) -> dict[str, np.ndarray]:
        now = int(np.max(training.to_host(state.iteration)))
        if now < num_updates and not is_due(wanted, steps * max(0, now - every), steps * now):
            return {METRIC: np.full(num_runs, np.nan, np.float32)}
        runs = np.arange(state.iteration.shape[0]) % num_runs  # those that fill up the devices repeat others
        hp = jax.tree.map(lambda x: jnp.asarray(x)[runs] if jnp.ndim(x) else x, hp_of(now - 1))  # those of the chunk
        found = play(as_arrays(hp), state.agent, jnp.int32(now), jnp.asarray(runs))
        return {METRIC: training.to_host(found)[:num_runs]}

    return measure


def keep(directory: Path, iteration: int) -> None:
    """Keep the checkpoint of an iteration, which would be removed after the next ones; see `checkpoint.add`."""
    path = directory / f"{iteration:09d}.safetensors"
    part = directory / KEPT / (path.name + ".part")
    part.parent.mkdir(exist_ok=True)
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:  # a file system without hard links
        shutil.copy(path, part)
    os.replace(part, directory / KEPT / path.name)
    part.unlink(missing_ok=True)  # os.replace leaves it where both are one file already


def best_scores(directory: Path) -> np.ndarray | None:
    """The best return of each run so far, `[R]`, -inf where there is none; None without a best checkpoint."""
    try:
        return np.array(json.loads(checkpoint.read(directory / f"{BEST}.safetensors")[1]["scores"]))
    except (checkpoint.Damaged, KeyError, FileNotFoundError):
        return None


def keep_best(
    directory: Path, scores: np.ndarray, allowed: np.ndarray, leaves: Callable[[], dict[str, np.ndarray]],
    notes: dict[str, str],
) -> None:  # fmt: skip
    """Keep the state of the runs that exceed their best return so far.

    Args:
      scores: of an evaluation, `[R]`, NaN where there is none.  allowed: bool `[R]`.
      leaves: gives the state of all runs on the host, `[R, ...]`.
    """
    scores = np.where(allowed & ~np.isnan(scores), scores, -np.inf)
    if not np.isfinite(scores).any():
        return
    before = best_scores(directory) if processes.is_first() else None
    better = scores > before if before is not None else np.isfinite(scores)
    better = processes.agreed(better).astype(bool)
    if not better.any():
        return
    new = leaves()
    if not processes.is_first():
        return
    if before is not None:
        old, _ = checkpoint.read(directory / f"{BEST}.safetensors")
        pick = lambda x, y: np.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, y)
        new = {name: pick(x, old[name]) for name, x in new.items()}
        scores = np.where(better, scores, before)
    checkpoint.save(directory / f"{BEST}.safetensors", new, {**notes, "scores": json.dumps(scores.tolist())})


def named(directory: Path, name: str | int) -> Path:
    """The file of a run's checkpoint: `best`, or that of an iteration.

    Raises:
      ValueError: if there is none; the message names those that there are.
    """
    folder = directory / files.CHECKPOINTS
    there = {path.stem.lstrip("0") or "0": path for path in [*folder.glob(f"{KEPT}/*.safetensors"),
                                                             *checkpoint.paths(folder)]}  # fmt: skip
    numbers = sorted(there, key=int)
    if (folder / f"{BEST}.safetensors").is_file():
        there[BEST] = folder / f"{BEST}.safetensors"
    if str(name) not in there:
        allowed = ", ".join([*numbers, *([BEST] if BEST in there else [])])
        raise ValueError(f"checkpoint is {name}; {directory} has {allowed or 'none yet'}")
    return there[str(name)]
