"""Environments by name. gymnax is imported on first use, since its import takes seconds."""

from __future__ import annotations

import importlib
from typing import Any

_OWN = {
    "Acquisition": "purerl.envs.fields.acquisition",
    "ArchitectureSearch": "purerl.envs.training_control.architecture",
    "Battery": "purerl.envs.fields.battery",
    "CarFollowing": "purerl.envs.fields.car_following",
    "Execution": "purerl.envs.fields.execution",
    "Glimpses": "purerl.envs.fields.glimpses",
    "Highway": "purerl.envs.fields.highway",
    "Inventory": "purerl.envs.fields.inventory",
    "LeadingOnes": "purerl.envs.training_control.leading_ones",
    "Luby": "purerl.envs.training_control.luby",
    "MaskedGrid": "purerl.envs.masked_grid",
    "MultiBinary": "purerl.envs.spaces",
    "MultiDiscrete": "purerl.envs.spaces",
    "Newsvendor": "purerl.envs.fields.inventory",
    "NoisyQuadratic": "purerl.envs.training_control.noisy_quadratic",
    "Parameterised": "purerl.envs.spaces",
    "Platform": "purerl.envs.platform",
    "Portfolio": "purerl.envs.fields.portfolio",
    "Quadratic": "purerl.envs.training_control.quadratic",
    "SerialInventory": "purerl.envs.fields.inventory",
    "Sigmoid": "purerl.envs.training_control.sigmoid",
    "Spectrum": "purerl.envs.fields.spectrum",
    "TMaze": "purerl.envs.tmaze",
    "Table": "purerl.envs.table",
    "TrafficSignal": "purerl.envs.fields.traffic_signal",
    "TrainingControl": "purerl.envs.training_control.environment",
}


_WRAPPERS = ("Cast", "Observe", "StickyActions", "TimeLimit", "Wrapper", "from_five_values")
__all__ = sorted(["make", *_WRAPPERS, *_OWN])  # pyright: ignore[reportUnsupportedDunderAll]


def make(env_id: str, **kwargs: Any) -> tuple[Any, Any]:
    """Create an environment and its default parameters: `(env, env_params)`.

    Rewards and observations of gymnax environments are converted to float32, and Discrete observations to one-hot.
    Of trading, driving and imaging there are "Execution-v0", "Highway-v0" and "CarFollowing-v0", and with the extra
    `data` "Portfolio-v0", "Acquisition-v0" and "Glimpses-v0".

    Args:
      env_id: any id that gymnax has registered, such as "CartPole-v1" (`gymnax.register` adds to them), or one of
        "TMaze-v0", "Platform-v0" and "MaskedGrid-v0", or of the control of other optimisations "Quadratic-v0",
        "NoisyQuadratic-v0", "LeadingOnes-v0", "Luby-v0", "Sigmoid-v0" and "ArchitectureSearch-v0",
        or of the fields of `purerl.envs.fields`: "Newsvendor-v0", "Inventory-v0", "FiniteInventory-v0",
        "SerialInventory-v0", "TrafficSignal-v0", "Intersection-v0", "Spectrum-v0", "Battery-v0";
        or one of another package: "brax/ant", "jumanji/Snake-v1", "xminigrid/MiniGrid-Empty-5x5",
        "craftax/Craftax-Symbolic-v1", "pgx/connect_four". Those are extras.
      kwargs: arguments of the environment's constructor.
    Raises:
      ValueError: for an unknown id, naming similar ones, or for data that cannot be downloaded.
    """
    from purerl.envs.registry import make as make_registered

    return make_registered(env_id, **kwargs)


def __getattr__(name: str) -> Any:
    if name in _WRAPPERS:
        from purerl.envs import wrappers

        return getattr(wrappers, name)
    if name in _OWN:
        return getattr(importlib.import_module(_OWN[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
