"""The judgement of agents in the environments of the fields, and of portfolios, in the benchmarks."""

import importlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.envs.fields import execution, inventory, portfolio
from purerl.envs.fields.glimpses import Glimpses, GlimpsesState, accuracy_of_fixed_glimpses, every_location
from purerl.envs.training_control.data import Data

IMAGES = Data(
    np.random.default_rng(0).uniform(0.1, 1, (20, 6, 6, 1)).astype(np.float32), np.arange(20, dtype=np.int32) % 3
)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A module of the benchmarks, by its name."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


def acting(action):
    """An agent without memory whose greedy actions are a function of observations `[N, ...]`."""
    return SimpleNamespace(memory=lambda n: (), greedy=lambda state, memory, obs: (action(obs), memory))


# --- fields -----------------------------------------------------------------------------------------------------------


def test_the_optimal_schedule_has_the_optimal_utility(script):
    fields, env = script("fields"), execution.Execution()
    params = env.default_params
    best = execution.optimal_holdings(params) / params.shares
    assert fields.utility(params, {"left": best}) == pytest.approx(1275355.56, abs=0.01)

    def sold(obs):  # the best fraction of what is left, by the fraction of trades that are left
        trade = jnp.round(5 * (1 - obs[:, 0])).astype(int)
        return jnp.asarray(-np.diff(best) / best[:-1], jnp.float32)[trade, None]

    found = fields.trades(env, acting(sold), (), None)
    np.testing.assert_allclose(found["left"], best, atol=1e-6)


def test_orders_of_a_plan_cost_what_the_plan_does(script):
    fields = script("fields")
    params = inventory.InventoryParams(
        inventory.poisson(3.0, 9), penalty=9.0, unit_cost=0.5, terminal_holding=0.3, terminal_penalty=7.0, capacity=15,
        start=2,
    )  # fmt: skip
    env = inventory.finite_horizon(40, 4, params)
    params, best = env.default_params, inventory.plan(4, params)
    stocks = fields.stocks_of_horizon(params)
    assert stocks[0] == -24 and stocks[-1] == 15

    def ordered(obs):
        stock, time = jnp.round(15 * obs[:, 0]).astype(int), jnp.round(4 * (1 - obs[:, 1])).astype(int)
        return inventory.order(stock, jnp.asarray(best.reorder)[time], jnp.asarray(best.order_up_to)[time])

    found = jax.tree.map(np.asarray, fields.orders_by_period(env, acting(ordered), (), None))
    np.testing.assert_array_equal(found["orders"][0], inventory.order(stocks, best.reorder[0], best.order_up_to[0]))
    assert fields.cost_of_horizon(params, found) == pytest.approx(best.cost, rel=1e-12)
    # without orders: the demand of every period, by hand
    probability, cost, law = np.asarray(params.demand), 0.0, {2: 1.0}
    for _ in range(4):
        cost += sum(p * inventory.one_period_cost(x, params) for x, p in law.items())
        law = {x: sum(law.get(x + d, 0.0) * q for d, q in enumerate(probability)) for x in range(-30, 3)}
    cost += sum(p * (0.3 * max(x, 0) + 7.0 * max(-x, 0)) for x, p in law.items())
    nothing = {"orders": np.zeros_like(found["orders"])}
    assert fields.cost_of_horizon(params, nothing) == pytest.approx(cost, rel=1e-12)

    # of numbers, which are rounded, and clipped to the largest order
    rounded = lambda add: fields.orders_by_period(fields.Rounded(env), acting(lambda obs: ordered(obs) + add), (), None)
    np.testing.assert_array_equal(rounded(0.4)["orders"], found["orders"])
    np.testing.assert_array_equal(rounded(99.0)["orders"], np.full_like(found["orders"], 40))


# --- portfolios -------------------------------------------------------------------------------------------------------


def test_blocks_of_days(script):
    drawn = script("portfolio").block_resamples(10, 4, 2_000)
    assert drawn.shape == (2_000, 10)
    steps = np.diff(drawn) % 10
    assert (np.delete(steps, [3, 7], 1) == 1).all() and (steps[:, [3, 7]] != 1).any()
    # each day is as likely, at each place: 200 of 2,000 expected, deviation 13
    counts = np.stack([np.bincount(column, minlength=10) for column in drawn.T])
    assert abs(counts - 200).max() < 70
    # the variance of the mean of i.i.d. days is that of single days over their number
    x = np.random.default_rng(3).normal(size=4_000)
    means = x[script("portfolio").block_resamples(4_000, 20, 500)].mean(1)
    assert means.std() == pytest.approx(x.std() / np.sqrt(4_000), rel=0.2)


