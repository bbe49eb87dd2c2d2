"""The sections of TEXT.md, each written by one script."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).parent / "TEXT.md"


def section(name: str, body: str) -> None:
    """Replace what is between `<!-- name -->` and `<!-- /name -->` in TEXT.md, or append both at its end."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = FILE.read_text() if FILE.exists() else "# Text by reinforcement: evidence\n"
    new = f"{begin}\n{body.strip()}\n{end}"
    if begin in text:
        before, rest = text.split(begin, 1)
        text = before + new + rest.split(end, 1)[1]
    else:
        text = text.rstrip() + f"\n\n{new}\n"
    FILE.write_text(text)
