"""The catalogue: the agents, and the environments with their spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table


def _space(space: Any) -> str:
    if hasattr(space, "nvec"):
        return f"MultiDiscrete{space.nvec.tolist()}"
    if hasattr(space, "n"):
        bits = tuple(getattr(space, "shape", None) or ())
        return f"MultiBinary{list(bits)}" if bits else f"Discrete({space.n})"
    if hasattr(space, "low"):
        low, high = np.min(space.low), np.max(space.high)
        bounds = "" if max(abs(low), abs(high)) > 1e30 else f" in [{low:g}, {high:g}]"
        return f"Box{list(space.shape)}{bounds}"
    inside = getattr(space, "spaces", ())
    if hasattr(inside, "keys"):
        return ", ".join(f"{name}: {_space(inside[name])}" for name in inside)
    return f"({', '.join(map(_space, inside))})" if inside else repr(space)


def show() -> None:
    """Print every agent, and every environment with its spaces."""
    import gymnax

    from purerl import agents
    from purerl.envs import adapters, make, registry
    from purerl.runs.progress import console

    table = Table(title="agents", title_justify="left")
    table.add_column("name")
    table.add_column("what it is")
    for name, line in agents.names().items():
        table.add_row(name, line)
    environments = Table(title="environments", title_justify="left")
    environments.add_column("name", no_wrap=True)
    for name in ("observations", "actions"):
        environments.add_column(name, overflow="fold")
    environments.add_column("limit", justify="right")
    for name in (*gymnax.registered_envs, *registry.OWN):
        if name in registry.DOWNLOADS:
            environments.add_row(name, "downloads its data when it is first made", "", "")
            continue
        env, env_params = make(name)
        limit = getattr(env_params, "max_steps_in_episode", None)
        spaces = _space(env.observation_space(env_params)), _space(env.action_space(env_params))
        environments.add_row(name, *spaces, f"{int(limit)}" if limit else "none")
    for name in adapters.PACKAGES:
        environments.add_row(f"{name}/...", f"of the package {name}: pip install 'purerl[{name}]'", "", "")
    for part in (table, environments):
        console().print(part)
