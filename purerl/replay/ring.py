"""The ring buffer: add blocks, sample steps, read n-step transitions."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_counts
from purerl.core import Array, Key, Transition, short_repr
from purerl.replay.sum_tree import find_leaves, make_tree, mass_before, set_leaves

FINALS = 32  # one slot for separate successors per this many steps: truncated episodes are rarely shorter
ALL_FINALS = 2**22  # bytes up to which there is one for every step instead


class Priorities(NamedTuple):
    """Sampling priorities of steps, or of sequence starts."""

    tree: tuple[Array, ...]  # float32 [leaves], [leaves / 2], ..., [1]: sums
    highest: Array  # float32 []: the largest priority so far, given to new steps


class Replay(NamedTuple):
    """The stored steps. Rows are numbered from the first one written; row r is stored at r modulo `rows`."""

    obs: Any  # [rows, N, ...]
    action: Any  # [rows, N, ...]
    reward: Array  # float32 [rows, N]
    terminated: Array  # bool [rows, N]
    truncated: Array  # bool [rows, N]
    final_at: Array  # int32 [rows, N]: the index of the successor in `finals`; -1: it is the next row's observation
    finals: Any  # [F, ...]: true successors of truncated steps, also a ring buffer
    final_row: Array  # int32 [F]: the row of each
    memory: Any  # [rows / stride, N, ...]: the actor's memory before every stride-th row; () without memory
    priorities: Priorities | tuple  # () where sampling is uniform
    num_rows: Array  # int32 []: written so far
    num_finals: Array  # int32 []: written so far
    oldest: Array  # int32 []: the first row whose successors, and those of all later rows, are stored

    __repr__ = short_repr


class Index(NamedTuple):
    """Indices of sampled steps, `[B]` each."""

    row: Array  # int32
    env: Array  # int32
    weight: Array  # float32: importance weights, the largest is 1; 0 for steps to ignore in updates


class Steps(NamedTuple):
    """n-step transitions, leaves `[B, ...]`: n rewards, or fewer if the episode ended before."""

    obs: Any
    action: Any
    reward: Array  # r₀ + γ r₁ + … + γᵏ⁻¹ rₖ₋₁
    gamma: Array  # γᵏ, the discount of the successor
    terminated: Array  # whether the episode terminated: do not bootstrap
    next_obs: Any  # the true successor after k steps


def bytes_of(tree: Any) -> int:
    """Bytes of the arrays of a tree, which may be `jax.ShapeDtypeStruct`s; keys are not counted."""
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.extended)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def num_bytes(
    step: Transition, capacity: int, prioritized: bool = False, memory: Any = (), stride: int = 1, length: int = 1
) -> int:
    """Bytes that `init` allocates for the same arguments; arrays may be `jax.ShapeDtypeStruct`s."""
    make = lambda step, memory: _init(step, capacity, prioritized, memory, stride, length)
    return bytes_of(jax.eval_shape(make, step, memory))


def device_bytes() -> int | None:
    """Memory of the default device in bytes; None if it is unknown."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        names = "SC_PHYS_PAGES", "SC_PAGE_SIZE"
        return math.prod(map(os.sysconf, names)) if all(name in os.sysconf_names for name in names) else None
    return (device.memory_stats() or {}).get("bytes_limit")


def init(
    step: Transition,
    capacity: int,
    prioritized: bool = False,
    memory: Any = (),
    stride: int = 1,
    length: int = 1,
) -> Replay:
    """Create an empty replay buffer.

    Successors of truncated steps are stored apart from the ring. There is room for one of each step if they take at
    most 4 MiB; otherwise for one of 32 steps, and where more steps are truncated the buffer holds fewer than
    `capacity`, from the last successor on that it has: `num_ready`.

    Args:
      step: an example of one step, leaves `[N, ...]`; only shapes and dtypes are read.
      capacity: the number of stored steps, of all environments together.
      prioritized: sample by priority instead of uniformly.
      memory: an example of the actor's memory, leaves `[N, ...]`, if sequences are sampled.
      stride: the number of rows of a block; sequences start at every stride-th row, for which `memory` is stored.
      length: rows of a sequence, or n of n-step returns; `add` and `sample` need the same value.
    Raises:
      ValueError: for counts that are not positive ints, a capacity too small for one sequence of every environment,
        or more memory than the device has.
    """
    check_counts("replay", capacity=capacity, stride=stride, length=length)
    needed, there = num_bytes(step, capacity, prioritized, memory, stride, length), device_bytes()
    if there is not None and needed > there:
        raise ValueError(
            f"replay: capacity is {capacity}, which needs {needed / 1e9:.1f} GB; the device has {there / 1e9:.1f} GB, "
            f"enough for about {int(capacity * there / needed)}"
        )
    return _init(step, capacity, prioritized, memory, stride, length)


