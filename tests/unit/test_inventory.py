"""Inventory control against recorded numbers, loops in NumPy, exact planning, and stockpyl where it is installed."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import purerl
from purerl.envs.fields import inventory
from purerl.envs.fields.inventory import (
    Inventory,
    InventoryParams,
    Newsvendor,
    NewsvendorParams,
    SerialInventory,
    SerialInventoryParams,
)
from purerl.tabular import MDP, relative_value_iteration
from purerl.testing import check_env

POISSON = InventoryParams(inventory.poisson(6.0, 41))
IDS = ("Newsvendor-v0", "Inventory-v0", "FiniteInventory-v0", "SerialInventory-v0")
FINITE = inventory.finite_horizon().default_params


@pytest.fixture(scope="module")
def rollout():
    """`(env, policy: state -> action, params, key, E, T) -> states before, info and rewards [E, T], last ends [E]`."""

    def play(env, policy, params, key, num_envs, num_steps):
        def step(state, key):
            act_key, step_key = jax.random.split(key)
            _, after, reward, terminated, info = env.step_env(step_key, state, policy(act_key, state), params)
            return after, (state, info, reward, terminated)

        def one(key):
            _, state = env.reset_env(key, params)
            return jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]

        return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(key, num_envs)))

    return play


def standard_error(x):
    return x.std(ddof=1) / math.sqrt(len(x))


# --- the newsvendor ---------------------------------------------------------------------------------------------------


def test_the_newsvendor_has_the_recorded_optimum():
    order, cost = inventory.newsvendor_optimum(NewsvendorParams())
    assert order == pytest.approx(56.60396, abs=5e-6) and cost == pytest.approx(1.997605, abs=5e-7)
    # an integral on a grid, and no better order beside it
    demand = np.linspace(-14, 114, 256_001)
    weight = np.exp(-(((demand - 50) / 8) ** 2) / 2) / (8 * math.sqrt(2 * math.pi)) * (demand[1] - demand[0])
    expected = lambda s: (np.where(s > demand, 0.18 * (s - demand), 0.7 * (demand - s)) * weight).sum()
    assert cost == pytest.approx(expected(order), abs=1e-7)
    assert expected(order) < min(expected(order - 0.1), expected(order + 0.1))


def test_a_step_of_the_newsvendor(key):
    env, params = purerl.make("Newsvendor-v0")
    obs, state = env.reset_env(key, params)
    np.testing.assert_allclose(obs, [0.7 / 0.88, 0.5, 0.08], rtol=1e-6)
    order, cost = inventory.newsvendor_optimum(params)
    step = jax.jit(jax.vmap(lambda key, a: env.step_env(key, state, a[None], params), (0, None)))
    _, _, reward, terminated, info = step(jax.random.split(key, 100_000), jnp.float32(order))
    demand = np.asarray(info["demand"], float)
    wanted = [0.18 * (order - d) if order > d else 0.7 * (d - order) for d in demand[:1_000]]
    np.testing.assert_allclose(-reward[:1_000], wanted, rtol=1e-5, atol=1e-5)
    assert terminated.all() and abs(-np.asarray(reward).mean() - cost) < 4 * standard_error(np.asarray(reward))
    assert abs(demand.mean() - 50) < 4 * standard_error(demand) and demand.std() == pytest.approx(8, rel=0.02)
    assert env.step_env(key, state, jnp.array([1e9]), params)[1].ordered == 100


# --- (s, S) -----------------------------------------------------------------------------------------------------------


def test_the_s_S_policy_has_the_recorded_average_cost():
    assert inventory.best_policy(POISSON)[:2] == (4, 10)
    assert inventory.best_policy(POISSON)[2] == pytest.approx(8.034111561, abs=5e-10)
    assert inventory.best_policy(replace(POISSON, unit_cost=2.0)) == (4, 10, pytest.approx(20.034111561, abs=1e-9))


def as_mdp(params, low, high):
    """The inventory on low .. high, whose demand beyond low waits there, as an MDP of order-up-to levels."""
    units = np.arange(low, high + 1)
    demand = np.asarray(params.demand)
    P, R = np.zeros((len(units), len(units), len(units))), np.full((len(units), len(units)), -1e4)
    for i, x in enumerate(units):
        for j, y in enumerate(units):
            for d, p in enumerate(demand):
                P[i, j, max(y - d, low) - low] += p
            if y >= x:
                cost = [params.holding * max(y - d, 0) + params.penalty * max(d - y, 0) for d in range(len(demand))]
                R[i, j] = -(params.order_cost * (y > x) + params.unit_cost * (y - x) + demand @ cost)
    return MDP(P, R, np.zeros(len(units), bool))


@pytest.mark.parametrize(
    "changed", [{}, {"order_cost": 0.0}, {"demand": np.array([0.5, 0.1, 0.0, 0.4]), "order_cost": 2.0, "penalty": 9.0}]
)
def test_the_s_S_policy_is_the_optimum_of_relative_value_iteration(changed):
    params = replace(POISSON, **changed)
    reorder, order_up_to, cost = inventory.best_policy(params)
    low = -40 if len(params.demand) > 10 else -12
    with jax.enable_x64(True):
        found = relative_value_iteration(as_mdp(params, low, 16), tolerance=1e-10)
        assert -float(found.gain) == pytest.approx(cost, abs=1e-7)
    levels = np.asarray(found.policy).argmax(-1) + low
    units = np.arange(low, 17)
    wanted = units + np.asarray(inventory.order(units, reorder, order_up_to))
    at = slice(2 * len(params.demand) if len(params.demand) < 10 else 30, order_up_to - low + 1)
    np.testing.assert_array_equal(levels[at], wanted[at])


def test_an_s_S_policy_costs_what_its_cycles_say():
    """The average over the stationary law of the stock after ordering, by powers of its transition matrix."""
    params = InventoryParams(np.array([0.3, 0.4, 0.2, 0.1]), order_cost=3.0, unit_cost=0.5)
    for reorder, order_up_to in ((0, 1), (1, 4), (-2, 5)):
        span = order_up_to - reorder
        P = np.zeros((span, span))  # of S - y
        for j in range(span):
            for d, p in enumerate(params.demand):
                P[j, j + d if j + d < span else 0] += p
        law = np.linalg.matrix_power(P, 2**20)[0]
        ordering = sum(law[j] * p for j in range(span) for d, p in enumerate(params.demand) if j + d >= span)
        cost = law @ inventory.one_period_cost(order_up_to - np.arange(span), params) + 3 * ordering + 0.5 * 1.1
        assert inventory.average_cost(reorder, order_up_to, params) == pytest.approx(cost, rel=1e-9)


def test_rollouts_have_the_average_cost_and_the_steps_of_the_equations(rollout, key):
    env, params = purerl.make("Inventory-v0")
    params = replace(params, unit_cost=0.25, start=3, capacity=17)
    policy = lambda key, x: jnp.where(x.time < 300, jax.random.randint(key, (), 0, 21), inventory.order(x.stock, 4, 10))
    states, info, reward, terminated = rollout(env, policy, params, key, 128, 800)
    assert not terminated.any()
    stock = 3
    for t in range(299):  # random orders, that the capacity cuts
        assert states.stock[0, t] == stock
        ordered, demand = int(info["ordered"][0, t]), int(info["demand"][0, t])
        assert 0 <= ordered <= max(17 - stock, 0)
        after = stock + ordered - demand
        cost = 5 * (ordered > 0) + 0.25 * ordered + max(after, 0) + 4 * max(-after, 0)
        assert reward[0, t] == pytest.approx(-cost, rel=1e-5)
        stock = after
    assert states.stock.max() <= 17
    costs = -reward[:, 350:].mean(1)
    assert abs(costs.mean() - (8.034111561 + 1.5)) < 4 * standard_error(costs)
    counts = np.bincount(info["demand"].reshape(-1), minlength=41) / info["demand"].size
    assert np.abs(counts - params.demand).max() < 4 * math.sqrt(0.25 / info["demand"].size)


# --- a finite horizon -------------------------------------------------------------------------------------------------


def backwards(horizon, params, demand, cost, low, high):
    """The textbook's algorithm, loop by loop: s, S and the values of the first period; demand: {d: P(D = d)}."""
    units = range(low, high + 1)
    value = {x: params.terminal_holding * max(x, 0) + params.terminal_penalty * max(-x, 0) for x in units}
    points = []
    for _ in range(horizon):
        H = {y: cost(y) + sum(p * value[max(y - d, low)] for d, p in demand.items()) for y in units}
        new, up_to = {}, {}
        for x in units:
            choices = {y: H[y] + (params.order_cost + params.unit_cost * (y - x)) * (y > x) for y in range(x, high + 1)}
            up_to[x] = min(choices, key=choices.get)
            new[x] = choices[up_to[x]]
        points.append((max(x for x in up_to if up_to[x] > x), up_to[low]))
        value = new
    return points[::-1], value


