"""The command line: `purerl COMMAND`."""

from __future__ import annotations

import io
import os
import sys
import traceback

import click

import purerl
from purerl.cli.commands.evaluate import evaluate
from purerl.cli.commands.export import export
from purerl.cli.commands.list import list_all
from purerl.cli.commands.new import new
from purerl.cli.commands.optimise import optimise
from purerl.cli.commands.plot import plot
from purerl.cli.commands.render import render
from purerl.cli.commands.repeat import repeat
from purerl.cli.commands.resume import resume
from purerl.cli.commands.text import text
from purerl.cli.commands.train import train
from purerl.cli.commands.tune import tune
from purerl.runs.stopped import Stopped


class OrderedCommands(click.Group):
    """A group that lists its commands in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=OrderedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(purerl.__version__, prog_name="purerl")
@click.option("--debug", is_flag=True, expose_value=False, help="show the whole traceback of any error; anywhere")
def purerl_command() -> None:
    """Reinforcement learning in JAX where everything is a pure function."""


for _command in (train, tune, resume, repeat, evaluate, export, plot, render, text, optimise, new, list_all):
    purerl_command.add_command(_command)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, which may stand anywhere before a `--`, and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [word for word in arguments[:end] if word != "--debug"]
    return rest + arguments[end:], len(rest) < end


def _meant(error: click.NoSuchOption) -> list[str]:
    """The options whose words begin with the letters of one that does not exist, such as --learning-rate for --lr."""
    known = [flag for p in (error.ctx.command.params if error.ctx else ()) for flag in p.opts if flag.startswith("--")]
    initials = lambda flag: "".join(word[:1] for word in flag.lstrip("-").split("-"))
    asked = error.option_name.lstrip("-").replace("_", "-")
    return [flag for flag in known if initials(flag) == asked or flag == f"--{asked}"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 success, 1 failure, 2 invalid input, 130 interrupted."""
    arguments, debug = _without_debug(sys.argv[1:] if arguments is None else arguments)
    if debug:
        os.environ["JAX_TRACEBACK_FILTERING"] = "off"
    said = ""
    for stream in (sys.stdout, sys.stderr):  # a console may lack Greek letters; then it shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = purerl_command.main(arguments, prog_name="purerl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        code = 2
    except click.NoSuchOption as error:
        meant = " or ".join(_meant(error))
        said = f"{error.message} Did you mean {meant}?" if meant else error.format_message()
        page = f" `{error.ctx.command_path} --help` lists them" if error.ctx else ""
        click.echo(f"purerl: error: {said}{page}", err=True)
        code = 2
    except click.ClickException as error:
        if debug:
            traceback.print_exception(error.__cause__ or error)
        said = error.format_message()
        click.echo(f"purerl: error: {said}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("purerl: interrupted", err=True)
        code = 130
    except Stopped as stopped:
        if (several := sys.modules.get("purerl.training.processes")) is None or several.is_first():
            click.echo(f"purerl: {stopped}", err=True)
        if stopped.at_once:  # an orderly exit would wait for the running computation
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        code = 130
    if code in (1, 2) and (several := sys.modules.get("purerl.training.processes")):
        several.abandon(code, said)  # an orderly exit would wait for the other processes
    sys.exit(code if isinstance(code, int) else 0)
