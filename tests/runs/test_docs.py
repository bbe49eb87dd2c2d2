"""What the pages show works: their commands parse, links and make targets exist. (process/ runs their Python.)"""

import importlib
import importlib.util
import re
import shlex
import tomllib

import click
import pages
import pytest
from commands import command

from purerl.cli import main as cli
from purerl.runs import execute, sweeps

ROOT = pages.ROOT
PAGES = pages.pages()
COMMANDS = [(page, line) for page in PAGES for line in pages.purerl(page)]
# options of a training that need what an earlier one has left, or other processes
NEED_MORE = {"--init-from", "--schedules", "--distributed"}
TRAIN = [
    (page, line)
    for page, line in COMMANDS
    if line.startswith("train ") and not {"--help", *NEED_MORE} & {*line.split()}
]
OTHERS = [case for case in COMMANDS if case not in TRAIN]


def shown(cases):
    """Cases of a page and a line, with an id that shows both."""
    return [pytest.param(page, line, id=f"{page.name}: {line}") for page, line in cases]


@pytest.mark.parametrize(("page", "line"), shown(TRAIN))
def test_trainings_are_valid(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.write_files(page, tmp_path)
    planned = []
    monkeypatch.setattr(execute, "train", lambda job, **_: planned.append(job))
    monkeypatch.setattr(sweeps, "resume", lambda directory, **_: planned.append(directory))
    assert command(*shlex.split(line)) == 0 and len(planned) == 1


@pytest.mark.parametrize(("page", "line"), shown(OTHERS))
def test_other_commands_parse(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.write_files(page, tmp_path)
    found, (name, *arguments) = cli.purerl_command, shlex.split(line)
    while isinstance(found, click.Group) and not name.startswith("-"):
        found = found.get_command(click.Context(found), name)
        assert found, f"{page.name}: there is no command {name!r}"
        name, *arguments = arguments if isinstance(found, click.Group) and arguments else (name, *arguments)
    if not {"--help", "--version"} & {name, *arguments}:
        found.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_of_languages_that_tests_read(page):
    """Otherwise a command or Python under another name would be checked by nobody."""
    assert [kind for kind, _ in page.blocks if kind in pages.LIKE_THEM] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_extras_modules_and_scripts_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for line in pages.commands(page):
        for target in re.findall(r"^make ([\w-]+)", line):
            assert f"\n{target}:" in makefile, line
        for names in re.findall(r"install .*(?:purerl|\.)\[([\w,-]+)\]", line):
            assert set(names.split(",")) <= extras.keys(), line
        for module in re.findall(r"python3? -m (purerl[\w.]*)", line):
            assert importlib.util.find_spec(module), line
        for script in re.findall(r"python3? ((?:benchmarks|scripts|docs|tests)/\S+\.py)", line):
            assert (ROOT / script).exists(), line


def test_links_of_files_outside_the_site_exist():
    """Those of docs/ are checked where the site is built, since some of its pages are generated."""
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            generated = link.startswith(tuple(f"docs/{folder}/" for folder in pages.GENERATED))
            assert generated or (ROOT / link).exists(), f"{page.name} links to {link}"


def test_demo_command_is_valid(monkeypatch):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"^demo:.*\n\t\S+/purerl (.*)$", makefile, re.MULTILINE)
    planned = []
    monkeypatch.setattr(execute, "train", lambda job, **_: planned.append(job))
    assert command(*shlex.split(arguments)) == 0
    assert planned[0].num_updates == 976 and planned[0].keys.shape == (8,)


def test_diagrams_are_those_of_their_script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    diagrams = importlib.import_module("diagrams")
    for draw in diagrams.DIAGRAMS:
        assert (diagrams.FOLDER / f"{draw.__name__}.svg").read_text(encoding="utf-8") == draw(), draw.__name__