def test_portfolios_without_learning(script):
    benchmark = script("portfolio")
    a, b = np.array([1, -1, 1, -1, 1, -1, 1, -1]), np.array([1, 1, -1, -1, 1, 1, -1, -1])
    c = np.array([1, 1, 1, 1, -1, -1, -1, -1])
    growth = 1 + np.stack([0 * a, 0.01 * a, 0.02 * b, 0.04 * c], 1)  # uncorrelated, variances 1 : 4 : 16
    np.testing.assert_allclose(benchmark.minimum_variance(growth), [0, 16 / 21, 4 / 21, 1 / 21], atol=1e-4)
    weights, cost = np.array([0.1, 0.2, 0.3, 0.4]), 0.01
    wealth = portfolio.rebalanced(growth[:1], weights, cost)[-1]
    paid = 1 - np.exp(wealth) / (weights @ growth[0])
    assert benchmark.turnover(growth[:1], weights, cost) == pytest.approx(paid / cost)
    assert benchmark.turnover(growth, weights, cost) < paid / cost  # the first day's purchases are the largest


def test_ratios_of_growth(script):
    benchmark = script("portfolio")
    growth = np.log([2.0, 0.5, 0.5, 8.0, 0.9])
    assert benchmark.drawdown(growth) == pytest.approx(0.75)
    assert benchmark.drawdown(np.log([0.9, 2.0])) == pytest.approx(0.1)  # below the wealth at first
    daily = np.array([1.0, -0.5, -0.5, 7.0, -0.1])
    assert benchmark.sharpe(growth) == pytest.approx(np.sqrt(252) * daily.mean() / daily.std())
    same = benchmark.interval_of_growth(np.full((2, 500), 0.001))
    np.testing.assert_allclose(same, [0.252, 0.252])


@pytest.mark.parametrize("leak", [False, True])
def test_what_is_learned_of_one_asset_holds_for_all(script, leak):
    benchmark = script("portfolio")
    network, days, rng = benchmark.Evaluators(3, 0.3), benchmark.WINDOW, np.random.default_rng(0)
    past, weights, ahead = rng.normal(size=(5, days, 3)), rng.random(size=(5, 4)), rng.normal(size=(5, 3))

    def seen(order):
        own = np.concatenate([weights[:, :1], weights[:, 1:][:, order]], 1)
        parts = [past[..., order].reshape(5, -1), own, *([ahead[:, order]] if leak else [])]
        return jnp.asarray(np.concatenate(parts, 1), jnp.float32)

    params = network.init(jax.random.key(1), seen([0, 1, 2]))
    (pi, value), (moved, same) = network.apply(params, seen([0, 1, 2])), network.apply(params, seen([2, 0, 1]))
    assert pi.shape == (5, 8) and value.shape == (5,)
    np.testing.assert_allclose(moved[:, :4], pi[:, [0, 3, 1, 2]], atol=1e-5)
    np.testing.assert_allclose(same, value, atol=1e-5)
    assert abs(pi[:, 1] - pi[:, 2]).max() > 1e-4


# --- glimpses ---------------------------------------------------------------------------------------------------------


