"""Follow sigmoids on grids, an artificial benchmark of dynamic algorithm configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts
from purerl.core import Array
from purerl.envs.spaces import MultiDiscrete


@struct.dataclass
class SigmoidParams:
    """slope: the largest |slope|.  max_steps_in_episode: T."""

    slope: float = 2.0
    max_steps_in_episode: int = 10


class SigmoidState(NamedTuple):
    """Slopes a and shifts b of the episode's sigmoids, float32 `[D]` each, and the steps taken, int32."""

    slope: Array
    shift: Array
    time: Array


class Sigmoid(Environment):
    """Choose a grid point near D sigmoids at once in each of the steps t = 1, …, T.

        reward = Π_d (1 - |sig(t; a_d, b_d) - action_d / (K_d - 1)|),   sig(t; a, b) = 1 / (1 + e^{-a (t - b)})

    An action is a level in 0 .. K_d - 1 for each dimension, int32 `[D]`. A reset draws slopes a from ±U(0, 2) and
    shifts b from N(T/2, (T/4)²). Actions change nothing but the reward, so the nearest levels are optimal at each step:
    `nearest_levels`, `best_return`. The episode terminates after T steps. Observations, float32 `[1 + 2D]`, are the
    fraction of the steps left, the slopes as shares of the largest and the shifts standardised.

    Reference: Biedenkapp et al., 2020, "Dynamic algorithm configuration: foundation of a new meta-algorithmic
    framework", section 5.1; the instances, and levels (5, 10) as the default, are those of DACBench.
    Args:
      levels: K_d, ints ≥ 2 `[D]`.
    Raises:
      ValueError: for levels that are none.
    """

    name: str = "Sigmoid-v0"

    def __init__(self, levels: Sequence[int] = (5, 10)):
        check_counts("Sigmoid", **{f"levels[{d}]": count for d, count in enumerate(levels)})
        if len(levels) < 1 or min(levels) < 2:
            raise ValueError(f"Sigmoid: levels is {levels!r}; it must be ints of at least 2, one for each dimension")
        self._levels = np.array(levels, np.int32)

    @property
    def num_actions(self) -> int:
        return int(self._levels.prod())

    @property
    def default_params(self) -> SigmoidParams:
        return SigmoidParams()

    def reset_env(self, key, params):
        slope_key, shift_key = jax.random.split(key)
        num_steps, shape = params.max_steps_in_episode, self._levels.shape
        slope = jax.random.uniform(slope_key, shape, jnp.float32, -params.slope, params.slope)
        shift = num_steps / 2 + num_steps / 4 * jax.random.normal(shift_key, shape, jnp.float32)
        state = SigmoidState(slope, shift, jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        state = state._replace(time=state.time + 1)
        reward = product_of_closeness(sigmoid(state.time, state.slope, state.shift), action, self._levels)
        return self._see(state, params), state, reward, state.time >= params.max_steps_in_episode, {}

    def _see(self, state, params):
        num_steps = params.max_steps_in_episode
        shift = (state.shift - num_steps / 2) / (num_steps / 4)
        left = 1 - state.time / num_steps
        return jnp.concatenate([left[None], state.slope / params.slope, shift]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return MultiDiscrete(self._levels)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1 + 2 * len(self._levels),), jnp.float32)


def sigmoid(time: Any, slope: Any, shift: Any) -> Array:
    """1 / (1 + e^{-a (t - b)}), elementwise.

    >>> sigmoid(3.0, 2.0, 3.0).item()
    0.5
    """
    return jax.nn.sigmoid(slope * (time - shift))


def product_of_closeness(value: Any, action: Any, levels: Any) -> Array:
    """Π_d (1 - |value_d - action_d / (K_d - 1)|), of values in [0, 1] and levels `[..., D]`; returns `[...]`.

    >>> product_of_closeness(jnp.array([0.5, 1.0]), jnp.array([0, 3]), jnp.array([5, 4])).item()
    0.5
    """
    return (1 - jnp.abs(value - action / (jnp.asarray(levels) - 1))).prod(-1)


def nearest_levels(value: Any, levels: Any) -> Array:
    """The level nearest to each value in [0, 1], int32 `[..., D]`: the optimal action.

    >>> nearest_levels(jnp.array([0.6, 0.9]), jnp.array([5, 10])).tolist()
    [2, 8]
    """
    return jnp.round(value * (jnp.asarray(levels) - 1)).astype(jnp.int32)


def best_return(slope: Any, shift: Any, levels: Any, num_steps: int = 10) -> Array:
    """The optimal return of an instance, of slopes and shifts `[..., D]`; returns `[...]`."""
    time = jnp.arange(1, num_steps + 1).reshape(-1, *[1] * jnp.ndim(slope))
    value = sigmoid(time, slope, shift)
    return product_of_closeness(value, nearest_levels(value, levels), levels).sum(0)
