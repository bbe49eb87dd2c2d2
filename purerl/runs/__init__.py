"""Runs on disk: configurations, directories, checkpoints, progress, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purerl.runs.loading import Loaded

__all__ = ["load", "use_compilation_cache"]


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


def use_compilation_cache(directory: str | Path | None = None) -> Path:
    """Store compiled programs on disk from here on, as the command line does, and read them back in later processes.

    Programs that take less than 0.2 s to compile are not stored.

    Args:
      directory: where; None: where jax is told to (JAX_COMPILATION_CACHE_DIR), otherwise in the user's cache folder,
        one folder for each kind of processor.
    Returns:
      The directory.
    """
    from purerl.runs.devices import use_compilation_cache

    return use_compilation_cache(directory)
