"""The pages that people write, the README among them, and what they show: blocks of Python, and commands."""

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GENERATED = ("_build", "agents", "environments", "api", "results", "notebooks")  # folders of docs/, by its build
GENERATED += ("commands.md", "changelog.md", "contributing.md")
CHECKED = ("python", "bash")
PEERS = ("stable_baselines3",)  # of the extra of that name
LIKE_THEM = ("py", "python3", "pycon", "sh", "shell", "console", "zsh", "{code", "{code-block", "{code-cell")


class Page(NamedTuple):
    """A page, and its fenced blocks, each with its language."""

    name: str
    text: str
    blocks: list[tuple[str, str]]


def page(path):
    """A page of the repository."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```([^\s`}]+)[^\n]*\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    blocks = [(kind, "\n".join(line.removeprefix(by) for line in block.split("\n"))) for by, kind, block in found]
    return Page(path.relative_to(ROOT).as_posix(), text, blocks)


def pages():
    """The README, and every page of docs/ that is not generated."""
    written = [p for p in (ROOT / "docs").rglob("*.md") if p.relative_to(ROOT / "docs").parts[0] not in GENERATED]
    return [page(path) for path in (ROOT / "README.md", *sorted(written))]


def files(page):
    """The files that a page shows: blocks of Python that begin with `# FILE.py`, by name."""
    named = ((re.match(r"# (\w+\.py)\n", block), block) for kind, block in page.blocks if kind == "python")
    return {match[1]: block for match, block in named if match}


def python(page):
    """The page's Python as one program, but for its files and for code of peers that are not installed."""
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    left_out = lambda block: block in files(page).values() or any(f"from {name} " in block for name in missing)
    return "\n".join(block for kind, block in page.blocks if kind == "python" and not left_out(block))


def commands(page):
    """The page's commands: lines of ```bash without their comments, joined where a backslash ends them."""
    text = "\n".join(block for kind, block in page.blocks if kind == "bash").replace("\\\n", " ")
    lines = (re.split(r"(?:^|\s)#", line)[0].strip().removesuffix(" &") for line in text.split("\n"))
    return [line for line in lines if line]


def purerl(page):
    """The commands of the command line, each as its arguments, variables of the shell before it left out."""
    found = (re.match(r"(?:\w+=\S* )*(?:\S*/)?purerl (.*)", line) for line in commands(page))
    return [match[1] for match in found if match]


def write_files(page, folder):
    """Write the files that a page shows; commands and Python may name no others."""
    for name, block in files(page).items():
        (folder / name).write_text(block)
    for line in commands(page):
        if line.startswith("printf "):  # a file that a command writes
            subprocess.run(line, shell=True, check=True, cwd=folder)
    named = set(re.findall(r"(?<![\w/])(\w+\.py):\w+", "\n".join(commands(page))))
    assert named <= files(page).keys(), (
        f"{page.name}: no block of Python begins with # {min(named - files(page).keys())}"
    )
