"""Docstrings as Markdown."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator

from generate.equations import is_equation, tex

SECTION = re.compile(r"(Args|Returns|Raises|Limits|References?):(.*)")
ENTRY = re.compile(r"`[^`]+`|[a-z_]\w*(, \w+)*: ")  # how every line of a list begins that has no bullets
TEXT = ("Returns", "Limits", "Reference", "References")  # of these sections the body is text, of the others a list


def linked(text: str) -> str:
    """Text in which papers are links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.\d+/[\w./()-]*\w)", r"[doi:\1](https://doi.org/\1)", text)


def first_line(docstring: str | None) -> str:
    """The first line of a docstring."""
    return linked(inspect.cleandoc(docstring or "").split("\n")[0])


def items(lines: list[str]) -> Iterator[str]:
    """Entries as items of a list; a line may hold several, two spaces apart, and continues on indented ones."""
    for entry in re.split(r"\n(?! )|(?<=[.;])  (?=\w[\w, ]*: )", "\n".join(lines)):
        name, colon, rest = " ".join(entry.split()).partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", name):
            name = ", ".join(f"`{x}`" for x in name.split(", "))
        yield f"- {name}{colon}{linked(rest)}"


def block(lines: list[str]) -> list[str]:
    """An indented block: code if it is Python, otherwise an equation."""
    text = inspect.cleandoc("\n" + "\n".join(lines)).rstrip()
    try:
        python = any(not isinstance(x, ast.Expr | ast.AnnAssign) for x in ast.parse(text).body)
    except SyntaxError:
        python = False
    if not python and is_equation(text):
        return ["", "````{math}", tex(text), "````", ""]
    return ["", "````python" if python else "````text", text, "````", ""]


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: its sections are lists, its examples and equations blocks."""
    lines, out = inspect.cleandoc(docstring or "").split("\n"), []

    def take(inside) -> list[str]:
        found = list(itertools.takewhile(inside, lines))
        del lines[: len(found)]
        return found

    while lines:
        line = lines.pop(0)
        if section := SECTION.fullmatch(line):
            name, rest = section[1], section[2].strip()
            body = take(lambda x: x.startswith("  "))
            text = (
                [" ".join([rest, *(x.strip() for x in body)]).strip()]
                if name in TEXT
                else [rest, "", *items([x[2:] for x in body])]
            )
            out += ["", f"**{name}** {linked(text[0])}".rstrip(), *text[1:], ""]
        elif line.startswith(">>> "):
            out += ["", "````pycon", line, *take(str.strip), "````"]
        elif line.startswith("    ") and not (out and out[-1].strip()):
            out += block([line, *take(lambda x: x.startswith("    ") or not x.strip())])
        elif not line.strip():
            out.append("")
        else:
            text = [line, *take(lambda x: x.strip() and not SECTION.fullmatch(x) and not x.startswith(">>> "))]
            heads = [x for x in text if not x.startswith(" ")]
            listed = all(map(ENTRY.match, heads)) and (len(heads) > 1 or not line.startswith("`"))
            out += items(text) if listed else map(linked, text)
    return "\n".join(out)
