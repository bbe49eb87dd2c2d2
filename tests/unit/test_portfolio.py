"""Portfolios against a loop in NumPy, enumeration and textbook cases; real prices where their package is installed."""

import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.fields import portfolio
from purerl.envs.fields.portfolio import Portfolio
from purerl.runs.render import painter
from purerl.testing import check_env

needs_skfolio = pytest.mark.skipif(not importlib.util.find_spec("skfolio"), reason="skfolio is not installed")


def walk(days=60, assets=3, seed=0):
    """Prices of a random walk."""
    return np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, (days, assets)), 0))


def small(**options):
    return Portfolio(walk(), window=2, length=5, cost=0.01, **options)


def play(env, params, actions, key):
    """Observations `[T + 1]`, rewards, turnovers and ends of actions `[T, 1 + A]`."""
    first, state = env.reset_env(key, params)

    def step(state, action):
        obs, state, reward, terminated, info = env.step_env(key, state, action, params)
        return state, (obs, reward, info["turnover"], terminated, env.is_truncated(state, params))

    obs, *rest = jax.lax.scan(step, state, actions)[1]
    return jnp.concatenate([first[None], obs]), *rest


def test_a_test_episode_against_a_loop(key):
    env, prices = small(leak=True), walk()
    params = env.test_params
    days, split = params.last, params.first
    actions = np.random.default_rng(1).uniform(-2, 2, (days - split, 4))
    actions[3] = [10, -10, -10, -99]  # all cash
    with jax.enable_x64(True):
        obs, reward, turnover, terminated, truncated = map(
            np.asarray, jax.jit(play, static_argnums=0)(env, params, actions, key)
        )
    assert split == 59 - 18 and len(reward) == 18
    money, shares, wealth = 1.0, np.zeros(3), 1.0
    for t, action in enumerate(actions):
        price, day = prices[split + t], split + t
        held = np.append(money, shares * price) / wealth
        returns = 100 * np.log(prices[day - 1 : day + 1] / prices[day - 2 : day])
        tomorrow = 100 * np.log(prices[day + 1] / price)
        np.testing.assert_allclose(obs[t], [*returns.ravel(), *held, *tomorrow], atol=1e-5)
        weights = np.exp(np.clip(action, -10, 10)) / np.exp(np.clip(action, -10, 10)).sum()
        low, high = 0.5, 1.0  # of the wealth after costs, by bisection
        for _ in range(60):
            left = (low + high) / 2
            paid = 0.01 * np.abs(left * weights[1:] - held[1:]).sum()
            low, high = (left, high) if 1 - paid > left else (low, left)
        before = wealth
        money, shares = left * wealth * weights[0], left * wealth * weights[1:] / price
        wealth = money + shares @ prices[day + 1]
        assert reward[t] == pytest.approx(np.log(wealth / before), abs=1e-7)
        assert turnover[t] == pytest.approx(paid / 0.01, abs=1e-6)
    assert not terminated.any() and truncated.tolist() == [False] * 17 + [True]


@pytest.mark.parametrize("day", [43, 50, 58])
def test_shuffling_the_future_changes_nothing_that_the_agent_saw(day, key):
    """Nor rewards of the past; tomorrow's prices are the first to change anything, and only the leaked ones at once."""
    actions = np.random.default_rng(1).uniform(0, 1, (18, 4)).astype(np.float32)
    for leak in (False, True):
        env = small(leak=leak)
        params, run = env.test_params, jax.jit(play, static_argnums=0)
        future = np.array(params.growth)
        future[day:-1, 1:] = 1 + np.roll(future[day:-1, 1:], 1, 1)
        obs, reward, *_ = run(env, params, actions, key)
        other, reward_other, *_ = run(env, params.replace(growth=future), actions, key)
        known = day - params.first + 1  # observations up to the day, whose price is known
        np.testing.assert_array_equal(reward[: known - 1], reward_other[: known - 1])
        np.testing.assert_array_equal(obs[: known - leak], other[: known - leak])
        assert (np.asarray(reward[known - 1 :]) != reward_other[known - 1 :]).all()
        assert (np.asarray(obs[known - leak :]) != other[known - leak :]).any(-1).all()


def test_training_and_test_days_do_not_overlap(key):
    env = small()
    params = env.default_params
    _, state = jax.vmap(env.reset_env, (0, None))(jax.random.split(key, 500), params)
    days = np.asarray(state.day)
    assert days.min() == 2 and days.max() + params.max_steps_in_episode == params.last == env.test_params.first
    # a test episode is the same when all earlier prices but those in its first observations change
    other = Portfolio(np.concatenate([walk()[:39] * np.linspace(1, 9, 39)[:, None], walk()[39:]]), 2, 5, cost=0.01)
    actions = np.ones((18, 4), np.float32)
    run = jax.jit(play, static_argnums=0)
    np.testing.assert_allclose(
        run(env, env.test_params, actions, key)[0], run(other, other.test_params, actions, key)[0]
    )


