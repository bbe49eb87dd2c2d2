"""The loop, on environments small enough to count by hand."""

import gc
import re
from typing import NamedTuple

import gymnax.wrappers.purerl
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from linear import Linear

import purerl
from purerl import training
from purerl.core import Agent, Reward
from purerl.testing import check_reward, checks, probes
from purerl.testing.checks import assert_close, assert_same_bits


def recorder(episodic=False):
    """An agent that always plays 0 and keeps its last block: what the learner gives it can be read off its state."""

    def update(key, state, rollout):
        tr = rollout.transitions
        return tr, {"mean_reward": tr.reward.mean()}

    act = lambda key, state, memory, obs: (jnp.zeros(obs.shape[0], jnp.int32), memory + 1, obs[:, 0])
    greedy = lambda state, memory, obs: (jnp.zeros(obs.shape[0], jnp.int32), memory + 1)
    memory = lambda num_envs: jnp.zeros(num_envs, jnp.int32)
    reset = lambda memory, ended: jnp.where(ended, 0, memory)
    return Agent(lambda key, obs: (), memory, reset, act, greedy, update, episodic)


def blocks(env, agent, key, num_updates=1, **settings):
    """What the agent was given, update by update."""
    learner = purerl.learner(env, env.default_params, agent, **settings)
    step, given = jax.jit(learner.step), []
    state = jax.jit(learner.init)(key)
    for _ in range(num_updates):
        state, sums = step(state._replace(agent=()))
        given.append((state, training.summarize(sums)))
    return given


