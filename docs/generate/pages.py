"""Pages from templates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from generate.docstrings import first_line, markdown

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
FOLDERS = ("agents", "environments", "api", "results", "notebooks")  # of generated pages
OTHERS = ("commands", "changelog", "contributing")
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
TEMPLATES.filters |= {"markdown": markdown, "first_line": first_line}
TEMPLATES.filters["cell"] = lambda x: re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(x).split()))


def write(name: str, data: str | bytes) -> None:
    """Write a file of the site's source if it changed: Sphinx reads again only what did."""
    path, data = DOCS / name, data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def page(path: str, template: str, /, **data: Any) -> None:
    """Write a page from a template."""
    write(path, TEMPLATES.get_template(template).render(**data))
