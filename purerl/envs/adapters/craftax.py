"""Craftax."""

from __future__ import annotations

import importlib
from typing import Any

from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.envs.adapters.common import Adapted


def make(name: str, max_steps: int = 10_000, **kwargs: Any) -> Environment:
    """`craftax/Craftax-Symbolic-v1` and the like; max_steps is its own time limit."""
    make_env = importlib.import_module("craftax.craftax_env").make_craftax_env_from_name

    try:
        env = make_env(name, auto_reset=False, **kwargs)
    except ValueError as error:
        raise ValueError(f"there is no environment craftax/{name}: {error}") from error
    env_params = env.default_params.replace(max_timesteps=max_steps)

    def reset(key):
        return env.reset_env(key, env_params)

    def step(key, state, action):
        # five values: `over` is both the death of the player and the time limit
        obs, state, reward, over, _ = env.step_env(key, state, action, env_params)
        late = state.timestep >= max_steps
        return obs, state, reward, over & ~late, over & late

    space = spaces.Discrete(int(env.action_space(env_params).n))
    return Adapted(f"craftax/{name}", reset, step, space, max_steps)
