"""Pages made of the package's own data: agents, environments, the API, commands, recorded results and notebooks."""

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
from typing import Any, NamedTuple

import click
import numpy as np
from docutils import nodes
from matplotlib.figure import Figure
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

import purerl
from purerl import agents, build
from purerl.agents.parts import families
from purerl.agents.parts.declarations import Declaration, declaration_of, options_of
from purerl.cli import main as cli
from purerl.envs import registry
from purerl.hyperparameters import allowed, hints_of
from purerl.runs import catalogue, options
from purerl.runs.arguments import Swept

ROOT = Path(purerl.__file__).parents[1]
HIDDEN = ("purerl.__main__", "purerl.cli.commands")
FENCE = "`" * 4
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
ENVIRONMENT = {"POLICY_GRADIENT": "CartPole-v1", "Q_LEARNING": "CartPole-v1", "ACTOR_CRITIC": "Pendulum-v1"}
GROUPS = {"purerl.envs.fields": "Other fields", "purerl.envs.training_control": "Control of trainings and of searches"}
GROUPS |= {"gymnax.environments.classic_control": "Classic control", "gymnax.environments.minatar": "MinAtar"}
GROUPS |= {"gymnax.environments.bsuite": "bsuite", "gymnax.environments": "Others of gymnax", "purerl": "Memory, masks"}