def test_the_finite_horizon_has_the_published_policy():
    found = inventory.plan(5, FINITE)
    assert found.reorder.tolist() == [110, 110, 110, 110, 111] and found.order_up_to.tolist() == [133] * 4 + [126]
    cdf = lambda z: 0.5 * math.erfc(-z / math.sqrt(2))

    def normal_cost(y):
        z = (y - 100) / 20
        loss = 20 * (math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) - z * (1 - cdf(z)))
        return loss * 20 + (y - 100 + loss) * 1

    # the published cost is that of a demand cut at 4 σ without making up for the probability beyond
    published = {d: cdf((d + 0.5 - 100) / 20) - cdf((d - 0.5 - 100) / 20) for d in range(20, 181)}
    points, value = backwards(5, FINITE, published, normal_cost, -160, 212)
    assert points == list(zip(found.reorder, found.order_up_to, strict=True))
    assert value[0] == pytest.approx(1558.6946, abs=5e-5)
    assert found.cost == pytest.approx(1558.8744, abs=5e-5) and abs(found.cost - value[0]) < 0.2


def test_plans_of_small_systems_against_all_orders():
    rng = np.random.default_rng(0)
    for capacity, start in ((6, 0), (4, -2), (9, 3)):
        law = rng.dirichlet(np.ones(4))
        costs = rng.uniform(0.1, 3, 6) + np.array([0, 3, 0, 0, 0, 3])  # below the penalties, orders pay
        params = InventoryParams(law, *costs, start=start, capacity=capacity)
        demand = dict(enumerate(law))
        cost = lambda y: sum(
            p * (params.holding * max(y - d, 0) + params.penalty * max(d - y, 0)) for d, p in demand.items()
        )
        found = inventory.plan(3, params)
        points, value = backwards(3, params, demand, cost, -30, capacity)
        assert found.cost == pytest.approx(value[start], rel=1e-9)
        assert points == list(zip(found.reorder, found.order_up_to, strict=True))


