"""purerl repeat: train a run again and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import CODE, RUN, executed, prepare_for


@executed("RUN-repeat")
@click.command()
@RUN
@CODE
@click.pass_context
def repeat(ctx: click.Context, run: Path, **given: Any) -> None:
    """Train a run again and compare the hashes; exit code 1 if they differ."""
    with one_line():
        prepare_for(run)
        from purerl.runs import sweeps

        ctx.exit(0 if sweeps.repeat(run, given.pop("directory"), **given) else 1)