def test_successors_are_true_and_ends_are_told_apart(key):
    env, _ = probes.delayed_reward()
    ((state, metrics),) = blocks(env, recorder(), key, num_envs=2, rollout_length=5)
    tr = state.agent
    np.testing.assert_array_equal(tr.obs[:, 0], [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(tr.next_obs[:, 0], [[0, 1]] * 5)  # never the [1, 0] that follows a reset
    np.testing.assert_array_equal(tr.terminated[:, 0], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(tr.reward[:, 0], [0, 1, 0, 1, 0])
    assert not tr.truncated.any() and tr.valid.all() and tr.valid.shape == (5, 2)
    np.testing.assert_array_equal(tr.extras, tr.obs[..., 0])
    assert metrics["episodes"] == 4 and metrics["episode_return"] == 1 and metrics["episode_length"] == 2


def test_the_clock_truncates(key):
    env, _ = probes.constant_reward(max_steps=3)
    given = blocks(env, recorder(), key, num_updates=2, num_envs=1, rollout_length=4)
    ends = jnp.concatenate([state.agent.truncated[:, 0] for state, _ in given])
    np.testing.assert_array_equal(ends, [0, 0, 1, 0, 0, 1, 0, 0])
    assert not any(state.agent.terminated.any() for state, _ in given)
    # the second episode began in the first block: its return is whole all the same
    assert [float(m["episode_return"]) for _, m in given] == [3.0, 3.0]


def test_nothing_finished_is_reported_as_nothing(key):
    env, _ = probes.constant_reward(max_steps=50)
    ((_, metrics),) = blocks(env, recorder(), key, num_envs=2, rollout_length=4)
    assert metrics["episodes"] == 0 and np.isnan(metrics["episode_return"]) and np.isnan(metrics["episode_length"])


def test_both_ends_in_one_step():
    """An episode that fails at the last step of its limit has terminated; both flags are passed on."""
    move = lambda key, row, action: (0, 1.0, True)
    env = probes.Probe("both", [[1.0]], lambda key: 0, move, num_actions=2, max_steps=1)
    ((state, _),) = blocks(env, recorder(), jax.random.key(0), num_envs=1, rollout_length=2)
    assert state.agent.terminated.all() and state.agent.truncated.all()


def test_memory_counts_the_steps_of_an_episode(key):
    env, _ = probes.constant_reward(max_steps=3)
    ((state, _),) = blocks(env, recorder(), key, num_envs=2, rollout_length=5)
    np.testing.assert_array_equal(state.position.memory, [2, 2])  # five steps, an end after the third


def test_episodic_blocks_start_anew_and_stop_counting(key):
    env, _ = probes.random_length(0.3)
    given = blocks(env, recorder(True), key, num_updates=2, num_envs=64, rollout_length=6)
    for state, metrics in given:
        tr = state.agent
        assert state.position == ()
        ended = np.asarray(tr.terminated | tr.truncated)
        for n in range(64):
            length = int(np.argmax(ended[:, n])) + 1
            assert ended[:, n].any()  # the block's last step truncates what has not ended
            np.testing.assert_array_equal(tr.valid[:, n], np.arange(6) < length)
        assert metrics["episodes"] == 64
        np.testing.assert_allclose(metrics["episode_return"], tr.valid.sum() / 64, rtol=1e-6)
        np.testing.assert_allclose(metrics["episode_length"], tr.valid.sum() / 64, rtol=1e-6)
    assert (given[0][0].agent.valid != given[1][0].agent.valid).any()


def test_an_episodic_rollout_stops_where_all_have_ended(key):
    """Up to its end an episode is that of any rollout; behind it nothing changes, and the environment stays."""
    move = lambda key, row, action: (row + 1, 1.0, jax.random.uniform(key) < 0.5)
    env = probes.Probe("walk", jnp.arange(60.0)[:, None], lambda key: 0, move, num_actions=2, max_steps=59)
    environment, agent, length = training.environments.vectorized(env, env.default_params), recorder(True), 40
    position = training.rollouts.start(environment, agent, jax.random.split(key, 4))
    play = lambda episodic: jax.jit(
        lambda position, key: training.rollout(environment, agent, (), position, key, length, episodic=episodic)
    )
    (_, free), (end, stopped) = (play(episodic)(position, key) for episodic in (False, True))
    x, y = (training.rollouts.first_episodes(data.transitions) for data in (free, stopped))
    np.testing.assert_array_equal(x.valid, y.valid)
    longest = int(y.valid.sum(0).max())
    assert longest < length - 1 and (y.valid.sum(0) < longest).any()
    for name in ("obs", "action", "reward", "next_obs", "extras"):
        one, other = (np.asarray(getattr(tr, name))[np.asarray(x.valid)] for tr in (x, y))
        np.testing.assert_array_equal(one, other)
    assert not stopped.transitions.terminated[longest:].any()
    assert (end.memory == longest).all()  # what `act` counts does not go on
    last = [np.flatnonzero(y.valid[:, n])[-1] for n in range(4)]
    np.testing.assert_array_equal(end.obs, [y.obs[t, n] for n, t in enumerate(last)])


def test_reported_returns_of_the_training_reward(key):
    env, _ = probes.random_length(0.5)
    unscored = lambda tr: jnp.where(jnp.arange(tr.reward.shape[1]) == 0, jnp.nan, 2.0 * tr.reward)
    of = {"reward": purerl.rewards.term(unscored), "returns": "training", "num_envs": 8, "rollout_length": 40}
    ((state, metrics),) = blocks(env, recorder(True), key, **of)
    lengths = state.agent.valid.sum(0)[1:]
    assert metrics["episodes"] == 7
    np.testing.assert_allclose(metrics["episode_return"], 2 * lengths.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["episode_length"], lengths.mean(), rtol=1e-6)


def random_start(num_rows=1000):
    """An episode's observation says which start was drawn."""
    begin = lambda key: jax.random.randint(key, (), 0, num_rows)
    move = lambda key, row, action: (row, jax.random.uniform(key), False)
    return probes.Probe("start", jnp.arange(num_rows, dtype=jnp.float32)[:, None], begin, move, 2, max_steps=2)


def test_a_group_shares_its_resets_and_nothing_else(key):
    ((state, _),) = blocks(random_start(), recorder(), key, num_envs=6, rollout_length=4, group_size=3)
    obs, reward = state.agent.obs[..., 0], state.agent.reward
    for t in range(4):
        assert len(set(obs[t, :3].tolist())) == len(set(obs[t, 3:].tolist())) == 1
        assert obs[t, 0] != obs[t, 3]
        assert len(set(reward[t].tolist())) == 6
    assert obs[0, 0] != obs[2, 0]  # a new start in the next episode


def test_a_pool_of_resets(key):
    """Starts come from the pool, uniformly, and the next block has another one; a group draws the same."""
    settings = dict(num_envs=40, rollout_length=60, group_size=2, reset_pool=5)
    given = blocks(random_start(), recorder(), key, num_updates=2, **settings)
    pools = []
    for state, _ in given:
        starts = np.asarray(state.agent.obs[2::2, :, 0], int)
        np.testing.assert_array_equal(starts[:, ::2], starts[:, 1::2])
        values, counts = np.unique(starts[:, ::2], return_counts=True)
        assert len(values) == 5 and ((counts - 116) ** 2 / 116).sum() < 25  # chi-square, 4 degrees: p < 1e-4
        pools.append(set(values))
    assert pools[0] != pools[1]
    # whole episodes begin from the pool too
    ((state, _),) = blocks(random_start(), recorder(True), key, num_envs=40, rollout_length=2, reset_pool=5)
    assert len(np.unique(state.agent.obs[0])) == 5
    wrapped = gymnax.wrappers.purerl.LogWrapper(random_start())
    with pytest.raises(ValueError, match="reset_pool is 5; LogWrapper resets itself"):
        purerl.learner(wrapped, wrapped.default_params, recorder(), 4, 4, reset_pool=5)


def test_resets_are_uniform():
    ((state, _),) = blocks(random_start(10), recorder(), jax.random.key(5), num_envs=50, rollout_length=40)
    counts = np.bincount(np.asarray(state.agent.obs[::2, :, 0], int).ravel(), minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 35  # chi-square, 9 degrees of freedom: p < 1e-4


def test_a_reward_changes_what_is_learned_from_and_not_what_is_reported(key):
    env, _ = probes.delayed_reward()

    def apply(key, state, tr):
        return state + 1, 10 * tr.reward + state, {"calls": state}

    tens = Reward(lambda key, tr: jnp.float32(tr.reward.shape[0]), apply)
    given = blocks(env, recorder(), key, num_updates=2, num_envs=3, rollout_length=4, reward=tens)
    np.testing.assert_array_equal(given[0][0].agent.reward[:, 0], [3, 13, 3, 13])
    np.testing.assert_array_equal(given[1][0].agent.reward[:, 0], [4, 14, 4, 14])
    assert given[1][1]["episode_return"] == 1 and given[1][1]["calls"] == 4
    check_reward(tens, given[0][0].agent, key)


def test_asked_info_is_kept(key, cartpole):
    env, env_params = cartpole
    make = lambda info: purerl.learner(env, env_params, recorder(), num_envs=2, rollout_length=3, info=info)
    state, _ = jax.jit(lambda key: make(("discount",)).step(make(("discount",)).init(key)))(key)
    np.testing.assert_array_equal(state.agent.info["discount"], 1 - state.agent.terminated)
    with pytest.raises(ValueError, match=r"info: the environment gives \['discount'\], not \['cost'\]"):
        jax.eval_shape(lambda key: make(("cost",)).step(make(("cost",)).init(key)), key)


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(num_envs=0), "num_envs is 0"), (dict(num_envs=2.0), "num_envs is 2.0"),
        (dict(rollout_length=-1), "rollout_length is -1"), (dict(group_size=3), "group_size is 3; it must divide"),
        (dict(reset_pool=0), "reset_pool is 0"),
        (dict(returns="both"), "returns is 'both'; it must be 'environment' or 'training'"),
        (dict(agent=recorder(True), episodic=False), "needs whole episodes"),
    ],
)  # fmt: skip
def test_bad_settings(bad, message):
    env, _ = probes.constant_reward()
    with pytest.raises(ValueError, match=message):
        purerl.learner(env, env.default_params, **{**dict(agent=recorder(), num_envs=4, rollout_length=4), **bad})


def test_bad_counts_of_a_run(key):
    env, _ = probes.constant_reward()
    learner = purerl.learner(env, env.default_params, recorder(), 1, 2)
    for num_updates, every in ((0, 1), (4, 0), (4, 3)):
        with pytest.raises(ValueError, match="every is"):
            purerl.train(learner, key, num_updates, every)
    for num_updates, every in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"must be positive, got {num_updates} and {every}"):
            purerl.run(lambda hp: learner, (), key, num_updates, every)
    with pytest.raises(ValueError, match="either a key"):
        purerl.run(lambda hp: learner, (), None, 1)