def test_rollouts_have_the_cost_of_the_plan(rollout, key):
    env, params = purerl.make("FiniteInventory-v0")
    found = inventory.plan(5, params)
    reorder, order_up_to = jnp.array(found.reorder), jnp.array(found.order_up_to)
    policy = lambda key, x: inventory.order(x.stock, reorder[x.time], order_up_to[x.time])
    states, info, reward, terminated = rollout(env, policy, params, key, 10_000, 5)
    np.testing.assert_array_equal(terminated, np.tile(np.arange(5) == 4, (10_000, 1)))
    total = -reward.sum(1)
    assert abs(total.mean() - found.cost) < 4 * standard_error(total)
    last = states.stock[:, 4] + info["ordered"][:, 4] - info["demand"][:, 4]
    ordered = info["ordered"][:, 4]
    wanted = 50.0 * (ordered > 0) + 2 * ordered + np.where(last > 0, 2 * last, -40 * last)
    np.testing.assert_allclose(-reward[:, 4], wanted, rtol=1e-5)
    obs = env.see(jax.tree.map(lambda x: jnp.asarray(x[0, 3]), states), params)
    np.testing.assert_allclose(obs, [states.stock[0, 3] / 250, 0.4], rtol=1e-5)


# --- a serial system --------------------------------------------------------------------------------------------------


def serial_step(params, stock, transit, orders, demand):
    """One period, unit by unit: the stocks and shipments after it, and its cost; transit: lists, the next one first."""
    stock, transit = list(stock), [list(x) for x in transit]
    N = len(stock)
    for j in reversed(range(N)):
        shipped = orders[j] if j == N - 1 else min(orders[j], stock[j + 1])
        if j < N - 1:
            stock[j + 1] -= shipped
        if params.lead[j] == 0:
            stock[j] += shipped
        else:
            transit[j][params.lead[j] - 1] += shipped
    stock[0] -= demand
    cost = params.penalty * max(-stock[0], 0)
    for j in range(N):
        cost += params.holding[j] * max(stock[j], 0)
        cost += params.holding[j + 1] * sum(transit[j]) if j < N - 1 else 0
    for j in range(N):
        stock[j] += transit[j][0]
        transit[j] = [*transit[j][1:], 0]
    return stock, transit, cost