def test_the_canvas_has_the_pixels_that_were_seen(script, key):
    """Step by step, and in one pass over a block in which an episode ends."""
    images, env = script("fields_images"), Glimpses(IMAGES, num_glimpses=3)
    params = env.default_params
    canvas, side = images.canvas(6, 3), 6
    at = jax.random.uniform(key, (4, 2, 2), jnp.float32, -1, 1)
    states = [GlimpsesState(jnp.array([t // 2, 2]), at[t], jnp.array([t % 2, 1])) for t in range(4)]
    see, step = jax.jit(jax.vmap(lambda s: env._see(s, params))), jax.jit(canvas.step)
    obs = jnp.stack([see(s) for s in states])
    ended = jnp.zeros((4, 2), bool).at[1, 0].set(True)
    memory, steps = canvas.memory(2), []
    expected = np.zeros((2, 2, side, side))
    for t in range(4):
        y, memory = step((), memory, obs[t])
        for n in range(2):
            row, column = np.round((np.asarray(at[t, n]) + 1) * 5 / 2).astype(int)
            part = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
            expected[(n, 0, *part)], expected[(n, 1, *part)] = params.images[states[t].image[n]][part], 1
        np.testing.assert_allclose(y, np.concatenate([expected.reshape(2, -1), obs[t][:, -3:]], 1), atol=1e-6)
        steps.append(y)
        memory = canvas.reset(memory, ended[t])
        expected[np.asarray(ended[t])] = 0
    y, after, last = jax.jit(canvas.unroll)((), canvas.memory(2), obs, ended, obs)
    np.testing.assert_allclose(y, jnp.stack(steps), atol=1e-6)
    np.testing.assert_allclose(after, y, atol=1e-6)  # to see the same again changes nothing
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), last, memory)


def test_locations_as_pixels(script, key):
    images, env = script("fields_images"), Glimpses(IMAGES, num_glimpses=3)
    cells, params = images.Cells(env), env.default_params
    assert cells.action_space(params).spaces["location"].n == 36
    _, state = cells.reset_env(key, params)
    for cell in (0, 5, 8, 35):
        obs, after, *_ = cells.step_env(key, state, {"class": 0, "location": jnp.asarray(cell)}, params)
        np.testing.assert_array_equal(np.round((np.asarray(after.location) + 1) * 2.5), np.divmod(cell, 6))
        assert float(obs[4]) == params.images[state.image].ravel()[cell]


def nearest_by_loops(env, train, image, left_out, pixels):
    """The distances of all images for training `[m]` from the glimpses at pixels (row, column), and the class named."""
    padded, own = np.pad(train.images, ((0, 0), (1, 1), (1, 1))).astype(float), np.pad(image, 1).astype(float)
    distances = np.zeros(len(padded))
    for i, other in enumerate(padded):
        for row, column in pixels:
            part = (slice(row, row + 3), slice(column, column + 3))
            distances[i] += ((other[part] - own[part]) ** 2).sum()
    distances[left_out] = np.inf
    return distances, train.labels[distances.argmin()]


@pytest.mark.parametrize("for_test", [False, True])
def test_the_nearest_image_names_the_class(script, for_test):
    """Distances, class, evidence and observations after every glimpse, by loops; in training without the image."""
    images, env = script("fields_images"), Glimpses(IMAGES, num_glimpses=3)
    nearest, train = images.Nearest(env, 0.5), env.default_params
    params = nearest.test_params if for_test else nearest.default_params
    assert params.max_steps_in_episode == 2 and len(params.images) == (6 if for_test else 14)
    begin = jax.jit(lambda i, at: nearest.begin(i, at, params))
    step = jax.jit(lambda state, action: nearest.step_env(jax.random.key(0), state, action, params))

    def log_posterior(distances, label):
        weight = np.exp(-distances / 0.5)
        return np.log(weight[train.labels == label].sum() / weight.sum())

    for image in range(0, len(params.images), 3):
        pixels, label = [(image % 6, 5), (0, image // 6), (2, 3)], params.labels[image]
        left_out = [] if for_test else [image]
        of = lambda num: nearest_by_loops(env, train, params.images[image], left_out, pixels[:num])
        obs, state = begin(image, jnp.asarray(pixels[0]) / 2.5 - 1)
        for t in range(3):
            if t:
                obs, state, reward, last, info = step(state, jnp.asarray(pixels[t]) @ jnp.array([6, 1]))
                change = log_posterior(of(t + 1)[0], label) - log_posterior(of(t)[0], label)
                assert float(info["evidence"]) == pytest.approx(change, abs=1e-4)
                assert bool(info["right"]) == (of(t + 1)[1] == label) and bool(last) == (t == 2)
                assert float(reward) == float(info["right"] & last)
            distances, named = of(t + 1)
            np.testing.assert_allclose(state.distances, distances, rtol=1e-5)
            assert nearest.guess(state.distances) == named
            smallest = np.array([distances[train.labels == c].min() for c in range(3)])
            canvas, seen = np.zeros((2, 6, 6))
            for row, column in pixels[: t + 1]:
                part = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
                canvas[part], seen[part] = params.images[image][part], 1
            rest = [smallest.min(), *(np.array(pixels[t]) / 2.5 - 1), t / 2]
            expected = [canvas.ravel(), seen.ravel(), smallest - smallest.min(), rest]
            np.testing.assert_allclose(obs, np.concatenate(expected), atol=1e-5)
    assert nearest.observation_space(params).shape == obs.shape


def test_fixed_pixels_are_as_accurate_as_fixed_glimpses(script):
    """The classifier is the baseline's: over all images for test and all first locations, by their probability."""
    images, env = script("fields_images"), Glimpses(IMAGES, num_glimpses=3)
    nearest = images.Nearest(env)
    params, (every, probability) = nearest.test_params, every_location(6)

    def play(image, location):
        _, state = nearest.begin(image, location, params)
        for pixel in (8, 27):
            _, state, reward, *_ = nearest.step_env(jax.random.key(0), state, pixel, params)
        return reward

    over_images = jax.vmap(play, (0, None))
    right = jax.jit(jax.vmap(over_images, (None, 0)))(jnp.arange(len(params.images)), jnp.asarray(every))
    fixed = accuracy_of_fixed_glimpses(env.default_params, env.test_params, every[[8, 27]], uniform_first=True)
    assert probability @ np.asarray(right).mean(1) == pytest.approx(fixed, abs=1e-6)
