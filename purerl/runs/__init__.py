"""Runs on disk: configurations, directories, checkpoints, progress, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purerl.runs.loading import Loaded

__all__ = ["load", "load_state", "save_state", "use_compilation_cache"]


def load(directory: str | Path, code: str | Path | None = None, checkpoint: str | int | None = None) -> Loaded:
    """The agent, hyperparameters and state of a run's checkpoint, to continue, evaluate or inspect.

    The directory is only read: nothing in it is changed, and no code from it is executed unless `code` is "run".

    Args:
      directory: the directory of a run, such as "runs/ppo-CartPole-v1".
      code: the user's files to execute. None: the original ones, which must be as they were; "run": the copies inside
        the directory; otherwise the file there, or the folder that holds them.
      checkpoint: None: the newest; "best": of each run the state with the best greedy return (`--evaluate-every`);
        otherwise the iteration of a checkpoint (`--keep-every`).
    Raises:
      ValueError: if it holds no run, a run without a checkpoint, or one of another version; if a user's file has
        changed or is gone.
    """
    from purerl.runs.loading import load

    return load(directory, code, checkpoint, option="code=")


def save_state(path: str | Path, state: Any) -> None:
    """Write a state, or any other pytree of arrays and keys, to a file in the format of safetensors.

    The file is complete or not there at all: it is written beside its place, and moved.

    Args:
      path: the file, such as "state.safetensors"; one that is there is replaced.
    Raises:
      OSError: if it cannot be written.
      ValueError: if the state was donated to a run that went on from it.
    """
    from purerl.arguments import check_present
    from purerl.runs import checkpoint

    check_present("save_state", state=state)
    checkpoint.save(Path(path), checkpoint.to_host(state))


def load_state(path: str | Path, like: Any) -> Any:
    """Read a state that `save_state` wrote; no code is executed.

    Args:
      like: a pytree with its structure, shapes and dtypes, such as another state, or
        `jax.eval_shape(learner.init, key)`.
    Raises:
      ValueError: if the file is missing, damaged or of another structure; the message names the part that differs.

    >>> import jax, tempfile
    >>> tree = {"key": jax.random.key(1), "x": jax.numpy.arange(3.0)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(f"{folder}/tree.safetensors", tree)
    ...     same = load_state(f"{folder}/tree.safetensors", tree)
    >>> bool((same["key"] == tree["key"]).all()), same["x"].tolist()
    (True, [0.0, 1.0, 2.0])
    """
    from purerl.runs import checkpoint

    return checkpoint.load(Path(path), like)[0]


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
