"""purerl resume: continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from purerl.cli.errors import one_line
from purerl.cli.flags import CODE, RUN, distribution_options, executed, join, prepare_for, without_distribution
from purerl.runs.arguments import Count


@executed()
@click.command()
@RUN
@click.option("--steps", type=Count(total=True), help="total environment steps of each run  [default: as planned]")
@click.option("--anneal-steps", type=float, help="new horizon of the learning rate  [default: unchanged]")
@click.option("--num-envs", type=Count(), help="another number of environments; an iteration keeps its number of steps")
@CODE
def resume(run: Path, **given: Any) -> None:
    """Continue a run that was stopped, or train it longer."""
    with one_line():
        prepare_for(run)
        join(given["distributed"], given["peer_timeout"])
        given = without_distribution(given, f"resume {run}")
        from purerl.runs import comparison, search, sweeps, tuning
        from purerl.training import processes

        if search.is_search(run):
            if given.keys() & {name for name in ("steps", "anneal_steps", "num_envs") if given[name] is not None}:
                raise ValueError(
                    f"{run} is a search, whose steps are fixed; resume one of its runs, such as {run}/final"
                )
            if processes.count() > 1:
                raise ValueError(f"--distributed is for runs of `purerl train`; {run} is a search")
            tuning.resume(run, given["devices"], given["save_every"], given["code"])
            return
        sweeps.resume(run, **given)
        comparison.finish(run, given["devices"], given["code"])


resume.params += distribution_options(None)
