"""purerl export: write a trained policy as a folder that needs no part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import CHECKPOINT, CODE, RUN, prepare
from purerl.runs.arguments import Count, Seed


@click.command()
@RUN
@click.option("--to", type=click.Choice(["stablehlo", "onnx", "both"]), default="stablehlo", show_default=True,
              help="format of the program; onnx is an extra, for an environment of its own")  # fmt: skip
@click.option("--seed", default="best", show_default=True, metavar="best|N|all",
              help="which run of RUN: that of the best return in training, the one of a number, or all")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="the new folder  [default: RUN/policy, numbered if there is one]")  # fmt: skip
@click.option("--sampled/--greedy", default=False, help="sample actions, with the noise as an input, or take the most "
              "likely  [default: greedy]")  # fmt: skip
@click.option("--q-values/--no-q-values", default=False, show_default=True,
              help="also give Q-values, of agents that choose by them")  # fmt: skip
@click.option("--episodes", type=Count(), default=100, show_default=True, help="of the return that is noted")
@click.option("--max-steps", type=Count(), help="truncate episodes at this step  [default: the environment's limit]")
@click.option("--episode-seed", type=Seed(), default=0, show_default=True, help="seed of the episodes")
@CODE
@CHECKPOINT
@click.option("--page/--no-page", default=False, help="also write page.html, where the ONNX model plays classic "
              "control in a browser  [default: no page]")  # fmt: skip
@click.option("--runtime", type=click.Path(path_type=Path), metavar="DIR", help="of the npm package onnxruntime-web: "
              "copy its files beside the page, which then needs no network")  # fmt: skip
def export(run: Path, sampled: bool, q_values: bool, page: bool, **given: Any) -> None:
    """Export a run's policy as StableHLO or ONNX, after its actions were compared with the agent's."""
    with one_line():
        prepare(one_device=True)
        from purerl.export import programs
        from purerl.runs import export

        if sampled and q_values:
            raise ValueError("--sampled and --q-values exclude each other: Q-values are given beside the greedy action")
        choose = programs.sampled if sampled else programs.greedy_and_values if q_values else programs.greedy
        export.export(run, choose=choose, with_page=page, **given)
