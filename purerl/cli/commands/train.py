"""purerl train: one command for each agent, with one option for each hyperparameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from purerl import agents
from purerl.cli.errors import one_line
from purerl.cli.flags import execution_options, prepare

START = (
    click.Option(["--init-from"], type=click.Path(path_type=Path), metavar="RUN|DIR", help="start from the parameters "
                 "and the normaliser of the best run of RUN, or of an exported policy, and compare before and after"),
    click.Option(["--init-optimizer"], type=click.Choice(["fresh", "kept"]), default="fresh", show_default=True,
                 help="the optimiser's state of --init-from: started anew, or kept"),
)  # fmt: skip
SCHEDULES = click.Option(["--schedules"], type=click.Path(path_type=Path), metavar="FILE.csv", help="values of floats "
                         "that change along training, such as those of a population: a column `steps`, from which on "
                         "a row holds, and one for each hyperparameter")  # fmt: skip


def agent_command(name: str) -> click.Command:
    """The command that trains one agent."""
    prepare()
    from purerl.build import agent_function
    from purerl.runs import changes, initial, options, plans, sweeps

    with one_line():
        run, own = options.parameters(name)
        about = agent_function(name)
    execution = execution_options("runs/AGENT-ENV")

    def invoke(**given: Any) -> None:
        take = lambda parameters: {p.name: given[p.name] for p in parameters if p.expose_value}
        with one_line():
            points = sweeps.points_of({"agent": name, **take(run), "hyperparameters": take(own)})
            if given["schedules"]:
                for point in points:
                    point.config["horizons"] = changes.read(given["schedules"], point.config)
            if given["init_from"] is None:
                if given["init_optimizer"] == "kept":
                    raise ValueError("--init-optimizer is kept, and there is no --init-from to take its state from")
                sweeps.train(points, **take(execution))
                return
            if len(points) > 1:
                raise ValueError("--init-from is for one program: give one value of each option that has several here")
            initial.train(plans.plan_of(points[0].config), **take(execution), **take(START))

    return click.Command(
        name,
        params=[*run, *execution, *START, SCHEDULES, *own],
        callback=invoke,
        help=(inspect.getdoc(about) or "").split("\n")[0],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


class Agents(click.Group):
    """One command for each agent, whose options are hyperparameters; a user's own agent is FILE.py:name.

    names: returns what each agent is, by its name.  command_of: makes the command of a name.
    """

    def __init__(
        self, *args: Any, names: Callable[[], Mapping[str, str]], command_of: Callable[[str], click.Command], **how: Any
    ):
        super().__init__(*args, **how)
        self.names, self.command_of = names, command_of

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
