"""Text: tokens, data, models, generation, environments, rewards, objectives, metrics and evaluation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purerl.text import (
        assembly,
        data,
        environment,
        evaluation,
        generation,
        huggingface,
        likelihood,
        metrics,
        models,
        objectives,
        rewards,
        strings,
        tokens,
    )

__all__ = [
    "assembly",
    "data",
    "environment",
    "evaluation",
    "generation",
    "huggingface",
    "likelihood",
    "metrics",
    "models",
    "objectives",
    "rewards",
    "strings",
    "tokens",
]


def __getattr__(name: str) -> Any:  # modules are loaded when they are first used
    if name in __all__:
        return importlib.import_module(f"purerl.text.{name}")
    raise AttributeError(f"module 'purerl.text' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
