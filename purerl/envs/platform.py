"""A platform game with parameterised actions: three kinds of jump, each with a distance, across observed gaps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array
from purerl.envs.spaces import Parameterised

JUMPS = {"hop": (0.0, 0.4, 0.0), "leap": (0.3, 0.8, 0.2), "fly": (0.6, 1.0, 0.5)}  # shortest, longest, cost
_LOW, _HIGH, _COST = (jnp.array(x) for x in zip(*JUMPS.values(), strict=True))


@struct.dataclass
class PlatformParams:
    """num_gaps: the number of gaps before the goal.  reach: the largest landing error from a platform's middle."""

    num_gaps: int = 10
    reach: float = 0.1
    max_steps_in_episode: int = 100


class PlatformState(NamedTuple):
    """The width of the gap ahead, and the gaps crossed."""

    gap: Array  # float32 []
    crossed: Array  # int32 []


class Platform(Environment):
    """Cross gaps of random width, by a hop (0 to 0.4), a leap (0.3 to 0.8, cost 0.2) or a flight (0.6 to 1, cost 0.5).

    Actions are parameterised: the kind of jump, and a distance for each kind. A jump whose distance differs from the
    gap's width by e has a reward of 1 - cost - (e / reach)²; if |e| > reach, the reward is 0 and the episode ends.
    Gaps are uniform in [0, 1], independent of the actions, and observed with the share of gaps left, so the optimal
    jump maximises the immediate reward (`best_reward`). The optimal return is num_gaps times its mean, 0.8369 per gap.

    Reference: after the domain of Masson, Ranchod & Konidaris, 2016, arXiv:1509.01644, section 5.2.
    """

    name: str = "Platform-v0"
    num_actions: int = len(JUMPS)

    @property
    def default_params(self) -> PlatformParams:
        return PlatformParams()

    def reset_env(self, key, params):
        state = PlatformState(jax.random.uniform(key), jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        kind = action["choice"]
        distance = jnp.stack([jnp.reshape(x, ()) for x in action["parameters"]])[kind]
        error = (distance - state.gap) / params.reach
        landed = jnp.abs(error) <= 1
        reward = jnp.where(landed, 1 - _COST[kind] - jnp.square(error), 0.0)
        state = PlatformState(jax.random.uniform(key), state.crossed + landed)
        ended = ~landed | (state.crossed >= params.num_gaps)
        return self._see(state, params), state, reward, ended, {}

    def _see(self, state, params):
        return jnp.stack([state.gap, 1 - state.crossed / params.num_gaps])

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return Parameterised([spaces.Box(low, high, (1,)) for low, high, _ in JUMPS.values()])

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (2,), jnp.float32)


def best_reward(gap: Array, reach: float = 0.1) -> Array:
    """The maximum reward of a jump across a gap, `[...] -> [...]`.

    >>> [round(x, 3) for x in best_reward(jnp.array([0.2, 0.42, 0.6, 0.9])).tolist()]
    [1.0, 0.96, 0.8, 0.5]
    """
    error = (jnp.clip(gap[..., None], _LOW, _HIGH) - gap[..., None]) / reach
    return jnp.where(jnp.abs(error) <= 1, 1 - _COST - jnp.square(error), 0.0).max(-1)
