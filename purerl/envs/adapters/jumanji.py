"""Games and combinatorial problems of jumanji."""

from __future__ import annotations

import importlib
import math
from typing import Any

import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.envs.adapters.common import Adapted, as_dict, known, shapes


def make(name: str, **kwargs: Any) -> Environment:
    """`jumanji/Snake-v1` and the like. Several discrete actions whose mask is joint become one choice among all."""
    package, specs = importlib.import_module("jumanji"), importlib.import_module("jumanji.specs")

    known("jumanji", name, package.registered_environments())
    env = package.make(name, **kwargs)
    spec = env.action_spec
    _, first = shapes(env.reset)
    mask = getattr(first.observation, "action_mask", None)
    act, see_mask = (lambda action: action), (lambda mask: mask)
    if isinstance(spec, specs.DiscreteArray):
        space = spaces.Discrete(int(spec.num_values))
    elif isinstance(spec, specs.MultiDiscreteArray):
        counts = tuple(int(n) for n in spec.num_values.reshape(-1))
        if mask is not None and mask.shape == counts:
            space = spaces.Discrete(math.prod(counts))
            act = lambda action: jnp.stack(jnp.unravel_index(action, counts)).reshape(spec.shape).astype(spec.dtype)
            see_mask = lambda mask: mask.reshape(-1)
        else:
            space = spaces.Tuple([spaces.Discrete(n) for n in counts])
            act = lambda action: jnp.stack(action).reshape(spec.shape).astype(spec.dtype)
            see_mask = lambda mask: tuple(row[:n] for row, n in zip(mask, counts, strict=True))
    elif isinstance(spec, specs.BoundedArray):
        space = spaces.Box(spec.minimum, spec.maximum, spec.shape)
    else:
        raise ValueError(f"jumanji/{name}: its action spec {spec} is none of discrete, multi-discrete and bounded")

    def see(timestep):
        obs = as_dict(timestep.observation)
        if mask is not None:
            obs["action_mask"] = see_mask(obs["action_mask"])
        return obs

    def reset(key):
        state, timestep = env.reset(key)
        return see(timestep), state

    def step(key, state, action):
        del key  # its state has one
        state, timestep = env.step(state, act(action))
        dead = (timestep.discount == 0).all()
        return see(timestep), state, timestep.reward, timestep.last() & dead, timestep.last() & ~dead

    return Adapted(f"jumanji/{name}", reset, step, space, int(getattr(env, "time_limit", 10_000)))
