"""Optimal execution against the published numbers, a solution of the quadratic programme, and a loop in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.fields import execution
from purerl.envs.fields.execution import Execution, ExecutionParams
from purerl.runs.render import painter
from purerl.testing import check_env

ENV = Execution()


def play(params, fractions, key):
    """Observations, rewards, ends and shortfalls of a schedule of fractions `[N]`, by the environment's own steps."""
    obs, state = ENV.reset_env(key, params)

    def step(carry, x):
        fraction, key = x
        obs, state, reward, terminated, info = ENV.step_env(key, carry, fraction[None], params)
        return state, (obs, reward, terminated, info["shortfall"], state.left)

    return obs, *jax.lax.scan(step, state, (fractions, jax.random.split(key, len(fractions))))[1]


def fractions(holdings):
    return -np.diff(holdings) / holdings[:-1]


def test_the_optimum_has_the_published_numbers():
    params = ExecutionParams()
    best = execution.optimal_holdings(params)
    np.testing.assert_allclose(-np.diff(best), [458044.4, 252101.3, 141956.7, 85755.7, 62141.8], atol=0.05)
    mean, variance = execution.cost(best, params)
    np.testing.assert_allclose([mean, mean + 1e-6 * variance], [911226.99, 1275355.56], atol=0.005)
    neutral = params.replace(risk_aversion=0.0)
    np.testing.assert_allclose(execution.optimal_holdings(neutral), execution.even_holdings(neutral), rtol=1e-14)
    assert execution.cost(execution.even_holdings(neutral), neutral)[0] == pytest.approx(662500, abs=1e-6)


@pytest.mark.parametrize("aversion", [0.0, 1e-14, 1e-6, 3e-5, 1.0])
@pytest.mark.parametrize("num_trades", [1, 2, 7, 60])
def test_the_closed_form_solves_the_quadratic_programme(aversion, num_trades):
    params = ExecutionParams(risk_aversion=aversion, max_steps_in_episode=num_trades, horizon=3.0, shares=2e5)
    interval = 3.0 / num_trades
    impact = (2.5e-6 - 2.5e-7 * interval / 2) / interval
    # the derivative by each x₁ … x_{N-1} is 0: 2 impact (2xⱼ - xⱼ₋₁ - xⱼ₊₁) + 2 λσ²τ xⱼ = 0
    matrix = np.diag(np.full(num_trades - 1, 2 * impact + aversion * 0.95**2 * interval))
    matrix -= impact * (np.eye(num_trades - 1, k=1) + np.eye(num_trades - 1, k=-1))
    right = np.zeros(num_trades - 1)
    if num_trades > 1:
        right[0] = impact * 2e5
    inner = np.linalg.solve(matrix, right)
    np.testing.assert_allclose(execution.optimal_holdings(params), [2e5, *inner, 0], rtol=1e-9, atol=1e-6)


def test_returns_and_observations_against_a_loop(key):
    params = ExecutionParams(permanent_impact=4e-7, horizon=6.0, max_steps_in_episode=3, volatility=0.0)
    with jax.enable_x64(True):
        out = jax.jit(play)(params, jnp.array([0.25, 0.5, 0.1]), key)
        first, obs, reward, terminated, shortfall, _ = map(np.asarray, out)
    left, price, seen = 1e6, 0.0, []
    rewards, lost = [], []
    for n in (250_000.0, 375_000.0, 375_000.0):
        lost.append(-n * (price - 0.0625 - 2.5e-6 * n / 2))
        price -= 4e-7 * n
        left -= n
        rewards.append(-(0.0625 * n + (2.5e-6 - 4e-7) * n**2 / 2) / 1e6)
        seen.append([1 - len(rewards) / 3, left / 1e6])
    np.testing.assert_allclose(first, [1, 1])
    np.testing.assert_allclose(obs, seen, atol=1e-7)
    np.testing.assert_allclose(reward, rewards, rtol=1e-6)
    np.testing.assert_allclose(shortfall, lost, rtol=1e-12)
    assert terminated.tolist() == [False, False, True]


