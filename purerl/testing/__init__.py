"""Conformance checks of agents, environments and rewards, for use in tests."""

import importlib
from typing import TYPE_CHECKING, Any

from purerl.testing.checks import check_agent, check_env, check_reward

if TYPE_CHECKING:
    from purerl.testing import checks, probes

__all__ = ["check_agent", "check_env", "check_reward", "checks", "probes"]


def __getattr__(name: str) -> Any:  # probes load gymnax
    if name in __all__:
        return importlib.import_module(f"purerl.testing.{name}")
    raise AttributeError(f"module 'purerl.testing' has no attribute {name!r}")
