"""The interface of agents to networks, recurrent and feed-forward alike."""

from __future__ import annotations

import jax

from purerl.core import MemoryNetwork, Network


def with_memory(network: Network | MemoryNetwork) -> MemoryNetwork:
    """Convert a feed-forward network to a `MemoryNetwork` with memory (); networks with memory are unchanged.

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
