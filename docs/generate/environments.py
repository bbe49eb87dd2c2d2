"""Environments: a page for each, from what `purerl list` prints, its class and its parameters."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

import numpy as np

import purerl
from generate.docstrings import first_line
from generate.pages import DOCS, page
from purerl.envs import registry
from purerl.runs import catalogue

GROUPS = {  # by the first of these that the name of an environment's module begins with
    "gymnax.environments.classic_control": "Classic control",
    "gymnax.environments.minatar": "MinAtar",
    "gymnax.environments.bsuite": "bsuite",
    "gymnax": "Others of gymnax",
    "purerl.envs.fields": "Operations, traffic, energy, finance, driving, perception",
    "purerl.envs.training_control": "Control of trainings and of searches",
    "purerl": "Memory, parameterised and masked actions",
}


def shown(value: Any) -> str:
    """The value of a parameter; of a large array its shape."""
    array = np.asarray(value)
    return f"`{array.tolist()}`" if array.size <= 8 else f"{array.dtype} {list(array.shape)}"


def made(name: str) -> tuple[Any, Any]:
    """An environment without what wraps it, and its parameters."""
    env, env_params = purerl.make(name)
    while hasattr(env, "env"):
        env = env.env
    return env, env_params


def environment(entry: catalogue.Entry) -> str:
    """Write the page of an environment; its group."""
    env, env_params = made(entry.name) if entry.actions else (None, None)  # otherwise its data are not there
    maker = registry.OWN.get(entry.name, type(env))
    home = maker.__module__ if env or entry.name in registry.OWN else "gymnax"
    own, picture = home.startswith("purerl."), f"pictures/{entry.name}.png"
    beside = [x for x in vars(sys.modules[home]).values() if inspect.isfunction(x) and x.__module__ == home]
    defaults = {x.name: getattr(env_params, x.name) for x in dataclasses.fields(env_params)} if env else {}
    page(
        f"environments/{entry.name}.md",
        "environment.jinja",
        entry=entry,
        env=env,
        docstring=maker.__doc__ if home != "gymnax" else "",
        picture=(DOCS / picture).exists() and f"../{picture}",
        parameters=[(f"`{name}`", shown(value)) for name, value in defaults.items()],
        about_parameters=type(env_params).__doc__ if own and env else "",
        module=home,
        beside=[
            (f"{{py:obj}}`{x.__name__} <{home}.{x.__name__}>`", first_line(x.__doc__))
            for x in beside
            if own and x.__name__[0] != "_"
        ],
    )
    return next(group for prefix, group in GROUPS.items() if home.startswith(prefix))


def environments() -> None:
    """A page for each environment, and their index by groups."""
    groups: dict[str, list[tuple[str, ...]]] = {group: [] for group in GROUPS.values()}
    for entry in catalogue.environments():
        if entry.name.endswith("/..."):
            groups.setdefault("Other packages", []).append(entry)
        else:
            groups[environment(entry)].append((f"[{entry.name}]({entry.name}.md)", *entry[1:]))
    page("environments/index.md", "environments.jinja", groups=groups)
