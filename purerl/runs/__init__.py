"""Runs on disk: configurations, directories, checkpoints, progress, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purerl.runs.loading import Loaded


def load(directory: str | Path) -> Loaded:
    """The agent, hyperparameters and state of a run's newest checkpoint, to continue, evaluate or inspect.

    The directory is only read: nothing in it is changed, and no code from it is executed.

    Args:
      directory: the directory of a run, such as "runs/ppo-CartPole-v1".
    Raises:
      ValueError: if it holds no run, a run without a checkpoint, or one of another version.
    """
    from purerl.runs.loading import load

    return load(directory)
