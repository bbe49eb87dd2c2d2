"""Pages made of the package's own data: the API, agents, environments, commands, results and notebooks."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib
import inspect
import json
import math
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import jinja2
import numpy as np
from docstrings import first_line, linked, markdown
from matplotlib.figure import Figure

import purerl
from purerl import agents, build
from purerl.agents.parts import families
from purerl.agents.parts.declarations import declaration_of, options_of
from purerl.cli import main as cli
from purerl.envs import registry
from purerl.hyperparameters import allowed, hints_of
from purerl.runs import catalogue, options
from purerl.runs.arguments import Swept

DOCS = Path(__file__).parent
ROOT = DOCS.parent
CARRIED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
GENERATED = ("agents", "environments", "api", "results", "notebooks", "commands", "changelog", "contributing")
TRAINED_IN = {"POLICY_GRADIENT": "CartPole-v1", "Q_LEARNING": "CartPole-v1", "ACTOR_CRITIC": "Pendulum-v1"}
GROUPS = {  # by the first module that an environment's own begins with
    "gymnax.environments.classic_control": "Classic control",
    "gymnax.environments.minatar": "MinAtar",
    "gymnax.environments.bsuite": "bsuite",
    "gymnax": "Others of gymnax",
    "purerl.envs.fields": "Operations, traffic, energy, finance, driving, perception",
    "purerl.envs.training_control": "Control of trainings and of searches",
    "purerl": "Memory, parameterised and masked actions",
}

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(DOCS / "templates"), undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
TEMPLATES.filters |= {"markdown": markdown, "first_line": first_line}
TEMPLATES.filters["cell"] = lambda x: re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(x).split()))


def write(name: str, text: str) -> None:
    """Write a page if it changed: Sphinx reads again only what did."""
    path = DOCS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def page(path: str, template: str, /, **data: Any) -> None:
    """Write a page from a template."""
    write(path, TEMPLATES.get_template(template).render(**data))


# --- the API --------------------------------------------------------------------------------------------------------


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
    """Every module; an object is described under the shortest name by which it is public."""
    names = [x.name for x in pkgutil.walk_packages(purerl.__path__, "purerl.")]
    taken = set()
    for name in sorted(names, key=lambda x: (x.count("."), x)):
        value = importlib.import_module(name)
        own = {key for key, x in vars(value).items() if key[0] != "_" and getattr(x, "__module__", "") == name}
        found = []
        for key in sorted(getattr(value, "__all__", own), key=str.lower):
            x = getattr(value, key)
            home = getattr(x, "__module__", name), getattr(x, "__qualname__", f"{name}.{key}")
            if not inspect.ismodule(x) and home not in taken:
                taken.add(home)
                found.append(key)
        yield Module(value, found)


def is_agent(module: str) -> bool:
    """Whether a module is the file of an agent, which has a page of its own."""
    return module.startswith("purerl.agents.") and module.split(".")[2] in agents.names()


def api() -> None:
    """A page for each module."""
    found = [x for x in modules() if not is_agent(x.value.__name__)]
    names = [x.value.__name__ for x in found]
    objects = {f"{x.value.__name__}.{key}" for x in found for key in x.names}
    for module, keys in found:
        about = [described(key, getattr(module, key), module.__name__) for key in keys]
        rows = [(f"`{module.__name__}.{key}`", first_line(x["docstring"])) for key, x in zip(keys, about, strict=True)]
        inside = [x for x in names if x.rpartition(".")[0] == module.__name__]
        data = {"name": module.__name__, "docstring": module.__doc__, "objects": objects, "inside": inside}
        page(f"api/{module.__name__}.md", "module.jinja", **data, rows=rows, found=about)
    rows = [(f"`purerl.{name}`", first_line(getattr(purerl, name).__doc__)) for name in purerl.__all__]
    page("api/index.md", "api.jinja", rows=rows, modules=[x for x in names if x.count(".") == 1])


# --- agents ---------------------------------------------------------------------------------------------------------


def rows_of(parameters: list[click.Option], config: type) -> list[tuple[str, ...]]:
    """Rows of a table of options: how they are written, their defaults, what they accept, what they mean."""
    about, rows = {field.name: field for field in dataclasses.fields(config)}, []
    for x in parameters:
        kind = x.type.one if isinstance(x.type, Swept) else x.type
        accepted = allowed(about[x.name], hints_of(config)[x.name]) if x.name in about else ""
        if isinstance(kind, click.Choice):
            accepted = ", ".join(f"`{choice}`" for choice in kind.choices)
        default = x.show_default if isinstance(x.show_default, str) else x.default
        rows.append((" ".join(f"`{flag}`" for flag in (*x.opts, *x.secondary_opts)), f"`{default}`", accepted, x.help))
    return rows


def curves(name: str) -> list[str]:
    """Draw the recorded learning curves of an agent, a panel for each key of the reproductions; these keys."""
    found = {}
    for folder in sorted((ROOT / "benchmarks/papers/results").glob(f"{name}-*")):
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        if runs and all("curve" in run for run in runs):
            found[folder.name] = runs
    columns = min(len(found), 3) or 1
    size = 4 * columns, 2.6 * math.ceil(len(found) / columns)
    if found:
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(math.ceil(len(found) / columns), columns, squeeze=False).flat
        for axes in list(panels)[len(found) :]:
            axes.set_axis_off()
        for axes, (key, runs) in zip(panels, found.items(), strict=False):
            curve = np.array([run["curve"] for run in runs], float)
            steps = runs[0]["steps"] * np.arange(1, curve.shape[1] + 1) / curve.shape[1]
            axes.plot(steps, curve.T, color="C0", alpha=0.25, linewidth=0.7)
            axes.plot(steps, curve.mean(0), color="C0", linewidth=2)
            axes.set(title=f"{key}, {len(runs)} seeds", xlabel="environment steps", ylabel="return")
        (DOCS / "agents/curves").mkdir(parents=True, exist_ok=True)
        figure.savefig(DOCS / f"agents/curves/{name}.png", dpi=110)
    return list(found)


def agent(name: str) -> None:
    """The page of an agent."""
    make, module = build.agent_function(name), importlib.import_module(f"purerl.agents.{name}")
    about = declaration_of(make)
    config, like = type(about.hp), lambda x: declaration_of(build.agent_function(x)).family is about.family
    of_run, fields = options.parameters(name)
    imports = [x for x in source(module.__name__)[0].body if isinstance(x, ast.ImportFrom)]
    names = {x.module for x in imports} | {f"{x.module}.{y.name}" for x in imports for y in x.names}
    imported = [(x, sys.modules[x].__doc__) for x in sorted(names & sys.modules.keys()) if x.startswith("purerl.")]
    (family,) = (key for key, x in vars(families).items() if x is about.family)
    keys, table = curves(name), (ROOT / "benchmarks/papers/RESULTS.md").read_text(encoding="utf-8").split("\n")
    named = [x for x in results() if re.search(rf"\b{name}\b", x.read_text(encoding="utf-8"), re.IGNORECASE)]
    page(
        f"agents/{name}.md",
        "agent.jinja",
        name=name,
        docstring=module.__doc__,
        environment=TRAINED_IN[family],
        make=described(name, make, module.__name__),
        config=config.__name__,
        base=config.__mro__[1].__name__,
        own=rows_of([x for x in fields if x.name in config.__annotations__], config),
        shared=rows_of([x for x in fields if x.name not in config.__annotations__], config),
        parts=rows_of([x for x in of_run if x.name in options_of(make)], config),
        about=about,
        family=family,
        others=[x for x in agents.names() if x != name and like(x)],
        imported=imported,
        keys=keys,
        rows=[x.strip("| ").split(" | ") for x in table if x.startswith("| ") and x.split(" ")[1] in keys],
        pages=[(place(x), title(x)) for x in named],
    )


def all_agents() -> None:
    """A page for each agent, and their index."""
    for name in agents.names():
        agent(name)
    text = "One file each, of at most 130 lines: config, loss, update. Every agent trains in the same loop."
    rows = [(f"[{name}]({name}.md)", linked(line)) for name, line in agents.names().items()]
    page("agents/index.md", "index.jinja", title="Agents", text=text, rows=rows, names=agents.names())


# --- environments ---------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """The value of a parameter; of a large array its shape."""
    array = np.asarray(value)
    return f"`{array.tolist()}`" if array.size <= 8 else f"{array.dtype} {list(array.shape)}"


def environment(entry: catalogue.Entry) -> str:
    """Write the page of an environment; its group."""
    env: Any = None
    env_params: Any = None
    if entry.actions:
        env, env_params = purerl.make(entry.name)
        while hasattr(env, "env"):  # a wrapper
            env = env.env
    made_by = registry.OWN.get(entry.name) or type(env)
    module = sys.modules[made_by.__module__] if made_by is not type(None) else None
    own = module is not None and module.__name__.startswith("purerl.")
    functions = (
        [x for x in vars(module).values() if inspect.isfunction(x) and x.__module__ == made_by.__module__]
        if own
        else []
    )
    about = env_params if own else None
    picture = f"pictures/{entry.name}.png"
    page(
        f"environments/{entry.name}.md",
        "environment.jinja",
        entry=entry,
        env=env,
        docstring=made_by.__doc__ if module else "",
        picture=(DOCS / picture).exists() and f"../{picture}",
        parameters=[
            (f"`{x.name}`", shown(getattr(env_params, x.name))) for x in dataclasses.fields(env_params or entry)
        ]
        if env
        else [],
        about_parameters=type(about).__doc__ if about else "",
        module=module.__name__ if module else "",
        beside=[(f"`{x.__name__}`", first_line(x.__doc__)) for x in functions if x.__name__[0] != "_"],
    )
    return next(
        title for prefix, title in GROUPS.items() if (module.__name__ if module else "gymnax").startswith(prefix)
    )


def environments() -> None:
    """A page for each environment, and their index by groups."""
    groups: dict[str, list[tuple[str, ...]]] = {group: [] for group in GROUPS.values()}
    names = []
    for entry in catalogue.environments():
        if entry.name.endswith("/..."):
            groups.setdefault("Other packages", []).append(entry)
        else:
            names.append(entry.name)
            groups[environment(entry)].append((f"[{entry.name}]({entry.name}.md)", *entry[1:]))
    page("environments/index.md", "environments.jinja", groups=groups, names=names)


# --- commands, and pages of the repository --------------------------------------------------------------------------


def commands() -> None:
    """A page with the help of every command; of commands of agents, that of PPO."""

    def helps(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
        context = click.Context(command, info_name=path, max_content_width=96, terminal_width=96)
        yield path, command.get_help(context)
        if isinstance(command, click.Group):
            listed = command.list_commands(context)
            for name in [x for x in listed if x not in agents.names()] + [x for x in ("ppo", "rloo") if x in listed][
                :1
            ]:
                found = command.get_command(context, name)
                yield from helps(found, f"{path} {name}") if found else ()

    page("commands.md", "commands.jinja", commands=list(helps(cli.purerl_command, "purerl")))


def results() -> list[Path]:
    """The pages of recorded results."""
    return sorted((ROOT / "benchmarks").rglob("*.md"))


def title(path: Path) -> str:
    """The heading of a page."""
    return path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")


def place(path: Path) -> str | None:
    """The page of the site, from docs/, that shows a file of the repository; None if none does."""
    name = path.relative_to(ROOT).as_posix()
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if name.startswith("purerl/") and path.suffix == ".py":
        return f"agents/{path.stem}.md" if is_agent(module) else f"api/{module}.md"
    if path.suffix not in (".md", ".ipynb"):
        return None
    return CARRIED.get(name) or re.sub("^docs/", "", re.sub("^benchmarks/", "results/", name))


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


def carry(path: Path) -> None:
    """Show a page of the repository on the site."""
    name = str(place(path))
    write(name, relinked(path.read_text(encoding="utf-8"), path, DOCS / name))


def written(app: Any, name: str, content: list[str]) -> None:
    """A page that people write: its links are those of the repository, and are changed as Sphinx reads it."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and name.split("/")[0] not in GENERATED:
        content[0] = relinked(content[0], path, path)