def test_base_stock_is_the_optimum_of_relative_value_iteration():
    """Two stages, of which the first has a lead time of one period: all states and all orders, enumerated."""
    params = SerialInventoryParams(np.array([0.5, 0.3, 0.2]), np.array([2.0, 1.0]), 9.0, np.array([0, 1]))
    low, high, first = -8, 4, 5
    states = [(x, y) for x in range(low, high + 1) for y in range(first + 1)]
    index = {state: i for i, state in enumerate(states)}
    actions = [(a, b) for a in range(6) for b in range(5)]
    R = np.full((len(states), len(actions)), -1e3)
    successors = np.zeros((len(states), len(actions), 3), int)
    for i, (x, y) in enumerate(states):
        for k, orders in enumerate(actions):
            if orders[0] <= y and x + orders[0] <= high and y - orders[0] + orders[1] <= first:
                R[i, k] = 0
                for d in range(3):
                    (at, up), _, cost = serial_step(params, (x, y), ([0], [0]), orders, d)
                    R[i, k] -= params.demand[d] * cost
                    successors[i, k, d] = index[max(at, low), up]
    P = np.broadcast_to(params.demand, successors.shape)
    with jax.enable_x64(True):
        gain = relative_value_iteration(
            MDP(P, R, np.zeros(len(states), bool), successors=successors), tolerance=1e-9
        ).gain
    base_stock, cost = inventory.echelon_base_stock(params)
    assert -float(gain) == pytest.approx(cost, abs=1e-6) and 0 < base_stock[0] <= base_stock[1] < high


def test_rollouts_of_a_serial_system(rollout, key):
    env, params = purerl.make("SerialInventory-v0", max_order=200)
    base_stock, cost = inventory.echelon_base_stock(params)
    assert base_stock.tolist() == [9, 15, 26] and cost == pytest.approx(52.0467, abs=5e-5)
    policy = lambda key, x: jnp.where(
        x.time < 40, jax.random.randint(key, (3,), 0, 9), inventory.base_stock_orders(x, base_stock)
    )
    states, info, reward, _ = rollout(env, policy, params, key, 128, 500)
    keys = jax.vmap(lambda key: jax.random.split(key, 500))(jax.random.split(key, 128)[:1])[0]
    stock, transit = [0, 0, 0], [[0, 0]] * 3
    for t in range(80):
        assert states.stock[0, t].tolist() == stock and states.transit[0, t].tolist() == transit
        state = jax.tree.map(lambda x: x[0, t], states)
        if t < 40:
            orders = np.asarray(jax.random.randint(jax.random.split(keys[t])[0], (3,), 0, 9))
        else:
            on_the_way = np.add(stock, np.sum(transit, 1))
            orders = [max(base_stock[j] - sum(on_the_way[: j + 1]), 0) for j in range(3)]
        stock, transit, wanted = serial_step(
            params, stock, transit, [int(x) for x in orders], int(info["demand"][0, t])
        )
        assert reward[0, t] == pytest.approx(-wanted, rel=1e-5)
    np.testing.assert_allclose(env.see(state), np.append(state.stock, state.transit) / 200, rtol=1e-6)
    costs = -reward[:, 70:].mean(1)
    assert abs(costs.mean() - cost) < 4 * standard_error(costs)


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", zoo.params(IDS, wide={"Newsvendor-v0", "FiniteInventory-v0", "SerialInventory-v0"}))
def test_they_are_environments(env_id, key):
    env, params = purerl.make(env_id)
    assert env.name == env_id and getattr(purerl.envs, type(env).__name__) is type(env)
    check_env(env, params, key)
    _, state = env.reset_env(key, params)
    if env_id == "Newsvendor-v0":
        drawn = env.render(state._replace(ordered=57.0, demand=49.5), params)
        assert [bar.get_height() for bar in drawn.axes[0].patches] == [57, 49.5]
    elif env_id == "SerialInventory-v0":
        drawn = env.render(state._replace(stock=np.array([-3, 6, 9])), params)
        assert [bar.get_height() for bar in drawn.axes[0].patches] == [9, 6, -3]
    else:
        drawn = env.render(state._replace(stock=-3, ordered=6, demand=9), params)
        assert [bar.get_height() for bar in drawn.axes[0].patches] == [-3, 6, 9]


