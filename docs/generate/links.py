"""Links: names in code lead to what they name."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

import purerl


class Names(SphinxPostTransform):
    """Names in code, such as `losses.squared` or `purerl.ppo`, become links to what they name."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        objects, module = self.env.domains.python_domain.objects, self.env.metadata[self.env.docname].get("module")
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().removesuffix("()").removeprefix("purerl.")
            known = (name, f"purerl.{name}", f"{purerl._HOME.get(name)}.{name}")  # the last for names of purerl itself
            if node.parent.index(node) > 0:  # not the name that an entry of a list or table is about
                known = (f"{module}.{name}", *known)
            found = next((objects[x] for x in known if x in objects), None)
            within = node.parent
            while within is not None and not isinstance(within, nodes.reference | nodes.title):
                within = within.parent
            if found and within is None:
                page = self.app.builder.get_relative_uri(self.env.docname, found.docname)
                link = nodes.reference("", "", internal=True, refuri=f"{page}#{found.node_id}")
                node.replace_self(link)
                link += node
