from typing import Any, NamedTuple

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

import purerl
from purerl import tabular, training
from purerl.envs import MaskedGrid, Observe, StickyActions, TimeLimit, TMaze, from_five_values, masked_grid
from purerl.envs.adapters import common
from purerl.envs.masked_grid import MaskedGridState
from purerl.envs.spaces import MultiBinary
from purerl.envs.wrappers import Cast, Sticky, Timed, Wrapper
from purerl.testing import check_env, probes


def test_a_discrete_observation_becomes_one_hot(key):
    env, env_params = purerl.make("FrozenLake-misc")
    obs, _ = jax.jit(lambda key: env.reset(key, env_params))(key)
    assert obs.shape == (16,) and np.asarray(obs).sum() == 1
    assert env.observation_space(env_params).shape == (16,)


def test_unknown_ids_name_near_ones():
    with pytest.raises(ValueError, match=r"no environment brax/ants; did you mean ant\?"):
        common.known("brax", "ants", ["reacher", "ant"])
    assert common.known("brax", "ant", ["ant"]) is None
    with pytest.raises(ValueError, match=r"no environment 'CartPole'; did you mean CartPole-v1"):
        purerl.make("CartPole")
    with pytest.raises(ValueError, match=r"allowed are CartPole-v1, "):
        purerl.make("zzz")


