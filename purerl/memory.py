"""How agents use a network: with memory of the episode, which is () where a network is feed-forward."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl.core import Array, MemoryNetwork, Network


def with_memory(network: Network | MemoryNetwork) -> MemoryNetwork:
    """The network itself if it has memory; a feed-forward one as one whose memory is ().

    >>> import purerl
    >>> network = with_memory(purerl.networks.MLP((8,)))
    >>> params = network.init(jax.random.key(0), jnp.ones((2, 3)))
    >>> features, _, memory = network.unroll(params, (), jnp.ones((5, 2, 3)), jnp.zeros((5, 2), bool))
    >>> features.shape, memory
    ((5, 2, 8), ())
    """
    if isinstance(network, MemoryNetwork):
        return network

    def over_steps(params, obs):
        steps, num_envs = jax.tree.leaves(obs)[0].shape[:2]
        outputs = network.apply(params, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), obs))
        return jax.tree.map(lambda x: x.reshape(steps, num_envs, *x.shape[1:]), outputs)

    def unroll(params, memory, obs, ended, next_obs=None):
        return over_steps(params, obs), None if next_obs is None else over_steps(params, next_obs), memory

    step = lambda params, memory, obs: (network.apply(params, obs), memory)
    return MemoryNetwork(network.init, lambda n: (), lambda memory, ended: memory, step, unroll)


def clear(memory: Any, ended: Array, start: Any) -> Any:
    """`start` where an episode ended; leaves of both are `[N, ...]`."""
    pick = lambda old, new: jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)
    return jax.tree.map(pick, memory, start)
