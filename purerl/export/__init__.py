"""Export a trained policy as a folder that needs no part of this package, after a comparison of its actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purerl.export.loading import Policy
    from purerl.export.saving import Format

__all__ = ["load", "save"]


def save(
    directory: str | Path,
    env: Any,
    env_params: Any,
    agent: Any,
    state: Any,
    key: Any,
    choose: Callable[..., Any] | None = None,
    to: Sequence[Format] | None = None,
    returns: Any = None,
    about: Mapping[str, Any] = {},
    steps: int = 100,
) -> dict[str, Any]:
    """Export an agent's policy, after its actions were compared with the agent's; return the contents of policy.json.

    The program contains the whole policy: frozen moments of observations, masks, squashing, bounds and dtypes. It is
    run on the observations of real episodes, in batches of 1, 2 and 7, and the folder is only written if continuous
    outputs differ by at most 1e-5 and discrete ones only where their best two are no further apart (both divided by
    the size of the number, where that is above 1).

    Args:
      directory: the new folder.
      state: the agent's state, such as `state.agent` of a learner's.
      choose: `export.programs.greedy`, which is the default, `sampled`, or `greedy_and_values`.
      to: formats, `export.saving.STABLEHLO`, which is the default, and `ONNX`.
      returns: of episodes of this policy, `[E]`, as `purerl.evaluate` has them; their mean and interval are noted.
      about: further entries of policy.json, such as {"agent": "ppo"}.
      steps: steps of episodes in each of ten environments.
    Raises:
      ValueError: if the folder is not empty, a package is missing, steps are no positive count, returns are not finite,
        the program cannot be written in a format, or its outputs differ from the agent's.
    """
    from purerl.export import programs, saving

    chosen, formats = choose or programs.greedy, to or (saving.STABLEHLO,)
    return saving.save(Path(directory), env, env_params, agent, state, key, chosen, formats, returns, about, steps)


def load(directory: str | Path, file: str | None = None) -> Policy:
    """An exported policy as a function of NumPy arrays, see `export.loading.Policy`.

    The program is only run if its SHA-256 is the one in policy.json; nothing else in the folder is executed.

    Args:
      file: "policy.stablehlo", which needs jax, or "policy.onnx", which needs onnxruntime; None: the first of them
        that is there and can be run.
    Raises:
      ValueError: if the folder holds no policy, one of another format, an expired or a changed program, or if a package
        is missing.
    """
    from purerl.export.loading import load

    return load(directory, file)
