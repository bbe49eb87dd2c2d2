"""What holds for every environment of the fields: parameters are data."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import zoo

import purerl
from purerl.envs import registry
from purerl.envs.fields import inventory
from purerl.envs.fields.acquisition import Acquisition, of_kspace
from purerl.envs.fields.battery import Battery, BatteryParams, daily_prices
from purerl.envs.fields.glimpses import Glimpses
from purerl.envs.fields.portfolio import Portfolio
from purerl.envs.training_control.data import Data

NUM = 1000
U = np.linspace(0, 1, NUM)
DRAW = np.random.default_rng(0)
IMAGES = Data(DRAW.random((40, 6, 6, 1)).astype(np.float32), DRAW.integers(0, 3, 40).astype(np.int32))
SLICES = DRAW.random((30, 10, 9)) + 1
PRICES = np.exp(np.cumsum(DRAW.normal(0, 0.02, (60, 3)), 0))


def per_channel(low, high, count):
    """Numbers `[NUM, count]` that rise with the variant."""
    return low + (high - low) * U[:, None] ** np.arange(1, count + 1)


# of each environment: how it is made, and a thousand values of some of its parameters, of its defaults
CASES = {
    "Newsvendor-v0": (lambda: purerl.make("Newsvendor-v0")[0], lambda p: {"mean": 20 + 60 * U, "std": 2 + 8 * U}),
    "Inventory-v0": (
        lambda: purerl.make("Inventory-v0")[0],
        lambda p: {
            "demand": inventory.poisson(2 + 8 * U, 41),
            "penalty": 2 + 9 * U,
            "capacity": (10 + 10 * U).astype(int),
        },
    ),
    "FiniteInventory-v0": (
        lambda: inventory.finite_horizon(40, 3, inventory.InventoryParams(inventory.poisson(6.0, 41), capacity=40)),
        lambda p: {"demand": inventory.poisson(2 + 8 * U, 41), "terminal_penalty": 5 * U, "order_cost": 9 * U},
    ),
    "SerialInventory-v0": (
        lambda: purerl.make("SerialInventory-v0")[0],
        lambda p: {
            "demand": inventory.poisson(2 + 8 * U, 31),
            "penalty": 5 + 40 * U,
            "lead": np.arange(3 * NUM).reshape(NUM, 3) // 5 % 3,
        },
    ),
    "TrafficSignal-v0": (
        lambda: purerl.make("TrafficSignal-v0")[0],
        lambda p: {"arrival": per_channel(0, 0.9, 2), "lost": 1 + np.arange(NUM) % 3, "room": 3 + np.arange(NUM) % 9},
    ),
    "Intersection-v0": (
        lambda: purerl.make("Intersection-v0")[0],
        lambda p: {"arrival": per_channel(0, 0.9, 8), "lost": 1 + np.arange(NUM) % 3},
    ),
    "Spectrum-v0": (
        lambda: purerl.make("Spectrum-v0")[0],
        lambda p: {"p01": per_channel(0.05, 0.9, 3), "p11": per_channel(0.9, 0.1, 3)},
    ),
    "Battery-v0": (
        lambda: purerl.make("Battery-v0", num_hours=9, lookahead=4)[0],
        lambda p: {"prices": 5 + DRAW.random((NUM, 9)), "capacity": 1 + U, "efficiency": 0.5 + U / 2, "start": U},
    ),
    "CarFollowing-v0": (
        lambda: purerl.make("CarFollowing-v0")[0],
        lambda p: {"interval": 0.1 + U, "leader_noise": U, "initial_gap": 1 + 5 * U, "gap_cost": U},
    ),
    "Execution-v0": (
        lambda: purerl.make("Execution-v0")[0],
        lambda p: {"risk_aversion": 1e-6 * U, "volatility": 1 + U, "shares": 1e5 + 1e6 * U},
    ),
    "Highway-v0": (
        lambda: purerl.make("Highway-v0", num_vehicles=4, frequency=2)[0],
        lambda p: {"density": 1 + 3 * U, "politeness": U, "speed_limit": 20 + 15 * U, "speed_reward": 0.1 + U},
    ),
    "Portfolio-v0": (
        lambda: Portfolio(PRICES, window=2, length=5, cost=0.01),
        lambda p: {"cost": 0.1 * U, "growth": p.growth ** (0.5 + U[:, None, None])},
    ),
    "Acquisition-v0": (
        lambda: Acquisition(SLICES, size=8, num_lines=3, block=4, gap=1),
        lambda p: vars(of_kspace(p.kspace ** (1 + np.arange(NUM) % 3).reshape(-1, 1, 1, 1, 1), 3)),
    ),
    "Glimpses-v0": (
        lambda: Glimpses(IMAGES),
        lambda p: {"images": p.images * (0.5 + U[:, None, None, None]), "max_steps_in_episode": 1 + np.arange(NUM) % 4},
    ),
}


def test_every_environment_of_the_fields_is_here():
    own = {name for name, maker in registry.OWN.items() if maker.__module__.startswith("purerl.envs.fields")}
    assert own == CASES.keys()


@pytest.mark.parametrize("env_id", ["Newsvendor-v0", "FiniteInventory-v0", "Battery-v0"])
def test_a_time_limit_that_would_have_no_effect_is_refused(env_id, key):
    env, params = purerl.make(env_id)
    _, state = env.reset_env(key, params)
    length = params.max_steps_in_episode
    other = replace(params, max_steps_in_episode=length + 1)
    for call in (lambda: env.reset_env(key, other), lambda: env.step_env(key, state, 0, other)):
        with pytest.raises(ValueError, match=rf"max_steps_in_episode is {length + 1}; it must lie in \[{length}, "):
            call()


@pytest.mark.parametrize("env_id", ["Inventory-v0", "SerialInventory-v0", "TrafficSignal-v0", "Spectrum-v0"])
def test_an_endless_task_needs_a_time_limit(env_id, key):
    env, params = purerl.make(env_id)
    with pytest.raises(ValueError, match="max_steps_in_episode is 0; it must lie in"):
        env.reset_env(key, replace(params, max_steps_in_episode=0))


@pytest.mark.parametrize("env_id", CASES)
def test_what_is_no_number_and_half_a_step_are_refused_by_name(env_id, key):
    env = CASES[env_id][0]()
    params = env.default_params
    bad = [(name, x) for name in vars(params) for x in ("2", None)]
    for name, x in [*bad, ("max_steps_in_episode", params.max_steps_in_episode + 0.5)]:
        other = replace(params, **{name: x})
        for call in (lambda: env.reset_env(key, other), lambda: env.step_env(key, None, 0, other)):
            with pytest.raises(ValueError, match=name):
                call()


@pytest.mark.parametrize("env_id", CASES)
def test_parameters_of_several_problems_need_vmap(env_id, key):
    env = CASES[env_id][0]()
    params = env.default_params
    state, action = env.reset_env(key, params)[1], env.action_space(params).sample(key)
    for name, x in vars(params).items():
        for several in (np.stack([x, x]), np.stack([x, x]).tolist()):
            other = replace(params, **{name: several})
            for call in (lambda: env.reset_env(key, other), lambda: env.step_env(key, state, action, other)):
                with pytest.raises(ValueError, match=rf"^{type(env).__name__}: .*{name}.* shape"):
                    call()


@pytest.mark.parametrize("env_id", CASES)
def test_what_is_wrong_in_a_large_array_is_said_in_one_line(env_id, key):
    env = CASES[env_id][0]()
    params = env.default_params
    for name, x in vars(params).items():
        other = replace(params, **{name: np.full(np.shape(x) or (2, 40), np.nan)})
        with pytest.raises(ValueError, match=rf"^{type(env).__name__}: .{{,200}}$"):
            env.reset_env(key, other)


def test_the_time_limit_of_a_battery_is_the_length_of_its_prices():
    """`training.evaluate` plays episodes up to it."""
    env = Battery(200, params=BatteryParams(daily_prices(200)))
    assert env.default_params.max_steps_in_episode == 200


def play(env, params, key, num_steps=3):
    """The first observation and state, and all later ones, with rewards and ends, under random actions."""
    reset_key, key = jax.random.split(key)
    begin = env.reset_env(reset_key, params)

    def step(state, key):
        act_key, env_key = jax.random.split(key)
        action = env.action_space(params).sample(act_key)
        obs, state, reward, terminated, _ = env.step_env(env_key, state, action, params)
        return state, (obs, state, reward, terminated, env.is_truncated(state, params))

    return begin, jax.lax.scan(step, begin[1], jax.random.split(key, num_steps))[1]


@pytest.mark.parametrize("env_id", zoo.params(CASES, wide=CASES.keys() - {"Newsvendor-v0", "SerialInventory-v0"}))
def test_a_thousand_variants_in_one_program_are_what_each_is_alone(env_id, key):
    make, changed = CASES[env_id]
    env = make()
    default = env.default_params
    many = replace(default, **changed(default))
    axes = jax.tree.map(lambda x, y: 0 if np.ndim(x) > np.ndim(y) else None, many, default)
    keys = jax.random.split(key, NUM)
    program = jax.jit(jax.vmap(lambda params, key: play(env, params, key), (axes, 0)))
    found = jax.device_get(program(many, keys))
    assert program._cache_size() == 1
    alone = jax.jit(lambda params, key: play(env, params, key))
    for i in (0, 1, 499, 998, 999):
        one = jax.tree.map(lambda x, axis, i=i: x if axis is None else x[i], many, axes, is_leaf=lambda x: x is None)
        wanted = jax.device_get(alone(one, keys[i]))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-4)
    same_key = jax.device_get(program(many, keys[:1][np.zeros(NUM, int)]))
    assert any((x[0] != x[998]).any() for x in jax.tree.leaves(same_key))  # the parameters have an effect