def write(path: Path, text: str) -> None:
    """Write a page, if it changed: Sphinx reads those pages only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# --- docstrings -----------------------------------------------------------------------------------------------------


def is_python(text: str) -> bool:
    """Whether a block of a docstring is code; otherwise it is an equation."""
    try:
        return any(
            isinstance(x, ast.FunctionDef | ast.Assign | ast.Import) for x in ast.parse(inspect.cleandoc(text)).body
        )
    except SyntaxError:
        return False


def linked(text: str) -> str:
    """Text in which papers are links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.\d+/[\w./()-]*\w)", r"[doi:\1](https://doi.org/\1)", text)


def entries(lines: list[str]) -> Iterator[str]:
    """The entries of a section such as Args, each an item of a list; those of one line apart."""
    text = "\n".join(line[2:] for line in lines)
    for entry in re.split(r"\n(?! )|(?<=[.;])  (?=\w[\w, ]*: )", text):
        name, colon, rest = re.sub(r"\s+", " ", entry).strip().partition(": ")
        names = colon and re.fullmatch(r"\*{0,2}\w+(, \*{0,2}\w+)*", name)
        yield f"- {', '.join(f'`{x}`' for x in name.split(', '))}: {rest}" if names else f"- {name}{colon}{rest}"


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: sections as lists, equations and examples as blocks."""
    lines, out = inspect.cleandoc(docstring or "").split("\n"), []
    while lines:
        line = lines.pop(0)

        def taken(inside) -> list[str]:
            found = []
            while lines and inside(lines[0]):
                found.append(lines.pop(0))
            return found

        if section := re.fullmatch(r"(Args|Returns|Raises|Yields|Limits|References?):(.*)", line):
            body = taken(lambda x: x.startswith("  "))
            out += ["", f"**{section[1]}**" + linked(section[2]), ""]
            lone = section[2] or section[1] in ("Returns", "Yields", "Limits")
            out += [" ".join(linked(x.strip()) for x in body)] if lone else map(linked, entries(body))
            out.append("")
        elif line.startswith(">>> "):
            out += [f"{FENCE}pycon", line, *taken(str.strip), FENCE]
        elif line.startswith("    "):
            body = [line, *taken(lambda x: x.startswith("    ") or not x.strip())]
            text = inspect.cleandoc("\n" + "\n".join(body)).rstrip()
            kind = ["python"] if is_python(text) else ["{code-block} text", ":class: equation", ""]
            out += [f"{FENCE}{kind[0]}", *kind[1:], text, FENCE, ""]
        else:
            out.append(linked(line))
    return "\n".join(out)


def first_line(docstring: str | None) -> str:
    """The first sentence of a docstring, for tables."""
    return linked(inspect.cleandoc(docstring or "").split("\n")[0]).replace("|", "\\|")


# --- the API --------------------------------------------------------------------------------------------------------


@functools.cache
def tree(module: str) -> ast.Module:
    """The source of a module, parsed."""
    return ast.parse(Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8"))


def node_of(module: str, name: str) -> Any:
    """The definition of a function or class, if it is a plain one."""
    found = (n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name)
    return next(found, None)


class Qualified(ast.NodeTransformer):
    """Annotations with the full names of the package's types, so that they become links."""

    def __init__(self, module: str):
        self.names = vars(sys.modules[module])

    def visit_Name(self, node: ast.Name) -> ast.Name:
        value = self.names.get(node.id)
        home = str(getattr(value, "__module__", ""))
        return ast.Name(f"{home}.{node.id}") if inspect.isclass(value) and home.startswith("purerl.") else node


def signature(module: str, node: ast.FunctionDef, method: bool = False) -> str:
    """The arguments of a function as its source has them."""
    for argument in ast.walk(node := copy.deepcopy(node)):
        if isinstance(argument, ast.arg) and argument.annotation:
            argument.annotation = Qualified(module).visit(argument.annotation)
    node.returns = node.returns and Qualified(module).visit(node.returns)
    arguments = ast.unparse(node.args)
    if method:
        arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def fields(value: type, node: ast.ClassDef) -> str:
    """A table of the fields of a class: those of a config with their ranges."""
    about = getattr(value, "__dataclass_fields__", {})
    lines = Path(sys.modules[value.__module__].__file__ or "").read_text(encoding="utf-8").split("\n")
    rows = []
    for x in node.body:
        if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name) and x.target.id[0] != "_":
            name, default = x.target.id, f"`{ast.unparse(x.value)}`" if x.value else ""
            comment = lines[(x.end_lineno or 1) - 1][x.end_col_offset or 0 :].partition("#")[2].strip()
            if name in about and "doc" in about[name].metadata:
                default, comment = f"`{about[name].default!r}`", about[name].metadata["doc"]
                comment += f" ({allowed(about[name], hints_of(value)[name])})"
            rows.append((f"`{name}`", f"`{ast.unparse(x.annotation)}`", default, comment))
    return table(("field", "type", "default", ""), rows) if rows else ""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    cell = lambda x: re.sub(r"(?<!\\)\|", r"\\|", str(x)).replace("\n", " ")
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def described(name: str, value: Any, fence: int = 7) -> str:
    """A function or class as a directive of Python's domain, in the module that the page set."""
    module = getattr(value, "__module__", "") or ""
    node = node_of(module, value.__name__) if inspect.isroutine(value) or inspect.isclass(value) else None
    canonical = f":canonical: {module}.{value.__qualname__}\n" if node else ""
    if isinstance(node, ast.FunctionDef):
        kind, shown, body = "function", name + signature(module, node), markdown(value.__doc__)
    elif isinstance(node, ast.ClassDef):
        kind, shown, body = "class", name, f"{markdown(node_doc(node))}\n\n{fields(value, node)}\n"
        for x in node.body:
            if isinstance(x, ast.FunctionDef) and x.name[0] != "_":
                known = any(isinstance(d, ast.Name) and d.id == "property" for d in x.decorator_list)
                title = x.name if known else x.name + signature(module, x, method=True)
                body += f"\n{'`' * 6}{{py:{'property' if known else 'method'}}} {title}\n\n"
                body += f"{markdown(node_doc(x))}\n{'`' * 6}\n"
    else:
        kind, shown, body = "data", name, ""
    return f"{'`' * fence}{{py:{kind}}} {shown}\n{canonical}\n{body}\n{'`' * fence}\n\n"


def node_doc(node: Any) -> str:
    return ast.get_docstring(node) or ""


class Module(NamedTuple):
    """A module, and the names that its page describes; the others of it are described on the page of its package."""

    name: str
    value: Any
    names: list[str]


