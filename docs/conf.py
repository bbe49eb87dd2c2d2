"""Configuration of Sphinx: pages in Markdown, and those that `generate` makes of the package's own data."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

MATHJAX = find_spec("sphinx-mathjax-offline")
DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from generate import links  # noqa: E402

import purerl  # noqa: E402

project, author, release = "purerl", "the authors of purerl", purerl.__version__
copyright = "the authors of purerl, Apache License 2.0"
extensions = ["myst_nb", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages, in signatures; links are MyST's, and checked by it

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are shown with the outputs that they hold; CI executes them
nb_merge_streams = True
nb_output_stderr = "remove"

mathjax_path = "mathjax/tex-chtml.js"  # of the package, whose own extension does not say that it is safe in parallel
mathjax3_config = {"chtml": {"displayAlign": "left"}, "options": {"enableMenu": False}}

html_theme = "furo"
html_title = "purerl"
html_static_path = ["_static", str(Path(str(MATHJAX.origin)).parent / "static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]  # types of one name in several modules, where a module has it for checkers only
maximum_signature_line_length = 88
viewcode_line_numbers = True
pygments_style, pygments_dark_style = "tango", "github-dark"
copybutton_prompt_text = ">>> "


def generated(_) -> None:
    """Write the generated pages, by a process of its own: this one forks, which jax does not survive."""
    paths = os.pathsep.join([str(DOCS), str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-m", "generate"], env={**os.environ, "PYTHONPATH": paths}, check=True)


def setup(app) -> dict:
    """Generate pages before any is read; turn links of files, and names in code, into those of pages."""
    app.connect("builder-inited", generated)
    app.connect("source-read", links.written)
    app.add_post_transform(links.Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
