"""The parts of a run, with all arguments checked: its learner, sweep and keys."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.runs import env_parameters
from purerl.runs.populations import Population
from purerl.runs.stream import FEWEST_CHUNKS

Rows = list[dict[str, np.ndarray]]  # metrics of chunks, each [R]
NOT_VALUES = ("iteration", "exchange")  # entries of a change besides hyperparameters


class Watch(NamedTuple):
    """What is done between chunks, besides logging and saving."""

    # state of the learners, leaves [R + fill-ups, ...] -> further metrics [R]
    measure: Callable[[Any], dict[str, np.ndarray]] = lambda state: {}
    # metrics of all chunks so far -> which runs end, bool [R]
    ends: Callable[[Rows], np.ndarray] | None = None
    # (directory, metrics of all chunks so far, () -> state with the final one of ended runs, whether it is the last
    # chunk) -> lines to show
    after: Callable[[Path, Rows, Callable[[], Any], bool], Iterator[str]] = lambda *_: iter(())


class Plan(NamedTuple):
    """A training run with all arguments checked."""

    config: dict[str, Any]  # complete: the contents of config.json
    title: str
    name: str  # of the run's directory
    env: Any
    env_params: Any
    agent: Callable[[Any], Any]  # hp -> Agent
    make: Callable[[Any], Any]  # hp -> Learner, of one run
    grid: list[Any]  # one config for each value of the sweep
    swept: list[str]  # the hyperparameters that have several values
    labels: list[str]  # those values, one for each config
    keys: jax.Array  # [seeds]
    num_updates: int
    every: int  # updates per chunk
    steps_per_update: int
    files: dict[str, str]  # the user's files, by their paths in the config; the values are executed
    metric: str = "episode_return"  # the metric of progress, table and learning curve
    unit: str = "environment steps"  # of `steps_per_update`
    watch: Watch | None = None
    live: np.ndarray | None = None  # bool [runs], those that are trained from here on; None: all
    population: Population | None = None  # how runs copy each other; None: they do not

    @property
    def num_runs(self) -> int:
        """The number of runs: configurations x seeds."""
        return len(self.grid) * self.keys.shape[0]

    def hp(self, iteration: int = 0) -> Any:
        """Hyperparameters from an iteration on: leaves `[R]`, or scalars if all runs have the same."""
        given = {}
        for change in sorted(self.config["horizons"], key=lambda change: change["iteration"]):
            if change["iteration"] <= iteration:
                given |= {name: value for name, value in change.items() if name not in NOT_VALUES}
        of_runs = {name: jnp.asarray(x, jnp.float32) for name, x in given.items() if isinstance(x, list)}
        grid = [dataclasses.replace(hp, **{n: x for n, x in given.items() if n not in of_runs}) for hp in self.grid]
        which = np.arange(self.num_runs) // self.keys.shape[0]
        pick = lambda *x: jnp.asarray(x, jnp.float32)[which] if len(grid) > 1 else x[0]
        return dataclasses.replace(jax.tree.map(pick, *grid), **of_runs)

    def env_params_of(self, hp: Any) -> Any:
        """The environment's parameters of one run, from its hyperparameters."""
        return env_parameters.of_hp(self.env_params, hp)

    def env_record(self) -> dict[str, Any]:
        """The environment's parameters that are numbers; a list where runs have different ones."""
        prefix = env_parameters.PREFIX
        names = [name for name in vars(self.grid[0]) if name.startswith(prefix)]
        swept = {
            name.removeprefix(prefix): list(dict.fromkeys(getattr(hp, name) for hp in self.grid)) for name in names
        }
        return env_parameters.recorded(self.env_params, swept)

    def run_keys(self) -> jax.Array:
        """The key of every run, `[R]`: the seeds, once for each configuration."""
        return self.keys[np.arange(self.num_runs) % self.keys.shape[0]]

    def about(self) -> dict[str, list]:
        """The values that distinguish the runs: lists `[R]` of the seed's number and of every swept value."""
        seeds = self.keys.shape[0]
        values = {name: [float(getattr(hp, name)) for hp in self.grid for _ in range(seeds)] for name in self.swept}
        return {"seed": [run % seeds for run in range(self.num_runs)], **values}

    def name_of(self, run: int) -> str:
        """The name of a run: its seed and its swept values."""
        return ", ".join(f"{name} {values[run]:g}" for name, values in self.about().items())