def modules() -> list[Module]:
    """Every module; each object belongs to the shortest name by which it is public."""
    names = [m.name for m in pkgutil.walk_packages([str(ROOT / "purerl")], "purerl.")]
    taken, found = set(), []
    for name in sorted((x for x in names if not x.startswith(HIDDEN)), key=lambda x: (x.count("."), x)):
        value = importlib.import_module(name)
        public = getattr(value, "__all__", None) or [
            key
            for key, x in vars(value).items()
            if key[0] != "_" and getattr(x, "__module__", "") == name and (inspect.isroutine(x) or inspect.isclass(x))
        ]
        own = []
        for key in sorted(public, key=str.lower):
            x = getattr(value, key)
            home = (getattr(x, "__module__", name), getattr(x, "__qualname__", f"{name}.{key}"))
            if not inspect.ismodule(x) and home not in taken:
                taken.add(home)
                own.append(key)
        found.append(Module(name, value, own))
    return found


def api(docs: Path) -> None:
    """A page for each module."""
    found = [m for m in modules() if not is_agent(m.name)]
    objects = {f"{m.name}.{x}" for m in found for x in m.names}
    for module in found:
        inside = [x.name for x in found if x.name.rpartition(".")[0] == module.name]
        text = (
            f"# `{module.name}`\n\n```{{py:module}} {module.name}\n{':no-index:' * (module.name in objects)}\n```\n\n"
        )
        text += f"{markdown(module.value.__doc__)}\n\n"
        if inside:
            text += "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(inside) + "\n```\n\n"
        rows = [
            (f"`{module.name}.{x}`", first_line(getattr(getattr(module.value, x), "__doc__", ""))) for x in module.names
        ]
        if len(rows) > 3:
            text += table(("name", ""), rows) + "\n"
        write(
            docs / f"api/{module.name}.md", text + "".join(described(x, getattr(module.value, x)) for x in module.names)
        )
    top = [(f"`purerl.{name}`", first_line(getattr(purerl, name).__doc__)) for name in purerl.__all__]
    write(
        docs / "api/index.md",
        "# API\n\nEverything here is also `purerl.NAME`: a module is imported when it is first used.\n\n"
        + table(("name", ""), top)
        + "\n```{toctree}\n:hidden:\n\n"
        + "\n".join(m.name for m in found if m.name.count(".") == 1)
        + "\n```\n",
    )


def is_agent(module: str) -> bool:
    """Whether a module is the file of an agent, which has a page of its own."""
    return module.startswith("purerl.agents.") and module.split(".")[2] in agents.names()


# --- agents ---------------------------------------------------------------------------------------------------------


def rows_of(parameters: list[click.Option], config: type) -> list[tuple[str, ...]]:
    """Rows of a table of options: as on the command line, their defaults, what they accept, what they mean."""
    about = {field.name: field for field in dataclasses.fields(config)}
    rows = []
    for x in parameters:
        default = x.show_default if isinstance(x.show_default, str) else x.default
        if isinstance(x.type, Swept) and isinstance(x.type.one, click.Choice):
            accepted = ", ".join(f"`{choice}`" for choice in x.type.one.choices)
        else:
            accepted = allowed(about[x.name], hints_of(config)[x.name]) if x.name in about else ""
        flags = " ".join(f"`{flag}`" for flag in (*x.opts, *x.secondary_opts))
        rows.append((flags, f"`{default}`", accepted.removeprefix("one of "), x.help or ""))
    return rows


def curves(name: str, path: Path) -> list[str]:
    """Draw the recorded learning curves of an agent, a panel for each key of the reproductions; their keys."""
    folders = [x for x in sorted((ROOT / "benchmarks/papers/results").glob(f"{name}-*")) if (x / "0.json").exists()]
    runs = {x.name: [json.loads(file.read_text()) for file in sorted(x.glob("*.json"))] for x in folders}
    runs = {key: found for key, found in runs.items() if all("curve" in x for x in found)}
    if runs:
        count = len(runs)
        figure = Figure(figsize=(4 * min(count, 3), 2.6 * math.ceil(count / 3)), layout="constrained")
        for axes, (key, found) in zip(
            figure.subplots(math.ceil(count / 3), min(count, 3), squeeze=False).flat, runs.items()
        ):
            curve = np.array([x["curve"] for x in found], float)
            steps = found[0]["steps"] * np.arange(1, curve.shape[1] + 1) / curve.shape[1]
            axes.plot(steps, curve.T, color="C0", alpha=0.25, linewidth=0.7)
            axes.plot(steps, curve.mean(0), color="C0", linewidth=2)
            axes.set(title=f"{key}, {len(found)} seeds", xlabel="environment steps", ylabel="return")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return [*runs]


