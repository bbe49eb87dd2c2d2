"""purerl list: agents and environments."""

from __future__ import annotations

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import quiet


@click.command(name="list")
def list_all() -> None:
    """List the agents, and the environments with their spaces."""
    with one_line():
        quiet()
        from purerl.cli import catalog

        catalog.show()
