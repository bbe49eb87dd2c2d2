"""The help of commands, and pages of the repository: results, notebooks, the changelog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from generate.links import place, relinked
from generate.pages import DOCS, ROOT, page, write
from purerl import agents
from purerl.cli import main as cli


def commands() -> None:
    """A page with the help of every command; of commands of agents, that of PPO."""

    def helps(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
        context = click.Context(command, info_name=path, max_content_width=96, terminal_width=96)
        yield path, command.get_help(context)
        if isinstance(command, click.Group):
            listed = command.list_commands(context)
            example = [x for x in ("ppo", "rloo") if x in listed][:1]
            for name in [x for x in listed if x not in agents.names()] + example:
                found = command.get_command(context, name)
                yield from helps(found, f"{path} {name}") if found else ()

    page("commands.md", "commands.jinja", commands=list(helps(cli.purerl_command, "purerl")))


def results() -> list[Path]:
    """The pages of recorded results."""
    return sorted((ROOT / "benchmarks").rglob("*.md"))


def title(path: Path) -> str:
    """The heading of a page."""
    return path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")


def carry(path: Path) -> None:
    """Show a page of the repository on the site."""
    name = str(place(path))
    write(name, relinked(path.read_text(encoding="utf-8"), path, DOCS / name))


def carried() -> None:
    """The changelog, the page for contributors, results and notebooks."""
    for path in (ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *results()):
        carry(path)
    text = "Written by the scripts of `benchmarks/`, from a JSON file for each seed, except the notes."
    names = [str(place(x)).removeprefix("results/") for x in results()]
    rows = [(f"[{title(x)}]({name})", f"`{x.relative_to(ROOT)}`") for x, name in zip(results(), names, strict=True)]
    page("results/index.md", "index.jinja", title="Results", text=text, rows=rows, names=names)

    rows, notebooks = [], sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        write(f"notebooks/{path.name}", path.read_text(encoding="utf-8"))
        head = "".join(cells[0]["source"]).split("\n")[0].lstrip("# ")
        rows.append((f"[{head}]({path.name})", f"`notebooks/{path.name}`"))
    text = "With the outputs that are stored in them. `make notebooks` executes them all."
    page(
        "notebooks/index.md", "index.jinja", title="Notebooks", text=text, rows=rows, names=[x.stem for x in notebooks]
    )
