"""Environments by name. gymnax is imported when one is made: its own import takes seconds."""

from __future__ import annotations

import importlib
from typing import Any

_OWN = {
    "MaskedGrid": "purerl.envs.masked_grid",
    "MultiBinary": "purerl.envs.spaces",
    "MultiDiscrete": "purerl.envs.spaces",
    "Parameterised": "purerl.envs.spaces",
    "Platform": "purerl.envs.platform",
    "Table": "purerl.envs.table",
    "TMaze": "purerl.envs.tmaze",
}


def make(env_id: str, **kwargs: Any) -> tuple[Any, Any]:
    """An environment and its default parameters: `(env, env_params)`.

    Rewards are float32 and observations float32 (a Discrete observation becomes one-hot), whatever gymnax gives.

    Args:
      env_id: any id that gymnax has registered, such as "CartPole-v1" (`gymnax.register` adds to them), or one of
        "TMaze-v0", "Platform-v0" and "MaskedGrid-v0", or one of another package: "brax/ant", "jumanji/Snake-v1",
        "xminigrid/MiniGrid-Empty-5x5", "craftax/Craftax-Symbolic-v1", "pgx/connect_four". Those are extras.
      kwargs: for the environment's constructor.
    Raises:
      ValueError: for an unknown id, naming near ones, or for data that cannot be downloaded.
    """
    from purerl.envs.adapters import make as make_adapted

    return make_adapted(env_id, **kwargs)


def __getattr__(name: str) -> Any:
    if name in ("Cast", "Observe", "StickyActions", "TimeLimit", "Wrapper", "from_five_values"):
        from purerl.envs import adapters

        return getattr(adapters, name)
    if name in _OWN:
        return getattr(importlib.import_module(_OWN[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