# --- a real agent ---------------------------------------------------------------------------------------------------


def tiny(env, env_params, num_envs=4, rollout_length=8):
    policy = purerl.distributions.for_space(env.action_space(env_params))
    network = Linear(policy.num_params)
    return lambda hp: purerl.learner(env, env_params, purerl.a2c(network, policy, hp), num_envs, rollout_length)


@pytest.fixture(scope="module")
def make(cartpole):
    return tiny(*cartpole)


def test_metrics_of_a_chunk_are_those_of_its_updates(make, key):
    hp = purerl.A2C()
    _, one = jax.jit(lambda: purerl.train(make(hp), key, 12))()
    _, four = jax.jit(lambda: purerl.train(make(hp), key, 12, every=4))()
    assert four["episodes"].shape == (3,)
    np.testing.assert_array_equal(one["episodes"].reshape(3, 4).sum(1), four["episodes"])
    np.testing.assert_allclose(one["entropy"].reshape(3, 4).mean(1), four["entropy"], rtol=1e-5)
    total = np.nansum(np.asarray(one["episodes"] * one["episode_return"]).reshape(3, 4), axis=1)
    np.testing.assert_allclose(total / four["episodes"], four["episode_return"], rtol=1e-5)


def test_seeds_and_floats_are_one_batch(make, key):
    """A sweep x seeds in one program, each member as if it were alone."""
    keys = jax.random.split(key, 2)
    hp = purerl.A2C(learning_rate=jnp.array([1e-3, 1e-2, 1e-3, 1e-2]), gamma=0.9)
    learner = purerl.batch(make)(hp)
    state, _ = jax.jit(lambda keys: learner.step(learner.init(keys)))(keys[jnp.array([0, 0, 1, 1])])
    alone = jax.jit(lambda hp, key: make(hp).step(make(hp).init(key))[0])
    for i, (rate, seed) in enumerate([(1e-3, 0), (1e-2, 0), (1e-3, 1), (1e-2, 1)]):
        expected = alone(purerl.A2C(learning_rate=rate, gamma=0.9), keys[seed])
        assert_close(jax.tree.map(lambda x, i=i: x[i], state.agent), expected.agent, f"member {i}")


