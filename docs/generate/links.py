"""Links: of files to the pages that show them, and of names in code to what they name.

Nothing here imports jax, so that Sphinx can read pages in several processes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

import purerl
from generate.pages import DOCS, FOLDERS, OTHERS, ROOT
from purerl import agents

CARRIED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def is_agent(module: str) -> bool:
    """Whether a module is the file of an agent, which has a page of its own."""
    return module.startswith("purerl.agents.") and module.split(".")[2] in agents.names()


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


def written(app: Any, name: str, content: list[str]) -> None:
    """A page that people write: its links are those of the repository, and are changed as Sphinx reads it."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and name.split("/")[0] not in (*FOLDERS, *OTHERS):
        content[0] = relinked(content[0], path, path)


class Names(SphinxPostTransform):
    """Names in code, such as `losses.squared` or `purerl.ppo`, become links to what they name."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        objects, module = self.env.domains.python_domain.objects, self.env.metadata[self.env.docname].get("module")
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().removesuffix("()").removeprefix("purerl.")
            first = node.parent.index(node) == 0  # the name that an entry of a list or table is about
            known = (name, f"purerl.{name}", f"{purerl._HOME.get(name)}.{name}")  # the last for names of purerl itself
            found = next((objects[x] for x in known if x in objects), None)
            if found and name == node.astext() and name.islower() and "." not in name:
                # a word: `make` is also a program, `text` an extra, `batch` the value of an option
                sure = found.docname.startswith("agents/") or (found.objtype == "module" and not first)
                found = found if sure else None
            if not first:
                found = objects.get(f"{module}.{name}", found)
            within = node.parent
            while within is not None and not isinstance(within, nodes.reference | nodes.title | pending_xref):
                within = within.parent
            if found and within is None:
                page = self.app.builder.get_relative_uri(self.env.docname, found.docname)
                link = nodes.reference("", "", internal=True, refuri=f"{page}#{found.node_id}")
                node.replace_self(link)
                link += node
