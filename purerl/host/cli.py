"""The command line. Nothing here imports jax until an agent's own options are needed."""

from __future__ import annotations

import ast
import contextlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import purerl


class OneLine(click.ClickException):
    """Bad input: one readable line, exit code 2."""

    exit_code = 2


class Stopped(Exception):
    """A run that was interrupted: how to go on, exit code 130."""

    def __init__(self, text: str, at_once: bool = False):
        super().__init__(text)
        self.at_once = at_once


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turns what is wrong with an input, a file or a disk into one readable line."""
    try:
        yield
    except (ValueError, NotImplementedError, OSError) as error:
        raise OneLine(" ".join(str(error).split())) from error


class Numbers(click.ParamType):
    """One number, or several with commas between: a sweep. `none` where the field may be absent."""

    name = "FLOAT[,...]"

    def __init__(self, optional: bool):
        self.optional = optional

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float | None, ...]:
        if isinstance(value, (tuple, list)):  # of an option's default, or of a file
            value = ",".join("none" if x is None else str(x) for x in value)
        try:
            return tuple(self._one(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, nor numbers with commas between", param, ctx)

    def _one(self, text: str) -> float | None:
        return None if self.optional and text.lower() == "none" else float(text)


class Count(click.ParamType):
    """A positive whole number; 5e5 is one."""

    name = "COUNT"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            number = float(value)
            if number < 1 or number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a positive whole number", param, ctx)
        return int(number)


class Seed(click.ParamType):
    """What a key is made from."""

    name = "SEED"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if not str(value).isdecimal() or int(value) >= 2**31:
            self.fail(f"{value!r} is not a whole number from 0 to 2147483647", param, ctx)
        return int(value)


class Widths(click.ParamType):
    """Positive whole numbers with commas between."""

    name = "INT,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        return tuple(Count().convert(part.strip(), param, ctx) for part in str(value).split(","))


class Entries(click.ParamType):
    """Whole numbers from 0 with commas between."""

    name = "INT,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, (tuple, list)):
            value = ",".join(map(str, value))
        return tuple(click.IntRange(0).convert(part.strip(), param, ctx) for part in str(value).split(","))


def agent_names() -> dict[str, str]:
    """Every agent of the package and the first line about it, read without importing it."""
    folder = Path(purerl.__file__).parent / "agents"
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    doc = lambda name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return {name: doc(name).split("\n")[0] for name in names}


class Train(click.Group):
    """The agent is a command whose options are its hyperparameters; a user's own agent is FILE.py:name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(agent_names())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Agents"):
            formatter.write_dl([*agent_names().items(), ("FILE.py:name", "your own `name(network, policy, hp)`")])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in agent_names() and ".py:" not in cmd_name:
            allowed = ", ".join(agent_names())
            raise OneLine(f"there is no agent {cmd_name!r}; allowed are {allowed}, or your own FILE.py:name")
        from purerl.host import options

        return options.command(cmd_name)


