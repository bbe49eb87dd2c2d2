"""The command line. Nothing here imports jax until an agent's own options are needed."""

from __future__ import annotations

import ast
import pkgutil
import sys
from pathlib import Path
from typing import Any

import click

import purerl


class OneLine(click.ClickException):
    """Bad input: one readable line, exit code 2."""

    exit_code = 2


class Numbers(click.ParamType):
    """One number, or several with commas between: a sweep. `none` where the field may be absent."""

    name = "FLOAT[,...]"

    def __init__(self, optional: bool):
        self.optional = optional

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float | None, ...]:
        if isinstance(value, tuple):
            return value
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
        if isinstance(value, tuple):
            return value
        return tuple(Count().convert(part.strip(), param, ctx) for part in str(value).split(","))


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


@purerl_command.command()
def envs() -> None:
    """List the environments that can be named."""
    import gymnax

    click.echo("\n".join(gymnax.registered_envs))


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
    sys.exit(code if isinstance(code, int) else 0)
