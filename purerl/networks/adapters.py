"""The interface of agents to networks, recurrent and feed-forward alike."""

from __future__ import annotations

import inspect
from typing import Any

import jax
from jax.sharding import PartitionSpec

from purerl.core import Array, MemoryNetwork, Network


def check_network(name: str, network: Any) -> None:
    """Raise a ValueError unless an argument is a feed-forward `Network`."""
    if isinstance(network, type) and inspect.isfunction(inspect.getattr_static(network, "init", None)):  # not static
        raise ValueError(f"{name} is the class {network.__name__}; give an instance, such as {network.__name__}()")
    if not (callable(getattr(network, "init", None)) and callable(getattr(network, "apply", None))):
        raise ValueError(
            f"{name} is {network!r:.80}; it must be a flax Module, an object with init(key, obs) and "
            "apply(params, obs), or a MemoryNetwork"
        )


def split_rows(x: Array) -> Array:
    """Rows `[B, ...]`, split over the devices that share the environments of an agent: `devices_per_run` of `batch`.

    The partitioner would else gather them, since it does not split what is reshaped, and every device would compute
    everything. Elsewhere, and where the devices do not divide the rows, x as it is.
    """
    size = jax.sharding.get_abstract_mesh().shape.get("envs", 1)
    return x if size == 1 or x.shape[0] % size else jax.lax.with_sharding_constraint(x, PartitionSpec("envs"))


def with_memory(network: Network | MemoryNetwork) -> MemoryNetwork:
    """Convert a feed-forward network to a `MemoryNetwork` with memory (); networks with memory are unchanged.

    Raises:
      ValueError: for an object without `init` and `apply`, or a class in place of its instance.

    >>> import purerl
    >>> network = with_memory(purerl.networks.MLP((8,)))
    >>> params = network.init(jax.random.key(0), jnp.ones((2, 3)))
    >>> features, _, memory = network.unroll(params, (), jnp.ones((5, 2, 3)), jnp.zeros((5, 2), bool))
    >>> features.shape, memory
    ((5, 2, 8), ())
    """
    if isinstance(network, MemoryNetwork):
        return network
    check_network("network", network)

    def over_steps(params, obs):
        steps, num_envs = jax.tree.leaves(obs)[0].shape[:2]
        outputs = network.apply(params, jax.tree.map(lambda x: split_rows(x.reshape(-1, *x.shape[2:])), obs))
        return jax.tree.map(lambda x: x.reshape(steps, num_envs, *x.shape[1:]), outputs)

    def unroll(params, memory, obs, ended, next_obs=None):
        return over_steps(params, obs), None if next_obs is None else over_steps(params, next_obs), memory

    step = lambda params, memory, obs: (network.apply(params, obs), memory)
    return MemoryNetwork(network.init, lambda n: (), lambda memory, ended: memory, step, unroll)
