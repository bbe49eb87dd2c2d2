"""Agents: a page for each, from its declaration, its options, its file and what is recorded of it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import io
import json
import math
import re
import sys

import click
import numpy as np
from matplotlib.figure import Figure

from generate.api import described, source
from generate.docstrings import linked
from generate.links import place
from generate.pages import ROOT, page, write
from generate.repository import results, title
from purerl import agents, build
from purerl.agents.parts import families
from purerl.agents.parts.declarations import declaration_of, options_of
from purerl.hyperparameters import allowed, hints_of
from purerl.runs import options
from purerl.runs.arguments import Swept

TRAINED_IN = {"POLICY_GRADIENT": "CartPole-v1", "Q_LEARNING": "CartPole-v1", "ACTOR_CRITIC": "Pendulum-v1"}


def rows_of(parameters: list[click.Option], config: type) -> list[tuple[str, ...]]:
    """Rows of a table of options: how they are written, their defaults, what they accept, what they mean."""
    about, rows = {field.name: field for field in dataclasses.fields(config)}, []
    for x in parameters:
        kind = x.type.one if isinstance(x.type, Swept) else x.type
        accepted = allowed(about[x.name], hints_of(config)[x.name]) if x.name in about else ""
        if isinstance(kind, click.Choice):
            accepted = ", ".join(f"`{choice}`" for choice in kind.choices)
        elif x.is_flag:
            accepted = "no value"
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
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=110)
        write(f"agents/curves/{name}.png", drawn.getvalue())
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
        config={**described(config.__name__, config, module.__name__), "fields": [], "members": []},
        base=config.__mro__[1].__name__,
        own=rows_of([x for x in fields if x.name in config.__annotations__], config),
        shared=rows_of([x for x in fields if x.name not in config.__annotations__], config),
        parts=rows_of([x for x in of_run if x.name in options_of(make)], config),
        about=about,
        family=family,
        others=[x for x in agents.names() if x != name and like(x)],
        imported=imported,
        keys=keys,
        rows=[(*x[:5], x[6]) for x in (y.strip("| ").split(" | ") for y in table) if x[0] in keys],
        pages=[(place(x), title(x)) for x in named],
    )


def all_agents() -> None:
    """A page for each agent, and their index."""
    for name in agents.names():
        agent(name)
    text = "One file each, of at most 130 lines: config, loss, update. Every agent trains in the same loop."
    rows = [(f"[{name}]({name}.md)", linked(line)) for name, line in agents.names().items()]
    page("agents/index.md", "index.jinja", title="Agents", text=text, rows=rows, names=agents.names())
