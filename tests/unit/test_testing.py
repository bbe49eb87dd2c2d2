"""The checks find what they are for: each is shown something broken."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from linear import Linear

import purerl
from purerl import distributions, normalize
from purerl.core import Reward, Transition
from purerl.testing import check_agent, check_env, check_reward, checks, probes

ENV, _ = probes.contextual_bandit()
POLICY = distributions.categorical(2)
NETWORK = Linear(2)


def broken(**replace):
    def make(hp):
        agent = purerl.a2c(NETWORK, POLICY, hp)
        return agent._replace(**{name: wrap(getattr(agent, name)) for name, wrap in replace.items()})

    return make


def to_float16(update):
    def changed(key, state, rollout):
        state, metrics = update(key, state, rollout)
        return state._replace(updates=state.updates.astype(jnp.float32)), metrics

    return changed


def forget_the_key(act):
    return lambda key, state, memory, obs: (
        jnp.zeros(obs.shape[0], jnp.int32),
        memory,
        jnp.zeros(obs.shape[0]),
    )


def same_key_twice(act):
    def twice(key, state, memory, obs):
        action, memory, extras = act(key, state, memory, obs)
        return action, memory, extras + 0 * jax.random.uniform(key)

    return twice


def same_start(init):
    return lambda key, obs: init(jax.random.key(0), jnp.zeros_like(obs))


def explode(update):
    def changed(key, state, rollout):
        state, metrics = update(key, state, rollout)
        return state._replace(params=jax.tree.map(lambda x: x / 0.0, state.params)), metrics

    return changed


def vector_metric(update):
    def changed(key, state, rollout):
        state, metrics = update(key, state, rollout)
        return state, {**metrics, "bad": jnp.zeros(3)}

    return changed


@pytest.mark.parametrize(
    "replace, message",
    [
        (dict(update=to_float16), r"update: .*updates is int32\[\] and becomes float32\[\]"),
        (dict(update=explode), "training: .* is not finite"),
        (dict(update=vector_metric), r"metric \['bad'\] has shape \(3,\); metrics are scalars"),
        (
            dict(greedy=lambda greedy: lambda *a: (greedy(*a)[0][:, None], a[1])),
            r"greedy against act: .* is int32\[4\] and becomes int32\[4,1\]",
        ),
    ],
)
def test_check_agent_finds(replace, message, key):
    with pytest.raises(AssertionError, match=message):
        check_agent(broken(**replace), purerl.A2C(), ENV, ENV.default_params, key)


def test_check_agent_finds_a_seed_that_is_overwritten(key):
    env, _ = probes.constant_reward()
    with pytest.raises(AssertionError, match="two seeds give the same agent"):
        check_agent(broken(init=same_start, act=forget_the_key), purerl.A2C(), env, env.default_params, key)


def test_check_agent_finds_a_key_that_is_used_twice(key):
    with pytest.raises(jax.errors.KeyReuseError):
        check_agent(broken(act=same_key_twice), purerl.A2C(), ENV, ENV.default_params, key)


class Odd(probes.Probe):
    def __init__(self, **replace):
        move = lambda key, row, action: (0, 1.0, False)
        super().__init__("odd", [[1.0]], lambda key: 0, move, 2, 5)
        for name, value in replace.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    "replace, message",
    [
        (
            dict(observation_space=lambda params: spaces.Box(0.0, 0.5, (1,))),
            r"odd: observation \[1. 1. 1.\] lies outside of",
        ),
        (
            dict(observation_space=lambda params: spaces.Box(0, 1, (2,))),
            r"observations have shapes \[\(1,\)\], the space has \[\(2,\)\]",
        ),
        (
            dict(observation_space=lambda params: spaces.Box(0, 1, (1,), jnp.int32)),
            "odd: observation it is float32, the space has int32",
        ),
        (
            dict(step_env=lambda key, s, a, p: (jnp.ones(1), s, jnp.int32(1), jnp.zeros((), bool), {})),
            "odd: the reward of a step is int32; it must be float32",
        ),
        (
            dict(step_env=lambda key, s, a, p: (jnp.ones(1), s, jnp.float32(1), jnp.zeros((), jnp.int32), {})),
            "odd: terminated of a step is int32; it must be bool",
        ),
        (
            dict(is_truncated=lambda state, params: jnp.int32(0)),
            "odd: truncated of a step is int32; it must be bool",
        ),
        (
            dict(  # the reset's observation is right, and only one part of the step's is not
                reset_env=lambda key, params: ({"x": jnp.ones(1), "k": jnp.int32(2)}, jnp.zeros(())),
                step_env=lambda key, s, a, p: ({"x": jnp.ones(1), "k": jnp.int32(3)}, s, 1.0, False, {}),
                is_truncated=lambda state, params: jnp.array(False),
                observation_space=lambda params: spaces.Dict({"x": spaces.Box(0, 1, (1,)), "k": spaces.Discrete(3)}),
            ),
            r"odd: observation \['k'\] \[3 3 3\] lies outside of",
        ),
        (
            dict(is_truncated=lambda state, params: jnp.zeros(2, bool)),
            r"odd: the truncated of a step has shape \(2,\); it must be a scalar",
        ),
        (
            dict(_move=lambda key, row, action: (0, jnp.nan, False)),
            r"odd: \.reward is not finite|odd: .* is not finite",
        ),
        (
            dict(step_env=lambda key, s, a, p: (jnp.ones(1, jnp.float16), s, 1.0, False, {})),
            r"odd: obs of reset_env is \['float32\[4, 1\]'\], and of step_env \['float16",
        ),
    ],
)
def test_check_env_finds(replace, message, key):
    env = Odd(**replace)
    with pytest.raises((AssertionError, ValueError), match=message):
        check_env(env, env.default_params, key)


def test_actions_of_gymnasiums_spaces_are_random_as_policies_have_them(key):
    parts = {
        "a": gymnasium.spaces.Discrete(3, start=5),
        "b": gymnasium.spaces.MultiDiscrete([2, 3], start=[1, 1]),
        "c": gymnasium.spaces.MultiBinary(2),
        "d": gymnasium.spaces.Box(-2.0, 3.0, (4,)),
        "e": gymnasium.spaces.Box(0, np.inf, (), np.float32),
    }
    draw = jax.jit(jax.vmap(lambda key: checks._random_action(gymnasium.spaces.Dict(parts), key)))
    drawn = jax.tree.map(np.asarray, draw(jax.random.split(key, 200)))
    assert {*drawn["a"].tolist()} == {0, 1, 2} and drawn["b"].min() == 0 and drawn["b"].max(0).tolist() == [1, 2]
    assert {*drawn["c"].ravel().tolist()} == {0, 1} and -2 <= drawn["d"].min() < -1.5 < 2.5 < drawn["d"].max() <= 3
    assert drawn["e"].min() >= 0 and drawn["e"].max() > 1


def test_trees_are_compared_by_structure_bits_and_size():
    x = {"a": np.float32([1.0, np.nan])}
    checks.assert_same_bits(x, {"a": np.float32([1.0, np.nan])}, "f")
    checks.assert_close(x, {"a": x["a"] * np.float32(1 + 1e-6)}, "f")
    checks.assert_close({"a": np.zeros(0)}, {"a": np.zeros(0)}, "f")
    for call, said in (
        (lambda: checks.assert_same_bits(x, [x["a"]], "f"), "f: the pytrees differ in structure"),
        (lambda: checks.assert_same_bits(x, {"a": x["a"][:1]}, "f"), r"f: \['a'\] differs$"),
        (lambda: checks.assert_same_bits({"a": np.ones(2)}, {"a": np.ones(2) / 4}, "f"), "differs, by up to 0.75$"),
        (lambda: checks.assert_close(x, {"a": x["a"] * 1.25}, "f"), r"f: \['a'\] differs by 0.2$"),
        (lambda: checks.assert_same_structure(x, [x["a"]], "f"), "f: the pytree changes its structure"),
    ):
        with pytest.raises(AssertionError, match=said):
            call()


def test_check_reward_finds(key):
    shape = (4, 2)
    no, yes = jnp.zeros(shape, bool), jnp.ones(shape, bool)
    tr = Transition((), (), jnp.ones(shape), (), no, no, yes)
    good = normalize.rewards(0.9)
    cases = {
        r"shape \(2,\); it must be \(4, 2\)": lambda key, s, tr: (s, tr.reward[0], {}),
        "float16; it must be float32": lambda key, s, tr: (s, tr.reward.astype(jnp.float16), {}),
        "not finite": lambda key, s, tr: (s, tr.reward / 0, {}),
        "reward state": lambda key, s, tr: (s.count, tr.reward, {}),
        "metrics are scalars": lambda key, s, tr: (s, tr.reward, {"x": tr.reward}),
        "not valid changes": lambda key, s, tr: (s, tr.reward - tr.reward.mean(), {}),
    }
    for message, apply in cases.items():
        with pytest.raises(AssertionError, match=message):
            check_reward(Reward(lambda key, tr: normalize.moments(tr.reward), apply), tr, key)
    check_reward(good, tr, key)
