"""A memory of the last steps of N environments, from which learning draws: uniformly, or by priority.

`init`, `add`, `sample` and `update` are free functions of a `Replay`, a ring of rows with one step of every
environment in each. An observation is stored once, in its own dtype: the successor of a step is the next row's
observation, and only where the clock ended an episode, and the next row starts another, it is kept apart. n-step
returns are formed when they are read, from the rewards as they came, so that γ stays a number and n costs no memory;
they stop where an episode ends, and bootstrap where the clock ended it.

>>> from purerl.core import Transition
>>> no = jnp.zeros((2, 1), bool)
>>> obs = jnp.arange(2.0).reshape(2, 1)
>>> block = Transition(obs, jnp.zeros((2, 1), int), jnp.ones((2, 1)), obs + 1, no, no, ~no)  # [T, N] = [2, 1]
>>> memory = add(init(jax.tree.map(lambda x: x[0], block), capacity=10), block)
>>> steps = read(memory, sample(jax.random.key(0), memory, 3), gamma=0.5)
>>> (steps.next_obs - steps.obs).tolist(), steps.gamma.tolist()
([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.core import Array, Key, Transition, check_counts

FINALS = 32  # a successor is kept apart for one step in so many: episodes cut by the clock are rarely shorter
FAN = 8  # children of a node of the sum tree


class Priorities(NamedTuple):
    """How likely every step, or start of a sequence, is to be drawn."""

    tree: tuple[Array, ...]  # sums, leaves first
    highest: Array  # float32 []: the largest so far, which new ones get


class Replay(NamedTuple):
    """What is remembered. Rows are counted from the first one ever written; row r lies at r modulo `rows`."""

    obs: Any  # [rows, N, ...]
    action: Any  # [rows, N, ...]
    reward: Array  # float32 [rows, N]
    terminated: Array  # bool [rows, N]
    truncated: Array  # bool [rows, N]
    final_at: Array  # int32 [rows, N]: where among `finals` the successor is; -1: it is the next row's observation
    finals: Any  # [F, ...]: true successors of steps that the clock ended, a ring as well
    final_row: Array  # int32 [F]: whose
    memory: Any  # [rows / stride, N, ...]: the actor's memory before every stride-th row; () without
    priorities: Priorities | tuple  # () where sampling is uniform
    num_rows: Array  # int32 []: written so far
    num_finals: Array  # int32 []: written so far
    oldest: Array  # int32 []: the first row since which no successor was lost


class Index(NamedTuple):
    """Steps that were drawn, each `[B]`."""

    row: Array  # int32
    env: Array  # int32
    weight: Array  # float32: importance weights, the largest is 1; 0 for what must not be learned from


class Steps(NamedTuple):
    """n-step transitions, leaves `[B, ...]`: n rewards, or as many as there were before the episode ended."""

    obs: Any
    action: Any
    reward: Array  # r₀ + γ r₁ + … + γᵏ⁻¹ rₖ₋₁
    gamma: Array  # γᵏ, the discount of the successor
    terminated: Array  # whether no value follows
    next_obs: Any  # the true successor after k steps


# --- sum tree -----------------------------------------------------------------------------------------------------


def _tree(size: int) -> tuple[Array, ...]:
    """Zeros for `size` leaves and for every level above them, each level a multiple of the fan."""
    levels, count = [], size
    while True:
        count = math.ceil(count / FAN) * FAN
        levels.append(jnp.zeros(count))
        if count == FAN:
            return tuple(levels)
        count //= FAN


def _set(tree: tuple[Array, ...], index: Array, value: Array) -> tuple[Array, ...]:
    """Leaves changed, and the nodes above them summed anew, so that no rounding gathers over time."""
    levels = [tree[0].at[index].set(value, mode="promise_in_bounds")]
    for level in tree[1:]:
        index = index // FAN
        total = levels[-1].reshape(-1, FAN).at[index].get(mode="promise_in_bounds").sum(-1)
        levels.append(level.at[index].set(total, mode="promise_in_bounds"))
    return tuple(levels)


def _find(tree: tuple[Array, ...], mass: Array) -> Array:
    """The leaf in which so much of the sum, counted from the left, is reached: never one of priority 0."""
    node = jnp.zeros(mass.shape, jnp.int32)
    for level in reversed(tree):
        children = level.reshape(-1, FAN).at[node].get(mode="promise_in_bounds")
        below, sums = jnp.zeros_like(mass), [jnp.zeros_like(mass)]
        for k in range(FAN):  # in order, so that a child of 0 adds exactly nothing
            below = below + children[..., k]
            sums.append(below)
        mass = jnp.minimum(mass, jnp.nextafter(below, 0.0))
        child = sum((mass >= end).astype(jnp.int32) for end in sums[1:])
        left = jnp.take_along_axis(jnp.stack(sums[:-1], -1), child[..., None], -1)[..., 0]
        mass, node = mass - left, node * FAN + child
    return node


# --- the ring -----------------------------------------------------------------------------------------------------


def bytes_of(tree: Any) -> int:
    """Bytes of the arrays of a tree, which may be `jax.ShapeDtypeStruct`s; keys do not count."""
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.extended)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)


def num_bytes(
    step: Transition, capacity: int, prioritized: bool = False, memory: Any = (), stride: int = 1, length: int = 1
) -> int:
    """Bytes that `init` will allocate, of the same arguments; arrays may be `jax.ShapeDtypeStruct`s."""
    make = lambda step, memory: _init(step, capacity, prioritized, memory, stride, length)
    return bytes_of(jax.eval_shape(make, step, memory))


def device_bytes() -> int | None:
    """Memory of the device that computes; None where it does not tell."""
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
    """An empty replay.

    Args:
      step: an example of one step, leaves `[N, ...]`; shapes and dtypes are all that is read.
      capacity: steps that are kept, of all environments together.
      prioritized: sample by priority instead of uniformly.
      memory: an example of the actor's memory, leaves `[N, ...]`, where sequences are drawn.
      stride: sequences start at every stride-th row, where `memory` is known: the rows of a block.
      length: rows of a sequence, or n of n-step returns; needed by `add` and `sample` as well.
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
    # one more than wanted: the newest row is an observation whose step has not been made
    rows = stride * (capacity // (num_envs * stride) + 1)
    finals = max(capacity // FINALS, (length + 1) * num_envs)
    zeros = lambda count, tree: jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), tree)
    one = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)
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
        Priorities(_tree(rows // stride * num_envs), jnp.ones(())) if prioritized else (),
        *jnp.zeros((3,), jnp.int32),
    )


def _sizes(replay: Replay) -> tuple[int, int, int]:
    """Rows, environments, and rows between two starts of sequences."""
    rows, num_envs = replay.reward.shape
    starts = jax.tree.leaves(replay.memory)
    return rows, num_envs, rows // starts[0].shape[0] if starts else 1


def _starts(replay: Replay, length: int) -> tuple[Array, Array]:
    """The first start of a sequence all of which is there, in strides, and how many there are."""
    rows, _, stride = _sizes(replay)
    first = -(-jnp.maximum(replay.oldest, replay.num_rows - rows + 1) // stride)
    return first, jnp.maximum((replay.num_rows - length) // stride - first + 1, 0)


def num_ready(replay: Replay, length: int = 1) -> Array:
    """How many steps, or starts of sequences, `sample` can draw from, int32."""
    return _starts(replay, length)[1] * replay.reward.shape[1]


def _write(ring: Any, at: Array, rows: Any) -> Any:
    return jax.tree.map(lambda x, new: x.at[at].set(new, mode="promise_in_bounds", unique_indices=True), ring, rows)


def add(replay: Replay, block: Transition, memory: Any = (), length: int = 1) -> Replay:
    """The replay after a block `[T, N, ...]`, which takes the place of the oldest.

    Args:
      memory: the actor's before the block's first step, leaves `[N, ...]`.
      length: see `init`.
    Raises:
      ValueError: if the block is longer than the replay, or is not as long as the stride where memory is kept.
    """
    rows, num_envs, stride = _sizes(replay)
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
    # of more than there is room for, the last; what is left out is dropped as out of bounds
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
    # starts that are complete now, and those whose rows were written over or are not complete yet
    complete, pending = max(1, steps // stride), (length - 1) // stride + 1
    newest = (num_rows - length) // stride
    start = newest + jnp.arange(1 - complete, pending + 1)
    tree, highest = replay.priorities
    weight = jnp.where((start <= newest) & (start >= 0), highest, 0.0)
    leaf = (start % (rows // stride))[:, None] * num_envs + jnp.arange(num_envs)
    tree = _set(tree, leaf.reshape(-1), jnp.repeat(weight, num_envs))
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


def sample(key: Key, replay: Replay, batch_size: int, length: int = 1, importance=0.4) -> Index:
    """Steps, or starts of sequences, drawn with replacement from all that are complete.

        P(i) = pᵢ / Σ p,   wᵢ = P(i)^{-β} / max w           (by priority; otherwise P is uniform and w = 1)

    By priority every batch is stratified: one draw from each of B equal parts of the sum.

    Args:
      batch_size: B.  length: see `init`.  importance: β in [0, 1]; 1 corrects all of the bias.
    Returns:
      An `Index`. Weights are 0 where nothing is complete yet, and for the rare start whose successor was lost.
    Reference: Schaul et al., 2016, arXiv:1511.05952, section 3.4 and appendix B.2.1.
    """
    check_counts("replay", batch_size=batch_size, length=length)
    rows, num_envs, stride = _sizes(replay)
    first, count = _starts(replay, length)
    if not isinstance(replay.priorities, Priorities):
        drawn = below(key, batch_size, jnp.maximum(count, 1) * num_envs)  # one number for row and environment
        weight = jnp.broadcast_to((count > 0).astype(jnp.float32), (batch_size,))
        return Index((first + drawn // num_envs) * stride, drawn % num_envs, weight)
    tree = replay.priorities.tree
    total = tree[-1].sum()
    part = (jnp.arange(batch_size) + jax.random.uniform(key, (batch_size,))) / batch_size
    leaf = _find(tree, part * total)
    at, env = leaf // num_envs, leaf % num_envs
    starts = rows // stride
    start = first + (at - first) % starts  # the one row at this place that may still be there
    priority = tree[0].at[leaf].get(mode="promise_in_bounds")
    sound = (start < first + count) & (priority > 0)
    smallest = jnp.where(sound, priority, jnp.inf).min()
    weight = jnp.where(sound, (smallest / jnp.where(sound, priority, 1.0)) ** importance, 0.0)
    return Index(start * stride, env, weight)


def update(replay: Replay, index: Index, priority: Array, where: Any = True) -> Replay:
    """The replay with new priorities `[B]`, ≥ 0, for what was drawn; as it is where sampling is uniform.

    where: bool `[]` or `[B]`; False leaves a priority as it was, without a branch that would copy the replay.
    """
    if not replay.priorities:
        return replay
    rows, num_envs, stride = _sizes(replay)
    leaf = (index.row // stride % (rows // stride)) * num_envs + index.env
    tree, highest = replay.priorities
    priority = jnp.where(where, jnp.where(index.weight > 0, priority, 0.0), tree[0][leaf])
    return replay._replace(priorities=Priorities(_set(tree, leaf, priority), jnp.maximum(highest, priority.max())))


# --- reading ------------------------------------------------------------------------------------------------------


def _successor(replay: Replay, row: Array, env: Array) -> Any:
    rows = replay.reward.shape[0]
    final = replay.final_at[row, env]

    def pick(obs, finals):
        wide = (final >= 0).reshape(*final.shape, *[1] * (obs.ndim - 2))
        return jnp.where(wide, finals[final], obs[(row + 1) % rows, env])

    return jax.tree.map(pick, replay.obs, replay.finals)


def read(replay: Replay, index: Index, gamma, n: int = 1) -> Steps:
    """The n-step transitions that start at the steps drawn, see `Steps`; draw them with `length=n`.

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
    return Steps(take(replay.obs), take(replay.action), reward, discount, terminated, _successor(replay, last, env))


def n_steps(reward, terminated, truncated, gamma, n: int) -> tuple[Array, Array, Array, Array]:
    """What n steps from each step of a block give, without the value of where they lead; compare `returns.n_step`.

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


def read_sequences(replay: Replay, index: Index, length: int) -> tuple[Transition, Any]:
    """Sequences that start where blocks did, leaves `[length, B, ...]`, and the actor's memory before them, `[B, ...]`.

    Episodes may end inside; as in a rollout, `next_obs` are the true successors.
    """
    rows, _, stride = _sizes(replay)
    row = (index.row + jnp.arange(length)[:, None]) % rows
    env = jnp.broadcast_to(index.env, row.shape)
    take = lambda tree: jax.tree.map(lambda x: x[row, env], tree)
    begin = index.row // stride % (rows // stride)
    memory = jax.tree.map(lambda x: x[begin, index.env], replay.memory)
    valid = jnp.broadcast_to(index.weight > 0, row.shape)
    ends = take(replay.terminated), take(replay.truncated)
    next_obs = _successor(replay, row, env)
    return Transition(take(replay.obs), take(replay.action), take(replay.reward), next_obs, *ends, valid), memory
