"""Robots of brax."""

from __future__ import annotations

import importlib
import operator
from typing import Any

from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.envs.adapters.common import Adapted, known


def make(name: str, max_steps: int = 1000, **kwargs: Any) -> Environment:
    """`brax/ant` and the like; `backend="spring"`, "positional", "generalized" or "mjx" chooses the physics."""
    envs = importlib.import_module("brax.envs")

    known("brax", name, envs._envs)
    over = operator.attrgetter("done")  # brax's word for the end of the MDP; its time limit is a wrapper's
    env = envs.get_environment(name, **kwargs)

    def reset(key):
        state = env.reset(key)
        return state.obs, state

    def step(key, state, action):
        del key  # brax keeps its own, if it needs one
        state = env.step(state, action)
        return state.obs, state, state.reward, over(state), False

    return Adapted(f"brax/{name}", reset, step, spaces.Box(-1.0, 1.0, (env.action_size,)), max_steps)
