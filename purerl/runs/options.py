"""The options of a run: the agent's hyperparameters, its exchangeable parts, and the settings of training."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from purerl import agents, build
from purerl.agents.parts.declarations import Choice, Declaration, Option, Switch, declaration_of, options_of
from purerl.hyperparameters import hints_of
from purerl.runs import catalogue
from purerl.runs.arguments import Assignment, Count, Entries, Names, Numbers, Range, Seed, Sweep, Swept, Widths
from purerl.runs.plan import are_changes

EXECUTION = (
    "directory",
    "devices",
    "save_every",
    "distributed",
    "peer_timeout",
    "devices_per_seed",
    "compilation_cache",
    "init_from",
    "init_optimizer",
    "schedules",
)  # options of a command, not of a config
LATER = {
    "info": None,
    "env_param": (),
    "group_size": None,
    "episodic": None,
    "evaluate_every": None,
    "keep_every": None,
    "isolate_seeds": False,
}  # options missing from older runs, and their values there


def hyperparameter_options(config: type) -> list[click.Option]:
    """One option for every field of a config class."""
    hints = hints_of(config)

    def option(field: dataclasses.Field) -> click.Option:
        flag, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        said = field.metadata.get("doc", "")
        extra: dict[str, Any] = {"default": field.default, "show_default": True, "help": said}
        if hint is bool:
            return click.Option([f"{flag}/--no-{flag[2:]}"], **extra)
        if typing.get_origin(hint) is Literal:
            return click.Option([flag], type=Swept(click.Choice(typing.get_args(hint))), **extra)
        if hint is int:
            return click.Option([flag], type=Swept(click.INT), **extra)
        extra["help"] = said.replace("; None ", "; none ")
        share = field.metadata.get("share")
        if share is not None:  # the value is computed by `plans.plan_of`
            words = {1.0: "--steps", 0.5: "half of --steps"}
            extra |= {"default": None, "show_default": words.get(share, f"{share:g} x --steps")}
        elif field.default is None:
            extra["show_default"] = "none"
        return click.Option([flag], type=Numbers(optional=hint is not float), **extra)

    return [option(field) for field in dataclasses.fields(config)]


def _option(name: str, option: Option) -> click.Option:
    """An option of an agent or its family."""
    flag = "--" + name.replace("_", "-")
    if isinstance(option, Choice):
        names = tuple(option.values)
        return click.Option(
            [flag], type=Swept(click.Choice(names)), default=names[0], show_default=True, help=option.help
        )
    if isinstance(option, Switch):
        both = f"{flag}/--{option.off or 'no-' + flag[2:]}"
        return click.Option([both], default=option.default, show_default=True, help=option.help)
    positive = Range(0, min_open=True)
    return click.Option([flag], type=Swept(positive), default=option.default, show_default=True, help=option.help)


def run_options(about: Declaration, own: Sequence[click.Option]) -> list[click.Parameter]:
    """The options common to all agents; together with the hyperparameters they are the config of a run."""
    say = partial(click.Option, show_default=True)
    widths = ",".join(map(str, about.hidden))
    return [
        click.Argument(["env"], metavar="ENV", shell_complete=catalogue.complete),
        say(["--seeds"], type=Count(), default=8, help="number of seeds, each a run of its own, trained at once; "
            "rounding, and so the results of a seed, depend on how many share a device (see --isolate-seeds)"),
        say(["--seed"], type=Seed(), default=0, help="of all random numbers"),
        say(["--steps"], type=Count(total=True), default="5e5", help="environment steps of each run"),
        say(["--num-envs"], type=Swept(Count()), default=about.num_envs, help="environments of each run"),
        say(["--rollout-length"], type=Swept(Count()), default=about.rollout_length, help="steps between updates"),
        click.Option(["--env-param"], type=Assignment(), multiple=True, help="a parameter of the environment, such as "
                     "length=0.3,0.7; several values of a float are a sweep; may be repeated"),
        click.Option(["--network"], type=Swept(click.STRING), help="mlp, minatar-cnn, nature-cnn, or FILE.py:name, "
                     "a function that returns a torso  [default: nature-cnn for images from 36 x 36 on, minatar-cnn "
                     "for smaller ones from 3 x 3 on, otherwise mlp]"),
        say(["--hidden"], type=Swept(Widths(), "/"), default=widths, help="widths of the mlp; several separated by /"),
        say(["--activation"], type=Swept(click.Choice(build.ACTIVATIONS)), default=about.activation, help="of the mlp"),
        say(["--layer-norm/--no-layer-norm"], default=about.layer_norm, help="normalise each layer "
            "of the torso"),
        *own,
        say(["--memory"], type=Swept(click.Choice(build.MEMORIES)), default="none", help="the memory between torso and "
            "heads"),
        say(["--memory-size"], type=Swept(Count()), default=64, help="features of the memory"),
        say(["--context"], type=Swept(Count()), default=64, help="steps of the episode that a transformer attends to"),
        click.Option(["--reward"], metavar="FILE.py:name", help="the training reward: a purerl Reward, a function (hp) "
                     "that returns one, or a function (transitions) that returns a reward for every step; reported "
                     "returns are the environment's"),
        click.Option(["--info"], type=Names(), help="entries of the environment's info that rewards read, such as "
                     "cost"),
        say(["--normalize-reward/--no-normalize-reward"], default=False, help="divide rewards by the standard "
            "deviation of the discounted return; reported returns are the environment's"),
        click.Option(["--observe"], type=Entries(), help="entries of a flat observation to keep, such as 0,2: "
                     "CartPole-v1 without velocities"),
        click.Option(["--time-limit"], type=Swept(Count()), help="truncate episodes after so many steps, also if the "
                     "environment's own limit is lower"),
        click.Option(["--sticky-actions"], type=Range(0, 1), help="probability that an action repeats"),
        click.Option(["--episodic/--no-episodic"], default=None, help="blocks of whole episodes, of at most "
                     "rollout_length steps  [default: as the agent needs]"),
        click.Option(["--group-size"], type=Count(), help="neighbouring environments that start each episode alike  "
                     "[default: as the agent needs, otherwise 1]"),
        click.Option(["--stop-when"], type=float, metavar="RETURN", help="end each run when its last 100 episodes "
                     "reach this mean return"),
        click.Option(["--chunks"], type=Count(), help="points of the learning curve; a run is saved and "
                     "stopped only at these  [default: 100, up to 1000 for long runs]"),
        say(["--isolate-seeds/--no-isolate-seeds"], default=False, help="train the seeds of a device one after "
            "another, so that a seed's results do not depend on how many there are"),
        click.Option(["--evaluate-every"], type=Count(total=True), metavar="STEPS", help="after so many environment "
                     "steps, play 100 greedy episodes: column evaluation_return, and the checkpoint `best` of each "
                     "run"),
        click.Option(["--keep-every"], type=Count(total=True), metavar="STEPS", help="keep a checkpoint after so many "
                     "environment steps, besides the newest two"),
        say(["--tensorboard/--no-tensorboard"], default=False, help="write TensorBoard files into the directory"),
        click.Option(["--wandb"], metavar="PROJECT", help="log to a project of Weights & Biases"),
        click.Option(["--mlflow"], metavar="EXPERIMENT", help="log to an experiment of MLflow"),
    ]  # fmt: skip


def absolute(name: str) -> str:
    """FILE.py:name with the absolute path of the file; any other name unchanged."""
    if not build.is_own(name):
        return name
    path, _, function = name.rpartition(":")
    return f"{Path(path).resolve()}:{function}"


def parameters(agent: str) -> tuple[list[click.Parameter], list[click.Option]]:
    """The options of an agent's command: those of the run, and the agent's hyperparameters.

    Raises:
      ValueError: if there is no such agent.
    """
    agents.check_name(agent)
    make = build.agent_function(agent)
    about = declaration_of(make)
    own = [_option(name, option) for name, option in options_of(make).items()]
    config = type(about.hp)
    fields = [field.name for field in dataclasses.fields(config)]
    given_once = {"group_size"} & {*fields}  # the agent needs to know it, and says it to the learner
    of_run = [p for p in run_options(about, own) if p.name not in given_once]
    names = [p.name for p in of_run] + fields + list(EXECUTION)
    if twice := sorted({name for name in names if names.count(name) > 1}, key=str):
        raise ValueError(
            f"{agent}: {twice[0]} is an option of every run and of the agent; rename it in {config.__name__}"
        )
    return of_run, hyperparameter_options(config)


def check_single(values: Mapping[str, Any]) -> None:
    """Raise a ValueError if an option has several values that are structure."""
    for name, value in values.items():
        if isinstance(value, Sweep):
            raise ValueError(f"--{name.replace('_', '-')} has {len(value.values)} values; give one")


def restored(
    stored: dict[str, Any], of_run: Sequence[click.Parameter], own: Sequence[click.Parameter], what: str
) -> dict[str, Any]:
    """Restore a config from disk by its options: those of the run, and the hyperparameters.

    Raises:
      ValueError: if a value is not one that the command line accepts.
    """
    stored, context = dict(stored), click.Context(click.Command("config"))

    def convert(parameters: Sequence[click.Parameter], given: Any) -> dict[str, Any]:
        if not isinstance(given, dict) or given.keys() != {p.name for p in parameters}:
            names = sorted({p.name or "" for p in parameters} ^ set(given if isinstance(given, dict) else ()))
            raise ValueError(f"{names[0]} is missing or unknown; the run is of another version of purerl, or of {what}")
        try:
            values = {p.name or "": p.type_cast_value(context, given[p.name]) for p in parameters}
        except click.ClickException as error:
            raise ValueError(error.format_message()) from error
        check_single(values)
        return values

    own_values = convert(own, stored.pop("hyperparameters", None))
    horizons, every = stored.pop("horizons", None), stored.pop("updates_per_chunk", None)
    for name in ("format", "kind"):
        stored.pop(name, None)
    if not are_changes(horizons, stored.get("seeds", 1)) or type(every) is not int or every < 1:
        raise ValueError("horizons or updates_per_chunk is missing or malformed")
    rest = {"horizons": horizons, "updates_per_chunk": every}
    return {**convert(of_run, stored), "hyperparameters": own_values, **rest}


def restore(stored: dict[str, Any]) -> dict[str, Any]:
    """Restore the config of an agent's run from disk, with each value checked as on the command line.

    Raises:
      ValueError: if a value is not one that the command line accepts.
    """
    agent = stored.get("agent")
    of_run, own = parameters(str(agent))
    later = {name: value for name, value in LATER.items() if name in {p.name for p in of_run}}
    apart = {name: stored[name] for name in ("agent", "text", "inner", "points", "population") if name in stored}
    stored = {name: value for name, value in (later | stored).items() if name not in apart}
    return {**apart, **restored(stored, of_run, own, str(agent))}
