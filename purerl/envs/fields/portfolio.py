"""Portfolios of real daily prices, with costs, and baselines that are exact for the same prices.

The reward is the logarithm of the growth of wealth on a day, so that a return is log(final wealth / initial wealth);
prices are in any currency, times in trading days, costs fractions of what is traded. Parameters: `PortfolioParams`.
Baselines: `buy_and_hold`; `rebalanced` with `best_constant_weights`, the best constant rebalanced portfolio in
hindsight; and `oracle`, the most that any policy could have earned, with the prices known. By default prices are those
of `sp500_stocks`, from the package skfolio (extra `data`); `read` reads a CSV file of one's own.

References: Cover, 1991, "Universal portfolios", doi:10.1111/j.1467-9965.1991.tb00002.x; Jiang, Xu & Liang, 2017,
arXiv:1706.10059.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import (
    as_numbers,
    check_counts,
    check_flags,
    check_one_problem,
    check_range,
    check_whole,
    is_known,
    on_one_line,
)
from purerl.core import Array
from purerl.envs.training_control.data import file_of_package

LARGEST_COST, LARGEST_LOGIT = 0.1, 10.0
ROUNDS = 8  # of the equation of the cost, whose error falls by the cost in each


class Prices(NamedTuple):
    """Closing prices of A assets on consecutive trading days, float64 `[days, A]`, with dates and names."""

    values: Any
    dates: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@cache
def sp500_stocks() -> Prices:
    """20 stocks of the S&P 500, adjusted daily prices, 1990-01-02 to 2022-12-28, of skfolio: `[8313, 20]`.

    They were chosen after the fact, since all of them existed throughout, so that no return of a portfolio of them is
    what an investor of 1990 could expect: only differences between methods mean anything.

    Raises:
      ValueError: if skfolio is not installed, naming the extra, or if its file is not a table of prices.
    """
    return read(file_of_package("sp500-stocks", "skfolio", "skfolio", "datasets", "data", "sp500_dataset.csv.gz"))


def read(path: str | Path) -> Prices:
    """Prices of a CSV file, compressed or not: names in the first line, and in each other one a date and prices.

    Raises:
      ValueError: for a file that cannot be read or has no such table, or prices that `check_prices` refuses.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        reader = csv.reader(text.splitlines())
        _, *names = next(reader, None) or [""]
        rows = [(_numbers_of(row, len(names), reader.line_num), row[0]) for row in reader]
        if not rows:
            raise ValueError("it has no line of prices")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is not a table of prices: {error or type(error).__name__}") from None
    values, dates = np.array([x for x, _ in rows]).reshape(len(rows), -1), tuple(date for _, date in rows)
    check_prices(str(path), values, names)
    if list(dates) != sorted(set(dates)):
        raise ValueError(f"{path} is not a table of prices: its dates are not ascending")
    return Prices(values, dates, tuple(names))


def _numbers_of(row: list[str], num: int, line: int) -> list[float]:
    """The numbers after a row's date, NaN where there is none; a ValueError names its line."""
    if len(row) != num + 1:
        raise ValueError(f"line {line} has {len(row)} fields, and the first line {num + 1}")
    try:
        return [float(x) if x else np.nan for x in row[1:]]
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None


def check_prices(what: str, values: Any, names: Any = ()) -> None:
    """Raise a ValueError unless prices are `[days, A]`, of two days at least, finite and above 0, without gaps."""
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 1:
        raise ValueError(f"{what} has prices of shape {values.shape}; it must be [days, assets], of two days at least")
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        day, asset = np.argwhere(bad)[0]
        name = names[asset] if len(names) == values.shape[1] else asset
        raise ValueError(
            f"{what} has {int(bad.sum())} prices that are missing or not above 0, first that of asset {name} on day "
            f"{day}: {values[day, asset]}"
        )


@struct.dataclass
class PortfolioParams:
    """growth: p(t+1) / p(t) of cash and the assets, float `[T + 1, 1 + A]`, with ones in the last row, which is after
    the last price.  cost: c in [0, 0.1], of what is traded.

    first, last: episodes begin on one of the days first … last - max_steps_in_episode, each as likely, and end on day
    last at the latest.  max_steps_in_episode: the time limit, days.
    """

    growth: Any
    cost: Any
    first: Any
    last: Any
    max_steps_in_episode: int


class PortfolioState(NamedTuple):
    """The day, the share of wealth in cash and each asset `[1 + A]`, and the steps so far."""

    day: Array
    weights: Array
    time: Array


