"""Training that starts from a trained policy: its parameters and normaliser in place of initial ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.export import folder
from purerl.runs import checkpoint, execute, learned, loading, report
from purerl.runs.env_parameters import longest_episode
from purerl.runs.evaluation import evaluation_key
from purerl.runs.export import best
from purerl.runs.plan import Plan
from purerl.runs.progress import progress_bar
from purerl.training import processes

EPISODES = 100


def train(plan: Plan, init_from: Path, init_optimizer: str, **execution: Any) -> Path:
    """Run a plan in a new directory from what another run learned, and print a table of before and after.

    Args:
      init_from: the directory of a run, or of an exported policy.
      init_optimizer: "fresh", or "kept", which takes the state of the optimiser too.
      execution: as of `execute.train`.
    Raises:
      ValueError: as `read` and `learned.check`.
    """
    kept = init_optimizer == "kept"
    leaves = read(init_from, kept)
    learned.check(plan, leaves, kept, init_from)
    report.note(f"starting from the parameters and the normaliser of {init_from}, optimiser {init_optimizer}")
    about = {"from": str(init_from.resolve()), "optimizer": init_optimizer}
    directory = execute.train(plan, **execution, start=(leaves, about))
    processes.by_first(compare, plan, directory)
    return directory


def read(source: Path, optimizer: bool) -> dict[str, np.ndarray]:
    """The learned leaves of the best run of a directory, or of an exported policy.

    Raises:
      ValueError: if it is neither, or holds no checkpoint, no parameters or no state of an optimiser that is asked for.
    """
    if not (source / folder.ABOUT).is_file():
        loaded = loading.load(source)
        leaves = learned.learned(checkpoint.to_host(loaded.one(best(loaded)).state), optimizer)
    else:
        about = folder.read(source)
        if folder.AGENT not in about["files"]:
            raise ValueError(
                f"--init-from is {source}; it has no {folder.AGENT}: it was not exported from a run of an agent"
            )
        if optimizer:
            raise ValueError(f"--init-optimizer is kept; {source} has the policy alone: give the run's directory")
        folder.read_program(source, about, folder.AGENT)  # its hash is checked
        leaves = checkpoint.read(source / folder.AGENT)[0]
    if not leaves:
        raise ValueError(f"--init-from is {source}; its agent has nothing that is learned")
    return leaves


def compare(plan: Plan, directory: Path) -> None:
    """Print the returns of the policy that a run started from and of those that it learned, in its environment."""
    limit = longest_episode(plan.env_params, plan.config["time_limit"])
    if limit is None:
        report.note("no table before and after: the environment has no limit of steps; `purerl evaluate` takes one")
        return
    loaded, first = loading.load(directory), checkpoint.read(directory / learned.FILE)[0]
    before = loaded._replace(hp=plan.hp(), state=learned.state_of(plan, first))

    def play(hp, state, key):
        where = plan.env, plan.env_params_of(hp)
        return training.evaluate(*where, plan.agent(hp), state, key, EPISODES, limit, greedy=True).returns

    play, key = jax.jit(play), evaluation_key(0)
    sound = [run for run in range(plan.num_runs) if run not in loaded.broken]
    returns = np.full((2, len(sound)), np.nan)
    with progress_bar() as bar:
        task = bar.add_task(f"{EPISODES} episodes before and after", total=returns.size)
        for row, states in enumerate((before, loaded)):
            for column, run in enumerate(sound):
                one = states.one(run)
                hp = jax.tree.map(jnp.float32, one.hp)
                returns[row, column] = float(play(hp, one.state.agent, jax.random.fold_in(key, run)).mean())
                bar.advance(task)
    out = report.grid(f"{plan.title}: greedy episodes, over runs of {EPISODES} episodes each", "policy")
    rows = ("before", returns[0]), ("after", returns[1]), ("after - before", returns[1] - returns[0])
    for name, values in rows:
        out.add_row(name, *(report.scores(values) if len(sound) else ["every seed is broken", "", "", ""]))
    report.console().print(out)