def test_sharded_equals_vmapped(make, key):
    hp, keys = purerl.A2C(learning_rate=jnp.array([1e-3, 2e-3, 3e-3, 4e-3])), jax.random.split(key, 4)
    whole, split = purerl.batch(make), purerl.batch(make, jax.devices())
    *_, (_, a, metrics_a) = purerl.run(whole, hp, keys, 5, every=2)
    *_, (iteration, b, metrics_b) = purerl.run(split, hp, keys, 5, every=2)
    assert iteration == 5 and len(b.agent.updates.sharding.device_set) == 2
    assert_close(a.agent, b.agent, "one device against two", tolerance=1e-4)
    np.testing.assert_array_equal(metrics_a["episodes"], metrics_b["episodes"])
    with pytest.raises(ValueError, match="3 runs; their number must be a multiple of that of devices, 2"):
        next(purerl.run(split, purerl.A2C(), keys[:3], 1))


def test_environments_of_one_agent_over_devices(cartpole, key):
    """A data-parallel update is the update: the mean over all environments, not a sum, nor one device's mean."""
    make = tiny(*cartpole, num_envs=8)
    hp = purerl.A2C(max_grad_norm=1e6)  # a sum would show
    start = jax.jit(make(hp).init)(key)
    *_, (_, one, _) = purerl.run(make, hp, None, 1, state=jax.tree.map(lambda x: x.copy(), start))
    split = training.shard_environments(start, jax.devices())
    assert len(split.position.obs.sharding.device_set) == 2
    *_, (_, two, _) = purerl.run(make, hp, None, 1, state=split)
    assert_close(one.agent.params, two.agent.params, "one device against two", tolerance=1e-5)
    with pytest.raises(ValueError, match="must divide num_envs"):
        training.shard_environments(jax.jit(tiny(*cartpole, num_envs=3)(hp).init)(key), jax.devices())
    with pytest.raises(ValueError, match="state has no environments to shard: this learner is episodic"):
        training.shard_environments(start._replace(position=()), jax.devices())


