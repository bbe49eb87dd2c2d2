"""purerl evaluate: evaluate trained agents on episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import CHECKPOINT, CODE, NEW_FILE, RUN, prepare_for
from purerl.runs.arguments import Count, Seed


@click.command()
@RUN
@click.option("--episodes", type=Count(), default=100, show_default=True, help="of each run, greedy and stochastic")
@click.option("--seed", type=Seed(), default=0, show_default=True, help="seed of the episodes")
@click.option("--max-steps", type=Count(), help="truncate episodes at this step  [default: the environment's limit]")
@CODE
@CHECKPOINT
@click.option("--csv", type=NEW_FILE, help="write a row for each run, greedy and stochastic, to this .csv")
@click.option("--json", type=NEW_FILE, help="the same as .json")
def evaluate(run: Path, **given: Any) -> None:
    """Evaluate a run on episodes, greedy and stochastic."""
    with one_line():
        prepare_for(run)
        from purerl.runs import evaluation

        evaluation.evaluate(run, **given)