def _init(step, capacity, prioritized, memory, stride, length):
    num_envs = step.reward.shape[0]
    if capacity < num_envs * max(length, stride):
        raise ValueError(
            f"replay: capacity is {capacity}; it must hold at least {max(length, stride)} steps of each of the "
            f"{num_envs} environments, {num_envs * max(length, stride)}"
        )
    # one row more: the newest row is an observation without a step
    rows = stride * (capacity // (num_envs * stride) + 1)
    one = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)
    finals = rows * num_envs
    if finals * bytes_of(one(step.obs)) > ALL_FINALS:
        finals = max(capacity // FINALS, (length + 1) * num_envs)
    zeros = lambda count, tree: jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), tree)
    flags = lambda: jnp.zeros((rows, num_envs), bool)
    return Replay(
        zeros(rows, step.obs),
        zeros(rows, step.action),
        jnp.zeros((rows, num_envs)),
        flags(),
        flags(),
        jnp.full((rows, num_envs), -1, jnp.int32),
        zeros(finals, one(step.obs)),
        jnp.zeros(finals, jnp.int32),
        zeros(rows // stride, memory),
        Priorities(make_tree(rows // stride * num_envs), jnp.ones(())) if prioritized else (),
        *jnp.zeros((3,), jnp.int32),
    )


def sizes(replay: Replay) -> tuple[int, int, int]:
    """Numbers of rows, of environments, and of rows between two sequence starts."""
    rows, num_envs = replay.reward.shape
    starts = jax.tree.leaves(replay.memory)
    return rows, num_envs, rows // starts[0].shape[0] if starts else 1


def _stored(replay: Replay) -> Array:
    """The first start that is not overwritten, in strides; its successors may be lost."""
    rows, _, stride = sizes(replay)
    return -(-jnp.maximum(0, replay.num_rows - rows + 1) // stride)


def _starts(replay: Replay, length: int) -> tuple[Array, Array]:
    """The first start of a complete sequence, in strides, and the number of such starts."""
    rows, _, stride = sizes(replay)
    first = -(-jnp.maximum(replay.oldest, replay.num_rows - rows + 1) // stride)
    return first, jnp.maximum((replay.num_rows - length) // stride - first + 1, 0)


def num_ready(replay: Replay, length: int = 1) -> Array:
    """The number of steps, or sequence starts, that `sample` can return, int32 `[]`."""
    return _starts(replay, length)[1] * replay.reward.shape[1]


def _write(ring: Any, at: Array, rows: Any) -> Any:
    return jax.tree.map(lambda x, new: x.at[at].set(new, mode="promise_in_bounds", unique_indices=True), ring, rows)


def add(replay: Replay, block: Transition, memory: Any = (), length: int = 1) -> Replay:
    """Add a block `[T, N, ...]`, which overwrites the oldest rows.

    Args:
      memory: the actor's memory before the block's first step, leaves `[N, ...]`.
      length: see `init`.
    Raises:
      ValueError: if the block is longer than the buffer, or if memory is stored and its length is not the stride.
    """
    rows, num_envs, stride = sizes(replay)
    steps = block.reward.shape[0]
    if steps + length > rows:
        raise ValueError(f"replay: a block of {steps} steps does not fit; the capacity must be above "
                         f"{num_envs} x {steps + length}")  # fmt: skip
    if jax.tree.leaves(replay.memory) and steps != stride:
        raise ValueError(f"replay: sequences start where blocks start; rollout_length is {steps}, and must be {stride}")
    at = (replay.num_rows + jnp.arange(steps + 1)) % rows
    finals = replay.final_row.shape[0]
    cut = block.truncated.at[-1].set(block.truncated[-1] | ~block.valid[-1])  # the next block does not go on from there
    needed = cut & ~block.terminated
    rank = jnp.cumsum(needed.reshape(-1)) - 1
    count = rank[-1] + 1
    final_at = (replay.num_finals + rank) % finals
    # if there are too many, the last ones; the others are dropped as out of bounds
    place = jnp.where(needed.reshape(-1) & (rank >= count - finals), final_at, finals)
    row_of = jnp.repeat(replay.num_rows + jnp.arange(steps), num_envs)
    put = lambda ring, x: ring.at[place].set(x.reshape(-1, *x.shape[2:]), mode="drop", unique_indices=True)
    final_row = put(replay.final_row, row_of.reshape(steps, num_envs))
    num_finals, num_rows = replay.num_finals + count, replay.num_rows + steps
    lost = jnp.where(num_finals > finals, final_row[num_finals % finals] + 1, 0)
    with_next = jax.tree.map(lambda x, after: jnp.concatenate([x, after[-1:]]), block.obs, block.next_obs)
    replay = replay._replace(
        obs=_write(replay.obs, at, with_next),
        action=_write(replay.action, at[:-1], block.action),
        reward=_write(replay.reward, at[:-1], block.reward),
        terminated=_write(replay.terminated, at[:-1], block.terminated),
        truncated=_write(replay.truncated, at[:-1], cut),
        final_at=_write(replay.final_at, at[:-1], jnp.where(needed, final_at.reshape(needed.shape), -1)),
        finals=jax.tree.map(put, replay.finals, block.next_obs),
        final_row=final_row,
        memory=_write(replay.memory, at[:1] // stride, jax.tree.map(lambda x: x[None], memory)),
        num_rows=num_rows,
        num_finals=num_finals,
        oldest=jnp.maximum(replay.oldest, lost),
    )
    if not replay.priorities:
        return replay
    # starts that are complete now, and starts that were overwritten or are not complete yet
    complete, pending = max(1, steps // stride), (length - 1) // stride + 1
    newest = (num_rows - length) // stride
    start = newest + jnp.arange(1 - complete, pending + 1)
    tree, highest = replay.priorities
    weight = jnp.where((start <= newest) & (start >= 0), highest, 0.0)
    leaf = (start % (rows // stride))[:, None] * num_envs + jnp.arange(num_envs)
    tree = set_leaves(tree, leaf.reshape(-1), jnp.repeat(weight, num_envs))
    return replay._replace(priorities=Priorities(tree, highest))


def below(key: Key, num: int, end: Array) -> Array:
    """Integers uniform in [0, end), int32 `[num]`: ⌊u · end / 2³²⌋ of a random word u.

    One word a number where `jax.random.randint` draws two and divides; probabilities are equal up to end / 2³².

    >>> counts = jnp.bincount(below(jax.random.key(0), 3000, jnp.int32(3)))
    >>> bool((abs(counts - 1000) < 100).all()), len(counts)
    (True, 3)
    """
    high = lambda x: x >> 16
    low = lambda x: x & 0xFFFF
    u, end = jax.random.bits(key, (num,), jnp.uint32), end.astype(jnp.uint32)
    # the upper half of a product of 64 bits, from products of 16
    middle = high(u) * low(end) + high(low(u) * low(end))
    return (high(u) * high(end) + high(middle) + high(low(u) * high(end) + low(middle))).astype(jnp.int32)


def _past_lost(replay: Replay, tree: tuple[Array, ...], first: Array, part: Array) -> Array:
    """The cumulative priorities at `part [B]` of the sum of all starts but those before `first`, which were lost."""
    rows, num_envs, stride = sizes(replay)
    stored = _stored(replay)
    place = lambda start: jax.lax.rem(start, rows // stride) * num_envs
    begin, end = place(stored), place(first)  # of those lost; the ring may wrap between them
    before, up_to = mass_before(tree, jnp.stack([begin, end]))
    total, wraps = tree[-1].sum(), end < begin
    whole: Any = jnp.where(wraps, total, 0.0)
    lost: Any = jnp.where(first > stored, up_to - before + whole, 0.0)
    mass = part * (total - lost)
    skipped: Any = jnp.where(mass >= before, lost, 0.0)
    start: Any = jnp.where(first > stored, up_to, 0.0)
    return mass + jnp.where(wraps, start, skipped)


def sample(key: Key, replay: Replay, batch_size: int, length: int = 1, importance=0.4) -> Index:
    """Sample steps, or sequence starts, with replacement from all complete ones.

        P(i) = pᵢ / Σ p,   wᵢ = P(i)^{-β} / max w           (by priority; otherwise P is uniform and w = 1)

    By priority every batch is stratified: one draw from each of B equal parts of the sum.

    Args:
      batch_size: B.  length: see `init`.  importance: β in [0, 1]; 1 corrects all of the bias.
    Returns:
      An `Index`. Weights are 0 where nothing is complete yet.
    Reference: Schaul et al., 2016, arXiv:1511.05952, section 3.4 and appendix B.2.1.
    """
    check_counts("replay", batch_size=batch_size, length=length)
    rows, num_envs, stride = sizes(replay)
    first, count = _starts(replay, length)
    if not isinstance(replay.priorities, Priorities):
        drawn = below(key, batch_size, jnp.maximum(count, 1) * num_envs)  # one number for row and environment
        weight = jnp.broadcast_to((count > 0).astype(jnp.float32), (batch_size,))
        return Index((first + drawn // num_envs) * stride, drawn % num_envs, weight)
    tree = replay.priorities.tree
    part = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size
    mass, starts = part * tree[-1].sum(), rows // stride
    if replay.final_row.shape[0] < rows * num_envs:
        mass = _past_lost(replay, tree, first, part)
    leaf = find_leaves(tree, mass)
    at, env = leaf // num_envs, leaf % num_envs
    start = first + (at - first) % starts  # the one row at this place that may still be there
    priority = tree[0].at[leaf].get(mode="promise_in_bounds")
    sound = (start < first + count) & (priority > 0)
    smallest = jnp.where(sound, priority, jnp.inf).min()
    weight = jnp.where(sound, (smallest / jnp.where(sound, priority, 1.0)) ** importance, 0.0)
    return Index(start * stride, env, weight)


def update(replay: Replay, index: Index, priority: Array, where: Any = True) -> Replay:
    """Set the priorities of sampled steps, `[B]`, ≥ 0; without effect if sampling is uniform.

    where: bool `[]` or `[B]`; False leaves a priority as it was, without a branch that would copy the replay.
    """
    if not replay.priorities:
        return replay
    rows, num_envs, stride = sizes(replay)
    leaf = (index.row // stride % (rows // stride)) * num_envs + index.env
    tree, highest = replay.priorities
    priority = jnp.where(where, jnp.where(index.weight > 0, priority, 0.0), tree[0][leaf])
    return replay._replace(
        priorities=Priorities(set_leaves(tree, leaf, priority), jnp.maximum(highest, priority.max()))
    )


def successor(replay: Replay, row: Array, env: Array) -> Any:
    """The true successors of steps: rows and environments, int `[...]`, to observations `[..., ...]`."""
    rows = replay.reward.shape[0]
    final = replay.final_at[row, env]

    def pick(obs, finals):
        wide = (final >= 0).reshape(*final.shape, *[1] * (obs.ndim - 2))
        return jnp.where(wide, finals[final], obs[(row + 1) % rows, env])

    return jax.tree.map(pick, replay.obs, replay.finals)


def read(replay: Replay, index: Index, gamma, n: int = 1) -> Steps:
    """Read n-step transitions from sampled steps, leaves `[B, ...]`, see `Steps`; sample them with `length=n`.

    >>> no = jnp.zeros((3, 1), bool)
    >>> obs = jnp.arange(3.0).reshape(3, 1)
    >>> block = Transition(obs, no, jnp.ones((3, 1)), obs + 1, no, no.at[1].set(True), ~no)  # cut after two steps
    >>> memory = add(init(jax.tree.map(lambda x: x[0], block), 10, length=3), block, length=3)
    >>> two = read(memory, Index(jnp.array([0]), jnp.array([0]), jnp.ones(1)), 0.5, n=3)
    >>> two.reward.item(), two.gamma.item(), two.next_obs.item(), two.terminated.item()
    (1.5, 0.25, 2.0, False)
    """
    rows, env = replay.reward.shape[0], index.env
    row = (index.row + jnp.arange(n)[:, None]) % rows
    window = lambda x: x[row, env]
    parts = n_steps(window(replay.reward), window(replay.terminated), window(replay.truncated), gamma, n)
    reward, discount, terminated, after = (x[0] for x in parts)
    begin, last = row[0], (row[0] + after) % rows
    take = lambda tree: jax.tree.map(lambda x: x[begin, env], tree)
    return Steps(take(replay.obs), take(replay.action), reward, discount, terminated, successor(replay, last, env))


def n_steps(reward, terminated, truncated, gamma, n: int) -> tuple[Array, Array, Array, Array]:
    """n-step transitions from each step of a block, without bootstrap values; compare `returns.n_step`.

        Rₜ = rₜ + γ rₜ₊₁ + … + γ^{k-1} rₜ₊ₖ₋₁,   k ≤ n as far as one gets before an end

    Args:
      reward: float `[T, ...]`.  terminated, truncated: bool `[T, ...]`.  gamma: in [0, 1].  n: from 1 to T.
    Returns:
      For the first T - n + 1 steps R, γᵏ, whether no value follows, and the index of the last step, t + k - 1.
    """
    steps = len(reward) - n + 1
    step = jnp.broadcast_to(jnp.arange(steps).reshape(-1, *[1] * (reward.ndim - 1)), (steps, *reward.shape[1:]))
    total, discount, last = reward[:steps], jnp.full(step.shape, gamma, reward.dtype), step
    terminal, ended = terminated[:steps], (terminated | truncated)[:steps]
    for k in range(1, n):
        now = lambda x, k=k: x[k : k + steps]
        total = total + jnp.where(ended, 0.0, discount * now(reward))
        terminal, last = jnp.where(ended, terminal, now(terminated)), jnp.where(ended, last, step + k)
        discount, ended = jnp.where(ended, discount, discount * gamma), ended | now(terminated) | now(truncated)
    return total, discount, terminal, last
