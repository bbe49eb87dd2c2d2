"""The replay against a plain list of everything that ever happened."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import replay, returns, schedules
from purerl.core import Transition


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


def block_of(data, start, steps):
    return jax.tree.map(lambda x: jnp.asarray(x[start : start + steps]), data)


def example(data):
    return jax.tree.map(lambda x: jnp.asarray(x[0]), data)


def filled(data, capacity, steps, num_blocks, length=1, **kinds):
    """A replay after so many blocks, and everything before."""
    memory = replay.init(example(data), capacity, length=length, **kinds)
    put = jax.jit(partial(replay.add, length=length))
    for start in range(0, num_blocks * steps, steps):
        memory = put(memory, block_of(data, start, steps))
        yield start + steps, memory


def n_step_by_hand(data, t, n, env, gamma):
    total, discount = 0.0, 1.0
    for k in range(n):
        total += discount * data.reward[t + k, env]
        discount *= gamma
        if data.terminated[t + k, env] or data.truncated[t + k, env]:
            break
    return total, discount, data.terminated[t + k, env], data.next_obs[t + k, env]


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(
    "num_envs,steps,capacity,n",
    [(1, 1, 20, 1), (1, 1, 10, 3), (3, 4, 50, 1), (3, 4, 50, 5), (7, 2, 100, 2), (2, 16, 33, 1)],
)
def test_what_is_read_is_what_happened(num_envs, steps, capacity, n, prioritized, key):
    """Whole, never unfilled or overwritten, over several times round the ring; capacities that nothing divides."""
    data = world(700, num_envs)
    draw = jax.jit(lambda key, memory: replay.sample(key, memory, 64, n))
    read = jax.jit(lambda memory, index: replay.read(memory, index, 0.9, n))
    for count, memory in filled(data, capacity, steps, 40, n, prioritized=prioritized):
        if replay.num_ready(memory, n) == 0:
            assert not draw(key, memory).weight.any()
            continue
        index = draw(jax.random.fold_in(key, count), memory)
        got = jax.tree.map(np.asarray, read(memory, index))
        seen = 0
        for b, (row, env, weight) in enumerate(zip(*map(np.asarray, index), strict=True)):
            if weight == 0:
                continue
            seen += 1
            assert max(0, count - capacity // num_envs) <= row <= count - n
            reward, discount, terminated, next_obs = n_step_by_hand(data, row, n, env, 0.9)
            np.testing.assert_array_equal(got.obs[b], data.obs[row, env])
            np.testing.assert_array_equal(got.action[b], data.action[row, env])
            np.testing.assert_allclose(got.reward[b], reward, atol=1e-5)
            np.testing.assert_allclose(got.gamma[b], discount, rtol=1e-6)
            assert got.terminated[b] == terminated
            if not terminated:
                np.testing.assert_array_equal(got.next_obs[b], next_obs)
        assert seen == 64 or (prioritized and seen > 0)


def test_sampling_reaches_every_step_alike(key):
    """χ² of uniform draws over all that is complete, once round the ring."""
    data = world(60, 3, ends=(0.2, 0.0))
    *_, (count, memory) = filled(data, 60, 4, 12, 2)
    index = replay.sample(key, memory, 200_000, 2)
    assert replay.num_ready(memory, 2) == (20 - 1) * 3
    hits = np.bincount((np.asarray(index.row) - (count - 20)) * 3 + np.asarray(index.env), minlength=57)
    assert len(hits) == 57
    expected = 200_000 / 57
    chi2 = ((hits - expected) ** 2 / expected).sum()
    assert chi2 < 56 + 5 * np.sqrt(2 * 56)
    assert (index.weight == 1).all()


def test_lost_successors_are_not_drawn(key):
    """Cut at every step, there is no room for all successors: only steps whose own is still there are drawn."""
    data = world(300, 2, ends=(0.0, 1.0))
    for prioritized in (False, True):
        *_, (_, memory) = filled(data, 200, 5, 50, 1, prioritized=prioritized)
        assert 0 < replay.num_ready(memory) < 200
        index = replay.sample(key, memory, 4000)
        got = replay.read(memory, index, 0.9)
        sound = np.asarray(index.weight) > 0
        assert sound.sum() > 10
        right = np.asarray(got.next_obs) == data.next_obs[np.asarray(index.row) % 300, np.asarray(index.env)]
        assert right.all(-1)[sound].all()
        if prioritized:  # what was drawn in vain once is not drawn again
            memory = replay.update(memory, index, jnp.ones(4000))
            assert (replay.sample(key, memory, 4000).weight > 0).all()


def test_dtypes_stay_and_observations_are_stored_once():
    data = world(8, 2, dtype=np.uint8)
    data = data._replace(obs={"image": data.obs, "flag": data.obs[..., 0] > 0}, next_obs={
        "image": data.next_obs, "flag": data.next_obs[..., 0] > 0})  # fmt: skip
    *_, (_, memory) = filled(data, 1000, 4, 2)
    assert memory.obs["image"].dtype == np.uint8 and memory.obs["flag"].dtype == bool
    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), world(8, 1))
    step = step._replace(obs=jax.ShapeDtypeStruct((1, 10, 10, 4), bool))
    needed = replay.num_bytes(step, 10**6)
    assert 1.0 < needed / (10**6 * (400 + 4 + 4 + 2)) < 1.1


def test_sequences_are_what_happened_and_start_where_blocks_did(key):
    num_envs, steps, length = 3, 4, 10
    data = world(700, num_envs)
    memory_at = np.random.default_rng(1).normal(size=(100, num_envs, 2)).astype(np.float32)
    memory = replay.init(example(data), 60, memory=jnp.zeros((num_envs, 2)), stride=steps, length=length)
    put = jax.jit(partial(replay.add, length=length))
    for b in range(30):
        memory = put(memory, block_of(data, b * steps, steps), jnp.asarray(memory_at[b]))
        ready = int(replay.num_ready(memory, length))
        assert ready == num_envs * max(0, min(b + 1 - 2, (60 // num_envs) // steps + 1 - 3))
        if not ready:
            continue
        index = replay.sample(jax.random.fold_in(key, b), memory, 50, length)
        tr, start = jax.tree.map(np.asarray, replay.read_sequences(memory, index, length))
        for i, (row, env, _) in enumerate(zip(*map(np.asarray, index), strict=True)):
            assert row % steps == 0 and row + length <= (b + 1) * steps
            np.testing.assert_array_equal(start[i], memory_at[row // steps, env])
            for name in ("obs", "action", "reward", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(tr, name)[:, i], getattr(data, name)[row : row + length, env])
            goes_on = ~tr.terminated[:, i]
            np.testing.assert_array_equal(tr.next_obs[:, i][goes_on], data.next_obs[row : row + length, env][goes_on])


# --- priorities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 1000])
def test_the_sum_tree_is_exact(size, key):
    rng = np.random.default_rng(size)
    tree, leaves = replay._tree(size), np.zeros(size)
    assert tree[0].shape[0] >= size and tree[-1].shape[0] == replay.FAN
    for _ in range(5):
        index = rng.choice(size, min(size, 20), replace=False)
        value = rng.exponential(size=len(index)).astype(np.float32) * (rng.random(len(index)) < 0.7)
        tree, leaves[index] = replay._set(tree, jnp.asarray(index), jnp.asarray(value)), value
        for level in tree:
            np.testing.assert_allclose(level.sum(), leaves.sum(), rtol=1e-6)
    if leaves.sum() == 0:
        return
    mass = np.concatenate([[0.0], rng.random(200), [1.0]]) * leaves.sum()
    found = np.asarray(replay._find(tree, jnp.asarray(mass, jnp.float32)))
    assert (leaves[found] > 0).all()
    expected = np.searchsorted(np.cumsum(leaves), mass, side="right")
    assert (found == np.minimum(expected, leaves.nonzero()[0][-1]))[1:-1].mean() > 0.98


def test_steps_are_drawn_by_priority_and_weighted(key):
    data = world(40, 2, ends=(0.1, 0.0))
    *_, (_, memory) = filled(data, 40, 4, 10, prioritized=True)
    rng = np.random.default_rng(0)
    rows, envs = np.divmod(np.arange(40), 2)
    rows = rows + 20
    priority = rng.exponential(size=40).astype(np.float32)
    index = replay.Index(jnp.asarray(rows), jnp.asarray(envs), jnp.ones(40))
    memory = replay.update(memory, index, jnp.asarray(priority))
    got = jax.jit(lambda key: replay.sample(key, memory, 100_000, importance=0.7))(key)
    share = np.bincount((np.asarray(got.row) - 20) * 2 + np.asarray(got.env), minlength=40) / 100_000
    np.testing.assert_allclose(share, priority / priority.sum(), atol=2e-5)  # stratified: as good as exact
    which = (np.asarray(got.row) - 20) * 2 + np.asarray(got.env)
    np.testing.assert_allclose(got.weight, (priority.min() / priority[which]) ** 0.7, rtol=1e-4)
    assert got.weight.max() == 1.0
    assert (replay.update(memory, index, jnp.ones(40), False).priorities.tree[0] == memory.priorities.tree[0]).all()
    # what comes in is as likely as the most likely so far
    later = replay.add(memory, block_of(data, 0, 2))
    leaf = [(40 + k) % 21 * 2 + e for k in range(2) for e in range(2)]
    np.testing.assert_array_equal(later.priorities.tree[0][jnp.array(leaf)], max(1.0, priority.max()))


def test_uniform_replay_ignores_priorities(key):
    *_, (_, memory) = filled(world(8, 2), 20, 4, 2)
    index = replay.sample(key, memory, 5)
    assert replay.update(memory, index, jnp.ones(5)) is memory


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bad_input():
    data = world(30, 2)
    with pytest.raises(ValueError, match="capacity is 0; it must be a positive int"):
        replay.init(example(data), 0)
    with pytest.raises(ValueError, match="capacity is 5; it must hold at least 3 steps of each of the 2 env"):
        replay.init(example(data), 5, length=3)
    with pytest.raises(ValueError, match=r"needs \d+\.\d GB; the device has \d+\.\d GB, enough for about \d+"):
        replay.init(example(data), 10**12)
    memory = replay.init(example(data), 20)
    with pytest.raises(ValueError, match="a block of 30 steps does not fit"):
        replay.add(memory, data)
    sequences = replay.init(example(data), 20, memory=jnp.zeros((2, 3)), stride=5)
    with pytest.raises(ValueError, match="rollout_length is 4, and must be 5"):
        replay.add(sequences, block_of(data, 0, 4), jnp.zeros((2, 3)))
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
        compiled = jax.jit(loop, donate_argnums=0).lower(memory, block_of(data, 0, 2), key).compile()
        analysis = compiled.memory_analysis()
        kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(memory))
        assert analysis.alias_size_in_bytes >= kept  # donated, every byte of it
        return analysis.temp_size_in_bytes

    small, large = spare(1_000), spare(100_000)
    assert large < small + 50_000, (small, large)


def test_times_due_counts_what_a_clock_counts():
    for block, period in ((7, 500), (500, 7), (1, 1), (128, 10), (6, 4), (10, 10)):
        due = np.asarray(jax.vmap(lambda b: schedules.times_due(b, block, period))(jnp.arange(2000)))
        clock = np.arange(2001) * block // period
        np.testing.assert_array_equal(due, np.diff(clock))
    late = schedules.times_due(jnp.int32(2**31 - 2), 1000, 999)  # far beyond 2³¹ steps
    assert late == (2**31 - 1) * 1000 // 999 - (2**31 - 2) * 1000 // 999
    with pytest.raises(ValueError, match="least common multiple"):
        schedules.times_due(jnp.int32(0), 65_537, 65_539)


def test_n_steps_and_a_value_are_the_n_step_return():
    data = world(20, 4)
    value = np.random.default_rng(3).normal(size=(20, 4)).astype(np.float32)
    block = map(jnp.asarray, (data.reward, data.terminated, data.truncated))
    reward, discount, terminated, last = replay.n_steps(*block, 0.9, 3)
    got = reward + jnp.where(terminated, 0.0, discount * jnp.take_along_axis(jnp.asarray(value), last, 0))
    expected = returns.n_step(data.reward, value, data.terminated, data.truncated, 0.9, 3)
    np.testing.assert_allclose(got, expected[:18], atol=1e-5)
