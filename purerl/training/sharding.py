"""Batches of runs, and sharding over devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purerl.core import Learner
from purerl.training.learners import LearnerState


def batch(make: Callable[[Any], Learner], devices: Sequence[Any] | None = None) -> Callable[[Any], Learner]:
    """Batch runs: return a `make` whose learner takes keys `[S]` and whose `hp` may have leaves `[S]`.

    All seeds and values of float hyperparameters share one program: vector leaves of `hp` have one entry per key,
    scalars are shared. With `devices`, the S runs are split over them, without communication. The same `make` and
    devices give the same function, so that `run(batch(make), ...)` compiles once wherever it stands.

    Raises:
      ValueError: at trace time, if the number of devices does not divide S.

    >>> from purerl.core import Learner
    >>> make = lambda hp: Learner(lambda key: hp * jax.random.uniform(key), lambda state: (state, ()))
    >>> batch(make)(jnp.array([0.0, 1.0])).init(jax.random.split(jax.random.key(0), 2)).shape
    (2,)
    """
    devices = None if devices is None else tuple(devices)
    try:
        return _batch(make, devices)
    except TypeError:  # a make that has no hash
        return _batch.__wrapped__(make, devices)


@functools.lru_cache(maxsize=128)
def _batch(make: Callable[[Any], Learner], devices: tuple[Any, ...] | None) -> Callable[[Any], Learner]:
    def axes(hp):
        return jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, hp)

    def over_devices(function, hp):
        if devices is None:
            return function
        mesh = Mesh(np.array(devices), ("runs",))
        specs = jax.tree.map(lambda x: P("runs") if jnp.ndim(x) else P(), hp)
        return jax.shard_map(function, mesh=mesh, in_specs=(specs, P("runs")), out_specs=P("runs"), check_vma=False)

    def check(keys):
        if devices is not None and keys.shape[0] % len(devices):
            raise ValueError(
                f"{keys.shape[0]} runs; their number must be a multiple of that of devices, {len(devices)}"
            )
        return keys

    def make_batch(hp):
        init = jax.vmap(lambda hp, key: make(hp).init(key), (axes(hp), 0))
        step = jax.vmap(lambda hp, state: make(hp).step(state), (axes(hp), 0))
        return Learner(lambda keys: over_devices(init, hp)(hp, check(keys)), partial(over_devices(step, hp), hp))

    return make_batch


def shard_environments(state: LearnerState, devices: Sequence[Any]) -> LearnerState:
    """Shard the environments of a learner's state over devices and replicate the rest.

    Continue with `run(..., state=...)`: the partitioner inserts the reductions. The results equal those of one device
    up to rounding.

    Raises:
      ValueError: if the number of devices does not divide the number of environments, or the state has none, because
        every block starts with a reset.
    """
    mesh = Mesh(np.array(devices), ("envs",))
    if not jax.tree.leaves(state.position):
        raise ValueError("state has no environments to shard: this learner is episodic, each block starts with a reset")
    num_envs = jax.tree.leaves(state.position)[0].shape[0]
    if num_envs % len(devices):
        raise ValueError(f"{len(devices)} devices; their number must divide num_envs, which is {num_envs}")
    everywhere = jax.device_put(state, NamedSharding(mesh, P()))
    return everywhere._replace(position=jax.device_put(state.position, NamedSharding(mesh, P("envs"))))