def agent(name: str, line: str, docs: Path) -> None:
    """The page of an agent."""
    make = build.agent_function(name)
    module, about = importlib.import_module(f"purerl.agents.{name}"), declaration_of(make)
    config = type(about.hp)
    (family,) = [key for key, x in vars(families).items() if x is about.family]
    shared = config.__mro__[1]
    of_run, own = options.parameters(name)
    parts = [x for x in of_run if x.name in options_of(make)]
    new = [x for x in own if x.name in config.__annotations__]
    old = [x for x in own if x.name not in config.__annotations__]
    others = [x for x in agents.names() if declaration_of(build.agent_function(x)).family is about.family and x != name]
    recorded = (ROOT / "benchmarks/papers/RESULTS.md").read_text(encoding="utf-8").split("\n")
    keys, head = curves(name, docs / f"agents/curves/{name}.png"), ("option", "default", "accepts", "")
    text = f"# {name}\n\n```{{py:module}} purerl.agents.{name}\n```\n\n{markdown(module.__doc__)}\n\n"
    text += f"```{{code-block}} bash\npurerl train {name} {ENVIRONMENT[family]}\n```\n\n## Definition\n\n"
    text += "```{py:currentmodule} purerl\n```\n\n" + described(name, make)
    text += (
        f"## Hyperparameters\n\nThe fields of `purerl.{config.__name__}`, which are options of the command line.\n\n"
    )
    text += table(head, rows_of(new, config)) if new else ""
    if old:
        text += f"\nShared by all that build on `{shared.__name__}`:\n\n{table(head, rows_of(old, config))}"
    if parts:
        text += f"\n## Parts\n\nArguments of the constructor and of the network, as options.\n\n{table(head, rows_of(parts, config))}"
    text += "\nThe [options of every run](../commands.md) come on top: the environment, its number, the networks, "
    text += f"the memory, the reward. Defaults here: `--num-envs {about.num_envs}`, `--rollout-length {about.rollout_length}`, "
    text += f"`--hidden {','.join(map(str, about.hidden))}`, `--activation {about.activation}`.\n\n"
    text += f"## Family\n\n`{name}` is declared as `purerl.{family}`, as are "
    text += ", ".join(f"[{x}]({x}.md)" for x in others) + ". They share the networks and these files:\n\n"
    imported = {n.module for n in tree(module.__name__).body if isinstance(n, ast.ImportFrom)}
    imported |= {
        f"{n.module}.{x.name}" for n in tree(module.__name__).body if isinstance(n, ast.ImportFrom) for x in n.names
    }
    text += "".join(
        f"- `{x}`: {first_line(sys.modules[x].__doc__)}\n"
        for x in sorted(imported)
        if x and x.startswith("purerl.") and x in sys.modules
    )
    text += "\n## Results\n\n"
    if keys:
        rows = [
            line.strip("| ").split(" | ") for line in recorded if line.startswith("| ") and line.split(" ")[1] in keys
        ]
        text += table(("key", "published", "ours", "seeds", "verdict", "what differs"), [(*x[:5], x[6]) for x in rows])
        text += f"\n![Learning curves of {name}](curves/{name}.png)\n\nThe bold line is the mean of the seeds, each of which is thin. To reproduce:\n\n"
        text += f"```bash\npython benchmarks/papers/reproduce.py {' '.join(keys)}\n```\n\n"
    there = [x for x in recorded_pages() if re.search(rf"\b{name}\b", x.read_text(encoding="utf-8"), re.IGNORECASE)]
    text += (
        "Pages of results that name it: " + ", ".join(f"[{title(x)}](../{site_name(x)})" for x in there) + ".\n\n"
        if there
        else "No result of it is recorded apart from the tests.\n\n"
    )
    text += f"## Source\n\nThe whole algorithm, `purerl/agents/{name}.py`:\n\n"
    text += f"```{{literalinclude}} ../../purerl/agents/{name}.py\n:language: python\n```\n"
    write(docs / f"agents/{name}.md", text)


