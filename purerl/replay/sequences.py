"""Sequences that start at the first steps of blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl.core import Transition
from purerl.replay.ring import Index, Replay, sizes, successor


def read_sequences(replay: Replay, index: Index, length: int) -> tuple[Transition, Any]:
    """Read sequences from block starts, leaves `[length, B, ...]`, and the actor's memory before them, `[B, ...]`.

    Episodes may end within a sequence; as in a rollout, `next_obs` are the true successors.
    """
    rows, _, stride = sizes(replay)
    row = (index.row + jnp.arange(length)[:, None]) % rows
    env = jnp.broadcast_to(index.env, row.shape)
    take = lambda tree: jax.tree.map(lambda x: x[row, env], tree)
    begin = index.row // stride % (rows // stride)
    memory = jax.tree.map(lambda x: x[begin, index.env], replay.memory)
    valid = jnp.broadcast_to(index.weight > 0, row.shape)
    ends = take(replay.terminated), take(replay.truncated)
    next_obs = successor(replay, row, env)
    return Transition(take(replay.obs), take(replay.action), take(replay.reward), next_obs, *ends, valid), memory
