"""A plan: the checked config of a run, and the functions that its names stand for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import build, normalize, rewards, training
from purerl.agents.parts.declarations import declaration_of, options_of
from purerl.runs import files, loggers, options
from purerl.runs.devices import check_memory
from purerl.runs.stream import FEWEST_CHUNKS

NAMES = ("agent", "env", "network", "reward")  # options that may name a user's file


class Plan(NamedTuple):
    """A training run with all arguments checked."""

    config: dict[str, Any]  # complete: the contents of config.json
    title: str
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
    files: list[str]  # the user's files

    @property
    def num_runs(self) -> int:
        """The number of runs: configurations x seeds."""
        return len(self.grid) * self.keys.shape[0]

    def hp(self, iteration: int = 0) -> Any:
        """Hyperparameters from an iteration on: leaves `[R]`, or scalars if there is one configuration."""
        horizons = {}
        for change in self.config["horizons"]:
            if change["iteration"] <= iteration:
                horizons |= {name: value for name, value in change.items() if name != "iteration"}
        grid = [dataclasses.replace(hp, **horizons) for hp in self.grid]
        which = np.arange(self.num_runs) // self.keys.shape[0]
        pick = lambda *x: jnp.asarray(x, jnp.float32)[which] if len(grid) > 1 else x[0]
        return jax.tree.map(pick, *grid)

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


def _grid(config: type, values: dict[str, Any]) -> tuple[list[Any], list[str], list[str]]:
    """Every combination of the values given for float options, as configs; the swept names, and their values."""
    swept = {name: value for name, value in values.items() if isinstance(value, tuple)}
    lists = [name for name, value in swept.items() if len(value) > 1]
    for name in lists:
        if None in swept[name]:
            raise ValueError(f"--{name.replace('_', '-')}: none is structure and cannot be in a list with numbers")
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    grid = [config(**{**values, **point}) for point in points]
    return grid, lists, [", ".join(f"{point[name]:g}" for name in lists) for point in points]


def plan_of(config: dict[str, Any]) -> Plan:
    """Check every argument and assemble every part; nothing is compiled.

    Args:
      config: values by the names of `options.parameters`, the agent's hyperparameters under "hyperparameters".
    Raises:
      ValueError: if one is invalid; the message names the argument, the given value and the allowed ones.
    """
    config = {**config, "hyperparameters": dict(config["hyperparameters"]), "horizons": config.get("horizons", [])}
    agent_function = build.agent_function(config["agent"])
    config_class = type(declaration_of(agent_function).hp)
    values, steps, seeds = config["hyperparameters"], config["steps"], config["seeds"]
    num_envs, rollout_length = config["num_envs"], config["rollout_length"]
    for field in dataclasses.fields(config_class):
        if field.metadata.get("share") is not None and values[field.name] is None:
            values[field.name] = (field.metadata["share"] * steps,)
    if values.get("sequence_length") == 1 and config["memory"] != "none":
        values["sequence_length"] = rollout_length  # replayed sequences start where blocks start
    if values.get("dynamic_sampling"):
        values["max_length"] = rollout_length  # of the sequences in its buffer
    grid, swept, labels = _grid(config_class, values)
    if steps < num_envs * rollout_length:
        raise ValueError(
            f"--steps is {steps}; one iteration is num_envs x rollout_length = {num_envs} x {rollout_length} = "
            f"{num_envs * rollout_length} steps, and there must be at least one"
        )
    if config["normalize_reward"] and "gamma" not in values:
        raise ValueError(f"--normalize-reward needs a discount; {config_class.__name__} has no gamma")
    if config["stop_when"] is not None and not math.isfinite(config["stop_when"]):
        raise ValueError(f"--stop-when is {config['stop_when']}; it must be a finite return")
    loggers.check(config)
    env, env_params = build.environment(config["env"])
    if config["observe"]:
        from purerl.envs import Observe

        env = Observe(env, config["observe"])
    if config["time_limit"] or config["sticky_actions"] is not None:
        from purerl.envs import StickyActions, TimeLimit

        env = TimeLimit(env, config["time_limit"]) if config["time_limit"] else env
        env = StickyActions(env, config["sticky_actions"]) if config["sticky_actions"] is not None else env
    space = env.action_space(env_params)
    image = len(getattr(env.observation_space(env_params), "shape", ())) == 3
    config["network"] = config["network"] or ("minatar-cnn" if image else "mlp")
    layers = {name: config[name] for name in ("hidden", "activation", "layer_norm")}
    memory = build.memory(config["memory"], config["memory_size"], config["context"])
    body = build.body(config["network"], **layers, memory=memory)
    agent = build.agent(agent_function, space, body, {name: config[name] for name in options_of(agent_function)})

    own = build.reward(config["reward"]) if config["reward"] else None

    def make(hp):
        parts = ([own(hp)] if own else []) + ([normalize.rewards(hp.gamma)] if config["normalize_reward"] else [])
        training_reward = rewards.chain(*parts) if len(parts) > 1 else (parts or [None])[0]
        blocks = {"episodic": config["episodic"], "group_size": config.get("group_size"), "info": config["info"] or ()}
        return training.learner(env, env_params, agent(hp), num_envs, rollout_length, training_reward, **blocks)

    root = jax.random.key(config["seed"])
    keys = jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(seeds))
    state = jax.eval_shape(lambda key: make(grid[0]).init(key), root)  # the shapes are the same for all runs
    jax.eval_shape(lambda state: make(grid[0]).step(state), state)
    check_memory(state, seeds * len(grid))
    step_size = num_envs * rollout_length
    num_updates = steps // step_size
    chunks = config["chunks"] or min(max(seeds * len(grid) * steps // 200_000, FEWEST_CHUNKS), 1000)
    every = config.get("updates_per_chunk") or max(1, num_updates // chunks)
    config["updates_per_chunk"] = every
    named = [name for name in NAMES if config[name]]
    words = [options.absolute(config[name]) for name in named]
    config |= zip(named, words, strict=True)
    short = lambda name: Path(name).name if build.is_own(name) else name
    return Plan(
        config=config,
        title=f"{short(config['agent'])} on {short(config['env'])}",
        env=env,
        env_params=env_params,
        agent=agent,
        make=make,
        grid=grid,
        swept=swept,
        labels=labels,
        keys=keys,
        num_updates=num_updates,
        every=every,
        steps_per_update=step_size,
        files=sorted({word.rpartition(":")[0] for word in words if build.is_own(word)}),
    )


def plan_of_directory(directory: Path, same_files: bool = True) -> Plan:
    """The plan of a run on disk.

    Raises:
      ValueError: if the directory holds no run or one of another version; if a user's file that it names has changed
        since, unless `same_files` is False; or if that file lies in the directory itself, since its origin is unknown.
    """
    stored = files.read_config(directory)
    for name in NAMES:
        path = Path(str(stored.get(name)).rpartition(":")[0])
        if path.suffix == ".py" and path.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{directory} names code of its own, {path}; it is not run")
    made = files.read_manifest(directory)["made_with"]["files"] if same_files else {}
    for path, digest in made.items():
        if not Path(path).is_file() or files.digest_of(path) != digest:
            raise ValueError(f"{path} has changed or is missing; the copy in {directory}/{files.CODE}/ is the original")
    return plan_of(options.restore(stored))
