"""Environments by name. gymnax is imported when one is made: its own import takes seconds."""

from __future__ import annotations

from typing import Any


def make(env_id: str, **kwargs: Any) -> tuple[Any, Any]:
    """An environment and its default parameters: `(env, env_params)`.

    Rewards are float32 and observations float32 (a Discrete observation becomes one-hot), whatever gymnax gives.

    Args:
      env_id: any id that gymnax has registered, such as "CartPole-v1" (`gymnax.register` adds to them), or "TMaze-v0".
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
    if name == "Table":
        from purerl.envs.table import Table

        return Table
    if name == "TMaze":
        from purerl.envs.tmaze import TMaze

        return TMaze
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
