"""A battery on an hourly market against all policies of short series, a linear programme, and a loop in NumPy."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import purerl
from purerl.envs.fields import battery
from purerl.envs.fields.battery import Battery, BatteryParams
from purerl.testing import check_env


def earned(params, actions):
    """The return of a series of actions, hour by hour, and the energies before every hour."""
    energy, money, energies = float(params.start), 0.0, []
    for price, action in zip(params.prices, actions, strict=True):
        energies.append(energy)
        if action == 2:
            moved = min(params.power, params.capacity - energy)
            money -= price * moved / params.efficiency + params.wear * moved
            energy += moved
        elif action == 0:
            moved = min(params.power, energy)
            money += price * moved * params.efficiency - params.wear * moved
            energy -= moved
    return money, energies


def random_params(random, num_hours, **changed):
    prices = random.uniform(5, 100, num_hours)
    return replace(BatteryParams(prices, efficiency=0.9, wear=0.5, max_steps_in_episode=num_hours), **changed)


@pytest.mark.parametrize(
    "changed",
    [{}, {"capacity": 2.5, "start": 0.7}, {"capacity": 0.4}, {"power": 0.75, "start": 1.0}, {"power": 1e10}],
)
def test_the_optimum_against_all_policies(changed):
    random = np.random.default_rng(0)
    for _ in range(3):
        params = random_params(random, 7, **{"capacity": 2.0} | changed)
        params.prices[2] *= -0.3  # one is paid to take energy
        found = battery.optimum(params)
        every = [earned(params, actions)[0] for actions in itertools.product(range(3), repeat=7)]
        assert found.value == pytest.approx(max(every), rel=1e-9)
        assert earned(params, found.actions)[0] == pytest.approx(found.value, rel=1e-9)


def test_the_optimum_is_that_of_a_battery_of_any_power():
    """A linear programme over charged c and discharged d, MWh in [0, power]: 0 ≤ start + Σ (c - d) ≤ capacity."""
    random = np.random.default_rng(1)
    for hours, capacity, power, start in ((48, 4.0, 1.0, 0.0), (60, 6.0, 2.0, 2.0)):
        params = random_params(random, hours, capacity=capacity, power=power, start=start)
        cost = np.append(params.prices / 0.9 + 0.5, 0.5 - params.prices * 0.9)
        so_far = np.tril(np.ones((hours, hours)))
        A = np.block([[so_far, -so_far], [-so_far, so_far]])
        b = np.append(np.full(hours, capacity - start), np.full(hours, start))
        found = linprog(cost, A, b, bounds=(0, power))
        assert battery.optimum(params).value == pytest.approx(-found.fun, rel=1e-9)


def test_the_optimum_of_the_default_week():
    env = Battery()
    found = battery.optimum(env.default_params)
    assert found.value == pytest.approx(earned(env.default_params, found.actions)[0], rel=1e-12)
    assert found.value == pytest.approx(767.6388751, abs=5e-8)
    # a day of the sums of the four lowest and the four highest prices of its two cycles is more than any day earns
    days = env.default_params.prices.reshape(7, 24)
    most = sum(0.95 * np.sort(day)[-8:].sum() - np.sort(day)[:8].sum() / 0.95 for day in days)
    assert 0.5 * most < found.value <= most + 4 * 0.95 * days.max()


@pytest.fixture(scope="module")
def played():
    """`(env, params, actions [T] or policy) -> observations, energies, rewards, ends` of an episode."""

    def play(env, params, policy, num_steps):
        def step(carry, t):
            obs, state = carry
            action = policy(t, obs)
            new, after, reward, terminated, info = env.step_env(jax.random.key(0), state, action, params)
            return (new, after), (obs, state.energy, action, reward, terminated, info["energy"])

        begin = env.reset_env(jax.random.key(0), params)
        return jax.tree.map(
            np.asarray, jax.jit(lambda begin: jax.lax.scan(step, begin, jnp.arange(num_steps))[1])(begin)
        )

    return play


def test_every_step_is_that_of_the_equations(played):
    random = np.random.default_rng(2)
    params = random_params(random, 60, capacity=2.5, start=0.7, efficiency=0.8, typical=40.0)
    env = Battery(60, 5, params)
    actions = random.integers(0, 3, 60)
    obs, energy, _, reward, terminated, moved = played(env, params, lambda t, obs: jnp.asarray(actions)[t], 60)
    money, energies = earned(params, actions)
    np.testing.assert_allclose(energy, energies, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.diff(energies), moved[:-1], rtol=1e-4, atol=1e-6)
    assert reward.sum() == pytest.approx(money, rel=1e-5)
    one = [earned(replace(params, prices=params.prices[: t + 1]), actions[: t + 1])[0] for t in range(60)]
    np.testing.assert_allclose(reward, np.diff([0.0, *one]), rtol=1e-4, atol=1e-4)
    assert np.flatnonzero(terminated).tolist() == [59]
    padded = np.append(params.prices, np.zeros(5))
    for t in (0, 13, 57, 59):
        left = min(60 - t, 5) / 5
        about = [energies[t] / 2.5, left, math.sin(2 * math.pi * t / 24), math.cos(2 * math.pi * t / 24)]
        np.testing.assert_allclose(obs[t], [*about, *padded[t : t + 5] / 40], rtol=1e-4, atol=1e-5)


def test_what_comes_later_is_not_seen(played):
    random = np.random.default_rng(3)
    params = random_params(random, 48)
    env = Battery(48, 6, params)
    actions = random.integers(0, 3, 48)
    policy = lambda t, obs: jnp.asarray(actions)[t]
    shuffled = np.append(params.prices[:26], random.permutation(params.prices[26:]))
    first, second = (played(env, replace(params, prices=x), policy, 48)[0] for x in (params.prices, shuffled))
    np.testing.assert_array_equal(first[:21], second[:21])  # hour 20 sees hours 20 to 25
    assert (first[21, -1] != second[21, -1]) and (first[0, 4] == pytest.approx(params.prices[0] / 50, rel=1e-6))


def test_the_optimal_actions_and_the_rule_in_the_environment(played):
    env = Battery()
    params = replace(
        env.default_params, prices=np.asarray(jax.jit(battery.sampled_prices, static_argnums=1)(jax.random.key(1), 168))
    )
    found = battery.optimum(params)
    actions = jnp.asarray(found.actions)
    best = played(env, params, lambda t, obs: actions[t], 168)[3].sum()
    assert best == pytest.approx(found.value, rel=1e-5)
    _, _, action, reward, *_ = played(env, params, lambda t, obs: battery.quantile_rule(obs), 168)
    for t in (0, 5, 100, 160):
        known = params.prices[t : t + 24]
        low, high = np.quantile(known, (0.25, 0.75))
        assert action[t] == (2 if known[0] <= low + 1e-5 else 0 if known[0] >= high - 1e-5 else 1)
    assert 0.5 * best < reward.sum() < best


def test_sampled_prices_have_their_law():
    paths = jax.jit(jax.vmap(lambda key: battery.sampled_prices(key, 72, 10.0, 0.8)))(
        jax.random.split(jax.random.key(0), 2_000)
    )
    x = np.log(np.asarray(paths, float) / battery.daily_prices(72))
    for t in (0, 1, 71):
        assert x[:, t].std() == pytest.approx(0.2, rel=4 / math.sqrt(2 * 2_000))
    for t in (0, 40):
        assert np.corrcoef(x[:, t], x[:, t + 1])[0, 1] == pytest.approx(0.8, abs=4 * 0.36 / math.sqrt(2_000))


def test_it_is_an_environment(key):
    env, params = purerl.make("Battery-v0", num_hours=30)
    assert env.name == "Battery-v0" and purerl.envs.Battery is type(env)
    check_env(env, params, key)
    drawn = env.render(env.reset_env(key, params)[1], params)
    np.testing.assert_allclose([bar.get_height() for bar in drawn.axes[0].patches], params.prices[:24])


def test_series_of_prices_are_data(key):
    env, params = purerl.make("Battery-v0", num_hours=10)
    series = np.random.default_rng(0).uniform(1, 9, (3, 10))
    axes = replace(jax.tree.map(lambda x: None, params), prices=0)
    _, state = env.reset_env(key, params)
    step = jax.jit(jax.vmap(env.step_env, (None, None, None, axes)))
    reward = step(key, state, 2, replace(params, prices=series))[2]
    np.testing.assert_allclose(reward, -series[:, 0] / 0.95, rtol=1e-6)


def test_bad_input(key):
    env = Battery(5)
    begin = env.reset_env(key, env.default_params)[1]
    gap, zero = env.default_params.prices.copy(), env.default_params.prices.copy()
    gap[3], zero[2] = math.nan, 0.0
    for changed, said in (
        ({"prices": gap}, r"Battery: prices are nan in hour 3; each hour needs a price, finite and not 0"),
        ({"prices": zero}, r"Battery: prices are 0.0 in hour 2; each hour needs a price"),
        ({"prices": np.zeros(0)}, r"Battery: prices are empty"),
        ({"prices": None}, r"Battery: prices is None; it must be a real number or an array of numbers"),
        ({"prices": np.array(math.nan)}, r"Battery: prices are nan in hour 0"),
        ({"power": "1"}, r"Battery: power is '1'; it must be a real number or an array"),
        ({"capacity": 0.0}, r"Battery: capacity is 0.0; it must lie in"),
        ({"power": -1.0}, r"Battery: power is -1.0; it must lie in"),
        ({"efficiency": 1.1}, r"Battery: efficiency is 1.1; it must lie in"),
        ({"start": 5.0}, r"Battery: start is 5.0; it must lie in \[0.0, 4.0\]"),
        ({"wear": -0.1}, r"Battery: wear is -0.1"),
    ):
        params = replace(env.default_params, **changed)
        for call in (
            lambda: Battery(5, params=params),
            lambda: env.reset_env(key, params),
            lambda: env.step_env(key, begin, 0, params),
            lambda: battery.optimum(params),
        ):
            with pytest.raises(ValueError, match=said):
                call()
    with pytest.raises(ValueError, match=r"Battery: prices have shape \(5,\); it must be \(6,\), num_hours"):
        Battery(6, params=env.default_params)
    with pytest.raises(ValueError, match=r"optimum: capacity has shape \(2,\); it must be one number, of one problem"):
        battery.optimum(replace(env.default_params, capacity=np.array([1.0, 2.0])))
    with pytest.raises(ValueError, match=r"optimum: prices has shape \(2, 5\); it must be an array of 1 axis"):
        battery.optimum(replace(env.default_params, prices=np.ones((2, 5))))
    with pytest.raises(ValueError, match=r"lookahead is 0; it must be a positive int"):
        Battery(lookahead=0)
