"""Board games of pgx."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.core import Array
from purerl.envs.adapters.common import Adapted, known


def uniform_opponent(key: Array, state: Any) -> Array:
    """Sample a legal move uniformly, int32 `[]`."""
    return jax.random.categorical(key, jnp.where(state.legal_action_mask, 0.0, -jnp.inf)).astype(jnp.int32)


def make(name: str, opponent: Callable[[Array, Any], Array] = uniform_opponent, **kwargs: Any) -> Environment:
    """`pgx/connect_four` and the like, from the perspective of player 0; the opponents' moves are part of a step.

    opponent: `(key, pgx's state) -> action` of the other players; pgx samples the first player.
    """
    package = importlib.import_module("pgx")

    known("pgx", name, package.available_envs())
    env: Any = package.make(name, **kwargs)

    def others(key, state):
        """Play the opponents' moves until it is player 0's turn or the game is over; sum player 0's rewards."""

        def go_on(carry):
            _, state, _ = carry
            return (state.current_player != 0) & ~state.terminated & ~state.truncated

        def move(carry):
            key, state, reward = carry
            key, move_key, step_key = jax.random.split(key, 3)
            state = env.step(state, opponent(move_key, state), step_key)
            return key, state, reward + state.rewards[0]

        return jax.lax.while_loop(go_on, move, (key, state, jnp.zeros(())))[1:]

    def see(state):
        # the observation is the current player's: that is player 0, unless the game is over
        return {"observation": state.observation, "action_mask": state.legal_action_mask & (state.current_player == 0)}

    def reset(key):
        init_key, key = jax.random.split(key)
        state, _ = others(key, env.init(init_key))
        return see(state), state

    def step(key, state, action):
        step_key, key = jax.random.split(key)
        state = env.step(state, action, step_key)
        own = state.rewards[0]
        state, theirs = others(key, state)
        return see(state), state, own + theirs, state.terminated, state.truncated

    return Adapted(f"pgx/{name}", reset, step, spaces.Discrete(int(env.num_actions)), 10_000)
