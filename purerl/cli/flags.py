"""Arguments and options shared by several commands, and the setup of jax."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from purerl.runs.arguments import Count, Range


def _compilation_cache(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Turn the cache off before anything is compiled, since jax decides about it at its first program."""
    del option
    if not wanted and not ctx.resilient_parsing:
        quiet()
        from purerl.runs.devices import turn_off_compilation_cache

        turn_off_compilation_cache()


def execution_options(directory: str = "") -> list[click.Option]:
    """The options of execution, which are not part of a run's config; `directory`: the default for a new run."""
    where = click.Option(
        ["--dir", "directory"],
        type=click.Path(path_type=Path),
        help=f"the new run's directory  [default: {directory}, numbered if there is one]",
    )
    return [
        *([where] if directory else []),
        click.Option(["--devices"], type=Count(), help="number of devices to split the runs over  "
                     "[default: all; on a CPU, one per core]"),
        click.Option(["--save-every"], type=Range(0), default=30.0, show_default=True, metavar="SECONDS",
                     help="least time between checkpoints"),
        click.Option(["--compilation-cache/--no-compilation-cache"], default=True, show_default=True,
                     is_eager=True, expose_value=False, callback=_compilation_cache,
                     help="store compiled programs in the user's cache folder"),
    ]  # fmt: skip


def distribution_options(devices_per_seed: int | None = 1) -> list[click.Option]:
    """The options of a run in several processes, and of an agent on several devices."""
    kept = {"default": devices_per_seed, "show_default": "as before" if devices_per_seed is None else True}
    return [
        click.Option(["--distributed"], is_flag=False, flag_value="", metavar="[HOST:PORT,PROCESS/PROCESSES]",
                     help="train in several processes, each started with this command: the address of process 0, the "
                     "number of this process, from 0, and how many there are; nothing for a job of SLURM, Open MPI or "
                     "Kubernetes that jax detects"),
        click.Option(["--peer-timeout"], type=Range(1), default=60.0, show_default=True, metavar="SECONDS",
                     help="how long processes wait for each other at the start, and then for a sign of life"),
        click.Option(["--devices-per-seed"], type=Count(), **kept,
                     help="devices that the environments of each seed are split over"),
    ]  # fmt: skip


def join(distributed: str | None, peer_timeout: float) -> None:
    """Make this process one of several, if it is to be one; after `prepare`, and before anything is computed.

    Raises:
      ValueError: see `processes.distributed`.
    """
    if distributed is not None:
        import jax

        from purerl.training import processes

        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which stops a run
        processes.distributed(distributed or None, peer_timeout)


def without_distribution(given: dict[str, Any], command: str) -> dict[str, Any]:
    """The options without those of `join`, which all processes must have alike.

    Raises:
      ValueError: if they have not.
    """
    from purerl.training import processes

    given = {name: value for name, value in given.items() if name not in ("distributed", "peer_timeout")}
    processes.check_same("commands", {"command": command, **given}, lambda name: f"--{name.replace('_', '-')}")
    return given


def executed(directory: str = "") -> Callable:
    """A decorator that adds `execution_options` to a command."""

    def add(command: click.Command) -> click.Command:
        command.params += execution_options(directory)
        return command

    return add


def quiet() -> None:
    """Keep XLA's messages about programs from its cache from standing between the lines of a table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def prepare(one_device: bool = False, quick: bool = False) -> None:
    """Set up jax for a command that uses it; see `set_up_jax`."""
    quiet()
    from purerl.runs.devices import set_up_jax

    set_up_jax(one_device, quick)


def prepare_for(run: Path) -> None:
    """Set up jax as the command that made a run did, so that the bits are the same."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the command says what is wrong with the run
        config = None
    config = config if isinstance(config, dict) else {}
    text = config.get("kind") == "pretraining" or bool(config.get("text"))
    prepare(one_device=text, quick=bool(config.get("inner")))


RUN = click.argument("run", type=click.Path(path_type=Path))
CODE = click.option(
    "--code",
    metavar="run|PATH",
    help="execute the copies of your files inside RUN, or the file or folder there  [default: the original files]",
)
CHECKPOINT = click.option(
    "--checkpoint",
    metavar="best|ITERATION",
    help="`best` of --evaluate-every, or one that is in RUN/checkpoints or its folder `kept`  [default: the newest]",
)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