def all_agents(docs: Path) -> None:
    """A page for each agent, and their index."""
    names = agents.names()
    for name, line in names.items():
        agent(name, line, docs)
    rows = [(f"[{name}]({name}.md)", linked(line)) for name, line in names.items()]
    text = "# Agents\n\nEach is one file of at most 130 lines: config, loss, update. The pages are made of it.\n\n"
    write(docs / "agents/index.md", text + table(("agent", ""), rows) + toctree(names))


def toctree(names) -> str:
    """A hidden table of contents."""
    return "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


# --- environments ---------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value of a parameter; of a large array its shape."""
    size = getattr(value, "size", 1)
    return (
        f"`{value!r}`"
        if size == 1 and not hasattr(value, "dtype")
        else f"`{np.asarray(value).tolist()}`"
        if size <= 6
        else f"array {list(value.shape)}"
    )


def environment(entry: catalogue.Entry, docs: Path) -> str:
    """The page of an environment; the name of its group."""
    text = f"# {entry.name}\n\n"
    own = registry.OWN.get(entry.name)
    try:
        env, env_params = purerl.make(entry.name) if entry.name not in registry.DOWNLOADS else (None, None)
    except ValueError:
        env = env_params = None
    if env is None:
        text += f"{entry.observations}.\n\n"
    while hasattr(env, "env"):
        env = env.env
    kind: Any = type(env) if env is not None else own
    if kind is None:
        write(docs / f"environments/{entry.name}.md", text)
        return "Others of gymnax"
    text += markdown(own.__doc__ if inspect.isfunction(own) else kind.__doc__) + "\n\n"
    if (docs / f"pictures/{entry.name}.png").exists():
        text += f"![A state of {entry.name}](../pictures/{entry.name}.png){{.environment}}\n\n"
    if env is not None:
        text += "## Spaces\n\n" + table(
            ("observations", "actions", "time limit"), [(entry.observations, entry.actions, entry.limit)]
        )
        rows = [(f"`{x.name}`", shown(getattr(env_params, x.name))) for x in dataclasses.fields(env_params)]
        text += (
            "\n## Parameters\n\n"
            + table(("`--env-param`", "default"), rows)
            + f"\n{markdown(type(env_params).__doc__ if kind.__module__.startswith('purerl') else '')}\n\n"
        )
    if kind.__module__.startswith("purerl"):
        module = sys.modules[kind.__module__]
        beside = [
            (f"`{key}`", first_line(x.__doc__))
            for key, x in vars(module).items()
            if inspect.isfunction(x) and x.__module__ == module.__name__ and key[0] != "_"
        ]
        text += (
            f"## Beside it\n\nFunctions of `{module.__name__}`: optima, rules and references.\n\n"
            + table(("function", ""), beside)
            if beside
            else ""
        )
    text += f"\n```bash\npurerl train {'ppo'} {entry.name}\n```\n"
    write(docs / f"environments/{entry.name}.md", text)
    return next(title for prefix, title in GROUPS.items() if kind.__module__.startswith(prefix))


def environments(docs: Path) -> None:
    """A page for each environment, and their index by groups."""
    groups: dict[str, list[catalogue.Entry]] = {}
    entries = catalogue.environments()
    for entry in entries:
        if not entry.name.endswith("/..."):
            groups.setdefault(environment(entry, docs), []).append(entry)
    text = "# Environments\n\nWhat `purerl list` prints, with a page for each. `purerl.make(name)` returns `(env, env_params)`.\n"
    for group, found in groups.items():
        rows = [(f"[{x.name}]({x.name}.md)", x.observations, x.actions, x.limit) for x in found]
        text += f"\n## {group}\n\n" + table(("name", "observations", "actions", "limit"), rows)
    text += "\n## Other packages\n\n" + table(
        ("name", ""), [(x.name, x.observations) for x in entries if x.name.endswith("/...")]
    )
    write(docs / "environments/index.md", text + toctree(x.name for found in groups.values() for x in found))


# --- commands, results, notebooks, and pages of the repository ------------------------------------------------------


