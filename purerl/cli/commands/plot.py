"""purerl plot: draw the learning curves of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import NEW_FILE, prepare


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metric", default="episode_return", show_default=True, help="a column of metrics.csv")
@click.option("--out", type=NEW_FILE, help=".png, .pdf or .svg  [default: plot.png, numbered if there is one]")
def plot(runs: tuple[Path, ...], **given: Any) -> None:
    """Draw the learning curves of runs, with intervals, one panel for each environment."""
    with one_line():
        prepare()
        from purerl.runs import plotting

        plotting.plot(runs, **given)
