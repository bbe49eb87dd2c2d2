"""Loggers of metrics besides metrics.csv: one function for each service, each an extra of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from purerl.runs import files
from purerl.training import is_first

Log = Callable[[int, dict[str, dict[str, float]]], None]  # (steps of each run, {run: {metric: value}})
STATE = "loggers.json"  # the names of the run at the services, so that a resumed run continues there


def need(service: str, module: str) -> None:
    """Check that the package of a service is installed.

    Raises:
      ValueError: if it is not; the message names the extra.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"--{service} needs {module}, which is not installed: pip install 'purerl[{service}]'")


def flat(values: dict[str, dict[str, float]]) -> dict[str, float]:
    """One dict of `run/metric`, without NaN.

    >>> flat({"seed 0": {"loss": 1.0, "episode_return": float("nan")}})
    {'seed 0/loss': 1.0}
    """
    return {f"{run}/{name}": x for run, row in values.items() for name, x in row.items() if not math.isnan(x)}


@contextlib.contextmanager
def tensorboard(directory: Path, config: dict[str, Any], first_step: int) -> Iterator[Log]:
    """One writer for each run under `tensorboard/`, so that runs share their plots."""
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    writers: dict[str, Any] = {}

    def log(steps: int, values: dict[str, dict[str, float]]) -> None:
        for run, row in values.items():
            if run not in writers:
                folder = str(directory / "tensorboard" / run)
                # files are named by the second: one resumed in the same second must not replace the other
                suffix = f".{first_step}"
                writers[run] = SummaryWriter(folder, purge_step=first_step or None, filename_suffix=suffix)
            for name, x in row.items():
                if not math.isnan(x):
                    writers[run].add_scalar(name, x, steps)

    try:
        yield log
    finally:
        for writer in writers.values():
            writer.close()


@contextlib.contextmanager
def wandb(directory: Path, config: dict[str, Any], first_step: int) -> Iterator[Log]:
    """One run of Weights & Biases for the directory; its own settings say whether offline."""
    import wandb as service  # pyright: ignore[reportMissingImports]

    known = _known(directory)
    run = service.init(
        project=config["wandb"], name=directory.name, config=config, dir=str(directory), id=known.get("wandb"),
        resume="allow",
    )  # fmt: skip
    _remember(directory, wandb=run.id)
    try:
        yield lambda steps, values: run.log(flat(values), step=steps)
    finally:
        run.finish()


@contextlib.contextmanager
def mlflow(directory: Path, config: dict[str, Any], first_step: int) -> Iterator[Log]:
    """One run of MLflow for the directory; in `mlflow.db` there, unless MLFLOW_TRACKING_URI is set."""
    import mlflow as service  # pyright: ignore[reportMissingImports]

    service.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory.resolve()}/mlflow.db")
    service.set_experiment(config["mlflow"])
    known = _known(directory)
    with service.start_run(run_id=known.get("mlflow"), run_name=directory.name) as run:
        _remember(directory, mlflow=run.info.run_id)
        if "mlflow" not in known:
            service.log_params({name: str(value)[:500] for name, value in config.items()})

        def log(steps: int, values: dict[str, dict[str, float]]) -> None:
            allowed = {re.sub(r"[^\w\-./ ]", "_", name): x for name, x in flat(values).items()}
            service.log_metrics(allowed, step=steps)

        yield log


def _known(directory: Path) -> dict[str, Any]:
    return files.read_json(directory / STATE) if (directory / STATE).exists() else {}


def _remember(directory: Path, **names: str) -> None:
    files.write_json(directory / STATE, {**_known(directory), **names})


SERVICES = {"tensorboard": (tensorboard, "tensorboardX"), "wandb": (wandb, "wandb"), "mlflow": (mlflow, "mlflow")}


def check(config: dict[str, Any]) -> None:
    """Check the packages of every service that a config names; see `need`."""
    for service, (_, module) in SERVICES.items():
        if config[service]:
            need(service, module)


@contextlib.contextmanager
def opened(directory: Path, config: dict[str, Any], first_step: int) -> Iterator[Log]:
    """One function that logs to every service that a config names; of several processes the first one logs."""
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(function(directory, config, first_step))
            for service, (function, _) in SERVICES.items()
            if config[service] and is_first()
        ]

        def log(steps: int, values: dict[str, dict[str, float]]) -> None:
            for each in logs:
                each(steps, values)

        yield log
