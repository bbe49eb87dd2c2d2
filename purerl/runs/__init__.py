"""Runs on disk: configurations, directories, checkpoints, progress, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purerl.runs.loading import Loaded


def load(directory: str | Path, code: str | Path | None = None) -> Loaded:
    """The agent, hyperparameters and state of a run's newest checkpoint, to continue, evaluate or inspect.

    The directory is only read: nothing in it is changed, and no code from it is executed unless `code` is "run".

    Args:
      directory: the directory of a run, such as "runs/ppo-CartPole-v1".
      code: the user's files to execute. None: the original ones, which must be as they were; "run": the copies inside
        the directory; otherwise the file there, or the folder that holds them.
    Raises:
      ValueError: if it holds no run, a run without a checkpoint, or one of another version; if a user's file has
        changed or is gone.
    """
    from purerl.runs.loading import load

    return load(directory, code, option="code=")