def carried() -> None:
    """The changelog, the page for contributors, results and notebooks."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in (ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *results()):
        carry(path)
    for path in notebooks:
        write(f"notebooks/{path.name}", path.read_text(encoding="utf-8"))
    text = "Written by the scripts of `benchmarks/`, from a JSON file for each seed, except the notes."
    names = [str(place(x)).removeprefix("results/") for x in results()]
    rows = [(f"[{title(x)}]({name})", f"`{x.relative_to(ROOT)}`") for x, name in zip(results(), names, strict=True)]
    page("results/index.md", "index.jinja", title="Results", text=text, rows=rows, names=names)
    text = "With the outputs that are stored in them. `make notebooks` executes them all."
    heads = [json.loads(x.read_text(encoding="utf-8"))["cells"][0]["source"] for x in notebooks]
    rows = [
        (f"[{''.join(y).split(chr(10))[0].lstrip('# ')}]({x.name})",) for x, y in zip(notebooks, heads, strict=True)
    ]
    page(
        "notebooks/index.md",
        "index.jinja",
        title="Notebooks",
        text=text,
        rows=[(*x, "") for x in rows],
        names=[x.stem for x in notebooks],
    )


def pages() -> None:
    """Write every generated page."""
    for make in (api, all_agents, environments, commands, carried):
        make()
