"""The catalogue of environments, kept in the user's cache folder: making all of them takes many seconds."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from purerl.runs.cache import cache_folder

DATA_PACKAGES = ("skfolio", "nilearn", "sklearn")  # whose files environments read; without them these are not made


class Entry(NamedTuple):
    """An environment, in words."""

    name: str
    observations: str
    actions: str
    limit: str


def environments() -> list[Entry]:
    """Every environment with its spaces: from the cache of these versions, otherwise all are made and kept there."""
    path = cache_folder() / f"environments-{_state()}.json"
    try:
        return [Entry(*row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        found = _made()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(path)
    except OSError:  # it is made again the next time
        pass
    return found


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of environments that begin with what is typed so far, and files."""
    del ctx, param
    names = [entry.name.removesuffix("...") for entry in environments()]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def _state() -> str:
    """A digest of what the catalogue depends on: versions, the package's environments and the data they find."""
    import purerl

    folder = Path(purerl.__file__).parent
    sources = [Path(__file__), *sorted((folder / "envs").rglob("*.py"))]
    there = [name for name in DATA_PACKAGES if find_spec(name)]
    total = hashlib.sha256(f"{version('gymnax')} {version('jax')} {there}".encode())
    for path in sources:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _made() -> list[Entry]:
    import gymnax

    from purerl.envs import adapters, make, registry

    found = []
    for name in (*gymnax.registered_envs, *registry.OWN):
        if name in registry.DOWNLOADS:
            found.append(Entry(name, "downloads its data when it is first made", "", ""))
            continue
        try:
            env, env_params = make(name)
        except ValueError as error:  # of data that are not installed
            found.append(Entry(name, str(error), "", ""))
            continue
        limit = getattr(env_params, "max_steps_in_episode", None)
        spaces = _space(env.observation_space(env_params)), _space(env.action_space(env_params))
        found.append(Entry(name, *spaces, f"{int(limit)}" if limit else "none"))
    of_package = lambda name: f"of the package {name}: pip install 'purerl[{name}]'"
    return [*found, *(Entry(f"{name}/...", of_package(name), "", "") for name in adapters.PACKAGES)]


def _space(space: Any) -> str:
    import numpy as np

    if hasattr(space, "nvec"):
        return f"MultiDiscrete{space.nvec.tolist()}"
    if hasattr(space, "n"):
        bits = tuple(getattr(space, "shape", None) or ())
        return f"MultiBinary{list(bits)}" if bits else f"Discrete({space.n})"
    if hasattr(space, "low"):
        low, high = np.min(space.low), np.max(space.high)
        bounds = "" if max(abs(low), abs(high)) > 1e30 else f" in [{low:.4g}, {high:.4g}]"
        return f"Box{list(space.shape)}{bounds}"
    inside = getattr(space, "spaces", ())
    if hasattr(inside, "keys"):
        return "\n".join(f"{name}: {_space(inside[name])}" for name in inside)
    return f"({', '.join(map(_space, inside))})" if inside else repr(space)
