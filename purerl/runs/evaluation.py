"""Evaluation of every run of a directory, greedy and stochastic, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.runs import loading, report
from purerl.runs.progress import progress_bar

AT_ONCE = 4096  # episodes; MinAtar's take 0.1 MB each


def evaluation_key(seed: int) -> Any:
    """A key that no training run uses: the keys of training runs are folded with the numbers of their seeds."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def evaluate(
    run: Path, episodes: int, seed: int, max_steps: int | None, code: str | None = None, checkpoint: str | None = None
) -> None:
    """Evaluate every run of a directory on episodes, greedy and stochastic, and print a table."""
    loaded = loading.load(run, code, checkpoint)
    if loaded.env is None:
        raise ValueError(f"{run} is a run of `purerl text pretrain`: `purerl text evaluate {run}` scores its texts")
    key, plan, seeds = evaluation_key(seed), loaded.plan, len(loaded.plan.keys)

    def play(hp, state, key, greedy):
        agent = loaded.agent(hp)
        where = loaded.env, loaded.env_params
        return training.evaluate(*where, agent, state, key, episodes, max_steps, greedy, at_once=AT_ONCE)

    play = jax.jit(play, static_argnums=3)
    sound = [r for r in range(plan.num_runs) if r not in loaded.broken]
    returns, lengths, unfinished = np.full((2, plan.num_runs), np.nan), np.full((2, plan.num_runs), np.nan), 0
    with progress_bar() as bar:
        task = bar.add_task(f"{episodes} episodes each", total=2 * len(sound))
        for mode, greedy in enumerate((True, False)):
            for r in sound:
                one = loaded.one(r)
                hp = jax.tree.map(jnp.float32, one.hp)
                out = play(hp, one.state.agent, jax.random.fold_in(jax.random.fold_in(key, r), mode), greedy)
                returns[mode, r], lengths[mode, r] = float(out.returns.mean()), float(out.lengths.mean())
                unfinished += int((~out.finished).sum())
                bar.advance(task)
    first, last = int(loaded.state.iteration.min()), loaded.iteration
    count = f"{last:,}" if first == last else f"{first:,} to {last:,}"
    title = f"{plan.title}: {episodes} episodes of each run, after {count} iterations"
    out = report.grid(title, *plan.swept, "actions")
    out.add_column("length", justify="right", no_wrap=True)
    for index in range(len(plan.grid)):
        for mode, name in enumerate(("greedy", "stochastic")):
            here = slice(index * seeds, (index + 1) * seeds)
            values = plan.labels[index].split(", ") if plan.swept else []
            known = lengths[mode, here][~np.isnan(lengths[mode, here])]
            cells = report.scores(returns[mode, here]) if len(known) else ["every seed is broken", "", "", ""]
            out.add_row(*values, name, *cells, f"{known.mean():.1f}" if len(known) else "")
    report.console().print(out)
    report.say("IQM and interval are over seeds, each represented by its mean")
    for r, iteration in loaded.broken.items():
        report.note(f"{plan.name_of(r)}: not finite from iteration {iteration} on; excluded")
    if unfinished:
        report.note(f"{unfinished} episodes had not ended at the limit; their return is the sum up to it")