def test_devices_that_share_the_environments_of_each_run(cartpole, key):
    """Each computes the gradient of a part of the rows, and the sum over devices is that of one device."""
    make, hp = tiny(*cartpole, num_envs=8), purerl.A2C(max_grad_norm=1e6)  # a sum in place of a mean would show
    split = purerl.batch(make, jax.devices(), devices_per_run=2)
    *_, (_, one, a) = purerl.run(make, hp, key, 2)
    program = training.compile_run(split, hp, key[None])
    *_, (_, two, b) = purerl.run(split, hp, None, 2, program=program)
    assert len(two.position.obs.sharding.device_set) == 2 and not two.position.obs.is_fully_replicated
    assert_close(one.agent.params, jax.tree.map(lambda x: x[0], two.agent.params), "one device against two", 1e-5)
    assert a.keys() == b.keys() and all(b[name].shape == (1,) for name in b)
    np.testing.assert_array_equal(a["episodes"], b["episodes"][0])
    compiled = training.loop._advance.lower(split, training.loop.as_arrays(hp), two, jnp.int32(1)).compile().as_text()
    sums = [line.split(" all-reduce(")[0] for line in compiled.splitlines() if " all-reduce(" in line]
    shapes = [sorted(map(int, x.split(","))) for line in sums for x in re.findall(r"f32\[([\d,]+)\]", line)]
    kernel = max(jax.tree.leaves(one.agent.params), key=lambda x: x.size).shape
    assert sorted((1, *kernel)) in shapes, "no gradients are summed: every device computes everything"


@pytest.mark.parametrize(
    "num_envs, runs, how, said",
    [
        (3, 1, {"devices_per_run": 2}, "2 devices; their number must divide num_envs, which is 3"),
        (4, 1, {"devices_per_run": 2, "isolate": True}, "devices_per_run is 2: isolate is for runs of one device each"),
        (4, 1, {"devices_per_run": 2, "devices": None}, "devices_per_run is 2: give the devices"),
        (6, 1, {"devices_per_run": 3}, "1 runs of 3 devices each, on 2 devices"),
    ],
)
def test_environments_that_cannot_be_shared(num_envs, runs, how, said, cartpole, key):
    with pytest.raises(ValueError, match=said):
        learner = purerl.batch(tiny(*cartpole, num_envs=num_envs), **{"devices": jax.devices(), **how})(purerl.A2C())
        jax.eval_shape(learner.init, jax.random.split(key, runs))


