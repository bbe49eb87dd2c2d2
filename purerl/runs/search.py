"""A search for hyperparameters as data: its space, its trials, and the configs of their runs."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from purerl import build
from purerl.agents.parts.declarations import declaration_of
from purerl.hyperparameters import hints_of, is_float
from purerl.runs import files, options, populations, studies, sweeps
from purerl.runs.sources import NAMES
from purerl.search import designs, halving, pbt, spaces
from purerl.search.halving import Rung
from purerl.search.spaces import Choice, Interval

DESIGNS: Mapping[str, Callable[..., designs.Points]] = {"sobol": designs.sobol, "random": designs.random}
SAMPLERS = (*DESIGNS, "grid", *studies.SAMPLERS)
PBT, POPULATION = "pbt", "population"  # a schedule, and the folder of its run
SCHEDULES = ("full", "halving", "hyperband", PBT)
EXCHANGE = {"interval": None, "fraction": 0.2, "perturb": (0.8, 1.2), "resample": 0.0}  # options of pbt
MOST_TRIALS = 2**20  # their values are held in memory, and in one table
GENERATIONS = 20  # of a population, unless an interval is given
HIDDEN = ("tensorboard", "wandb", "mlflow")  # options of a run that a search has not


class Search(NamedTuple):
    """A search with all arguments checked: what its config.json holds, besides format and kind."""

    base: dict[str, Any]  # the config of a run, in which searched options have one of their values
    space: dict[str, spaces.Dimension]
    sampler: str
    schedule: str
    trials: int
    eta: int
    batch: int
    final_seeds: int
    study: str | None
    population: dict[str, Any] | None = None  # of pbt: the exchange, `populations.Population` but for its space


def _config_class(agent: str) -> type:
    """The class of an agent's hyperparameters."""
    return type(declaration_of(build.agent_function(agent)).hp)


def floats(agent: str) -> list[str]:
    """The hyperparameters that are data: trials that differ in these alone share a program."""
    return [name for name, hint in hints_of(_config_class(agent)).items() if is_float(hint)]


def _choices(space: spaces.Space) -> dict[str, tuple[Any, ...]]:
    """The values of the dimensions that are choices."""
    return {name: x.values for name, x in space.items() if isinstance(x, Choice)}


def search_of(config: Mapping[str, Any], sampler: str, schedule: str | None, **how: Any) -> Search:
    """The search that a config describes in which some values are dimensions of a space.

    Args:
      how: further fields of `Search`, and the options of an exchange, of which those that are None have a default.
    Raises:
      ValueError: if no value is one, or one that the option forbids; for a schedule that the sampler cannot have.
    """
    hyperparameters = config["hyperparameters"]
    every = {**config, **hyperparameters}
    space = {name: x for name, x in every.items() if isinstance(x, Interval | Choice)}
    own = _config_class(config["agent"])
    structure = [name for name, x in config.items() if isinstance(x, Choice)]
    if not space:
        raise ValueError("no option has a space: give one such as --learning-rate log_uniform:1e-4:1e-2, or several "
                         "values")  # fmt: skip
    spaces.check(space, own, structure)
    for name, values in config["env_param"]:
        if len(values) > 1:
            raise ValueError(f"--env-param: {name} is part of the task; give one value")
    if how["trials"] > MOST_TRIALS:
        raise ValueError(f"--trials is {how['trials']:,}; at most {MOST_TRIALS:,} are allowed")
    if how["study"]:
        studies.check_location(how["study"])
    if sampler in studies.SAMPLERS:
        if schedule not in (None, "full"):
            raise ValueError(f"--schedule is {schedule}; with --sampler {sampler} it must be full")
        studies.check(sampler)
    elif how["study"]:
        raise ValueError(f"--study is {how['study']}; it needs a sampler of Optuna's: {', '.join(studies.SAMPLERS)}")
    schedule = schedule or ("full" if sampler in studies.SAMPLERS else "halving")
    given = {name: how.pop(name) for name in EXCHANGE}
    if schedule == PBT:
        how["population"] = _population(config, space, how["trials"], given)
    elif named := [name for name, x in given.items() if x is not None]:
        raise ValueError(f"--{named[0]} is for --schedule {PBT}; here the schedule is {schedule}")
    if how["study"] and "://" not in how["study"]:
        how["study"] = str(Path(how["study"]).resolve())
    absolute = lambda name, x: options.absolute(x) if name in NAMES and x else x
    one = lambda x: x.values[0] if isinstance(x, Choice) else spaces.at(x, 0.5) if isinstance(x, Interval) else x
    base = {name: absolute(name, one(x)) for name, x in config.items()}
    base["hyperparameters"] = {name: one(x) for name, x in hyperparameters.items()}
    for name in set(NAMES) & {*space}:
        space[name] = Choice(tuple(absolute(name, x) for x in _choices(space)[name]))
    return Search(json.loads(json.dumps(base)), space, sampler, schedule, **how)