def test_a_thousand_variants_are_one_program(key):
    """The return of the best schedule of each is the closed form's, and nearby schedules have lower ones."""
    draw = np.random.default_rng(0)
    aversion, volatility = 10 ** draw.uniform(-8, -4, 1000), draw.uniform(0.1, 2, 1000)
    variants = [ExecutionParams(risk_aversion=x, volatility=y) for x, y in zip(aversion, volatility, strict=True)]
    best = np.stack([fractions(execution.optimal_holdings(x)) for x in variants])
    many = ExecutionParams(risk_aversion=aversion, volatility=volatility)
    axes = jax.tree.map(lambda x: 0 if np.ndim(x) else None, many)
    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(play, (axes, 0, None)))
        total = np.asarray(run(many, best, key)[2]).sum(1)
        other = np.asarray(run(many, np.clip(best + draw.uniform(-0.05, 0.05, best.shape), 0, 1), key)[2]).sum(1)
    np.testing.assert_allclose(total, [execution.optimal_return(x) for x in variants], rtol=1e-5)
    assert (other <= total).all()
    assert run._cache_size() == 1


def test_the_shortfall_has_the_mean_and_the_variance_of_the_formulas(key):
    params = ExecutionParams()
    schedule = execution.optimal_holdings(params)
    run = jax.jit(jax.vmap(lambda key: play(params, fractions(schedule), key)[4].sum()))
    shortfall = np.asarray(run(jax.random.split(key, 40_000)), np.float64)
    mean, variance = execution.cost(schedule, params)
    error = np.sqrt(variance / len(shortfall))
    assert abs(shortfall.mean() - mean) < 4 * error
    assert abs(shortfall.var() / variance - 1) < 4 * np.sqrt(2 / len(shortfall))


def test_the_last_trade_sells_all_and_schedules_of_any_action_are_valid(key):
    *_, left = jax.jit(play)(ExecutionParams(), jnp.array([0.0, 2.0, -1.0, 0.3, 0.0]), key)
    np.testing.assert_allclose(left, [1, 0, 0, 0, 0])


def test_the_contract_and_the_picture(key):
    env, params = purerl.make("Execution-v0")
    check_env(env, params, key)
    draw, _ = painter(env, params)
    _, state = env.reset(key, params)
    assert draw(state).shape[-1] == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shares": 0.0}, "shares is 0.0"),
        ({"shares": -5.0}, "shares is -5.0"),
        ({"horizon": np.nan}, "horizon is nan"),
        ({"volatility": -0.1}, "volatility is -0.1"),
        ({"risk_aversion": np.inf}, "risk_aversion is inf"),
        ({"max_steps_in_episode": 0}, "max_steps_in_episode is 0"),
        ({"max_steps_in_episode": -3}, "max_steps_in_episode is -3"),
        ({"max_steps_in_episode": 2.5}, "max_steps_in_episode is 2.5; it must be a whole number"),
        ({"horizon": "5"}, "horizon is '5'; it must be a real number or an array"),
        ({"temporary_impact": 1e-8}, "temporary_impact - permanent_impact τ/2 is -1.15e-07"),
    ],
)
def test_bad_parameters(changed, message, key):
    params = ExecutionParams(**changed)
    _, state = ENV.reset_env(key, ENV.default_params)
    step = lambda: ENV.step_env(key, state, jnp.ones(1), params)
    for call in (step, lambda: ENV.reset_env(key, params), lambda: execution.optimal_holdings(params)):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_holdings():
    for holdings in ([1e6, math.nan, 6e5, 4e5, 2e5, 0], [1e6, 0], [1e6, 8e5, 6e5, 4e5, 2e5, 1e5], [], np.zeros((6, 2))):
        with pytest.raises(ValueError, match=r"holdings has shape"):
            execution.cost(holdings, ExecutionParams())


@pytest.mark.parametrize("name", ["optimal_holdings", "optimal_return", "even_holdings"])
def test_the_schedules_are_of_one_order(name):
    function = getattr(execution, name)
    with pytest.raises(ValueError, match=r"risk_aversion has shape \(2,\); it must be one number, of one problem"):
        function(ExecutionParams(risk_aversion=np.array([1e-6, 2e-6])))
    np.testing.assert_array_equal(
        function(ExecutionParams(max_steps_in_episode=np.int64(5))), function(ExecutionParams())
    )
