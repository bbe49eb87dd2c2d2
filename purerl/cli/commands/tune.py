"""purerl tune: a search for hyperparameters, one command for each agent."""

from __future__ import annotations

import inspect
from typing import Any

import click

from purerl import agents
from purerl.cli.commands.train import Agents
from purerl.cli.errors import one_line
from purerl.cli.flags import execution_options, prepare
from purerl.runs.arguments import Count, Numbers, Range

SEEDS = 1


def tune_command(name: str) -> click.Command:
    """The command that searches for hyperparameters of one agent."""
    prepare()
    import jax

    from purerl.build import agent_function
    from purerl.runs import options, search, tuning
    from purerl.runs.spaces import Spaced

    with one_line():
        run, own = options.parameters(name)
        about = agent_function(name)
    hidden = click.Command(name, params=[p for p in run if p.name in search.HIDDEN]).make_context(name, []).params
    run = [p for p in run if p.name not in search.HIDDEN]
    for p in [*run, *own]:
        if Spaced.admits(p.type):
            p.type = Spaced(p.type)
        if p.name == "seeds":
            p.default, p.help = SEEDS, "number of seeds of a trial; its score is their mean"
        if p.name == "isolate_seeds":
            p.default, p.show_default = None, "on a CPU"
            p.help = "train the runs of a device one after another: trials that have ended then take no time"
    execution = execution_options("runs/tune-AGENT-ENV")
    of_search = [
        click.Option(["--trials"], type=Count(), default=27, show_default=True, help="number of trials; with "
                     "hyperband, of the first bracket; with pbt, the population"),
        click.Option(["--sampler"], type=click.Choice(search.SAMPLERS), default="sobol", show_default=True,
                     help="how values are chosen; from tpe on, by Optuna, from the results so far"),
        click.Option(["--schedule"], type=click.Choice(search.SCHEDULES), help="which trials end early, by their rank; "
                     "with pbt the lowest copy the highest, and go on with other values  [default: halving; full for "
                     "Optuna's samplers]"),
        click.Option(["--eta"], type=click.IntRange(2), default=3, show_default=True, help="of n trials, n / eta are "
                     "trained eta times as long"),
        click.Option(["--final-seeds"], type=Count(), default=8, show_default=True, help="fresh seeds on which the "
                     "best trial is trained again"),
        click.Option(["--batch"], type=Count(), default=10, show_default=True, help="trials that Optuna chooses at "
                     "once, trained together"),
        click.Option(["--interval"], type=Count(total=True), metavar="STEPS", help="pbt: environment steps between "
                     "exchanges of the population  [default: a twentieth of --steps]"),
        click.Option(["--fraction"], type=Range(0, 0.5, min_open=True), help="pbt: the fraction of the population, the "
                     "lowest, that copies one of as many of the highest  [default: 0.2]"),
        click.Option(["--perturb"], type=Numbers(optional=False), help="pbt: factors; after a copy, one of them "
                     "multiplies a value  [default: 0.8,1.2]"),
        click.Option(["--resample"], type=Range(0, 1), help="pbt: the probability of a new value of its space in place "
                     "of that  [default: 0]"),
        click.Option(["--study"], metavar="FILE|URL", help="Optuna's journal or database, which many processes may "
                     "share  [default: study.journal in the directory]"),
    ]  # fmt: skip

    if twice := sorted({p.name or "" for p in of_search} & {p.name or "" for p in [*run, *own]}):
        with one_line():
            raise ValueError(f"{name}: {twice[0]} is an option of every search and of the agent; rename the agent's")

    def invoke(**given: Any) -> None:
        take = lambda parameters: {p.name: given[p.name] for p in parameters if p.expose_value}
        if given["isolate_seeds"] is None:
            given["isolate_seeds"] = jax.default_backend() == "cpu"
        with one_line():
            searched = {"agent": name, **take(run), **hidden, "hyperparameters": take(own)}
            tuning.train(search.search_of(searched, **take(of_search)), **take(execution))

    return click.Command(
        name,
        params=[*run, *of_search, *execution, *own],
        callback=invoke,
        help=(inspect.getdoc(about) or "").split("\n")[0],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


@click.command(
    cls=Agents,
    names=agents.names,
    command_of=tune_command,
    name="tune",
    subcommand_metavar="AGENT ENV [OPTIONS]",
    no_args_is_help=True,
    add_help_option=True,
)
def tune() -> None:
    """Search for hyperparameters: every option of `purerl train` may have a space in place of a value.

    \b
    purerl tune ppo CartPole-v1 --learning-rate log_uniform:1e-4:1e-2 --clip uniform:0.1:0.3
    purerl tune ppo CartPole-v1 --learning-rate log_uniform:1e-4:1e-2 --num-epochs 4,8 --schedule hyperband
    purerl tune ppo CartPole-v1 --learning-rate log_uniform:1e-4:1e-2 --schedule pbt --trials 16
    purerl tune ppo CartPole-v1 --learning-rate log_uniform:1e-4:1e-2 --sampler tpe   # pip install 'purerl[tune]'

    Floats have log_uniform:LOW:HIGH, uniform:LOW:HIGH, or several values; all of their trials share one program. What
    is structure, such as widths, has several values, and a program for each. The best trial is trained again on fresh
    seeds, since the best of many scores is too high.
    """
