"""What an agent may change: action spaces, and the effect of an action on the settings of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from purerl.arguments import check_range
from purerl.core import Array
from purerl.envs.spaces import Parameterised
from purerl.envs.training_control.optimizers import OPTIMIZERS, Settings


class Actions(NamedTuple):
    """An action space, and its effect: `apply(settings, action) -> settings`.

    controls: the settings that change; only these are observed.
    """

    space: spaces.Space
    apply: Callable[[Settings, Any], Settings]
    controls: tuple[str, ...]


class Coordinate(NamedTuple):
    """A setting on a scale on which equal differences have about equal effects."""

    of: Callable[[Array], Array]  # setting -> coordinate
    back: Callable[[Array], Array]
    low: float  # bounds of the setting
    high: float

    def clip(self, x: Array) -> Array:
        """A coordinate within those of the bounds."""
        return jnp.clip(x, self.of(jnp.asarray(self.low)), self.of(jnp.asarray(self.high)))


_MEMORY = (lambda x: -jnp.log1p(-x), lambda z: -jnp.expm1(-z))  # log of the number of gradients that count, 1 / (1 - μ)
_SAME = (lambda x: x, lambda z: z)
COORDINATES = {
    "learning_rate": Coordinate(jnp.log, jnp.exp, 1e-6, 10.0),
    "momentum": Coordinate(*_MEMORY, 0.0, 0.999),
    "weight_decay": Coordinate(jnp.log, jnp.exp, 1e-6, 1.0),
    "dropout": Coordinate(*_SAME, 0.0, 0.9),
    "label_smoothing": Coordinate(*_SAME, 0.0, 0.5),
}


def _check_names(function: str, names: Any) -> None:
    wrong = [name for name in names if name not in COORDINATES]
    if wrong or not names:
        raise ValueError(f"{function}: settings are {list(names)}; they must be some of {', '.join(COORDINATES)}")


def scale_rate(factors: Sequence[float] = (0.5, 1.0, 2.0)) -> Actions:
    """Discrete: multiply the learning rate by one of the factors, within the bounds of `COORDINATES`.

    Raises:
      ValueError: unless all factors are positive.

    >>> scale_rate().apply(Settings(learning_rate=0.1), 2).learning_rate.item()
    0.20000000298023224
    """
    if not len(factors) or not (np.asarray(factors) > 0).all() or not np.isfinite(factors).all():
        raise ValueError(f"scale_rate: factors is {factors!r}; it must be positive numbers")
    rate = COORDINATES["learning_rate"]

    def apply(settings, action):
        scaled = settings.learning_rate * jnp.asarray(factors, jnp.result_type(float))[action]
        return settings._replace(learning_rate=jnp.clip(scaled, rate.low, rate.high))

    return Actions(spaces.Discrete(len(factors)), apply, ("learning_rate",))


def change(largest: Mapping[str, float] | None = None) -> Actions:
    """Continuous: change several settings at once, each on its own scale, float32 `[n]` in [-1, 1].

        z ← z + largest · a

    z is the logarithm of a learning rate or a weight decay, -log(1 - μ) of a momentum, and otherwise the setting
    itself; it is kept within the bounds of `COORDINATES`.
    Args:
      largest: the largest change of each setting's z in one step; None: {"learning_rate": log 2}.
    Raises:
      ValueError: for an unknown setting, or a change that is not positive.

    >>> actions = change({"learning_rate": 1.0, "dropout": 0.1})
    >>> changed = actions.apply(Settings(learning_rate=1.0), jnp.array([-1, 0.5]))
    >>> round(changed.learning_rate.item(), 4), round(changed.dropout.item(), 4)
    (0.3679, 0.05)
    """
    largest = {"learning_rate": math.log(2)} if largest is None else dict(largest)
    _check_names("change", largest)
    for name, x in largest.items():
        check_range("change", np.nextafter(0, 1), np.finfo(float).max, **{name: x})

    def apply(settings, action):
        new = {}
        for i, (name, step) in enumerate(largest.items()):
            at = COORDINATES[name]
            new[name] = at.back(at.clip(at.clip(at.of(jnp.asarray(getattr(settings, name)))) + step * action[i]))
        return settings._replace(**new)

    return Actions(spaces.Box(-1.0, 1.0, (len(largest),), jnp.float32), apply, tuple(largest))


def choose(*names: str) -> Actions:
    """Continuous: set several settings at once, float32 `[n]`: -1 is the lowest and 1 the highest of `COORDINATES`.

    The scales between are those of `change`.
    Raises:
      ValueError: for an unknown setting.

    >>> round(choose("learning_rate").apply(Settings(), jnp.array([-1.0])).learning_rate.item(), 9)
    1e-06
    """
    _check_names("choose", names)

    def apply(settings, action):
        new = {}
        for i, name in enumerate(names):
            at = COORDINATES[name]
            low, high = at.of(jnp.asarray(at.low)), at.of(jnp.asarray(at.high))
            new[name] = at.back(low + (high - low) * (action[i] + 1) / 2)
        return settings._replace(**new)

    return Actions(spaces.Box(-1.0, 1.0, (len(names),), jnp.float32), apply, names)


RATES = {"sgd": (1e-3, 10.0), "momentum": (1e-4, 1.0), "rmsprop": (1e-5, 0.1), "adam": (1e-5, 0.1)}


def optimizer_and_rate(rates: Mapping[str, tuple[float, float]] | None = None) -> Actions:
    """Hybrid: which optimiser, and its log₁₀ learning rate between bounds of its own; see `envs.Parameterised`.

    Another optimiser than that of the step before starts from moments of 0.
    Args:
      rates: the bounds for each of the optimisers to choose from, of `OPTIMIZERS`; None: `RATES`.
    Raises:
      ValueError: for an unknown optimiser, or bounds unless 0 < low < high.
    """
    rates = dict(RATES if rates is None else rates)
    wrong = [name for name in rates if name not in OPTIMIZERS]
    if wrong or not rates:
        raise ValueError(f"optimizer_and_rate: optimisers are {list(rates)}; they must be some of {OPTIMIZERS}")
    for name, (low, high) in rates.items():
        if not 0 < low < high < math.inf:
            raise ValueError(f"optimizer_and_rate: the rates of {name} are {(low, high)}; 0 < low < high must hold")
    kinds = [OPTIMIZERS.index(name) for name in rates]
    boxes = [spaces.Box(math.log10(low), math.log10(high), (1,), jnp.float32) for low, high in rates.values()]

    def apply(settings, action):
        choice = action["choice"]
        rate = 10.0 ** jnp.stack([jnp.reshape(x, ()) for x in action["parameters"]])[choice]
        return settings._replace(learning_rate=rate, optimizer=jnp.asarray(kinds, jnp.int32)[choice])

    return Actions(Parameterised(boxes), apply, ("learning_rate", "optimizer"))


def with_stop(actions: Actions) -> Actions:
    """The actions, and whether to stop training: a Dict of `settings` and `stop`, 0 or 1. A stop makes no update.

    >>> apply = with_stop(scale_rate()).apply
    >>> apply(Settings(), {"settings": 1, "stop": 1}).stop.item()
    True
    """

    def apply(settings, action):
        return actions.apply(settings, action["settings"])._replace(stop=jnp.asarray(action["stop"]) == 1)

    space = spaces.Dict({"settings": actions.space, "stop": spaces.Discrete(2)})
    return Actions(space, apply, (*actions.controls, "stop"))
