"""An environment of one's own: throw or shoot a ball into a basket whose distance is seen.

Train in it, sweep one of its parameters, or check it:

    purerl train ppo FILE.py:my_env
    purerl train ppo FILE.py:my_env --env-param width=0.05,0.2
    python FILE.py
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

import purerl


@struct.dataclass
class Params:
    """What may differ between runs, or between environments of a run."""

    width: float = 0.1  # of the basket
    max_steps_in_episode: int = 10  # an episode is truncated there, which is no end of the game: V goes on


class State(NamedTuple):
    """Arrays, whose shapes and dtypes never change."""

    distance: jax.Array
    time: jax.Array


class Basket(Environment):
    """A throw reaches half-way and is free; a shot reaches everywhere and costs 0.3. Every ball is a step."""

    @property
    def default_params(self):
        return Params()

    def reset_env(self, key, params) -> Any:
        """The first observation and state of an episode."""
        state = State(jax.random.uniform(key), jnp.zeros((), jnp.int32))
        return self.see(state, params), state

    def step_env(self, key, state, action: Any, params):
        """Observation, state, reward, whether the episode terminated, and a dict of anything else to look at."""
        shot = action["shot"] == 1
        ball = jnp.where(shot, 1.0, 0.5) * action["strength"]
        inside = jnp.abs(ball - state.distance) < params.width
        reward = jnp.where(inside, 1.0, 0.0) - jnp.where(shot, 0.3, 0.0)
        state = State(jax.random.uniform(key), state.time + 1)
        return self.see(state, params), state, reward, jnp.zeros((), bool), {"inside": inside}

    def see(self, state, params):
        """Observations may be an array, or a dict or tuple of arrays."""
        return {"distance": state.distance, "left": 1 - state.time / params.max_steps_in_episode}

    def action_space(self, params=None):
        """A choice and a number: the action is a dict with both."""
        return spaces.Dict({"shot": spaces.Discrete(2), "strength": spaces.Box(0.0, 1.0, ())})

    def observation_space(self, params):
        """Shape, dtype and bounds of every part of an observation."""
        one = spaces.Box(0.0, 1.0, (), jnp.float32)
        return spaces.Dict({"distance": one, "left": one})


def my_env():
    """The command line takes a function without arguments that returns an environment, or (env, env_params)."""
    return Basket()


if __name__ == "__main__":
    purerl.testing.check_env(my_env(), Params(), jax.random.key(seed=0))
