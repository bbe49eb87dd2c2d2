"""The help of commands, and pages of the repository: results, notebooks, the changelog."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from generate.api import is_agent
from generate.pages import DOCS, FOLDERS, OTHERS, ROOT, page, write
from purerl import agents
from purerl.cli import main as cli

CARRIED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def commands() -> None:
    """A page with the help of every command; of commands of agents, that of PPO."""

    def helps(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
        context = click.Context(command, info_name=path, max_content_width=96, terminal_width=96)
        yield path, command.get_help(context)
        if isinstance(command, click.Group):
            listed = command.list_commands(context)
            for name in [x for x in listed if x not in agents.names()] + [x for x in ("ppo", "rloo") if x in listed][
                :1
            ]:
                found = command.get_command(context, name)
                yield from helps(found, f"{path} {name}") if found else ()

    page("commands.md", "commands.jinja", commands=list(helps(cli.purerl_command, "purerl")))


def results() -> list[Path]:
    """The pages of recorded results."""
    return sorted((ROOT / "benchmarks").rglob("*.md"))


def title(path: Path) -> str:
    """The heading of a page."""
    return path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")


def place(path: Path) -> str | None:
    """The page of the site, from docs/, that shows a file of the repository; None if none does."""
    name = path.relative_to(ROOT).as_posix()
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if re.match(r"purerl/(?!cli/).*\.py$", name):
        return f"agents/{path.stem}.md" if is_agent(module) else f"api/{module}.md"
    if name in CARRIED or not name.startswith(("docs/", "benchmarks/", "notebooks/")):
        return CARRIED.get(name)
    if path.suffix not in (".md", ".ipynb"):
        return None
    return re.sub("^docs/", "", re.sub("^benchmarks/", "results/", name))


def relinked(text: str, path: Path, target: Path) -> str:
    """The text of a page, shown as `target`: links to files of the repository become those to the site's pages."""

    def link(match: re.Match) -> str:
        image, label, file, anchor = match.groups()
        there = (path.parent / file).resolve()
        if re.match(r"https?:|mailto:", file) or not file:
            return match[0]
        if not image and not place(there):
            return label if file.rpartition("/")[2] in label else f"{label} (`{there.relative_to(ROOT)}`)"
        found = there if image else DOCS / str(place(there))
        return f"{image}[{label}]({os.path.relpath(found, target.parent)}{anchor or ''})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)", link, text)


def carry(path: Path) -> None:
    """Show a page of the repository on the site."""
    name = str(place(path))
    write(name, relinked(path.read_text(encoding="utf-8"), path, DOCS / name))


def written(app: Any, name: str, content: list[str]) -> None:
    """A page that people write: its links are those of the repository, and are changed as Sphinx reads it."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and name.split("/")[0] not in (*FOLDERS, *OTHERS):
        content[0] = relinked(content[0], path, path)


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
