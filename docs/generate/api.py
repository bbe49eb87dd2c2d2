"""The API: a page for each module, from signatures and docstrings."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import purerl
from generate.docstrings import first_line
from generate.links import is_agent
from generate.pages import page
from purerl.hyperparameters import allowed, hints_of


@functools.cache
def source(module: str) -> tuple[ast.Module, list[str]]:
    """The source of a module, parsed and as lines."""
    text = Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8")
    return ast.parse(text), text.split("\n")


class FullNames(ast.NodeTransformer):
    """Annotations with the full names of the package's types, which Sphinx shortens again and links."""

    def __init__(self, module: str):
        self.names = vars(sys.modules[module])

    def visit_Name(self, node: ast.Name) -> ast.Name:
        value = self.names.get(node.id)
        ours = inspect.isclass(value) and value.__module__.startswith("purerl.")
        return ast.Name(f"{value.__module__}.{node.id}") if ours else node


def signature(module: str, node: ast.FunctionDef) -> str:
    """A function's name and arguments as its source has them."""
    node, names = copy.deepcopy(node), FullNames(module)
    for x in ast.walk(node.args):
        if isinstance(x, ast.arg) and x.annotation:
            x.annotation = names.visit(x.annotation)
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    return f"{node.name}({arguments})" + (f" -> {ast.unparse(names.visit(node.returns))}" if node.returns else "")


def fields(value: Any, node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the fields of a class, with the comments beside them; those of a config with their ranges."""
    about, lines = getattr(value, "__dataclass_fields__", {}), source(value.__module__)[1]
    for x in node.body:
        if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name) and x.target.id[0] != "_":
            name, default = x.target.id, f"`{ast.unparse(x.value)}`" if x.value else ""
            comment = lines[(x.end_lineno or 0) - 1].encode()[x.end_col_offset :].decode().partition("#")[2]
            if name in about and "doc" in about[name].metadata:
                default, accepted = f"`{about[name].default!r}`", allowed(about[name], hints_of(value)[name])
                comment = f"{about[name].metadata['doc']} ({accepted})"
            yield f"`{name}`", f"`{ast.unparse(x.annotation)}`", default, comment


def definition(module: str, name: str) -> Any:
    """Where a module defines a function, a class or a constant; None if it does not."""
    for x in ast.walk(source(module)[0]):
        named = getattr(x, "name", None) or (isinstance(x, ast.Assign) and ast.unparse(x.targets[0]))
        if named == name and isinstance(x, ast.FunctionDef | ast.ClassDef | ast.Assign):
            return x
    return None


def described(name: str, value: Any, on: str) -> dict[str, Any]:
    """What a template needs of a public object, on the page of a module: signature, docstring, fields and methods."""
    known = inspect.isclass(value) or inspect.isfunction(value)
    module = value.__module__ if known else on
    node = definition(module, value.__name__ if known else name)
    about = {"title": name, "canonical": "", "value": "", "docstring": "", "fields": [], "members": []}
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        text = ast.unparse(node.value) if node else ""
        return {**about, "kind": "data", "value": text if len(text) < 100 else ""}
    about |= {"docstring": ast.get_docstring(node), "canonical": f"{module}.{value.__qualname__}" if known else ""}
    if isinstance(node, ast.FunctionDef):
        return {**about, "kind": "function", "title": name + signature(module, node).removeprefix(node.name)}
    for x in node.body:
        if isinstance(x, ast.FunctionDef) and x.name[0] != "_":
            property_ = "property" in map(ast.unparse, x.decorator_list)
            title, kind = (x.name, "property") if property_ else (signature(module, x), "method")
            about["members"].append({"kind": kind, "title": title, "docstring": ast.get_docstring(x)})
    return {**about, "kind": "class", "fields": list(fields(value, node))}


class Module(NamedTuple):
    """A module, and the names that its page describes: those that no module above it has."""

    value: ModuleType
    names: list[str]


def modules() -> Iterator[Module]:
    """Every module but the command line's; an object is described under the shortest name by which it is public."""
    names = [x.name for x in pkgutil.walk_packages(purerl.__path__, "purerl.")]
    names = [x for x in names if not x.startswith(("purerl.cli", "purerl.__main__"))]
    taken = set()
    for name in sorted(names, key=lambda x: (x.count("."), x)):
        value = importlib.import_module(name)
        own = {key for key, x in vars(value).items() if key[0] != "_" and getattr(x, "__module__", "") == name}
        own |= {*purerl._NAMES.get(name, ())}  # constants that `purerl` itself has
        found = []
        for key in sorted(getattr(value, "__all__", own), key=str.lower):
            x = getattr(value, key)
            home = getattr(x, "__module__", name), getattr(x, "__qualname__", f"{name}.{key}")
            if not inspect.ismodule(x) and home not in taken:
                taken.add(home)
                found.append(key)
        yield Module(value, found)


def api() -> None:
    """A page for each module."""
    found = [x for x in modules() if not is_agent(x.value.__name__)]
    names = [x.value.__name__ for x in found]
    objects = {f"{x.value.__name__}.{key}" for x in found for key in x.names}
    for module, keys in found:
        about = [described(key, getattr(module, key), module.__name__) for key in keys]
        names_of = [f"{{py:obj}}`{key} <{module.__name__}.{key}>`" for key in keys]
        rows = [(name, first_line(x["docstring"])) for name, x in zip(names_of, about, strict=True)]
        above = module.__name__.rpartition(".")[0].removesuffix("purerl")
        inside = [(x, sys.modules[x].__doc__) for x in names if x.rpartition(".")[0] == module.__name__]
        data = {
            "name": module.__name__,
            "docstring": module.__doc__,
            "objects": objects,
            "inside": inside,
            "above": above,
        }
        page(f"api/{module.__name__}.md", "module.jinja", **data, rows=rows, found=about)
    rows = [(f"`purerl.{name}`", first_line(getattr(purerl, name).__doc__)) for name in purerl.__all__]
    page("api/index.md", "api.jinja", rows=rows, modules=[x for x in names if x.count(".") == 1])
