"""The catalogue: the agents, and the environments with their spaces."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from purerl import agents
from purerl.runs import catalogue


def show() -> None:
    """Print every agent, and every environment with its spaces."""
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
    for entry in catalogue.environments():
        environments.add_row(*entry)
    for part in (table, environments):
        Console(markup=False, emoji=False).print(part)