class Portfolio(Environment):
    """Divide wealth among cash and A assets at each day's close, for growth after costs.

    On day t the agent sees prices up to p(t), trades at p(t), and holds until p(t+1):

        w = softmax(a)                        the action a, float32 `[1 + A]` in [-10, 10]
        μ = 1 - c Σ_{i ≥ 1} |μ wᵢ - ŵᵢ|       what is left of 1 after costs on both sales and purchases of assets
        reward = log μ + log Σ wᵢ xᵢ,   xᵢ = pᵢ(t+1) / pᵢ(t),   x₀ = 1
        ŵᵢ ← wᵢ xᵢ / Σ w x                    the weights before the next trade; all cash at the beginning

    so that the return (γ = 1) is the logarithm of final wealth over initial wealth. Own trades do not move prices.
    Observations, float32 `[window · A + 1 + A]`, are the log-returns of the last `window` days, in percent, the oldest
    first, and ŵ. Episodes are truncated. `info` has `turnover`, Σ_{i ≥ 1} |μ wᵢ - ŵᵢ|.

    Days are split by time: `default_params` are the earlier ones, in episodes of `length` days from random days, and
    `test_params` all later days as one episode. Nothing of a later day is in an observation, but for `leak`.

    Baselines: `buy_and_hold`, `rebalanced` with `best_constant_weights` in hindsight, and `oracle`.

    References: Cover, 1991, "Universal portfolios", doi:10.1111/j.1467-9965.1991.tb00002.x; Jiang, Xu & Liang, 2017,
    arXiv:1706.10059, section 2 (costs).
    Args:
      prices: `[days, A]`, or None for `sp500_stocks()`.
      window: days seen.
      length: days of a training episode.
      test_share: the share of the days in `test_params`, in (0, 1).
      cost: c.
      leak: whether observations also have tomorrow's log-returns, `[A]` at their end. An agent that does not come near
        the oracle with them cannot learn this task, and its results without them tell nothing.
    Raises:
      ValueError: for other prices, counts or shares; for too few days; if skfolio is needed and not installed; and at
        a reset or step for parameters outside of their ranges.
    """

    name: str = "Portfolio-v0"

    def __init__(
        self,
        prices: Any = None,
        window: int = 10,
        length: int = 250,
        test_share: float = 0.3,
        cost: float = 0.001,
        leak: bool = False,
    ):
        check_counts("Portfolio", window=window, length=length)
        check_range("Portfolio", np.finfo(np.float32).tiny, 1 - 1e-6, test_share=test_share)
        check_range("Portfolio", 0, LARGEST_COST, cost=cost)
        check_flags("Portfolio", leak=leak)
        values = sp500_stocks().values if prices is None else as_numbers("Portfolio", "prices", prices).astype(float)
        check_prices("Portfolio: prices", values)
        self._window, self._length, self._leak, self._cost = window, length, leak, cost
        self._num_assets = values.shape[1]
        self._growth = np.concatenate([growth_of(values), np.ones((1, self.num_actions))])
        days = len(self._growth) - 1
        self._split = days - round(test_share * days)
        if self._split < window + length or days - self._split < 1:
            raise ValueError(
                f"Portfolio: prices has {days + 1} days, of which {max(self._split - window, 0)} are for training; it "
                f"must have at least {length} there, the length of an episode, and 1 for test"
            )

    @property
    def num_actions(self) -> int:
        return self._num_assets + 1

    @property
    def default_params(self) -> PortfolioParams:
        return PortfolioParams(self._growth, self._cost, self._window, self._split, self._length)

    @property
    def test_params(self) -> PortfolioParams:
        """All days after those of `default_params`, as one episode."""
        days = len(self._growth) - 1
        return PortfolioParams(self._growth, self._cost, self._split, days, days - self._split)

    def _check(self, params: PortfolioParams) -> None:
        check_one_problem("Portfolio", PortfolioParams, params, growth=2)
        if np.shape(params.growth)[1:] != (self.num_actions,):
            shape = np.shape(params.growth)
            raise ValueError(f"Portfolio: growth has shape {shape}; it must be (T + 1, {self.num_actions})")
        if is_known(params.growth):
            _check_market("Portfolio", params.growth, 0.0)
        check_range("Portfolio", 0, LARGEST_COST, cost=params.cost)
        check_whole("Portfolio", self._window, 2**30, first=params.first)
        check_whole("Portfolio", params.first + 1, len(params.growth) - 1, last=params.last)
        longest = params.last - params.first
        check_whole("Portfolio", 1, longest, max_steps_in_episode=params.max_steps_in_episode)

    def reset_env(self, key, params):
        self._check(params)
        latest = jnp.asarray(params.last - params.max_steps_in_episode, jnp.int32)
        day = jax.random.randint(key, (), jnp.asarray(params.first, jnp.int32), latest + 1, jnp.int32)
        cash = jnp.zeros(self.num_actions, jnp.result_type(float)).at[0].set(1)
        state = PortfolioState(day, cash, jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        del key
        self._check(params)
        weights, growth = weights_of(action, state.weights.dtype), jnp.asarray(params.growth)[state.day]
        left = left_after_cost(weights, state.weights, params.cost)
        grown = weights * growth
        total = grown.sum()
        reward = jnp.log(left) + jnp.log(total)
        turnover = jnp.abs(left * weights - state.weights)[1:].sum()
        state = PortfolioState(state.day + 1, (grown / total).astype(state.weights.dtype), state.time + 1)
        info = {"turnover": turnover.astype(jnp.float32)}
        return self._see(state, params), state, reward.astype(jnp.float32), jnp.zeros((), bool), info

    def _see(self, state, params):
        rows = self._window + self._leak
        seen = jax.lax.dynamic_slice_in_dim(jnp.asarray(params.growth), state.day - self._window, rows)
        returns = 100 * jnp.log(seen[:, 1:])
        parts = [returns[: self._window].reshape(-1), state.weights, returns[self._window :].reshape(-1)]
        return jnp.concatenate(parts).astype(jnp.float32)

    def is_truncated(self, state, params):
        return (state.time >= params.max_steps_in_episode) | (state.day >= params.last)

    def action_space(self, params=None):
        return spaces.Box(-LARGEST_LOGIT, LARGEST_LOGIT, (self.num_actions,), jnp.float32)

    def observation_space(self, params):
        size = (self._window + self._leak) * self._num_assets + self.num_actions
        return spaces.Box(-jnp.inf, jnp.inf, (size,), jnp.float32)

    def render(self, state, params):
        """A figure of the assets' prices up to the day, and of the weights."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        day = int(state.day)
        begin = max(day - max(self._window, int(state.time)), 0)
        path = np.cumprod(np.asarray(params.growth)[begin:day, 1:], 0)
        left.plot(np.arange(begin + 1, day + 1), path, linewidth=0.8)
        left.set(xlabel="day", ylabel="price / first price", yscale="log")
        left.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        left.yaxis.set_major_formatter("{x:.3g}")
        left.yaxis.set_minor_formatter("{x:.3g}")
        right.bar(np.arange(self.num_actions), np.asarray(state.weights), color="tab:blue")
        right.set(xlabel="cash and assets", ylabel="weight", ylim=(0, 1))
        return figure


def growth_of(prices: Any) -> np.ndarray:
    """p(t+1) / p(t) of cash and the assets, float64 `[days - 1, 1 + A]`, of prices `[days, A]`.

    >>> growth_of([[2.0], [3.0], [1.5]]).tolist()
    [[1.0, 1.5], [1.0, 0.5]]
    """
    check_prices("growth_of: prices", prices)
    prices = np.asarray(prices, float)
    return np.concatenate([np.ones((len(prices) - 1, 1)), prices[1:] / prices[:-1]], 1)


def weights_of(action: Array, dtype: Any = None) -> Array:
    """Weights softmax(a) of actions `[1 + A]` in [-10, 10]: at the bounds all but 2e-9 of wealth is in one asset."""
    return jax.nn.softmax(jnp.clip(jnp.asarray(action, dtype), -LARGEST_LOGIT, LARGEST_LOGIT))


def left_after_cost(weights: Any, before: Any, cost: Any) -> Any:
    """μ, what is left of 1 when weights ŵ `[1 + A]` become w: μ = 1 - c Σ_{i ≥ 1} |μ wᵢ - ŵᵢ|.

    >>> round(float(left_after_cost(np.array([0, 1.0, 0]), np.array([0, 0, 1.0]), 0.01)), 6)  # (1 - c) / (1 + c)
    0.980198
    """
    left = 1.0
    for _ in range(ROUNDS):
        left = 1 - cost * abs(left * weights - before)[1:].sum()
    return left


# --- baselines --------------------------------------------------------------------------------------------------------


def _check_market(function: str, growth: Any, cost: float) -> np.ndarray:
    growth = np.asarray(growth, float)
    if growth.ndim != 2 or growth.size == 0 or not (np.isfinite(growth) & (growth > 0)).all():
        raise ValueError(
            f"{function}: growth must be [days, 1 + assets], finite and above 0; it is {on_one_line(growth)}"
        )
    check_range(function, 0, LARGEST_COST, cost=cost)
    return growth


def _check_weights(function: str, weights: Any, size: int) -> np.ndarray:
    weights = np.asarray(weights, float)
    if weights.shape != (size,) or (weights < 0).any() or not np.isclose(weights.sum(), 1):
        raise ValueError(
            f"{function}: weights is {on_one_line(weights)}; it must be {size} numbers of at least 0 whose sum is 1"
        )
    return weights


def rebalanced(growth: Any, weights: Any, cost: float) -> np.ndarray:
    """The log-wealth of a portfolio that is brought back to its weights every day, from cash, float64 `[T + 1]`.

    Args:
      growth: `[T, 1 + A]`, the days that count.  weights: `[1 + A]`.  cost: c.
    Raises:
      ValueError: for other shapes, weights or costs.
    """
    growth = _check_market("rebalanced", growth, cost)
    weights = _check_weights("rebalanced", weights, growth.shape[1])
    before, wealth = np.eye(len(weights))[0], [0.0]
    for x in growth:
        left = left_after_cost(weights, before, cost)
        wealth.append(wealth[-1] + np.log(left) + np.log(weights @ x))
        before = weights * x / (weights @ x)
    return np.array(wealth)


def buy_and_hold(growth: Any, weights: Any, cost: float) -> np.ndarray:
    """The log-wealth of a portfolio that is bought once and kept, float64 `[T + 1]`; arguments are `rebalanced`'s."""
    growth = _check_market("buy_and_hold", growth, cost)
    weights = _check_weights("buy_and_hold", weights, growth.shape[1])
    left = left_after_cost(weights, np.eye(len(weights))[0], cost)
    return np.concatenate([[0.0], np.log(left * (np.cumprod(growth, 0) @ weights))])


def best_constant_weights(growth: Any, tolerance: float = 1e-7, max_rounds: int = 200_000) -> np.ndarray:
    """The weights of the best constant rebalanced portfolio in hindsight, without costs: max Σ log w·x, `[1 + A]`.

        wᵢ ← wᵢ αᵢ,   αᵢ = mean of xᵢ / w·x,   until max αᵢ ≤ 1 + tolerance

    The mean log growth per day is then at most log(1 + tolerance) below the largest one.

    Reference: Cover, 1984, "An algorithm for maximizing expected log investment return", doi:10.1109/TIT.1984.1056869.
    Raises:
      ValueError: for another growth, or if it needs more rounds.

    >>> best_constant_weights([[1, 2.0], [1, 0.5]]).round(6).tolist()
    [0.5, 0.5]
    """
    growth = _check_market("best_constant_weights", growth, 0.0)
    weights = np.full(growth.shape[1], 1 / growth.shape[1])
    for _ in range(max_rounds):
        ratio = (1 / (growth @ weights)) @ growth / len(growth)
        if ratio.max() <= 1 + tolerance:
            return weights
        weights = weights * ratio
    raise ValueError(f"best_constant_weights: more than {max_rounds} rounds; tolerance {tolerance} is too small")


def oracle(growth: Any, cost: float) -> tuple[float, np.ndarray]:
    """The largest log-wealth of any policy that knows all prices, from cash, and what it holds each day, int `[T]`.

        φ_t(i) = max_j log κᵢⱼ + log xⱼ(t) + φ_{t+1}(j),   κᵢⱼ = (1 - c if i ≥ 1) / (1 + c if j ≥ 1), 1 for i = j

    It holds one asset at a time: costs are proportional, so that each dollar's best way is the best of all.

    Raises:
      ValueError: for another growth or cost.

    >>> round(oracle([[1, 2.0], [1, 0.5], [1, 3.0]], 0.0)[0], 6), oracle([[1, 2.0], [1, 0.5]], 0.0)[1].tolist()
    (1.791759, [1, 0])
    """
    growth = _check_market("oracle", growth, cost)
    size = growth.shape[1]
    is_asset = np.arange(size) > 0
    change = np.log1p(-cost * is_asset)[:, None] - np.log1p(cost * is_asset)
    np.fill_diagonal(change, 0.0)
    value, choices = np.zeros(size), []
    for x in growth[::-1]:
        ways = change + np.log(x) + value
        choices.append(ways.argmax(1))
        value = ways.max(1)
    held = [0]
    for choice in reversed(choices):
        held.append(int(choice[held[-1]]))
    return float(value[0]), np.array(held[1:])