def used_of_schedules(plan: Plan) -> str | None:
    """Which rows of a file of `--schedules` hold in a run, in one line; None without a file, or with one row."""
    changes = plan.config["horizons"]
    begun = [change["iteration"] for change in changes if change.keys() == changes[0].keys()]
    if len(begun) < 2 or begun[0] != 0 or plan.population is not None:
        return None
    used, block, total = {x for x in begun if x < plan.num_updates}, plan.steps_per_update, plan.num_updates
    late = sum(x >= total for x in begun)
    hidden = len(begun) - late - len(used)
    return (
        f"--schedules: {len(used)} of {len(begun)} rows hold, the last one from {max(used) * block:,} to "
        f"{total * block:,} steps"
        + (f"; {late} would begin after the last iteration has begun" if late else "")
        + (f"; {hidden} would end within the iteration ({block:,} steps) in which they begin" if hidden else "")
    )


def are_changes(changes: Any, num_runs: int) -> bool:
    """Whether they are changes of hyperparameters at iterations, as a config has them under "horizons".

    A value is a number, or a list of one for each run. Where runs have copied others, "exchange" holds their scores
    before, and from which run each has its state.
    """
    number = lambda x: type(x) in (int, float)
    list_of = lambda x, sound: isinstance(x, list) and len(x) == num_runs and all(map(sound, x))
    run = lambda x: type(x) is int and 0 <= x < num_runs

    def is_exchange(x: Any) -> bool:
        sound = isinstance(x, dict) and x.keys() == {"parent", "scores"} and list_of(x["parent"], run)
        return sound and list_of(x["scores"], lambda score: number(score) or score in ("nan", "inf", "-inf"))

    def is_change(x: Any) -> bool:
        if not isinstance(x, dict) or type(x.get("iteration")) is not int:
            return False
        values = [value for name, value in x.items() if name not in NOT_VALUES]
        sound = all(number(value) or list_of(value, number) for value in values)
        return sound and ("exchange" not in x or is_exchange(x["exchange"]))

    return isinstance(changes, list) and all(map(is_change, changes))


def grid_of(config: type, values: dict[str, Any]) -> tuple[list[Any], list[str], list[str]]:
    """Every combination of the values given for float options, as configs; the swept names, and their values."""
    swept = {name: value for name, value in values.items() if isinstance(value, tuple)}
    lists = [name for name, value in swept.items() if len(value) > 1]
    for name in lists:
        if None in swept[name]:
            raise ValueError(f"--{name.replace('_', '-')}: none is structure and cannot be in a list with numbers")
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    grid = [config(**{**values, **point}) for point in points]
    return grid, lists, [", ".join(f"{point[name]:g}" for name in lists) for point in points]


def points_of(config: type, values: dict[str, Any], points: list[dict[str, float]]) -> tuple:
    """One config for each of several points, `{name: value}` of the same names; as `grid_of`."""
    fixed = {name: value[0] if isinstance(value, tuple) else value for name, value in values.items()}
    names = list(points[0])
    return (
        [config(**{**fixed, **point}) for point in points],
        names,
        [", ".join(f"{point[name]:g}" for name in names) for point in points],
    )


def keys_of(seed: int, seeds: int) -> jax.Array:
    """The keys of all seeds `[seeds]`; a seed's key does not depend on the number of seeds."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(seeds))


def check_updates(flag: str, steps: int, step_size: int) -> int:
    """The number of iterations of `step_size` steps; a ValueError that names the flag if it does not fit an int32."""
    num_updates = steps // step_size
    if num_updates >= 2**31:
        raise ValueError(f"{flag} is {steps:,}: {num_updates:,} iterations of {step_size:,}; there can be 2147483647")
    return num_updates


def updates_per_chunk(config: dict[str, Any], num_updates: int, total_steps: int) -> int:
    """The updates of one chunk: as the config says, or for 100 to 1000 chunks of a run."""
    chunks = config["chunks"] or min(max(total_steps // 200_000, FEWEST_CHUNKS), 1000)
    return config.get("updates_per_chunk") or max(1, num_updates // chunks)


def initializer(plan: Plan) -> Callable[[Any, Any], Any]:
    """`(hp, keys [R]) -> state` of all runs at their beginning; see `purerl.batch`."""
    return lambda hp, keys: training.batch(plan.make)(hp).init(keys)


def like(plan: Plan) -> Any:
    """Shapes and dtypes of the state of all runs."""
    return jax.eval_shape(initializer(plan), plan.hp(), plan.run_keys())