def commands(docs: Path) -> None:
    """A page with the help of every command."""
    text = "# Commands\n\nThe help of every command, as `purerl COMMAND --help` prints it.\n\n"

    def add(command: click.Command, path: tuple[str, ...]) -> None:
        nonlocal text
        context = click.Context(command, info_name=" ".join(path), max_content_width=100, terminal_width=100)
        text += f"## {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n\n"
        if isinstance(command, click.Group) and path[-1] not in ("train", "tune"):
            for name in command.list_commands(context):
                add(command.get_command(context, name), (*path, name))
        elif isinstance(command, click.Group) and path[-1] == "train":
            add(command.get_command(context, "ppo"), (*path, "ppo"))

    add(cli.purerl_command, ("purerl",))
    write(docs / "commands.md", text)


def recorded_pages() -> list[Path]:
    """The pages of recorded results."""
    return sorted((ROOT / "benchmarks").rglob("*.md"))


def title(path: Path) -> str:
    """The first heading of a page."""
    return path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")


def site_name(path: Path) -> str | None:
    """The page of the site that shows a file of the repository, from docs/; None if there is none."""
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if path.suffix == ".md" and name.startswith("benchmarks/"):
        return name.replace("benchmarks/", "results/", 1)
    if path.suffix == ".ipynb" and name.startswith("notebooks/"):
        return name
    if path.suffix == ".md" and name.startswith("docs/"):
        return name.removeprefix("docs/")
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if path.suffix == ".py" and module.startswith("purerl."):
        return f"agents/{path.stem}.md" if is_agent(module) else f"api/{module}.md"
    return None


def relinked(text: str, source: Path, target: Path, docs: Path) -> str:
    """The text of a page of the repository with its links changed to those of the site."""

    def change(match: re.Match) -> str:
        image, label, link = match.groups()
        file, _, anchor = link.partition("#")
        if re.match(r"https?:|mailto:", link) or not file:
            return match[0]
        path = (source.parent / file).resolve()
        if image:
            return f"![{label}]({os.path.relpath(path, target.parent)})"
        if page := site_name(path):
            return f"[{label}]({os.path.relpath(docs / page, target.parent)}{'#' * bool(anchor)}{anchor})"
        return f"{label} (`{path.relative_to(ROOT)}`)" if str(path.relative_to(ROOT)) not in label else label

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", change, text)


def carry(source: Path, docs: Path) -> None:
    """A page of the repository as a page of the site."""
    target = docs / (site_name(source) or "")
    write(target, relinked(source.read_text(encoding="utf-8"), source, target, docs))


def carried(docs: Path) -> None:
    """Results, notebooks, the changelog and the contributor's page."""
    found = recorded_pages()
    for path in (*found, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"):
        carry(path, docs)
    rows = [(f"[{title(x)}]({site_name(x).removeprefix('results/')})", f"`{x.relative_to(ROOT)}`") for x in found]
    text = "# Results\n\nEach page is written by a script of `benchmarks/`, from one JSON file for each seed.\n\n"
    write(
        docs / "results/index.md",
        text + table(("page", "file"), rows) + toctree(site_name(x).removeprefix("results/") for x in found),
    )
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        write(docs / f"notebooks/{path.name}", path.read_text(encoding="utf-8"))
    text = "# Notebooks\n\nWith the outputs that are stored in them; `make notebooks` executes them all.\n\n"
    write(docs / "notebooks/index.md", text + "```{toctree}\n" + "\n".join(x.stem for x in notebooks) + "\n```\n")


def pages(docs: Path) -> None:
    """Write every generated page."""
    for make in (api, all_agents, environments, commands, carried):
        make(docs)


def reread(app: Any, name: str, content: list[str]) -> None:
    """Change the links of a written page, which are those of the repository, to those of the site."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md":
        content[0] = relinked(content[0], path, path, Path(app.srcdir))


class Names(SphinxPostTransform):
    """Names in code, such as `losses.squared` or `ppo`, become links to what they name."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        objects = self.env.domains.python_domain.objects
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext().removesuffix("()")
            full = next((x for x in (name, f"purerl.{name}") if x in objects), None)
            if full is None or isinstance(node.parent, nodes.reference | nodes.title | pending_xref):
                continue
            page, anchor = objects[full].docname, objects[full].node_id
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            link = nodes.reference("", "", internal=True, refuri=f"{uri}#{anchor}")
            node.replace_self(link)
            link += node
