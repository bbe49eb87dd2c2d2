"""Adapters for environments of other packages; each package is an extra, imported on first use.

Each module has a `make(name, ...)`. In all adapters, `step_env` returns the true successor and whether the episode
terminated, `is_truncated` returns whether a time limit truncated it, and the learner resets environments, each with
its own key. For an expensive reset, `purerl.learner(..., reset_pool=size)` computes a few at each block's start; its
docstring states the bias.
"""

from __future__ import annotations

import importlib
from typing import Any

PACKAGES = ("brax", "jumanji", "xminigrid", "craftax", "pgx")


def make(env_id: str, **kwargs: Any) -> Any:
    """The environment of an id such as "brax/ant".

    Raises:
      ValueError: for an unknown package or name, or a package that is not installed, naming its extra.
    """
    package, _, name = env_id.partition("/")
    if package not in PACKAGES:
        raise ValueError(f"there is no package {package!r} of environments; allowed are {', '.join(PACKAGES)}")
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{env_id} needs the package {package}: pip install 'purerl[{package}]' ({error})") from error
    return importlib.import_module(f"purerl.envs.adapters.{package}").make(name, **kwargs)
