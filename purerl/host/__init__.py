"""Everything that touches disk, screen or clock: the command line, run directories, progress, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purerl.host.loading import Loaded


def load(directory: str | Path) -> Loaded:
    """The agent, hyperparameters and state of a run's newest checkpoint, to continue, evaluate or inspect.

    Reads only: nothing in the directory is changed, and no code from it is executed.

    Args:
      directory: what `purerl train` wrote, such as "runs/ppo-CartPole-v1".
    Raises:
      ValueError: if it holds no run, none with a checkpoint, or one of another version.
    """
    from purerl.host.loading import load

    return load(directory)
