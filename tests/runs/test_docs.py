"""What the README shows works: its commands parse, its links and make targets exist. (process/ runs its Python.)"""

import re
import shlex
from pathlib import Path

import click
import pytest
from commands import command

from purerl.cli import main as cli
from purerl.runs import execute, sweeps

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.split("\n") if line]

HOW_TO = [
    line.removesuffix("&")
    for page in sorted(ROOT.glob("docs/howto/*.md"))
    for text in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in text.split("\n")
    if line.startswith("purerl ")
]
TRAIN = [line for line in COMMANDS if "/purerl train " in line and "--help" not in line]


@pytest.mark.parametrize("line", TRAIN)
def test_commands_of_the_readme_are_valid(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    basket = next(text for kind, text in BLOCKS if kind == "python" and "class Basket" in text)
    (tmp_path / "basket.py").write_text(basket)
    planned = []
    monkeypatch.setattr(execute, "train", lambda job, **_: planned.append(job))
    monkeypatch.setattr(sweeps, "resume", lambda directory, **_: planned.append(directory))
    assert command(*shlex.split(line)[1:]) == 0 and len(planned) == 1


@pytest.mark.parametrize("line", [c for c in COMMANDS if "/purerl " in c and "/purerl train " not in c] + HOW_TO)
def test_other_commands_of_the_readme_parse(line):
    found, (name, *arguments) = cli.purerl_command, shlex.split(line)[1:]
    while isinstance(found, click.Group):
        found = found.get_command(click.Context(found), name)
        name, *arguments = arguments if isinstance(found, click.Group) else (name, *arguments)
    found.make_context(name, arguments)


def test_make_targets_and_links_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in COMMANDS:
        if line.startswith("make "):
            assert f"\n{line.split()[1]}:" in makefile
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page.name} links to {link}"


def test_demo_command_is_valid(monkeypatch):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"^demo:.*\n\t\S+/purerl (.*)$", makefile, re.MULTILINE)
    planned = []
    monkeypatch.setattr(execute, "train", lambda job, **_: planned.append(job))
    assert command(*shlex.split(arguments)) == 0
    assert planned[0].num_updates == 976 and planned[0].keys.shape == (8,)