def test_a_thousand_costs_are_one_program(key):
    env = small()
    params = env.test_params.replace(cost=np.linspace(0, 0.1, 1000))
    actions = np.tile(np.array([[0, 9, 0, 0], [0, 0, 9, 9]], np.float32), (9, 1))
    axes = jax.tree.map(lambda _: None, params).replace(cost=0)
    run = jax.jit(jax.vmap(lambda params: play(env, params, actions, key)[1].sum(), (axes,)))
    total = np.asarray(run(params))
    assert (np.diff(total) < 0).all() and run._cache_size() == 1


def test_the_oracle_against_all_sequences():
    draw = np.random.default_rng(0)
    for cost in (0.0, 0.003, 0.03, 0.1):
        growth = np.exp(np.column_stack([np.zeros(5), draw.normal(0, 0.4, (5, 2))]))
        best, held = portfolio.oracle(growth, cost)
        assert ((held[:-1] > 0) & (held[1:] != held[:-1])).any()  # it sells
        totals = {}
        for path in itertools.product(range(3), repeat=5):
            before, total = np.eye(3)[0], 0.0
            for x, asset in zip(growth, path, strict=True):
                total += np.log(portfolio.left_after_cost(np.eye(3)[asset], before, cost) * x[asset])
                before = np.eye(3)[asset]
            totals[path] = total
        assert best == pytest.approx(max(totals.values()), abs=1e-7)
        assert totals[tuple(held)] == pytest.approx(best, abs=1e-7)
        for _ in range(300):  # no mixture is better
            before, total = np.eye(3)[0], 0.0
            for t, x in enumerate(growth):
                weights = draw.dirichlet([0.2] * 3) * 0.5 + 0.5 * np.eye(3)[held[t]]
                total += np.log(portfolio.left_after_cost(weights, before, cost) * (weights @ x))
                before = weights * x / (weights @ x)
            assert total < best


def test_cover_s_example():
    """An asset that doubles and halves, and cash: half of each grows by 9/8 in two days; neither alone grows."""
    growth = np.array([[1, 2], [1, 0.5]] * 20)
    weights = portfolio.best_constant_weights(growth)
    np.testing.assert_allclose(weights, [0.5, 0.5], atol=1e-6)
    assert portfolio.rebalanced(growth, [0.5, 0.5], 0.0)[-1] == pytest.approx(20 * np.log(9 / 8))
    assert portfolio.buy_and_hold(growth, [0.5, 0.5], 0.0)[-1] == pytest.approx(0)
    assert portfolio.oracle(growth, 0.0)[0] == pytest.approx(20 * np.log(2))
    assert portfolio.rebalanced(growth, [0.5, 0.5], 0.01)[-1] < 20 * np.log(9 / 8) - 0.05


def test_the_best_constant_weights_against_a_grid():
    growth = portfolio.growth_of(walk(200, 2, 3) * np.linspace(1, 1.5, 200)[:, None])
    weights = portfolio.best_constant_weights(growth)
    growths = lambda w: np.log(growth @ w).sum()
    ticks = np.linspace(0, 1, 101)
    grid = [np.array([1 - a - b, a, b]) for a in ticks for b in ticks if a + b <= 1]
    assert growths(weights) > max(map(growths, grid)) - 1e-4
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()


def test_baselines_are_policies_of_the_environment(key):
    env = small()
    params = env.test_params
    growth = np.asarray(params.growth)[params.first : params.last]
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    run = jax.jit(play, static_argnums=0)
    even = run(env, params, np.tile(np.log(weights), (18, 1)).astype(np.float32), key)[1]
    np.testing.assert_allclose(np.cumsum(even), portfolio.rebalanced(growth, weights, 0.01)[1:], atol=1e-5)
    best, held = portfolio.oracle(growth, 0.01)
    known = run(env, params, 20 * np.eye(4, dtype=np.float32)[held] - 10, key)[1]
    assert float(known.sum()) == pytest.approx(best, abs=1e-5)
    values = weights * np.cumprod(growth, 0)
    drift = np.concatenate([weights[None], (values / values.sum(1, keepdims=True))[:-1]])
    kept = run(env, params, np.log(drift).astype(np.float32), key)[1]
    np.testing.assert_allclose(np.cumsum(kept), portfolio.buy_and_hold(growth, weights, 0.01)[1:], atol=1e-5)


def test_the_contract_and_the_picture(key):
    env = small()
    params = env.default_params
    check_env(env, params, key)
    draw, _ = painter(env, params)
    _, state = env.reset_env(key, params)
    assert draw(state).shape[-1] == 3


@needs_skfolio
def test_real_prices():
    prices = portfolio.sp500_stocks()
    assert prices.values.shape == (8313, 20) and prices.names[:2] == ("AAPL", "AMD")
    assert (prices.dates[0], prices.dates[-1]) == ("1990-01-02", "2022-12-28")
    np.testing.assert_allclose(prices.values[[0, -1], 0], [0.264, 125.674])
    env, params = purerl.make("Portfolio-v0")
    assert env.num_actions == 21 and params.last == env.test_params.first == 8312 - 2494


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_prices_with_gaps_or_zeros(bad):
    prices = walk()
    prices[12, 1] = bad
    with pytest.raises(
        ValueError, match=r"prices has 1 prices that are missing or not above 0, first that of asset 1 on"
    ):
        Portfolio(prices, window=2, length=5)


