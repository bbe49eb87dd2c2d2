"""The replay against a plain list of everything that ever happened."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import replay, returns, schedules
from purerl.core import Transition
from purerl.replay import ring, sum_tree


def world(num_steps, num_envs, ends=(0.1, 0.1), seed=0, dtype=np.float32):
    """What random environments did, `[num_steps, N]`: an observation is (environment, episode, time in it)."""
    rng = np.random.default_rng(seed)
    obs, next_obs = (np.zeros((num_steps, num_envs, 3), dtype) for _ in range(2))
    terminated, truncated = (rng.random((num_steps, num_envs)) < p for p in ends)
    reward = rng.normal(size=(num_steps, num_envs)).astype(np.float32)
    action = rng.integers(0, 5, (num_steps, num_envs)).astype(np.int32)
    episode, time = np.zeros((2, num_envs), int)
    envs = np.arange(num_envs)
    for t in range(num_steps):
        obs[t] = np.stack([envs, episode, time], -1)
        next_obs[t] = np.stack([envs, episode, time + 1], -1)
        ended = terminated[t] | truncated[t]
        episode, time = episode + ended, np.where(ended, 0, time + 1)
    valid = np.ones((num_steps, num_envs), bool)
    return Transition(obs, action, reward, next_obs, terminated, truncated, valid)


def blocks_of(data, steps, num_blocks):
    """The first steps of a history as blocks, leaves `[B, T, N, ...]`."""
    return jax.tree.map(lambda x: x[: steps * num_blocks].reshape(num_blocks, steps, *x.shape[1:]), data)


def example(data):
    return jax.tree.map(lambda x: x[0], data)


def filled(data, capacity, blocks, length=1, **kinds):
    """A replay after all of these blocks, inside a program."""
    add = lambda memory, block: (replay.add(memory, block, length=length), None)
    return jax.lax.scan(add, replay.init(example(data), capacity, length=length, **kinds), blocks)[0]


def n_step_by_hand(data, t, n, env, gamma):
    total, discount = 0.0, 1.0
    for k in range(n):
        total += discount * data.reward[t + k, env]
        discount *= gamma
        if data.terminated[t + k, env] or data.truncated[t + k, env]:
            break
    return total, discount, data.terminated[t + k, env], data.next_obs[t + k, env]


@cache
def history(num_envs, steps, capacity, n):
    """What 40 blocks are, and after each of them how much is ready, what is drawn and what is read, of both kinds."""
    data = world(700, num_envs)

    @jax.jit
    def program(key, blocks):
        def one(memories, now):
            key, block = now
            memories, out = dict(memories), {}
            for prioritized, memory in memories.items():
                memories[prioritized] = memory = replay.add(memory, block, length=n)
                index = replay.sample(key, memory, 64, n)
                out[prioritized] = replay.num_ready(memory, n), index, replay.read(memory, index, 0.9, n)
            return memories, out

        make = partial(replay.init, example(data), capacity, length=n)
        return jax.lax.scan(one, {kind: make(kind) for kind in (False, True)}, (jax.random.split(key, 40), blocks))[1]

    return data, jax.tree.map(np.asarray, program(jax.random.key(0), blocks_of(data, steps, 40)))


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(
    "num_envs,steps,capacity,n",
    [(1, 1, 20, 1), (1, 1, 10, 3), (3, 4, 50, 1), (3, 4, 50, 5), (7, 2, 100, 2), (2, 16, 33, 1)],
)
def test_what_is_read_is_what_happened(num_envs, steps, capacity, n, prioritized):
    """Whole, never unfilled or overwritten, over several times round the ring; capacities that nothing divides."""
    data, out = history(num_envs, steps, capacity, n)
    ready, index, got = out[prioritized]
    assert not index.weight[ready == 0].any()
    drawn = index.weight > 0
    several = drawn[ready > 0].sum(1)
    assert len(several) > 30 and ((several > 0).all() if prioritized else (several == 64).all())
    count = np.broadcast_to(steps * np.arange(1, 41)[:, None], drawn.shape)[drawn]
    row, env = index.row[drawn], index.env[drawn]
    assert (row >= np.maximum(0, count - capacity // num_envs)).all() and (row <= count - n).all()
    got = jax.tree.map(lambda x: x[drawn], got)
    by_hand = [n_step_by_hand(data, t, n, i, 0.9) for t, i in zip(row, env, strict=True)]
    reward, discount, terminated, next_obs = (np.array(x) for x in zip(*by_hand, strict=True))
    np.testing.assert_array_equal(got.obs, data.obs[row, env])
    np.testing.assert_array_equal(got.action, data.action[row, env])
    np.testing.assert_allclose(got.reward, reward, atol=1e-5)
    np.testing.assert_allclose(got.gamma, discount, rtol=1e-6)
    np.testing.assert_array_equal(got.terminated, terminated)
    np.testing.assert_array_equal(got.next_obs[~terminated], next_obs[~terminated])


def test_sampling_reaches_every_step_alike(key):
    """χ² of uniform draws over all that is complete, once round the ring."""
    data = world(60, 3, ends=(0.2, 0.0))

    @jax.jit
    def draw(key, blocks):
        memory = filled(data, 60, blocks, 2)
        return replay.num_ready(memory, 2), replay.sample(key, memory, 200_000, 2)

    ready, index = draw(key, blocks_of(data, 4, 12))
    assert ready == (20 - 1) * 3
    hits = np.bincount((np.asarray(index.row) - (48 - 20)) * 3 + np.asarray(index.env), minlength=57)
    assert len(hits) == 57
    expected = 200_000 / 57
    chi2 = ((hits - expected) ** 2 / expected).sum()
    assert chi2 < 56 + 5 * np.sqrt(2 * 56)
    assert (np.asarray(index.weight) == 1).all()


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_lost_successors_are_not_drawn(share, key, monkeypatch):
    """Without room for all successors only steps whose own is still there are drawn, and of these every one."""
    monkeypatch.setattr(ring, "ALL_FINALS", 0)
    data = world(300, 2, ends=(0.0, share))

    @jax.jit
    def both(key, blocks):
        def one(memories, now):
            key, block = now
            memories, out = dict(memories), {}
            for kind, memory in memories.items():
                memories[kind] = memory = replay.add(memory, block)
                index = replay.sample(key, memory, 512)
                out[kind] = replay.num_ready(memory), index, replay.read(memory, index, 0.9).next_obs
            return memories, out

        memories = {kind: replay.init(example(data), 200, kind) for kind in (False, True)}
        return jax.lax.scan(one, memories, (jax.random.split(key, 50), blocks))[1]

    out = jax.tree.map(np.asarray, both(key, blocks_of(data, 5, 50)))
    assert (out[False][0] == out[True][0]).all() and (out[True][0] > 0).all() and (out[True][0] < 180).all()
    for ready, index, next_obs in out.values():
        assert (index.weight > 0).all()
        assert (next_obs == data.next_obs[index.row, index.env]).all()
        assert (index.row >= 5 * np.arange(1, 51)[:, None] - ready[:, None] // 2).all()
    for ready, row, env in zip(out[True][0], out[True][1].row, out[True][1].env, strict=True):
        assert len({*zip(row, env, strict=True)}) == ready  # equal priorities, in more parts than there are steps


@pytest.mark.parametrize("prioritized", [False, True])
def test_short_episodes_do_not_cost_capacity(prioritized):
    """Cut at every step: the successors of as many steps are stored as fit into little memory."""
    data = world(300, 2, ends=(0.0, 1.0))
    program = lambda blocks: replay.num_ready(filled(data, 200, blocks, prioritized=prioritized))
    assert jax.jit(program)(blocks_of(data, 5, 50)) == 200
    large = jax.eval_shape(lambda: replay.init(example(data), 10**6))
    assert large.final_row.shape[0] == 10**6 // 32


def test_dtypes_stay_and_observations_are_stored_once():
    data = world(8, 2, dtype=np.uint8)
    data = data._replace(obs={"image": data.obs, "flag": data.obs[..., 0] > 0}, next_obs={
        "image": data.next_obs, "flag": data.next_obs[..., 0] > 0})  # fmt: skip
    memory = jax.eval_shape(lambda blocks: filled(data, 1000, blocks), blocks_of(data, 4, 2))
    assert memory.obs["image"].dtype == np.uint8 and memory.obs["flag"].dtype == bool
    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), world(8, 1))
    step = step._replace(obs=jax.ShapeDtypeStruct((1, 10, 10, 4), bool))
    needed = replay.num_bytes(step, 10**6)
    assert 1.0 < needed / (10**6 * (400 + 4 + 4 + 2)) < 1.1


def test_sequences_are_what_happened_and_start_where_blocks_did(key):
    num_envs, steps, length, num_blocks = 3, 4, 10, 30
    data = world(700, num_envs)
    memory_at = np.random.default_rng(1).normal(size=(num_blocks, num_envs, 2)).astype(np.float32)

    @jax.jit
    def program(key, blocks, memory_at):
        def one(memory, now):
            key, block, start = now
            memory = replay.add(memory, block, start, length)
            index = replay.sample(key, memory, 50, length)
            return memory, (replay.num_ready(memory, length), index, *replay.read_sequences(memory, index, length))

        memory = replay.init(example(data), 60, memory=jnp.zeros((num_envs, 2)), stride=steps, length=length)
        return jax.lax.scan(one, memory, (jax.random.split(key, num_blocks), blocks, memory_at))[1]

    out = jax.tree.map(np.asarray, program(key, blocks_of(data, steps, num_blocks), memory_at))
    for b in range(num_blocks):
        ready, index, tr, start = jax.tree.map(lambda x, b=b: x[b], out)
        assert ready == num_envs * max(0, min(b + 1 - 2, (60 // num_envs) // steps + 1 - 3))
        if not ready:
            continue
        assert (index.row % steps == 0).all() and (index.row + length <= (b + 1) * steps).all()
        np.testing.assert_array_equal(start, memory_at[index.row // steps, index.env])
        rows = index.row + np.arange(length)[:, None]
        for name in ("obs", "action", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(tr, name), getattr(data, name)[rows, index.env])
        goes_on = ~tr.terminated
        np.testing.assert_array_equal(tr.next_obs[goes_on], data.next_obs[rows, index.env][goes_on])


# --- priorities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 1000])
def test_the_sum_tree_is_exact(size, key):
    rng = np.random.default_rng(size)
    put, find = jax.jit(sum_tree.set_leaves), jax.jit(sum_tree.find_leaves)
    tree, leaves = sum_tree.make_tree(size), np.zeros(size)
    assert tree[0].shape[0] >= size and tree[-1].shape[0] == sum_tree.FAN
    for _ in range(5):
        index = rng.choice(size, min(size, 20), replace=False)
        value = rng.exponential(size=len(index)).astype(np.float32) * (rng.random(len(index)) < 0.7)
        tree, leaves[index] = put(tree, index, value), value
        for level in tree:
            np.testing.assert_allclose(np.asarray(level).sum(), leaves.sum(), rtol=1e-6)
    if leaves.sum() == 0:
        return
    mass = np.concatenate([[0.0], rng.random(200), [1.0]]) * leaves.sum()
    found = np.asarray(find(tree, mass.astype(np.float32)))
    assert (leaves[found] > 0).all()
    expected = np.searchsorted(np.cumsum(leaves), mass, side="right")
    assert (found == np.minimum(expected, leaves.nonzero()[0][-1]))[1:-1].mean() > 0.98
    before = jax.jit(sum_tree.mass_before)(tree, np.arange(size))
    np.testing.assert_allclose(before, np.cumsum(leaves) - leaves, rtol=1e-5, atol=1e-5)


def test_steps_are_drawn_by_priority_and_weighted(key):
    data = world(40, 2, ends=(0.1, 0.0))
    rows, envs = np.divmod(np.arange(40), 2)
    priority = np.random.default_rng(0).exponential(size=40).astype(np.float32)
    index = replay.Index(rows + 20, envs, np.ones(40, np.float32))

    @jax.jit
    def program(key, blocks, index, priority):
        memory = replay.update(filled(data, 40, blocks, prioritized=True), index, priority)
        got = replay.sample(key, memory, 100_000, importance=0.7)
        kept = replay.update(memory, index, jnp.ones(40), False)
        add = lambda memory: replay.add(memory, jax.tree.map(lambda x: x[0, :2], blocks))
        lower = replay.update(memory, index, 0.01 * priority)  # the highest so far is not among these
        return got, [x.priorities.tree[0] for x in (memory, kept, add(memory), add(lower))]

    given = program(key, blocks_of(data, 4, 10), index, priority)
    got, (leaves, kept, later, after_lower) = jax.tree.map(np.asarray, given)
    which = (got.row - 20) * 2 + got.env
    share = np.bincount(which, minlength=40) / 100_000
    np.testing.assert_allclose(share, priority / priority.sum(), atol=2e-5)  # stratified: as good as exact
    np.testing.assert_allclose(got.weight, (priority.min() / priority[which]) ** 0.7, rtol=1e-4)
    assert got.weight.max() == 1.0
    assert (kept == leaves).all()
    # what comes in is as likely as the most likely so far
    leaf = [(40 + k) % 21 * 2 + e for k in range(2) for e in range(2)]
    np.testing.assert_array_equal(later[leaf], priority.max())
    np.testing.assert_array_equal(after_lower[leaf], priority.max())


def test_uniform_replay_ignores_priorities():
    memory = jax.eval_shape(lambda: replay.init(example(world(8, 2)), 20))
    index = replay.Index(np.zeros(5, int), np.zeros(5, int), np.ones(5))
    assert replay.update(memory, index, jnp.ones(5)) is memory


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bad_input():
    data = world(30, 2)
    with pytest.raises(ValueError, match="capacity is 0; it must be a positive int"):
        replay.init(example(data), 0)
    with pytest.raises(ValueError, match="capacity is 5; it must hold at least 3 steps of each of the 2 env"):
        replay.init(example(data), 5, length=3)
    with pytest.raises(ValueError, match=r"needs \d+\.\d GB; the device has \d+\.\d GB, enough for about \d+"):
        replay.init(jax.tree.map(lambda x: jnp.zeros((1000, *x.shape), x.dtype), example(data)), 2 * 10**9)
    memory = jax.eval_shape(lambda: replay.init(example(data), 20))
    with pytest.raises(ValueError, match="a block of 30 steps does not fit"):
        replay.add(memory, data)
    sequences = jax.eval_shape(lambda: replay.init(example(data), 20, memory=jnp.zeros((2, 3)), stride=5))
    with pytest.raises(ValueError, match="rollout_length is 4, and must be 5"):
        replay.add(sequences, jax.tree.map(lambda x: x[:4], data), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="batch_size is 0"):
        replay.sample(jax.random.key(0), memory, 0)


# --- what the compiled program does -------------------------------------------------------------------------------


@pytest.mark.parametrize("prioritized", [False, True])
def test_nothing_is_copied(prioritized, key):
    """A donated replay is written in place: beside it, a loop of steps needs memory that no capacity changes."""
    data = world(8, 1)
    data = data._replace(obs=np.zeros((8, 1, 10, 10, 4), bool), next_obs=np.zeros((8, 1, 10, 10, 4), bool))

    def loop(memory, block, key):
        def body(i, carry):
            memory, total = carry
            memory = replay.add(memory, block)
            index = replay.sample(jax.random.fold_in(key, i), memory, 32)
            steps = replay.read(memory, index, 0.9)
            memory = replay.update(memory, index, jnp.ones(32))
            return memory, total + steps.obs.sum() + steps.next_obs.sum()

        return jax.lax.fori_loop(0, 100, body, (memory, 0))

    def spare(capacity):
        memory = jax.eval_shape(lambda: replay.init(example(data), capacity, prioritized))
        compiled = jax.jit(loop, donate_argnums=0).lower(memory, jax.tree.map(lambda x: x[:2], data), key).compile()
        analysis = compiled.memory_analysis()
        kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(memory))
        assert analysis.alias_size_in_bytes >= kept  # donated, every byte of it
        return analysis.temp_size_in_bytes

    small, large = spare(1_000), spare(100_000)
    assert large < small + 50_000, (small, large)


def test_times_due_counts_what_a_clock_counts():
    for block, period in ((7, 500), (500, 7), (1, 1), (128, 10), (6, 4), (10, 10)):
        due = np.asarray(
            jax.jit(lambda b, k=block, p=period: schedules.times_due(b, k, p))(np.arange(2000, dtype=np.int32))
        )
        clock = np.arange(2001) * block // period
        np.testing.assert_array_equal(due, np.diff(clock))
    late = schedules.times_due(jnp.int32(2**31 - 2), 1000, 999)  # far beyond 2³¹ steps
    assert late == (2**31 - 1) * 1000 // 999 - (2**31 - 2) * 1000 // 999
    with pytest.raises(ValueError, match="least common multiple"):
        schedules.times_due(jnp.int32(0), 65_537, 65_539)


def test_n_steps_and_a_value_are_the_n_step_return():
    data = world(20, 4)
    value = np.random.default_rng(3).normal(size=(20, 4)).astype(np.float32)

    @jax.jit
    def both(reward, terminated, truncated, value):
        total, discount, ended, last = replay.n_steps(reward, terminated, truncated, 0.9, 3)
        got = total + jnp.where(ended, 0.0, discount * jnp.take_along_axis(value, last, 0))
        return got, returns.n_step(reward, value, terminated, truncated, 0.9, 3)[:18]

    np.testing.assert_allclose(*both(data.reward, data.terminated, data.truncated, value), atol=1e-5)
