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
from purerl.training.loop import advance


def one_by_one(function: Callable[[Any, Any], Any], hp: Any, given: Any) -> Any:
    """`function(hp, x)` for every x of a batch `[S, ...]`, in a loop whose body does not depend on S.

    The compiler does not know the number of rounds: a loop of a single round would be merged with what is around it,
    and rounded differently.
    """
    at = lambda r: (jax.tree.map(lambda x: x[r] if jnp.ndim(x) else x, hp), jax.tree.map(lambda x: x[r], given))
    count = jax.tree.leaves(given)[0].shape[0]
    one = jax.eval_shape(lambda: function(*at(0)))
    empty = jax.tree.map(lambda x: jnp.empty((count, *x.shape), x.dtype), one)
    store = lambda all_, x, r: jax.lax.dynamic_update_index_in_dim(all_, x, r, 0)

    def body(carry):
        r, out = carry
        return r + 1, jax.tree.map(lambda all_, x: store(all_, x, r), out, function(*at(r)))

    rounds = jax.lax.optimization_barrier(jnp.int32(count))
    return jax.lax.while_loop(lambda carry: carry[0] < rounds, body, (jnp.int32(0), empty))[1]


def batch(
    make: Callable[[Any], Learner], devices: Sequence[Any] | None = None, isolate: bool = False
) -> Callable[[Any], Learner]:
    """Batch runs: return a `make` whose learner takes keys `[S]` and whose `hp` may have leaves `[S]`.

    All seeds and values of float hyperparameters share one program: vector leaves of `hp` have one entry per key,
    scalars are shared. With `devices`, the S runs are split over them, without communication. The same `make` and
    devices give the same function, so that `run(batch(make), ...)` compiles once wherever it stands.

    A run's results depend, by rounding, on how many runs share a device. With `isolate` they do not: in each chunk the
    runs of a device are trained one after another, and each equals, bit for bit on a CPU, the run of its key alone.
    The number of updates may then be a vector `[S]`: a run with 0 stays as it is, takes no time, and has NaN as
    metrics.

    Raises:
      ValueError: at trace time, if the number of devices does not divide S.

    >>> from purerl.core import Learner
    >>> make = lambda hp: Learner(lambda key: hp * jax.random.uniform(key), lambda state: (state, ()))
    >>> batch(make)(jnp.array([0.0, 1.0])).init(jax.random.split(jax.random.key(0), 2)).shape
    (2,)
    """
    devices = None if devices is None else tuple(devices)
    try:
        return _batch(make, devices, isolate)
    except TypeError:  # a make that has no hash
        return _batch.__wrapped__(make, devices, isolate)


@functools.lru_cache(maxsize=128)
def _batch(make: Callable[[Any], Learner], devices: tuple[Any, ...] | None, isolate: bool) -> Callable[[Any], Learner]:
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
        init, step = lambda hp, key: make(hp).init(key), lambda hp, state: make(hp).step(state)
        if isolate:
            over_runs = lambda function: partial(one_by_one, function)
        else:
            over_runs = lambda function: jax.vmap(function, (axes(hp), 0))

        def advanced(state, num_updates):
            alone = lambda hp, given: advance(make(hp), *given)
            of_each = jnp.broadcast_to(num_updates, jax.tree.leaves(state)[0].shape[:1])
            return over_devices(partial(one_by_one, alone), hp)(hp, (state, of_each))

        return Learner(
            lambda keys: over_devices(over_runs(init), hp)(hp, check(keys)),
            partial(over_devices(over_runs(step), hp), hp),
            advanced if isolate else None,
        )

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
