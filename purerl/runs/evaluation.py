"""Evaluation of trained runs on episodes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.runs import files, loading, report, sweeps
from purerl.runs.env_parameters import longest_episode
from purerl.runs.progress import progress_bar

AT_ONCE = 4096  # episodes; MinAtar's take 0.1 MB each
MODES = ("greedy", "stochastic")


def evaluation_key(seed: int) -> Any:
    """A key that no training run uses: the keys of training runs are folded with the numbers of their seeds."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def cap_of(env_params: Any, time_limit: int | None, max_steps: int | None) -> Any:
    """The steps at which episodes are cut: `--max-steps`, or else the number at which they end at the latest.

    Raises:
      ValueError: if there is neither.
    """
    cap = longest_episode(env_params, time_limit) if max_steps is None else max_steps
    if cap is None:
        raise ValueError("episodes of this environment have no limit of steps: give one, --max-steps")
    return cap


class Evaluated(NamedTuple):
    """Means over the episodes of R runs, for each of `MODES`; NaN for broken runs."""

    returns: np.ndarray  # [2, R]
    lengths: np.ndarray  # [2, R]
    unfinished: np.ndarray  # int [2, R]: episodes that had not ended at the limit


def play(loaded: loading.Loaded, episodes: int, seed: int, max_steps: int | None) -> Evaluated:
    """Play episodes of every run that is not broken, and show progress."""
    key, plan = evaluation_key(seed), loaded.plan

    def one_mode(hp, state, key, greedy):
        agent, env_params = loaded.agent(hp), plan.env_params_of(hp)
        limit = cap_of(env_params, plan.config["time_limit"], max_steps)
        return training.evaluate(loaded.env, env_params, agent, state, key, episodes, limit, greedy, at_once=AT_ONCE)

    one_mode = jax.jit(one_mode, static_argnums=3)
    sound = [r for r in range(plan.num_runs) if r not in loaded.broken]
    returns, lengths = np.full((2, plan.num_runs), np.nan), np.full((2, plan.num_runs), np.nan)
    unfinished = np.zeros((2, plan.num_runs), int)
    with progress_bar() as bar:
        task = bar.add_task(f"{episodes} episodes each", total=2 * len(sound))
        for mode in (0, 1):
            for r in sound:
                one = loaded.one(r)
                hp = jax.tree.map(jnp.float32, one.hp)
                run_key = jax.random.fold_in(jax.random.fold_in(key, r), mode)
                out = one_mode(hp, one.state.agent, run_key, mode == 0)
                returns[mode, r], lengths[mode, r] = float(out.returns.mean()), float(out.lengths.mean())
                unfinished[mode, r] = int((~out.finished).sum())
                bar.advance(task)
    return Evaluated(returns, lengths, unfinished)


def evaluate(
    run: Path,
    episodes: int,
    seed: int,
    max_steps: int | None,
    csv: Path | None = None,
    json: Path | None = None,
    code: str | None = None,
    checkpoint: str | None = None,
) -> None:
    """Evaluate every run of a directory on episodes, greedy and stochastic; print a table, and write what was found.

    Raises:
      ValueError: if the directory holds no run of an agent, or a file to write exists.
    """
    for path, name in ((csv, "csv"), (json, "json")):
        if path is not None:
            report.new_file(path, f"--{name}", (f".{name}",))
    rows: list[dict[str, Any]] = []
    out, notes, unfinished = None, [], 0
    for values, directory in sweeps.members(run):
        loaded = loading.load(directory, code, checkpoint)
        if loaded.env is None:
            raise ValueError(f"{run} is a run of `purerl text pretrain`: `purerl text evaluate {run}` scores its texts")
        plan, found = loaded.plan, play(loaded, episodes, seed, max_steps)
        names = [*values, *plan.swept]
        if out is None:
            first, last = int(loaded.state.iteration.min()), loaded.iteration
            count = f"{last:,}" if first == last else f"{first:,} to {last:,}"
            title = f"{plan.title}: return of {episodes} episodes of each run, after {count} iterations"
            wide = not names or report.console().width >= 100
            out = report.grid(title, *([", ".join(names)] if names else []), "actions", metric="", ends=wide)
            out.add_column("length", justify="right", no_wrap=True)
        for index, label in enumerate(plan.labels):
            here = slice(index * len(plan.keys), (index + 1) * len(plan.keys))
            label = ", ".join([*map(str, values.values()), *([label] if plan.swept else [])])
            for mode, name in enumerate(MODES):
                lengths = found.lengths[mode, here][~np.isnan(found.lengths[mode, here])]
                cells = report.scores(found.returns[mode, here])[: 4 if wide else 3]
                cells = cells if len(lengths) else ["every seed is broken", *[""] * (len(cells) - 1)]
                out.add_row(*([label] if names else []), name, *cells, f"{lengths.mean():.1f}" if len(lengths) else "")
        rows += _rows(values, loaded, found, episodes)
        unfinished += int(found.unfinished.sum())
        for r, iteration in loaded.broken.items():
            where = "".join(f"{name} {value}, " for name, value in values.items())
            notes.append(f"{where}{plan.name_of(r)}: not finite from iteration {iteration} on; excluded")
    report.console().print(out)
    report.say("IQM and interval are over seeds, each represented by its mean")
    for text in notes:
        report.note(text)
    if unfinished:
        report.note(f"{unfinished} episodes had not ended at the limit; their return is the sum up to it")
    if csv is not None:
        files.write(csv, as_csv(rows))
    if json is not None:
        about = {"run": str(run), "episodes": episodes, "seed": seed, "max_steps": max_steps}
        files.write_json(json, {**about, "rows": rows})
    for path in filter(None, (csv, json)):
        report.note(f"written: {path}")


def _rows(values: dict[str, Any], loaded: loading.Loaded, found: Evaluated, episodes: int) -> list[dict[str, Any]]:
    """One row for each run and mode."""
    about, finite = loaded.plan.about(), lambda x: None if np.isnan(x) else float(x)
    return [
        {**values, "run": r, **{name: column[r] for name, column in about.items()},
         "iteration": int(loaded.state.iteration[r]),
         "actions": name, "episodes": episodes, "mean_return": finite(found.returns[mode, r]),
         "mean_length": finite(found.lengths[mode, r]), "unfinished": int(found.unfinished[mode, r])}
        for r in range(loaded.plan.num_runs) for mode, name in enumerate(MODES)
    ]  # fmt: skip


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV, with the names of all columns; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
