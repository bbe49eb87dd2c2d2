"""The sections of TEXT.md and CONTROL.md, each written by one script, and `recorded`, which lies one folder above."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import recorded as recorded

HERE = Path(__file__).parent


def section(name: str, body: str, file: str = "TEXT.md", title: str = "Text by reinforcement: evidence") -> None:
    """Replace what is between `<!-- name -->` and `<!-- /name -->` in a file, or append both at its end."""
    begin, end, path = f"<!-- {name} -->", f"<!-- /{name} -->", HERE / file
    text = path.read_text() if path.exists() else f"# {title}\n"
    new = f"{begin}\n{body.strip()}\n{end}"
    if begin in text:
        before, rest = text.split(begin, 1)
        text = before + new + rest.split(end, 1)[1]
    else:
        text = text.rstrip() + f"\n\n{new}\n"
    path.write_text(text)


control_section = partial(section, file="CONTROL.md", title="Training controlled by reinforcement: evidence")