def _population(
    config: Mapping[str, Any], space: spaces.Space, trials: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The exchange of a population, with its defaults in place of None.

    Raises:
      ValueError: for a config, a space or values that a population cannot have.
    """
    for name, x in space.items():
        if isinstance(x, Choice):
            raise ValueError(f"--{name.replace('_', '-')} has several values; a population changes floats in an "
                             "interval: give one, such as log_uniform:1e-4:1e-2, or one value")  # fmt: skip
    if config["seeds"] != 1:
        raise ValueError(f"--seeds is {config['seeds']}; with --schedule {PBT} each trial is one run: raise --trials")
    if config["stop_when"] is not None:
        raise ValueError(f"--stop-when is {config['stop_when']:g}; no member of a population ends before the others")
    if trials < 2:
        raise ValueError(f"--trials is {trials}; a population has at least 2 members")
    block = config["num_envs"] * config["rollout_length"]
    iterations = config["steps"] // block
    interval = given["interval"] or max(1, iterations // GENERATIONS) * block
    if interval < block:
        raise ValueError(f"--interval is {interval}; one iteration has {block} steps")
    if interval // block * 2 > iterations:
        what = f"--steps is {config['steps']}" + (f" and --interval {interval}" if given["interval"] else "")
        raise ValueError(f"{what}; a population has at least two generations, each of at least {block} steps")
    pbt.perturb(*(given["perturb"] or ()))
    chosen = {name: default if given[name] is None else given[name] for name, default in EXCHANGE.items()}
    return {**chosen, "interval": interval}


def stored(search: Search) -> dict[str, Any]:
    """The config.json of a search."""
    return {"kind": files.SEARCH, **search._asdict(), "space": spaces.to_json(search.space)}


def read(directory: Path) -> Search:
    """The search of a directory.

    Raises:
      ValueError: if it holds none.
    """
    config = files.read_config(directory)
    config = {**Search._field_defaults, **config}
    if config.get("kind") != files.SEARCH or config.keys() != {"format", "kind", *Search._fields}:
        raise ValueError(f"{directory} holds no search of this version")
    found = {name: config[name] for name in Search._fields}
    return Search(**{**found, "space": spaces.from_json(found["space"])})


def is_search(directory: Path) -> bool:
    """Whether a directory holds a search."""
    return (directory / files.CONFIG).is_file() and files.read_config(directory).get("kind") == files.SEARCH


def config_of(search: Search, changes: Mapping[str, Any], points: list[dict[str, float]] | None = None) -> dict:
    """The config of a run of the search: that of the base with some values changed, and points of others."""
    config = options.restore({**search.base, "horizons": [], "updates_per_chunk": 1})
    del config["updates_per_chunk"]  # it depends on what may have changed
    own = config["hyperparameters"]
    for name, value in changes.items():
        (own if name in own else config)[name] = value
    return {**config, **({"points": points} if points else {})}


def _largest_step(search: Search) -> int:
    """The most steps that an iteration of any structure has."""
    values = lambda name: _choices(search.space).get(name, (search.base[name],))
    return max(values("num_envs")) * max(values("rollout_length"))


def brackets_of(search: Search, count: int) -> list[list[Rung]]:
    """The rungs of so many trials, in environment steps; Hyperband's first bracket has as many as it was asked for."""
    steps, eta = int(search.base["steps"]), search.eta
    least = min(_largest_step(search), steps)
    if search.schedule == "full":
        return [[Rung(count, steps)]]
    if search.schedule == "halving":
        return [halving.halving(count, steps, eta, least)]
    return halving.hyperband(steps, eta, max(least, steps // eta ** halving.power(search.trials, eta)))


def points_of(search: Search) -> designs.Points:
    """The trials of a design, as many as the schedule needs.

    Raises:
      ValueError: if a grid has more points than trials.
    """
    space, count = search.space, search.trials
    if search.schedule == "hyperband":
        count = sum(bracket[0].trials for bracket in brackets_of(search, count))
    if search.sampler != "grid":
        points = DESIGNS[search.sampler](space, count, int(search.base["seed"]))
    else:
        fixed = math.prod(map(len, _choices(space).values()))
        axes = len(space) - len(_choices(space))
        if fixed > count:
            raise ValueError(f"--trials is {count}; the choices alone have {fixed} combinations")
        per_axis = next(k for k in range(1, count + 1) if not axes or fixed * (k + 1) ** axes > count)
        points = designs.grid(space, per_axis)
        if search.schedule == "hyperband":  # its brackets share the points in turn
            points = [points[i % len(points)] for i in range(count)]
    if search.schedule == "hyperband":
        return points
    return list({repr(point): point for point in points}.values())  # of choices alone some may be the same


class Structure(NamedTuple):
    """The trials that share a program."""

    name: str  # of a folder
    config: dict[str, Any]  # of one run for each of the trials
    trials: list[int]  # their places among the points


def structures_of(search: Search, points: designs.Points) -> list[Structure]:
    """The structures of points, in the order in which they first occur."""
    data = floats(search.base["agent"])
    if search.population:
        if len(points) < 2:
            raise ValueError(f"--trials is {search.trials}, of which the grid has one; a population has at least 2")
        population = {**search.population, "space": spaces.to_json(search.space)}
        config = {**config_of(search, {}), "seeds": len(points), "horizons": [populations.beginning(points)]}
        return [Structure(POPULATION, {**config, "population": population}, [*range(len(points))])]
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for place, point in enumerate(points):
        values = {name: x for name, x in point.items() if name not in data}
        groups.setdefault(sweeps.folder(values) or "runs", (values, []))[1].append(place)
    of_data = [{name: x for name, x in point.items() if name in data} for point in points]
    return [
        Structure(name, config_of(search, values, [of_data[i] for i in places]), places)
        for name, (values, places) in groups.items()
    ]


def final_of(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """The config of values with which a winner is trained again, on fresh seeds."""
    config, data = config_of(search, {}), floats(search.base["agent"])
    own = config["hyperparameters"]
    for name, value in values.items():
        (own if name in own else config)[name] = (value,) if name in data else value
    return {**config, "seeds": search.final_seeds, "seed": (config["seed"] + 1) % 2**31}


def command_of(config: Mapping[str, Any]) -> str:
    """The `purerl train` command of a config whose options have one value each, without those at their defaults."""
    of_run, own = options.parameters(config["agent"])
    known = [p for p in [*of_run, *own] if isinstance(p, click.Option)]
    usual = click.Command("defaults", params=[*known]).make_context("defaults", []).params
    values, words = {**config, **config["hyperparameters"]}, []
    for p in known:
        value = values[str(p.name)]
        if value == usual[str(p.name)]:
            continue
        if isinstance(value, bool):
            words.append((p.opts if value else p.secondary_opts)[0])
        elif p.multiple:
            words += [x for name, given in value for x in (p.opts[0], f"{name}={_text(given)}")]
        else:
            words += [p.opts[0], _text(value)]
    return shlex.join(["purerl", "train", config["agent"], config["env"], *words])


def _text(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
