"""purerl train: one command for each agent, with one option for each hyperparameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from purerl import agents
from purerl.cli.errors import one_line
from purerl.cli.flags import distribution_options, execution_options, join, prepare, without_distribution

START = (
    click.Option(["--init-from"], type=click.Path(path_type=Path), metavar="RUN|DIR", help="start from the parameters "
                 "and the normaliser of the best run of RUN, or of an exported policy, and compare before and after"),
    click.Option(["--init-optimizer"], type=click.Choice(["fresh", "kept"]), default="fresh", show_default=True,
                 help="the optimiser's state of --init-from: started anew, or kept"),
)  # fmt: skip
SCHEDULES = click.Option(["--schedules"], type=click.Path(path_type=Path), metavar="FILE.csv", help="values of floats "
                         "that change along training, such as those of a population: a column `steps`, from which on "
                         "a row holds until the next one, the last one until the end, and one for each hyperparameter; "
                         "rows that begin after the last iteration are not used")  # fmt: skip


def agent_command(name: str) -> click.Command:
    """The command that trains one agent."""
    prepare()
    from purerl.build import agent_function
    from purerl.runs import changes, initial, options, plans, sweeps

    with one_line():
        run, own = options.parameters(name)
        about = agent_function(name)
    execution = execution_options("runs/AGENT-ENV")
    several = distribution_options()

    def invoke(**given: Any) -> None:
        take = lambda parameters: {p.name: given[p.name] for p in parameters if p.expose_value and p.name in given}
        with one_line():
            given = without_distribution(given, name)
            how = take([*execution, *several])
            points = sweeps.points_of({"agent": name, **take(run), "hyperparameters": take(own)})
            if given["schedules"]:
                points = changes.scheduled(given["schedules"], points)
            if given["init_from"] is None:
                if given["init_optimizer"] == "kept":
                    raise ValueError("--init-optimizer is kept, and there is no --init-from to take its state from")
                sweeps.train(points, **how)
                return
            if len(points) > 1:
                raise ValueError("--init-from is for one program: give one value of each option that has several here")
            initial.train(plans.plan_of(points[0].config), **how, **take(START))

    return click.Command(
        name,
        params=[*run, *execution, *several, *START, SCHEDULES, *own],
        callback=invoke,
        help=(inspect.getdoc(about) or "").split("\n")[0],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def join_first(words: list[str]) -> None:
    """Join other processes if the words of a command ask for it, before the agent is imported, which may compute."""
    if not any(word.startswith("--distributed") for word in words):
        return
    options = distribution_options()
    alone = click.Command("train", params=options, add_help_option=False)
    ctx = alone.make_context("train", list(words), ignore_unknown_options=True, allow_extra_args=True)
    prepare()
    with one_line():
        join(ctx.params["distributed"], ctx.params["peer_timeout"])


class Agents(click.Group):
    """One command for each agent, whose options are hyperparameters; a user's own agent is FILE.py:name.

    names: returns what each agent is, by its name.  command_of: makes the command of a name.  first: is given the words
    of a command before it is made.
    """

    def __init__(
        self,
        *args: Any,
        names: Callable[[], Mapping[str, str]],
        command_of: Callable[[str], click.Command],
        first: Callable[[list[str]], None] = lambda words: None,
        **how: Any,
    ):
        super().__init__(*args, **how)
        self.names, self.command_of, self.first = names, command_of, first

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        self.first(args[1:])
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.names())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Agents"):
            formatter.write_dl([*self.names().items(), ("FILE.py:name", "your own agent, with `@purerl.declare`")])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        with one_line():
            agents.check_name(cmd_name)
        return self.command_of(cmd_name)


@click.command(
    cls=Agents,
    names=agents.names,
    command_of=agent_command,
    first=join_first,
    name="train",
    subcommand_metavar="AGENT ENV [OPTIONS]",
    no_args_is_help=True,
    add_help_option=True,
)
def train() -> None:
    """Train an agent in an environment: many seeds, and sweeps, in one compiled program.

    \b
    purerl train ppo CartPole-v1 --seeds 8 --steps 5e5
    purerl train ppo CartPole-v1 --learning-rate 1e-4,3e-4,1e-3      # floats: one program
    purerl train ppo CartPole-v1 --num-epochs 4,8 --hidden 64,64/256 # structure: one program for each value

    `purerl train AGENT --help` lists the agent's hyperparameters.
    """