@pytest.mark.parametrize(
    ("prices", "options", "message"),
    [
        (walk()[:, 0], {}, r"shape \(60,\)"),
        (walk()[:1], {}, r"shape \(1, 3\)"),
        (walk()[:, :0], {}, r"shape \(60, 0\)"),
        (walk(), {"length": 60}, "at least 60 there"),
        (walk(), {"window": 0}, "window is 0"),
        (walk(), {"length": -5}, "length is -5"),
        (walk(), {"test_share": 0.0}, "test_share is 0.0"),
        (walk(), {"test_share": 1.0}, "test_share is 1.0"),
        (walk(), {"cost": -0.1}, "cost is -0.1"),
        (walk(), {"leak": "no"}, "leak is 'no'; it must be True or False"),
        (walk(), {"leak": 2}, "leak is 2; it must be True or False"),
        ("a.csv", {}, "Portfolio: prices is 'a.csv'; it must be a real number or an array of numbers"),
        (portfolio.Prices(walk()), {}, r"Portfolio: prices is Prices\(values=.*; it must be a real number or an array"),
        (walk(), {"cost": 0.5}, "cost is 0.5"),
    ],
)
def test_bad_arguments(prices, options, message):
    with pytest.raises(ValueError, match=message):
        Portfolio(prices, **{"window": 2, "length": 5, **options})


def test_bad_markets_and_weights():
    growth = portfolio.growth_of(walk())
    for weights in ([1, 0], [0.5, 0.5, 0.5, 0], [1.5, -0.5, 0, 0]):
        with pytest.raises(ValueError, match="weights is"):
            portfolio.rebalanced(growth, weights, 0.0)
    for function in (portfolio.oracle, lambda x, c: portfolio.buy_and_hold(x, [1, 0, 0, 0], c)):
        with pytest.raises(ValueError, match=r"growth must be .{,150}$"):
            function(growth * 0, 0.0)
        with pytest.raises(ValueError, match="cost is -1"):
            function(growth, -1.0)
    with pytest.raises(ValueError, match="more than 2 rounds"):
        portfolio.best_constant_weights(growth, max_rounds=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no line of prices"),
        ("date,a\n", "it has no line of prices"),
        ("date,a\n2020-01-01,1\n2020-01-02,\n", "asset a on day 1: nan"),
        ("date,a\n1,1\n2,x\n", "line 3: could not convert string to float: 'x'"),
        ("date,a\n2,1\n1,1\n", "its dates are not ascending"),
        ("a\n1,2\n2\n", "line 2 has 2 fields, and the first line 1"),
        ("date,a,b\n1,1,2\n2,1\n", "line 3 has 2 fields, and the first line 3"),
        ("date,a,b\n1,1,2\n\n2,1,2\n", "line 3 has 0 fields, and the first line 3"),
    ],
)
def test_files_that_are_no_table_of_prices(text, said, tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"prices\.csv .*{said}"):
        portfolio.read(path)
    path.write_text("date,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n")
    assert portfolio.read(path).values.tolist() == [[1, 2], [3, 4]]


def test_an_empty_data_package(tmp_path, monkeypatch):
    portfolio.sp500_stocks.cache_clear()
    (tmp_path / "skfolio" / "datasets" / "data").mkdir(parents=True)
    (tmp_path / "skfolio" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not where it was expected in skfolio"):
        Portfolio()
    (tmp_path / "skfolio" / "datasets" / "data" / "sp500_dataset.csv.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a table of prices"):
        Portfolio()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package skfolio: pip install 'purerl\[data\]'"):
        Portfolio()


def test_bad_parameters(key):
    env = small()
    _, state = env.reset_env(key, env.default_params)
    for changed, said in (
        ({"cost": 0.5}, r"Portfolio: cost is 0.5; it must lie in \[0, 0.1\]"),
        ({"first": 1}, r"Portfolio: first is 1; it must lie in \[2, "),
        ({"last": 10**6}, r"Portfolio: last is 1000000; it must lie in"),
        ({"max_steps_in_episode": 0}, r"Portfolio: max_steps_in_episode is 0; it must lie in \[1, "),
        ({"max_steps_in_episode": 10**4}, r"Portfolio: max_steps_in_episode is 10000; it must lie in \[1, "),
        ({"max_steps_in_episode": 2.5}, r"Portfolio: max_steps_in_episode is 2.5; it must be a whole number"),
        ({"first": 2.5}, r"Portfolio: first is 2.5; it must be a whole number"),
        ({"growth": env.default_params.growth[:, :2]}, r"growth has shape \(60, 2\); it must be \(T \+ 1, 4\)"),
        ({"growth": np.zeros((60, 4))}, r"Portfolio: growth must be \[days, 1 \+ assets\], finite and above 0"),
    ):
        params = env.default_params.replace(**changed)
        for call in (
            lambda: env.reset_env(key, params),
            lambda: env.step_env(key, state, jnp.zeros(4), params),
        ):
            with pytest.raises(ValueError, match=said):
                call()
