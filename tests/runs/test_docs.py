"""What the README shows works: its Python runs, its commands parse, its links and make targets exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from purerl.host import cli, work

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.split("\n") if line]


def test_python_in_the_readme_runs():
    code = "\n".join(text for kind, text in BLOCKS if kind == "python")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert out.returncode == 0, out.stderr
    lines = out.stdout.strip().split("\n")
    assert [line.split()[0] for line in lines if line[0] in "24"] == ["20", "40"], out.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if " train " in c and "--help" not in c])
def test_commands_of_the_readme_are_valid(command, monkeypatch):
    planned = []
    monkeypatch.setattr(work, "train", lambda job, **_: planned.append(job))
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(command)[1:])
    assert stop.value.code == 0 and len(planned) == 1


@pytest.mark.parametrize("command", [c for c in COMMANDS if "/purerl " in c and " train " not in c])
def test_other_commands_of_the_readme_parse(command):
    name, *arguments = shlex.split(command)[1:]
    cli.purerl_command.commands[name].make_context(name, arguments)


def test_make_targets_and_links_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in makefile
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page.name} links to {link}"


def test_demo_command_is_valid(monkeypatch):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"^demo:.*\n\t\S+/purerl (.*)$", makefile, re.MULTILINE)
    planned = []
    monkeypatch.setattr(work, "train", lambda job, **_: planned.append(job))
    with pytest.raises(SystemExit):
        cli.main(shlex.split(arguments))
    assert planned[0].num_updates == 976 and planned[0].keys.shape == (8,)
