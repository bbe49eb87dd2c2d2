"""purerl new: write an example of an agent, an environment or a reward of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from purerl.cli.errors import OneLine, one_line
from purerl.cli.flags import NEW_FILE

TEMPLATES = Path(__file__).parents[1] / "templates"
KINDS = ("agent", "env", "reward")


def example(kind: str, file: Path) -> str:
    """The text of the example of a kind, whose commands name the file."""
    return (TEMPLATES / f"{kind}.py").read_text(encoding="utf-8").replace("FILE.py", shlex.quote(str(file)))


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("file", metavar="FILE.py", type=NEW_FILE)
def new(kind: str, file: Path) -> None:
    """Write a commented, working example of your own agent, environment or reward."""
    with one_line():
        if file.suffix != ".py":
            raise OneLine(f"FILE.py is {file}; its ending must be .py")
        if file.exists():
            raise OneLine(f"{file} exists; give another name, or remove it first")
        if not file.parent.is_dir():
            raise OneLine(f"FILE.py is {file}; there is no directory {file.parent}")
        file.write_text(example(kind, file), encoding="utf-8")
    commands = [line.strip() for line in example(kind, file).split("\n") if line.startswith("    purerl train")]
    click.echo(f"written: {file}; next: {commands[0]}", err=True)
