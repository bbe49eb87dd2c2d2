"""purerl render: draw an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import CHECKPOINT, CODE, NEW_FILE, RUN, prepare
from purerl.runs.arguments import Count, Seed


@click.command()
@RUN
@click.option("--number", type=click.IntRange(0), default=0, show_default=True, help="number of the run in RUN")
@click.option("--stochastic/--greedy", default=False, help="sample actions, or take the most likely  [default: greedy]")
@click.option("--seed", type=Seed(), default=0, show_default=True, help="seed of the episode")
@click.option("--max-steps", type=Count(), default=1000, show_default=True, help="truncate the episode there")
@click.option("--out", type=NEW_FILE, help="a .gif  [default: RUN/episode.gif, numbered if there is one]")
@CODE
@CHECKPOINT
def render(run: Path, **given: Any) -> None:
    """Draw an episode as a GIF."""
    with one_line():
        prepare()
        from purerl.runs import render

        render.render(run, **given)