def test_run_donates_its_state(make, key):
    states = [state for _, state, _ in purerl.run(make, purerl.A2C(), key, 3)]
    leaf = lambda state: jax.tree.leaves(state.agent.params)[0]
    assert leaf(states[0]).is_deleted() and leaf(states[1]).is_deleted() and not leaf(states[2]).is_deleted()
    # what an interrupted cell leaves behind
    for again in (
        lambda: next(purerl.run(make, purerl.A2C(), None, 1, state=states[0])),
        lambda: training.compile_run(make, purerl.A2C(), state=states[0]),
        lambda: purerl.evaluate(None, (), recorder(), states[0].agent, key, max_steps=1),
        lambda: purerl.runs.save_state("/dev/null/state.safetensors", states[0]),
    ):
        with pytest.raises(ValueError, match=r"state was donated: .* jax.tree.map\(jnp.copy, state\)"):
            again()
    assert repr(states[0]).startswith("LearnerState(iteration=<int32[]>, key=<1 array, 8 B>")


def test_the_compiled_run_writes_into_its_donated_state(make, key):
    """Every buffer of the state, and nothing else, is an output's too: no second state is ever held."""
    state = jax.jit(make(purerl.A2C()).init)(key)
    compiled = training.loop._advance.lower(make, training.loop.as_arrays(purerl.A2C()), state, jnp.int32(3)).compile()
    size = sum(x.nbytes for x in jax.tree.leaves(jax.tree.map(_words, state)))
    assert 0 < size <= compiled.memory_analysis().alias_size_in_bytes <= 1.1 * size