def test_data_that_cannot_be_downloaded_is_a_clear_error(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(gymnax, "make", fail)
    with pytest.raises(ValueError, match=r"MNISTBandit-bsuite downloads its data .* no network"):
        purerl.make("MNISTBandit-bsuite")


def play(env, key, num_steps, num_envs=3, action=0):
    environment = training.vectorized(env, env.default_params)

    def step(carry, key):
        keys = jax.random.split(key, (2, num_envs))
        out = environment.step(*keys, carry[1], jnp.full(num_envs, action), environment.reset)
        return (out.obs, out.state), out

    def whole(key):
        begin = environment.reset(jax.random.split(key, num_envs))
        return jax.lax.scan(step, begin, jax.random.split(key, num_steps))[1]

    return jax.tree.map(np.asarray, jax.jit(whole)(key))


def test_what_is_wrapped_is_asked():
    class Told(Environment):
        name, num_actions, default_params = "told", 7, None
        is_truncated = staticmethod(lambda state, params: state == "truncated")
        is_terminated = staticmethod(lambda state, params: state == "terminated")
        state_space = staticmethod(lambda params: f"states of {params}")
        reset_env = staticmethod(lambda key, params: ("reset", key, params))
        step_env = staticmethod(lambda *given: ("step", *given))
        action_space = staticmethod(lambda params=None: spaces.Discrete(7))
        observation_space = staticmethod(lambda params: MultiBinary(3))

    env = Told()
    for wrapped, state in (
        (Wrapper(env), lambda x: x),
        (TimeLimit(env, 5), lambda x: Timed(x, 0)),
        (StickyActions(env), lambda x: Sticky(x, 0, False)),
    ):
        assert (wrapped.name, wrapped.num_actions, wrapped.state_space(3)) == ("told", 7, "states of 3")
        assert wrapped.is_terminated(state("terminated"), None) and not wrapped.is_terminated(state("on"), None)
        assert wrapped.is_truncated(state("truncated"), None) and not wrapped.is_truncated(state("on"), None)
    assert Wrapper(env).reset_env(1, 2) == ("reset", 1, 2) and Wrapper(env).step_env(1, 2, 3, 4) == ("step", 1, 2, 3, 4)
    bits = Cast(env).observation_space(None)
    assert (bits.shape, bits.dtype, bits.low, bits.high) == ((3,), jnp.float32, 0, 1)
    Told.observation_space = staticmethod(lambda params: NESTED)
    assert Cast(env).observation_space(None) is NESTED
    with pytest.raises(ValueError, match=r"keep is for flat observations; those of told have shape None"):
        Observe(env, (0,))


NESTED = spaces.Dict({"a": spaces.Discrete(2)})


def test_spaces_of_adapted_observations():
    class Point(NamedTuple):
        x: jax.Array
        more: tuple

    obs = Point(jnp.zeros(2, bool), (jnp.zeros((), jnp.int8), jnp.zeros(3)))
    found = common._space_of(common.as_dict(obs)).spaces
    assert list(found) == ["more", "x"]
    described = [(x.shape, x.dtype, float(x.low), float(x.high)) for x in (found["x"], *found["more"].spaces)]
    assert described == [
        ((2,), jnp.bool_, 0, 1),
        ((), jnp.int8, -128, 127),
        ((3,), jnp.float32, -np.inf, np.inf),
    ]
    named = common.as_dict({"a": PARAMS})
    assert named == {"a": {"max_steps_in_episode": PARAMS.max_steps_in_episode}}


PARAMS = common.EpisodeParams(5)


def test_time_limit(key):
    env, _ = probes.constant_reward(max_steps=5)
    check_env(TimeLimit(env, 3), env.default_params, key)
    np.testing.assert_array_equal(play(TimeLimit(env, 3), key, 7).truncated[:, 0], [0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(play(TimeLimit(env, 99), key, 6).truncated[:, 0], [0, 0, 0, 0, 1, 0])
    for bad in (0, 2.5, 10**10):
        with pytest.raises(ValueError, match=r"max_steps is"):
            TimeLimit(env, bad)


def test_sticky_actions(key):
    env, _ = probes.constant_reward(max_steps=1000)
    rewarded = probes.Probe("r", [[1.0]], lambda key: 0, lambda key, row, action: (0, action, False), 2, 1000)
    check_env(StickyActions(env), env.default_params, key)
    environment = training.vectorized(StickyActions(rewarded, 0.3), rewarded.default_params)

    @jax.jit
    def whole(key):
        def step(state, x):
            time, key = x
            keys = jax.random.split(key, (2, 100))
            out = environment.step(*keys, state, jnp.full(100, time % 2), environment.reset)
            return out.state, out.reward

        _, state = environment.reset(jax.random.split(key, 100))
        return jax.lax.scan(step, state, (jnp.arange(200), jax.random.split(key, 200)))[1]

    done = np.asarray(whole(key))  # the action that was carried out
    np.testing.assert_array_equal(done[0], 0)  # the first is the agent's own
    repeats = np.mean(done[1:] == done[:-1])
    # a repeat of x, or a choice that happens to be what was done last
    assert abs(np.mean(done[1:] != (np.arange(1, 200) % 2)[:, None]) - repeats_expected(0.3)) < 0.02 and repeats > 0
    for bad in (1.5, -0.5):
        with pytest.raises(ValueError, match=rf"probability is {bad}; it must be in \[0, 1\]"):
            StickyActions(env, bad)


class Counting(Environment):
    """One step pays the sum of its action's parts, as the environment gets them; their dtypes are in info."""

    name, num_actions, default_params = "counting", 1, None

    def __init__(self, space):
        self.space = space

    def reset_env(self, key, params):
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def step_env(self, key, state, action, params):
        self.given = jax.tree.map(lambda x: x.dtype, action)
        paid = sum(jnp.sum(x, dtype=jnp.float32) for x in jax.tree.leaves(action))
        return jnp.zeros(1), state + 1, paid, jnp.zeros((), bool), {}

    def is_truncated(self, state, params):
        return state >= 50

    def action_space(self, params=None):
        return self.space

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (1,))


def paid_for(env, action, num_steps=1):
    environment = training.vectorized(env, None)
    _, state = environment.reset(jax.random.split(jax.random.key(0), 1))
    action, rewards = jax.tree.map(lambda x: x[None], action), []
    for keys in jax.random.split(jax.random.key(1), (num_steps, 2, 1)):
        out = environment.step(keys[0], keys[1], state, action, environment.reset)
        rewards, state = [*rewards, out.reward.item()], out.state
    return rewards


def test_actions_reach_the_environment_as_its_space_has_them(key):
    env = Counting(gymnasium.spaces.Discrete(3, start=5))
    assert [paid_for(env, jnp.array(i))[0] for i in range(3)] == [5, 6, 7]
    env = Counting(spaces.Box(0, 10, (2,), jnp.int32))
    assert paid_for(env, jnp.array([0.6, 99.0])) == [11.0] and env.given == jnp.int32
    check_env(env, None, key)


def test_a_step_of_ones_own_is_not_skipped():
    """Wrappers and enumeration call step_env, past a step or reset that an environment overrides."""
    inner = MaskedGrid()

    class Tenfold(MaskedGrid):
        def step(self, key, state, action, params=None):
            obs, state, reward, *rest = super().step(key, state, action, params)
            return obs, state, 10 * reward, *rest

    class Elsewhere(MaskedGrid):
        def reset(self, key, params=None):
            return super().reset(key, params)

    wrappers = {"TimeLimit": lambda env: TimeLimit(env, 5), "StickyActions": StickyActions, "Cast": Cast}
    wrappers["Observe"] = lambda env: Observe(env, (0,))
    for name, wrap in wrappers.items():
        for env, said in ((Tenfold(), "Tenfold has its own step"), (Elsewhere(), "Elsewhere has its own reset")):
            with pytest.raises(ValueError, match=rf"{name}: {said}, .*: override (step|reset)_env"):
                wrap(env)
        with pytest.raises(ValueError, match=f"{name}: LogWrapper has its own step"):
            wrap(LogWrapper(inner))
    with pytest.raises(ValueError, match=r"from_env: Tenfold has its own step"):
        tabular.from_env(Tenfold(), inner.default_params, jax.random.key(0))
    TimeLimit(StickyActions(inner), 5)


def test_a_step_that_resets_must_report_the_successor(key):
    class Silent(MaskedGrid):
        def step(self, key, state, action, params=None):
            return *super().step(key, state, action, params)[:-1], given

    given: Any = None
    for info, has in (({"mine": 0}, "mine"), ({}, "nothing"), ((), "nothing")):
        given = info
        with pytest.raises(ValueError, match=rf"its info has {has}: it lacks info\['final_observation'\]"):
            check_env(Silent(), Silent().default_params, key)


def test_sticky_actions_of_any_space(key):
    """All parts of an action repeat together, and each keeps its dtype."""
    space = spaces.Dict({"z": spaces.Discrete(9), "a": spaces.Tuple([spaces.Box(-9, 9, (2,), jnp.int32)])})
    env = Counting(space)
    check_env(StickyActions(env), None, key)
    check_env(StickyActions(purerl.make("Platform-v0")[0]), purerl.make("Platform-v0")[1], key, num_steps=5)
    sticky = StickyActions(env, 1.0)
    _, state = sticky.reset_env(key, None)
    for z in (3, 4, 5):  # only the first is carried out
        action = {"z": jnp.array(z), "a": (jnp.array([z, -1]),)}
        _, state, reward, _, _ = sticky.step_env(key, state, action, None)
        assert reward == 5.0
    assert env.given == {"z": jnp.int32, "a": (jnp.int32,)}


def repeats_expected(p):
    """How often the action done differs from an alternating choice: a chain on (same, different)."""
    # done differs from the choice iff it repeats one that agreed with the choice before it
    return p / (1 + p)


def test_only_some_entries_are_observed(key):
    env, env_params = purerl.make("CartPole-v1")
    hidden = Observe(env, (0, 2))
    check_env(hidden, env_params, key)
    seen, whole = jax.jit(lambda key: [x.reset(key, env_params)[0] for x in (hidden, env)])(key)
    np.testing.assert_array_equal(seen, np.asarray(whole)[[0, 2]])
    high = np.asarray(env.observation_space(env_params).high)
    np.testing.assert_array_equal(hidden.observation_space(env_params).high, high[[0, 2]])
    for keep in ((), (4,), (-1,), (0.5,)):
        with pytest.raises(ValueError, match=r"keep is \(.*\); it must be entries of 0 .. 3"):
            Observe(env, keep)
    with pytest.raises(ValueError, match=r"keep is for flat observations"):
        Observe(purerl.make("Breakout-MinAtar")[0], (0,))


def test_tmaze(key):
    env, env_params = purerl.make("TMaze-v0")
    env_params = env_params.replace(length=3)
    check_env(env, env_params, key)
    assert isinstance(env, TMaze)
    step = jax.jit(lambda state, action: env.step_env(key, state, action, env_params))
    reset = jax.jit(lambda key: env.reset(key, env_params))
    for start in map(reset, jax.random.split(key, 4)):
        obs, state = start
        north = bool(obs[0])
        np.testing.assert_array_equal(obs, [1, 1, 0] if north else [0, 1, 1])
        rewards, seen = [], []
        for action in (1, 0, 1, 3, 1, 1):  # east, a wall, east, back, east, east
            obs, state, reward, terminated, _ = step(state, action)
            rewards.append(float(reward))
            seen.append(obs.tolist())
            assert not terminated
        np.testing.assert_allclose(rewards, [0, -0.1, 0, 0, 0, 0], atol=1e-6)
        assert seen == [[1, 0, 1]] * 5 + [[0, 1, 0]]
        *_, reward, terminated, _ = step(state, 1)
        assert np.isclose(reward, -0.1) and not terminated
        for action, right in ((0, north), (2, not north)):
            *_, reward, terminated, _ = step(state, action)
            assert terminated and np.isclose(reward, 4.0 if right else -0.1)
    assert not env.is_truncated(state, env_params) and env.is_truncated(state._replace(time=200), env_params)


def test_moves_of_the_masked_grid_are_those_of_its_picture(key):
    env = MaskedGrid()
    step = jax.jit(lambda cell, move: env.step_env(key, MaskedGridState(cell, 0), move, env.default_params))
    rows, moves = masked_grid.CELLS, ((-1, 0), (0, 1), (1, 0), (0, -1))
    for cell in masked_grid.STARTS.tolist():
        row, column = divmod(cell, 4)
        assert rows[row][column] == "."
        for move, (down, right) in enumerate(moves):
            to = (row + down, column + right)
            legal = min(to) >= 0 and max(to) <= 3 and rows[to[0]][to[1]] != "#"
            assert bool(env.see(cell)["action_mask"][move]) == legal
            obs, state, reward, terminated, _ = step(cell, move)
            reached = to if legal else (row, column)
            assert divmod(int(state.cell), 4) == reached and obs["cell"].argmax() == state.cell
            assert reward == (-1 if legal else 1) and terminated == (rows[reached[0]][reached[1]] == "G")


@pytest.mark.parametrize("wrap", [LogWrapper, FlattenObservationWrapper])
def test_wrappers_of_gymnax_reset_themselves(wrap, key):
    env = wrap(purerl.make("CartPole-v1")[0])
    check_env(env, env.default_params, key)
    out = play(env, key, 60)
    ended = np.asarray(out.terminated)
    assert ended.any() and not np.array_equal(np.asarray(out.obs)[ended], np.asarray(out.next_obs)[ended])
    assert (np.abs(np.asarray(out.obs)[ended]) <= 0.05).all()


class Old(Environment):
    """The API of gymnax 0.x: five values, and done includes the time limit."""

    name = "old"

    def __init__(self, full_step=True):
        if full_step:
            self.step = lambda *args: (jnp.zeros(1), 0, 0.0, False, {})

    def reset_env(self, key, params):
        return jnp.zeros(1), jnp.zeros((), jnp.int32)

    def step_env(self, key, state, action, params):
        return jnp.ones(1), state + 1, 1.0, state + 1 >= 4, {}

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (1,))


class OldWrapped(Old):
    def step(self, key, state, action, params=None):
        return (*self.reset_env(key, params), 0.0, False, {})


def test_five_values_get_an_error_that_names_the_adapter(key):
    with pytest.raises(ValueError, match=r"old: step returns 5 values; .* purerl.envs.from_five_values"):
        check_env(OldWrapped(), OldWrapped().default_params, key)


def test_five_values_adapted(key):
    env = from_five_values(Old(), max_steps=4)
    out = play(env, key, 5)
    np.testing.assert_array_equal(out.truncated[:, 0], [0, 0, 0, 1, 0])
    assert not out.terminated.any()
    assert play(from_five_values(Old(), max_steps=9), key, 5).terminated[3].all()


def test_a_reward_that_is_no_scalar_is_refused(key):
    move = lambda key, row, action: (0, jnp.ones(1), False)
    env = probes.Probe("vector-reward", [[1.0]], lambda key: 0, move, 2, 5)
    with pytest.raises(ValueError, match=r"vector-reward: the reward of a step has shape \(1,\); it must be a scalar"):
        check_env(env, env.default_params, key)


class Continuous(probes.Probe):
    """Pays the number that it is given, whatever that is."""

    def __init__(self):
        super().__init__("continuous", [[1.0]], lambda key: 0, lambda key, row, action: (0, action[0], False), 2, 9)

    def action_space(self, params=None):
        return spaces.Box(-2.0, 2.0, (1,))


@pytest.mark.parametrize("wrap", [lambda env: env, LogWrapper], ids=["bare", "wrapped"])
def test_actions_are_clipped_for_the_environment(wrap, key):
    env = wrap(Continuous())
    environment = training.vectorized(env, env.default_params)

    @jax.jit
    def paid(action):
        keys = jax.random.split(key, 3)
        _, state = environment.reset(keys)
        return environment.step(keys, keys, state, action, environment.reset).reward

    np.testing.assert_array_equal(paid(jnp.array([[50.0], [-7.0], [1.5]])), [2.0, -2.0, 1.5])