def test_many_demand_models_are_one_program(key):
    env, params = purerl.make("Inventory-v0")
    means = np.array([2.0, 6.0, 9.0])
    many = replace(params, demand=inventory.poisson(means, 41), penalty=np.array([4.0, 4.0, 9.0]))
    axes = replace(jax.tree.map(lambda x: None, params), demand=0, penalty=0)
    _, state = env.reset_env(key, params)
    step = jax.jit(jax.vmap(jax.vmap(env.step_env, (0, None, None, None)), (None, None, None, axes)))
    _, _, reward, _, info = step(jax.random.split(key, 4_000), state, 10, many)
    for i, mean in enumerate(means):
        demand = np.asarray(info["demand"][i])
        assert abs(demand.mean() - mean) < 4 * standard_error(demand)
        one = InventoryParams(inventory.poisson(mean, 41), penalty=many.penalty[i])
        assert abs(-reward[i].mean() - 5 - inventory.one_period_cost(10, one)) < 4 * standard_error(
            np.asarray(reward[i])
        )


def test_laws_of_demand():
    wanted = [math.exp(-2.5) * 2.5**k / math.factorial(k) for k in range(30)]
    np.testing.assert_allclose(inventory.poisson(np.array([6.0, 2.5]), 30)[1], wanted, rtol=1e-12)
    law = inventory.rounded_normal(10.0, 2.0, 21)
    assert law.sum() == pytest.approx(1, abs=1e-12) and law @ np.arange(21) == pytest.approx(10, abs=1e-9)
    assert law @ (np.arange(21) - 10) ** 2 == pytest.approx(4 + 1 / 12, abs=1e-3)  # Sheppard's correction


def test_bad_input(key):
    env = Inventory()
    for changed, said in (
        ({"capacity": 0}, r"Inventory: capacity is 0; it must lie in \[1, "),
        ({"holding": 0.0}, r"Inventory: holding is 0.0; it must be positive"),
        ({"penalty": math.nan}, r"Inventory: penalty is nan; it must be positive"),
        ({"order_cost": -1.0}, r"Inventory: order_cost is -1.0; it must lie in \[0.0"),
        ({"start": 21}, r"Inventory: start is 21; it must lie in"),
        ({"start": 0.5}, r"Inventory: start is 0.5; it must be a whole number"),
        ({"capacity": 2.5}, r"Inventory: capacity is 2.5; it must be a whole number"),
        ({"holding": "1"}, r"Inventory: holding is '1'; it must be a real number or an array"),
        ({"demand": np.array([0.5, 0.6, -0.1])}, r"Inventory: demand is .*; it must be probabilities in \[0, 1\]"),
        ({"demand": np.array([0.5, 0.4])}, r"Inventory: demand adds up to 0.9; probabilities must add up to 1"),
    ):
        params = replace(POISSON, **changed)
        for call in (
            lambda: env.reset_env(key, params),
            lambda: inventory.plan(3, params),
            lambda: Inventory(params=params),
        ):
            with pytest.raises(ValueError, match=said):
                call()
    for changed, said in (({"std": 0.0}, "std is 0.0"), ({"penalty": -1.0}, "penalty is -1.0")):
        with pytest.raises(ValueError, match=f"Newsvendor: {said}; it must be positive and finite"):
            Newsvendor().reset_env(key, replace(NewsvendorParams(), **changed))
    serial = SerialInventory()
    for changed, said in (
        ({"lead": np.array([0, -1, 2])}, r"SerialInventory: lead is \[ 0 -1  2\]; it must lie in \[0, "),
        ({"lead": np.array([0, 0.5, 2])}, r"SerialInventory: lead is .*; it must be a whole number"),
        ({"lead": np.array([0, 1])}, r"holding and lead have shapes \(3,\) and \(2,\); both must be \(N,\)"),
        ({"holding": np.array([1.0, 2.0, 0.5])}, r"holding is .*; it must not increase"),
        ({"penalty": 0.0}, r"SerialInventory: penalty is 0.0; it must be positive"),
        ({"demand": np.array([0.5, 0.6])}, r"SerialInventory: demand adds up to 1.1"),
    ):
        params = replace(serial.default_params, **changed)
        for call in (lambda: SerialInventory(params=params), lambda: serial.reset_env(key, params)):
            with pytest.raises(ValueError, match=said):
                call()
    longer = replace(serial.default_params, lead=np.array([0, 1, 5]))  # units on the way would be lost
    with pytest.raises(ValueError, match=r"SerialInventory: lead is \[0 1 5\]; it must lie in \[0, 2\]"):
        serial.reset_env(key, longer)
    with pytest.raises(ValueError, match=r"SerialInventory: lead is \[0 1 5\]"):
        serial.step_env(key, serial.reset_env(key, serial.default_params)[1], jnp.array([1, 1, 1]), longer)
    with pytest.raises(ValueError, match=r"Newsvendor: capacity is 0; it must be positive"):
        Newsvendor(capacity=0)
    with pytest.raises(ValueError, match=r"Inventory: max_steps_in_episode is 2.5; it must be a whole number"):
        env.reset_env(key, replace(POISSON, max_steps_in_episode=2.5))
    with pytest.raises(ValueError, match=r"horizon is 0; it must be a positive int"):
        Inventory(horizon=0)
    with pytest.raises(ValueError, match=r"average_cost: reorder is 10; it must be below order_up_to, 10"):
        inventory.average_cost(10, 10, POISSON)
    with pytest.raises(ValueError, match=r"average_cost: demand is always 0"):
        inventory.average_cost(4, 10, replace(POISSON, demand=np.array([1.0])))
    for s, S, said in (
        (1.5, 10, "reorder is 1.5"),
        (4, math.nan, "order_up_to is nan"),
        ([4], 10, "reorder has shape"),
    ):
        with pytest.raises(ValueError, match=f"average_cost: {said}"):
            inventory.average_cost(s, S, POISSON)
    with pytest.raises(ValueError, match=r"poisson: mean is 0.0; it must be positive"):
        inventory.poisson(0.0, 10)
    for mean, said in ((math.nan, "it must lie in"), (1e9, r"no demand from 0 to 9 is possible for std 1.0")):
        with pytest.raises(ValueError, match=f"rounded_normal: mean is .*; {said}"):
            inventory.rounded_normal(mean, 1.0, 10)
    for num in (2, 4):
        others = replace(serial.default_params, lead=np.ones(num, int), holding=np.ones(num))
        with pytest.raises(ValueError, match=rf"SerialInventory: lead has shape \({num},\); it must be \(3,\)"):
            serial.reset_env(key, others)