def _words(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_memory_does_not_grow_with_the_run(make, key):
    """The compiled run of 1,000 updates needs what that of 10 needs."""
    size = {}
    for every in (10, 1000):
        compiled = jax.jit(lambda n=every: purerl.train(make(purerl.A2C()), key, n, every=n)).lower().compile()
        size[every] = compiled.memory_analysis().temp_size_in_bytes
    assert size[1000] <= 1.01 * size[10]
    live = []
    for iteration, _, _ in purerl.run(make, purerl.A2C(), key, 40, every=5):
        if iteration in (10, 40):  # a collection of a process with many programs takes a second
            gc.collect()
            live.append(sum(x.nbytes for x in jax.live_arrays()))
    assert live[1] <= live[0]


def test_counters_pass_two_to_the_31(make, key):
    """Environment steps are the caller's Python ints; what the program counts are updates."""
    *_, (_, state, _) = purerl.run(make, purerl.A2C(), key, 1)
    far = state._replace(iteration=jnp.int32(10**8), agent=state.agent._replace(updates=jnp.int32(10**8)))
    hp = purerl.A2C(anneal_steps=6.4e9)
    (iteration, _, metrics), *_ = purerl.run(make, hp, None, 1, state=far)
    assert iteration * 4 * 8 > 2**31
    np.testing.assert_allclose(metrics["learning_rate"], 7e-4 / 2, rtol=1e-3)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_plays_each_episode_once(key):
    env, _ = probes.random_length(0.5)
    out = jax.jit(lambda: purerl.evaluate(env, env.default_params, recorder(), (), key, num_episodes=2000))()
    np.testing.assert_array_equal(out.returns, out.lengths)
    assert out.finished.all() and abs(out.returns.mean() - 2.0) < 0.15  # a geometric length of mean 2


def test_evaluation_in_groups_bounds_memory(key):
    """Groups are independent, of equal size, and the surplus of the last one does not count."""
    env, _ = probes.random_length(0.5)
    play = jax.jit(
        lambda at_once: purerl.evaluate(env, env.default_params, recorder(), (), key, 1001, at_once=at_once),
        static_argnums=0,
    )
    out = play(100)
    assert out.returns.shape == (1001,) and out.finished.all() and abs(out.returns.mean() - 2.0) < 0.2
    assert len({tuple(row) for row in np.asarray(out.lengths[:910]).reshape(10, 91).tolist()}) == 10
    assert_same_bits(play(None), play(1001), "one group of all")
    size = lambda n: play.lower(n).compile().memory_analysis().temp_size_in_bytes
    assert size(100) < size(None)


class Paying(gymnax.environments.environment.Environment):
    """Every step pays `pays`; an episode ends at its time limit."""

    name, num_actions = "paying", 2

    @struct.dataclass
    class Params:
        pays: float = 1.0
        table: tuple = (1.0, 2.0)
        max_steps_in_episode: int = 3

    default_params = Params()

    def reset_env(self, key, params):
        return jnp.zeros(1) + params.pays, jnp.zeros((), jnp.int32)

    def step_env(self, key, state, action, params):
        return jnp.zeros(1) + params.pays, state + 1, jnp.float32(params.pays), jnp.zeros((), bool), {}

    def is_truncated(self, state, params):
        return state >= params.max_steps_in_episode

    def action_space(self, params=None):
        return gymnax.environments.spaces.Discrete(2)

    def observation_space(self, params):
        return gymnax.environments.spaces.Box(0.0, 9.0, (1,))


def test_each_environment_has_its_own_parameters(key):
    """Leaves with one axis more than the default's are of the environments; all others are shared."""
    env, pays, limits = Paying(), jnp.array([1.0, 2.0, 3.0]), jnp.array([1, 2, 9])
    own = env.default_params.replace(pays=pays, max_steps_in_episode=limits)
    learner = purerl.learner(env, own, recorder(), 3, 4)
    tr = jax.jit(lambda key: learner.step(learner.init(key)))(key)[0].agent
    np.testing.assert_array_equal(tr.reward, [[1, 2, 3]] * 4)
    np.testing.assert_array_equal(tr.obs[..., 0], [[1, 2, 3]] * 4)
    np.testing.assert_array_equal(tr.truncated.T, [[1, 1, 1, 1], [0, 1, 0, 1], [0] * 4])
    out = purerl.evaluate(env, own, recorder(), (), key, num_episodes=6)
    np.testing.assert_array_equal(out.returns, [1, 4, 27] * 2)
    with pytest.raises(ValueError, match="env_params has values for 3 environments; num_envs is 4"):
        purerl.learner(env, own, recorder(), 4, 4)
    with pytest.raises(ValueError, match=r"equal lengths, got .*'.pays': 3"):
        purerl.learner(env, own.replace(max_steps_in_episode=limits[:2]), recorder(), 3, 4)
    with pytest.raises(ValueError, match="reset_pool is 5; states of a pool"):
        purerl.learner(env, own, recorder(), 3, 4, reset_pool=5)
    other = {"pays": pays}  # not of the structure of the default: all environments share it
    assert training.environments._own_axes(env, other) == {"pays": None}


def test_evaluation_is_capped_and_greedy_is_deterministic(cartpole, key):
    env, _ = probes.constant_reward(max_steps=50)
    out = purerl.evaluate(env, env.default_params, recorder(), (), key, num_episodes=3, max_steps=7, greedy=True)
    np.testing.assert_array_equal(out.returns, [7.0] * 3)
    assert not out.finished.any()
    with pytest.raises(ValueError, match="max_steps is None"):
        purerl.evaluate(env, (), recorder(), (), key)
    for num_episodes in (0, 2**31):
        with pytest.raises(
            ValueError, match=f"num_episodes is {num_episodes}; it must be positive and below 2147483648"
        ):
            purerl.evaluate(env, env.default_params, recorder(), (), key, num_episodes=num_episodes)


def test_evaluating_leaves_training_alone(make, cartpole, key):
    hp, policy = purerl.A2C(), purerl.distributions.categorical(2)
    network = Linear(2)
    play = jax.jit(lambda s, k: purerl.evaluate(*cartpole, purerl.a2c(network, policy, hp), s, k, 16, greedy=True))
    *_, (_, plain, _) = purerl.run(make, hp, key, 4)
    for _, state, _ in purerl.run(make, hp, key, 4):
        first, second = play(state.agent, key), play(state.agent, key)
        np.testing.assert_array_equal(first.returns, second.returns)
    assert_same_bits(plain, state, "training with evaluations in between")


class Throttle(gymnax.environments.environment.Environment):
    """Every step of an episode shows the same number, and pays the action that is executed, from -1 to 2."""

    @struct.dataclass
    class Params:
        max_steps_in_episode: int = 3

    class State(NamedTuple):
        obs: jax.Array
        time: jax.Array

    name, default_params = "throttle", Params()

    def reset_env(self, key, params):
        obs = jax.random.uniform(key, (1,), maxval=4.0)
        return obs, self.State(obs, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        return state.obs, state._replace(time=state.time + 1), action[0], jnp.zeros((), bool), {}

    def action_space(self, params=None):
        return gymnax.environments.spaces.Box(-1.0, 2.0, (1,))


def test_returns_of_training_and_of_evaluation_against_the_integral(key):
    """At parameters that stay: sampled actions in both, clipped as they are executed, and greedy ones apart.

    a = 0.5 + 1.5 (μ + σ ε), μ linear in the standardised observation, and E[min(max(a, -1), 2)] by adding up ε.
    """
    env, slope, bias, sigma = Throttle(), 0.6, 0.3, 0.8
    policy = purerl.distributions.for_space(env.action_space())
    agent = purerl.a2c(Linear(2), policy, purerl.A2C(normalize_obs=True))
    agent = agent._replace(update=lambda key, state, rollout: (state, {}))
    learner = purerl.learner(env, env.default_params, agent, num_envs=1000, rollout_length=7)
    state = learner.init(key)
    params = {"pi": jnp.array([[slope, 0.0], [bias, np.log(sigma)]]), "value": jnp.zeros(2)}
    moments = purerl.normalize.Moments(jnp.float32(4), jnp.ones(1), jnp.full(1, 16.0))  # mean 1, deviation 2
    learned = state.agent._replace(agent=state.agent.agent._replace(params=params), moments=moments)

    @jax.jit
    def returns(state):
        evaluated = [
            purerl.evaluate(env, env.default_params, agent, state.agent, key, 2000, greedy=greedy).returns.mean()
            for greedy in (False, True)
        ]
        sums = learner.step(state)[1]
        return sums.episodes, sums.returns / sums.episodes, *evaluated

    mean = bias + slope * ((np.arange(2000) + 0.5) / 500 - 1) / 2
    executed = lambda noise: 3 * np.clip(0.5 + 1.5 * (mean + sigma * noise), -1, 2).mean()
    sampled = np.mean([executed(noise) for noise in jax.scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)])
    episodes, trained, stochastic, greedy = returns(state._replace(agent=learned))
    assert episodes == 2000 and abs(executed(0) - sampled) > 0.2
    np.testing.assert_allclose([trained, stochastic, greedy], [sampled, sampled, executed(0)], atol=0.15)


def test_a_batch_made_in_a_loop_is_compiled_once(key):
    """Its identity follows that of what it is made of."""
    zero = jnp.zeros((), jnp.int32)
    sums = lambda hp: training.Sums(zero + 1, zero, hp, hp, {})
    make = lambda hp: purerl.Learner(lambda key: Counter(zero), lambda state: (Counter(state.iteration + 1), sums(hp)))
    keys, counts = jax.random.split(key, 2), []
    with checks._Compilations() as compiled:
        for _ in range(3):
            for _ in purerl.run(purerl.batch(make), jnp.ones(2), keys, 2):
                pass
            counts.append(compiled.count)
    assert counts[0] > 0 and counts[1:] == counts[:1] * 2
    assert purerl.batch(make, jax.devices()) is purerl.batch(make, tuple(jax.devices())) is not purerl.batch(make)


class Counter(NamedTuple):
    iteration: jax.Array
