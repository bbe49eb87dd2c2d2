"""Grid worlds of xminigrid."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.envs.adapters.common import Adapted, known


def make(name: str, **kwargs: Any) -> Environment:
    """`xminigrid/MiniGrid-Empty-5x5` and the like; kwargs change its parameters."""
    package = importlib.import_module("xminigrid")

    known("xminigrid", name, package.registered_environments())
    env, env_params = package.make(name)
    env_params = env_params.replace(**kwargs)

    def seen(timestep):
        # numbers of kinds and colours, below 128: as uint8 they would be taken for brightness
        return jax.tree.map(lambda x: x.astype(jnp.int8) if x.dtype == jnp.uint8 else x, timestep.observation)

    def reset(key):
        timestep = env.reset(env_params, key)
        return seen(timestep), timestep

    def step(key, state, action):
        del key  # its state has one
        timestep = env.step(env_params, state, action)
        dead = timestep.discount == 0
        return seen(timestep), timestep, timestep.reward, timestep.last() & dead, timestep.last() & ~dead

    space = spaces.Discrete(int(env.num_actions(env_params)))
    return Adapted(f"xminigrid/{name}", reset, step, space, int(env_params.max_steps))