@pytest.mark.parametrize(
    "solve", [inventory.best_policy, lambda x: inventory.average_cost(4, 10, x), lambda x: inventory.plan(3, x)]
)
def test_solutions_are_of_one_problem(solve):
    with pytest.raises(ValueError, match=r"holding has shape \(2,\); it must be one number, of one problem at a time"):
        solve(replace(POISSON, holding=np.ones(2)))
    with pytest.raises(ValueError, match=r"demand has shape \(2, 5\); it must be an array of 1 axis"):
        solve(replace(POISSON, demand=np.full((2, 5), 0.2)))


def test_policies_are_enumerated_up_to_a_number_of_units():
    for changed in ({"holding": 1e-9}, {"penalty": 1e-9}, {"order_cost": 1e30}):
        with pytest.raises(ValueError, match=r"best_policy: the economic order quantity is .* it must be at most"):
            inventory.best_policy(replace(POISSON, **changed))
    reorder, order_up_to, _ = inventory.best_policy(replace(POISSON, holding=0.01))
    assert order_up_to - reorder == pytest.approx(math.sqrt(2 * POISSON.order_cost * 6 / 0.01), rel=0.05)


def test_against_stockpyl(monkeypatch):
    pytest.importorskip("stockpyl", reason="stockpyl is not installed: pip install stockpyl")
    from stockpyl import ssm_serial
    from stockpyl.demand_source import DemandSource
    from stockpyl.finite_horizon import finite_horizon_dp
    from stockpyl.newsvendor import newsvendor_normal
    from stockpyl.ss import s_s_cost_discrete, s_s_discrete_exact

    for holding, penalty, mean, std in ((0.18, 0.70, 50.0, 8.0), (1.0, 4.0, 20.0, 3.0)):
        found = inventory.newsvendor_optimum(NewsvendorParams(holding, penalty, mean, std))
        np.testing.assert_allclose(found, newsvendor_normal(holding, penalty, mean, std)[:2], rtol=1e-9)
    for holding, penalty, fixed, mean in ((1, 4, 5, 6.0), (1, 4, 5, 20.0), (2.0, 10.0, 30.0, 9.0)):
        params = InventoryParams(inventory.poisson(mean, 100), holding, penalty, fixed)
        s, S, cost = s_s_discrete_exact(holding, penalty, fixed, True, mean)
        assert inventory.best_policy(params) == (s, S, pytest.approx(cost, abs=1e-6))
        assert inventory.average_cost(3, 12, params) == pytest.approx(
            s_s_cost_discrete(3, 12, holding, penalty, fixed, True, mean), abs=1e-6
        )
    reorder, order_up_to, cost, *_ = finite_horizon_dp(5, 1, 20, 1, 20, 2, 50, 100, 20)
    found = inventory.plan(5, FINITE)
    assert reorder[1:] == found.reorder.tolist() and order_up_to[1:] == found.order_up_to.tolist()
    assert found.cost == pytest.approx(cost, rel=2e-4)  # its demand is cut at 4 σ
    # its own search of a grid calls np.array with copy=False, which NumPy 2 refuses
    near = lambda array, values, *_: np.abs(np.subtract.outer(np.asarray(array), values)).argmin(0)
    monkeypatch.setattr(ssm_serial, "find_nearest", near)
    base_stock, cost = ssm_serial.optimize_base_stock_levels(
        num_nodes=3, node_order_in_system=[3, 2, 1], node_order_in_lists=[1, 2, 3], echelon_holding_cost=[3, 2, 2],
        lead_time=[1, 1, 2], stockout_cost=37.12, demand_source=DemandSource(type="P", mean=5),
    )  # fmt: skip
    found, average = inventory.echelon_base_stock(SerialInventory().default_params)
    assert [base_stock[n] for n in (1, 2, 3)] == found.tolist()
    # it counts the first period as lead time, and holding of the upper echelons before demand; its demand is cut
    assert average == pytest.approx(cost - 5 * (2 + 2), rel=1e-4)


