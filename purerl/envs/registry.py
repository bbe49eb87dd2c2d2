"""Environments by name: those of gymnax, of this package and of other packages."""

from __future__ import annotations

from typing import Any

import gymnax
from gymnax.environments.environment import Environment

from purerl.envs import adapters
from purerl.envs.adapters.common import near
from purerl.envs.fields import battery, inventory, spectrum, traffic_signal
from purerl.envs.fields.acquisition import Acquisition
from purerl.envs.fields.car_following import CarFollowing
from purerl.envs.fields.execution import Execution
from purerl.envs.fields.glimpses import Glimpses
from purerl.envs.fields.highway import Highway
from purerl.envs.fields.portfolio import Portfolio
from purerl.envs.masked_grid import MaskedGrid
from purerl.envs.platform import Platform
from purerl.envs.tmaze import TMaze
from purerl.envs.training_control.architecture import ArchitectureSearch
from purerl.envs.training_control.leading_ones import LeadingOnes
from purerl.envs.training_control.luby import Luby
from purerl.envs.training_control.noisy_quadratic import NoisyQuadratic
from purerl.envs.training_control.quadratic import Quadratic
from purerl.envs.training_control.sigmoid import Sigmoid
from purerl.envs.wrappers import Cast

_CLASSES = (TMaze, Platform, MaskedGrid, Quadratic, NoisyQuadratic, LeadingOnes, Luby, Sigmoid, ArchitectureSearch)
OWN = {env.name: env for env in _CLASSES}
OWN |= {
    "Newsvendor-v0": inventory.Newsvendor,
    "Inventory-v0": inventory.Inventory,
    "FiniteInventory-v0": inventory.finite_horizon,
    "SerialInventory-v0": inventory.SerialInventory,
    "TrafficSignal-v0": traffic_signal.TrafficSignal,
    "Intersection-v0": traffic_signal.intersection,
    "Spectrum-v0": spectrum.Spectrum,
    "Battery-v0": battery.Battery,
}


def make(env_id: str, **kwargs: Any) -> tuple[Environment, Any]:
    """See `purerl.envs.make`."""
    if "/" in env_id:
        env = adapters.make(env_id, **kwargs)
        return env, env.default_params
    known = [*gymnax.registered_envs, *OWN]
    if env_id not in known:
        raise ValueError(f"there is no environment {env_id!r}; {near(env_id, known)}")
    if env_id in OWN:
        env = OWN[env_id](**kwargs)
        return env, env.default_params
    try:
        env, env_params = gymnax.make(env_id, **kwargs)
    except OSError as error:  # urllib's errors are OSErrors
        raise ValueError(f"{env_id} downloads its data when it is first made, and that failed: {error}") from error
    return Cast(env), env_params


DOWNLOADS = ("MNISTBandit-bsuite",)  # their data, when they are first made

_TRADING_DRIVING_IMAGES = (Acquisition, CarFollowing, Execution, Glimpses, Highway, Portfolio)
OWN |= {env.name: env for env in _TRADING_DRIVING_IMAGES}
