"""The site of documentation builds without a warning, holds together, and shows everything without a network."""

import functools
import http.server
import importlib.util
import re
import subprocess
import sys
import threading
from urllib.parse import unquote, urldefrag

import browser
import gymnax
import pages
import pytest

from purerl import agents
from purerl.envs import registry

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sphinx", "myst_nb", "furo"))), reason="needs pip install 'purerl[docs]'"
)
HTML = pages.ROOT / "docs/_build/html"


@pytest.fixture(scope="module")
def site():
    """The text of every page, by its path; built by the command of `make docs`, which builds only what changed."""
    (build,) = re.findall(r"^docs:.*\n\t\S+/python (.*)$", (pages.ROOT / "Makefile").read_text(), re.MULTILINE)
    ran = subprocess.run([sys.executable, *build.split()], cwd=pages.ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    index = (HTML / "searchindex.js").read_text(encoding="utf-8")
    (names,) = re.findall(r'"?docnames"?:(\[.*?\])', index)
    return {HTML / f"{name}.html": (HTML / f"{name}.html").read_text() for name in re.findall(r'"([^"]+)"', names)}


@pytest.fixture(scope="module")
def address(site):
    """The site on a port of this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_nothing_is_loaded_from_elsewhere(site):
    """Neither scripts, styles, fonts nor pictures; links that a reader follows may lead away."""
    there, kinds = r"[\"']?(?:https?:)?//[^\"'> ]+", "stylesheet|preload|preconnect|icon"
    loads = re.compile(
        rf"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc={there}"
        rf"|<link\b(?=[^>]*\brel=[\"']?(?:{kinds}))[^>]*?\shref={there}"
    )
    for path, text in site.items():
        assert not loads.search(text), f"{path.name}: {loads.search(text)[0]}"
    for path in (HTML / "_static").rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        assert not re.search(r"url\([\"']?(https?:)?//|@import[^;]*//", style), path


def test_links_between_pages_lead_somewhere(site):
    anchors = functools.cache(
        lambda path: set(re.findall(r'\s(?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))
    )
    wrong = []
    for path, text in site.items():
        for link in set(re.findall(r'<a\b[^>]*?\shref="([^"]+)"', text)):
            file, anchor = urldefrag(unquote(link).replace("&amp;", "&"))
            if re.match(r"https?:|mailto:", link):
                continue
            there = (path.parent / file).resolve() if file else path
            if not there.exists() or (anchor and there.suffix == ".html" and anchor not in anchors(there)):
                wrong.append(f"{path.relative_to(HTML)}: {link}")
    assert wrong == []


def test_every_agent_environment_and_module_has_a_page(site):
    have = {path.relative_to(HTML).as_posix() for path in site}
    modules = [".".join(path.relative_to(pages.ROOT).with_suffix("").parts).removesuffix(".__init__")
               for path in (pages.ROOT / "purerl").rglob("*.py") if path.parent.name != "templates"]  # fmt: skip
    for name in agents.names():
        assert f"agents/{name}.html" in have
        for part in ("Definition", "Limits", "Hyperparameters", "Shared code", "Results", "Source"):
            assert part in site[HTML / f"agents/{name}.html"], f"{name} has no part {part}"
    for name in (*gymnax.registered_envs, *registry.OWN):
        assert f"environments/{name}.html" in have
    of_agents = [f"purerl.agents.{name}" for name in agents.names()]
    for module in set(modules) - {"purerl", "purerl.__main__", *of_agents}:
        if not module.startswith("purerl.cli"):  # its commands have a page
            assert f"api/{module}.html" in have


def test_public_names_are_described(site):
    """Each name of `purerl` itself, as an anchor of some page."""
    import purerl

    anchors = {anchor for text in site.values() for anchor in re.findall(r'<dt[^>]*\sid="(purerl\.[^"]+)"', text)}
    described = {anchor.rpartition(".")[2] for anchor in anchors}
    assert set(purerl.__all__) - set(purerl._MODULES) <= described


@browser.needed
def test_search_finds_a_term(address, tmp_path):
    text = browser.shown(f"{address}/search.html?q=advantage", tmp_path)
    assert "purerl.returns" in re.search(r'<div id="search-results">.*', text, re.DOTALL)[0]


@browser.needed
@pytest.mark.parametrize("page", ["agents/ppo", "api/purerl.returns", "environments/Battery-v0"])
def test_equations_are_rendered(address, page, tmp_path):
    text = browser.shown(f"{address}/{page}.html", tmp_path)
    source = len(re.findall(r'<div class="math notranslate', (HTML / f"{page}.html").read_text(encoding="utf-8")))
    assert source > 0 and text.count("<mjx-container") >= source
    assert "mjx-merror" not in text.partition("<body")[2]