def test_serial_costs_are_those_of_a_simulation_by_stockpyl():
    """Its stages order and ship after the demand of a period, ours before: its stages 1 and 2 are one order ahead.

    So its lead time of 1 to stage 0 is our 0, and units on the way there for that period cost H₁ each in addition: 20
    of its mean cost, with a demand of 5 and H₁ = 4. Both begin with the base stocks: otherwise its first orders count
    twice what is missing.
    """
    pytest.importorskip("stockpyl", reason="stockpyl is not installed: pip install stockpyl")
    from stockpyl.sim import simulation
    from stockpyl.supply_chain_network import serial_system

    env, periods, start = SerialInventory(), 400, [9, 6, 11]
    params = env.default_params
    levels, _ = inventory.echelon_base_stock(params)
    network = serial_system(
        num_nodes=3, node_order_in_system=[2, 1, 0], node_order_in_lists=[0, 1, 2], demand_type="P", mean=5,
        local_holding_cost=params.holding.tolist(), stockout_cost=[params.penalty, 0, 0], policy_type="EBS",
        base_stock_level=levels.tolist(), shipment_lead_time=[1 + params.lead[0], *params.lead[1:]],
        initial_inventory_level=start,
    )  # fmt: skip
    simulation(network, periods, rand_seed=0, progress_bar=False, consistency_checks="N")
    of = lambda j, name: [getattr(network.nodes_by_index[j].state_vars[t], name) for t in range(periods)]
    total = np.array([of(j, "total_cost_incurred") for j in range(3)])
    to_stage_0 = np.array(of(1, "in_transit_holding_cost_incurred"))
    demand = np.array([next(iter(x.values()))[-1000] for x in of(0, "inbound_order")], int)

    def step(state, demanded):
        known = replace(params, demand=jax.nn.one_hot(demanded, 31))
        _, state, reward, *_ = env.step_env(jax.random.key(0), state, inventory.base_stock_orders(state, levels), known)
        return state, -reward

    _, state = env.reset_env(jax.random.key(0), params)
    state = state._replace(stock=jnp.array(start).at[0].add(-demand[0]))  # its first orders follow the first demand
    _, costs = jax.jit(lambda state, demand: jax.lax.scan(step, state, demand))(state, demand[1:])
    np.testing.assert_allclose(costs, total[0, 1:] + (total[1] + total[2] - to_stage_0)[:-1], rtol=1e-6)
