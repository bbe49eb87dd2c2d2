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
    make: Callable[[Any], Learner],
    devices: Sequence[Any] | None = None,
    isolate: bool = False,
    devices_per_run: int = 1,
) -> Callable[[Any], Learner]:
    """Batch runs: return a `make` whose learner takes keys `[S]` and whose `hp` may have leaves `[S]`.

    All seeds and values of float hyperparameters share one program: vector leaves of `hp` have one entry per key,
    scalars are shared. With `devices`, the S runs are split over them, without communication. The same `make` and
    devices give the same function, so that `run(batch(make), ...)` compiles once wherever it stands.

    A run's results depend, by rounding, on how many runs share a device. With `isolate` they do not: in each chunk the
    runs of a device are trained one after another, and each equals, bit for bit on a CPU, the run of its key alone.
    The number of updates may then be a vector `[S]`: a run with 0 stays as it is, takes no time, and has NaN as
    metrics.

    With `devices_per_run` the environments of each run are split over so many devices, and the partitioner inserts the
    reductions, of gradients among others: the results equal those of one device up to rounding.

    Raises:
      ValueError: at trace time, if S is no multiple of the number of devices, or of that of groups of
        `devices_per_run`; if these do not divide the number of devices, or the number of environments; with `isolate`;
        for a learner that is episodic.

    >>> from purerl.core import Learner
    >>> make = lambda hp: Learner(lambda key: hp * jax.random.uniform(key), lambda state: (state, ()))
    >>> batch(make)(jnp.array([0.0, 1.0])).init(jax.random.split(jax.random.key(0), 2)).shape
    (2,)
    """
    devices = None if devices is None else tuple(devices)
    try:
        return _batch(make, devices, isolate, devices_per_run)
    except TypeError:  # a make that has no hash
        return _batch.__wrapped__(make, devices, isolate, devices_per_run)


@functools.lru_cache(maxsize=128)
def _batch(
    make: Callable[[Any], Learner], devices: tuple[Any, ...] | None, isolate: bool, devices_per_run: int
) -> Callable[[Any], Learner]:
    if devices_per_run > 1:
        if devices is None or isolate:
            why = "isolate is for runs of one device each" if isolate else "give the devices"
            raise ValueError(f"devices_per_run is {devices_per_run}: {why}")
        return _split(make, devices, devices_per_run)

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


def mesh_of(devices: Sequence[Any], devices_per_run: int) -> Mesh:
    """Groups of devices, each of which shares the environments of some runs."""
    return Mesh(np.array(devices).reshape(-1, devices_per_run), ("runs", "envs"))


def layout_of(state: LearnerState, devices: Sequence[Any], devices_per_run: int | None = None) -> LearnerState:
    """The sharding of every leaf of a learner's state whose environments are split over devices.

    Args:
      devices_per_run: of a batch of runs, leaves `[R, ...]`, the devices of each; None: the state is of a single run.
    Raises:
      ValueError: if the numbers do not fit, or the state has no environments, because every block starts with a reset.
    """
    if not jax.tree.leaves(state.position):
        raise ValueError("state has no environments to shard: this learner is episodic, each block starts with a reset")
    each, shape = devices_per_run or len(devices), jax.tree.leaves(state.position)[0].shape
    runs, num_envs = (1, shape[0]) if devices_per_run is None else shape[:2]
    if num_envs % each:
        raise ValueError(f"{each} devices; their number must divide num_envs, which is {num_envs}")
    if len(devices) % each or runs % (len(devices) // each):
        raise ValueError(
            f"{runs} runs of {each} devices each, on {len(devices)} devices: the runs must be a multiple of the groups "
            "of devices"
        )
    mesh = mesh_of(devices, each)
    run = () if devices_per_run is None else ("runs",)
    whole, split = NamedSharding(mesh, P(*run)), NamedSharding(mesh, P(*run, "envs"))
    everywhere = jax.tree.map(lambda _: whole, state)
    return everywhere._replace(position=jax.tree.map(lambda _: split, state.position))


def _split(make: Callable[[Any], Learner], devices: tuple[Any, ...], devices_per_run: int) -> Callable[[Any], Learner]:
    """The batch of `make` with the environments of each run split over devices, at the end of every step."""
    together = batch(make)
    placed = lambda state: jax.lax.with_sharding_constraint(state, layout_of(state, devices, devices_per_run))

    def make_split(hp):
        learner = together(hp)

        def step(state):
            with jax.sharding.use_abstract_mesh(mesh_of(devices, devices_per_run).abstract_mesh):
                state, sums = learner.step(state)
            return placed(state), sums

        return Learner(lambda keys: placed(learner.init(keys)), step)

    return make_split


def shard_environments(state: LearnerState, devices: Sequence[Any]) -> LearnerState:
    """Shard the environments of a learner's state over devices and replicate the rest.

    Continue with `run(..., state=...)`: the partitioner inserts the reductions. The results equal those of one device
    up to rounding. For many runs, or several processes, see `devices_per_run` of `batch`.

    Raises:
      ValueError: if the number of devices does not divide the number of environments, or the state has none, because
        every block starts with a reset.
    """
    return place(state, layout_of(state, devices))


def place_runs(state: LearnerState, devices: Sequence[Any], devices_per_run: int = 1) -> LearnerState:
    """Put the state of a batch of runs, leaves `[R, ...]`, where `batch` with these devices leaves it."""
    if devices_per_run > 1:
        return place(state, layout_of(state, devices, devices_per_run))
    return place(state, NamedSharding(Mesh(np.array(devices), ("runs",)), P("runs")))


def place(tree: Any, shardings: Any) -> Any:
    """Put arrays of this process onto devices, also onto those of other processes, which have the same arrays.

    shardings: a sharding for each leaf, or one for all.
    """

    def put(x: Any, sharding: Any) -> Any:
        if sharding.is_fully_addressable or not x.is_fully_addressable:  # the devices of processes are known to x
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        values = np.asarray(x)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda x: put(x, shardings), tree)
    return jax.tree.map(put, tree, shardings)