class OrderedCommands(click.Group):
    """Lists its commands in the order in which they are written."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=OrderedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(purerl.__version__, prog_name="purerl")
def purerl_command() -> None:
    """Reinforcement learning in JAX where everything is a pure function."""


@purerl_command.command(
    cls=Train,
    name="train",
    subcommand_metavar="AGENT ENV [OPTIONS]",
    no_args_is_help=True,
    add_help_option=True,
)
def train() -> None:
    """Train an agent in an environment: many seeds, and sweeps, in one compiled program.

    \b
    purerl train ppo CartPole-v1 --seeds 8 --steps 5e5
    purerl train ppo CartPole-v1 --learning-rate 1e-4,3e-4,1e-3

    `purerl train AGENT --help` lists the agent's hyperparameters.
    """


def way_options(directory: str = "") -> list[click.Option]:
    """How a job is run, none of which changes what the job is; `directory` says where a new one goes by default."""
    where = click.Option(
        ["--dir", "directory"],
        type=click.Path(path_type=Path),
        help=f"the new run's directory  [default: {directory}, numbered if there is one]",
    )
    return [
        *([where] if directory else []),
        click.Option(["--devices"], type=Count(), help="to split the runs over  [default: all; on a CPU, one a core]"),
        click.Option(["--save-every"], type=click.FloatRange(0), default=30.0, show_default=True, metavar="SECONDS",
                     help="between checkpoints, at the least"),
        click.Option(["--compilation-cache/--no-compilation-cache"], default=True, show_default=True,
                     help="keep compiled programs in the user's cache folder"),
    ]  # fmt: skip


def way(directory: str = "") -> Callable:
    """Adds `way_options` to a command."""

    def add(command: click.Command) -> click.Command:
        command.params += way_options(directory)
        return command

    return add


def prepare() -> None:
    """Set up jax for a command that uses it."""
    # what XLA has to say about a program from its own cache is not for the reader of a table
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from purerl.host import jobs

    jobs.set_up_jax()


RUN = click.argument("run", type=click.Path(path_type=Path))
NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@way()
@purerl_command.command()
@RUN
@click.option("--steps", type=Count(), help="go on to so many steps in all  [default: as planned]")
@click.option("--anneal-steps", type=float, help="move the horizon of the learning rate  [default: it stays]")
def resume(run: Path, **given: Any) -> None:
    """Go on with a run that was stopped, or train it longer."""
    with one_line():
        prepare()
        from purerl.host import work

        work.resume(run, **given)


@way("RUN-repeat")
@purerl_command.command()
@RUN
@click.pass_context
def repeat(ctx: click.Context, run: Path, **given: Any) -> None:
    """Run it again and compare the hashes; exit code 1 if they differ."""
    with one_line():
        prepare()
        from purerl.host import work

        ctx.exit(0 if work.repeat(run, given.pop("directory"), **given) else 1)


@purerl_command.command()
@RUN
@click.option("--episodes", type=Count(), default=100, show_default=True, help="of each run, greedy and stochastic")
@click.option("--seed", type=Seed(), default=0, show_default=True, help="of the episodes")
@click.option("--max-steps", type=Count(), help="cut episodes there  [default: the environment's limit]")
def evaluate(run: Path, **given: Any) -> None:
    """Play episodes with what was learned, greedy and stochastic."""
    with one_line():
        prepare()
        from purerl.host import look

        look.evaluate(run, **given)


@purerl_command.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metric", default="episode_return", show_default=True, help="a column of metrics.csv")
@click.option("--out", type=NEW_FILE, help=".png, .pdf or .svg  [default: plot.png, numbered if there is one]")
def plot(runs: tuple[Path, ...], **given: Any) -> None:
    """Draw the curves of runs, with intervals, one panel an environment."""
    with one_line():
        prepare()
        from purerl.host import look

        look.plot(runs, **given)


@purerl_command.command()
@RUN
@click.option("--number", type=click.IntRange(0), default=0, show_default=True, help="which of the runs in it")
@click.option("--stochastic/--greedy", default=False, help="sample actions, or take the most likely  [default: greedy]")
@click.option("--seed", type=Seed(), default=0, show_default=True, help="of the episode")
@click.option("--max-steps", type=Count(), default=1000, show_default=True, help="cut the episode there")
@click.option("--out", type=NEW_FILE, help="a .gif  [default: RUN/episode.gif, numbered if there is one]")
def render(run: Path, **given: Any) -> None:
    """Draw an episode as a GIF."""
    with one_line():
        prepare()
        from purerl.host import look

        look.render(run, **given)


@purerl_command.command(name="list")
def list_all() -> None:
    """List the agents, and the environments with their spaces."""
    with one_line():
        prepare()
        from purerl.host import look

        look.catalogue()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        code = purerl_command.main(arguments, prog_name="purerl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        code = 2
    except click.NoSuchOption as error:
        page = f"; `{error.ctx.command_path} --help` lists them" if error.ctx else ""
        click.echo(f"purerl: error: {error.format_message()}{page}", err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"purerl: error: {error.format_message()}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("purerl: interrupted", err=True)
        code = 130
    except Stopped as stopped:
        click.echo(f"purerl: {stopped}", err=True)
        if stopped.at_once:  # an orderly end would wait for what is being computed
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
