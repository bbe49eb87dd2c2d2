"""Optimal execution of a large order (Almgren and Chriss), whose best schedule has a closed form.

Prices are in $ per share, times in days; the reward is minus the cost of a trade and of the risk that remains, in $
per share of the order. Parameters: `ExecutionParams`, by default the example of the paper. `optimal_holdings` is the
optimum, `optimal_return` its return, -1.150356 by default; `cost` and `schedule_return` judge any schedule, and the
baseline `even_holdings` sells the same number in every trade.

Reference: Almgren & Chriss, 2001, "Optimal execution of portfolio transactions", Journal of Risk 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import NOT_NEGATIVE, POSITIVE, check_one_problem, check_range, check_whole
from purerl.core import Array


@struct.dataclass
class ExecutionParams:
    """The order and the market; every field but the last may be an array of many variants under `vmap`.

    shares: X > 0, the order.  horizon: T > 0, days.  volatility: σ ≥ 0, $ per share and √day.
    half_spread: ε ≥ 0, $ per share.  permanent_impact: γ ≥ 0, $ per share².
    temporary_impact: η > γτ/2, $ per share for each share per day.  risk_aversion: λ ≥ 0, 1/$.
    max_steps_in_episode: N, the number of trades.
    """

    shares: Any = 1e6
    horizon: Any = 5.0
    volatility: Any = 0.95
    half_spread: Any = 0.0625
    permanent_impact: Any = 2.5e-7
    temporary_impact: Any = 2.5e-6
    risk_aversion: Any = 1e-6
    max_steps_in_episode: int = 5


class ExecutionState(NamedTuple):
    """The share of the order that is left, the price less the first one in $, and the trades so far."""

    left: Array  # float32 []
    price: Array  # float32 []
    time: Array  # int32 []


class Execution(Environment):
    """Sell X shares in N trades, at τ = T / N apart, at a low cost with a low risk.

    The action a, float32 `[1]` in [0, 1], is the fraction of the remaining shares to sell; the last trade sells all. A
    trade of n shares leaves x' = x - n, and

        price received     S̃ = S - ε - η n/τ                    (S is the price before the trade)
        the price after    S' = S + σ √τ ξ - γ n,   ξ ~ N(0, 1)
        reward             -(ε n + η̃ n²/τ + λ σ² τ x'²) / X,   η̃ = η - γτ/2,   in $ per share of the order

    so that the return is -(E + λV - ½γX²) / X, where E and V are the mean and the variance of the implementation
    shortfall Σ n (S₀ - S̃) of a schedule that is fixed beforehand. For this reward no other policy is better. By the
    variance of the shortfall itself, a policy that reacts to the price can be (Lorenz & Almgren, 2011); the reward does
    not measure that. `info` has the `shortfall` of the trade in $. The episode terminates after N trades. Observations,
    float32 `[2]`, are the fractions of the trades and of the shares that are left: neither the reward nor the best
    action depends on the price.

    The optimum is `optimal_holdings`. 64-bit JAX computes in float64.

    References: Almgren & Chriss, 2001, "Optimal execution of portfolio transactions", Journal of Risk 3, section 1;
    Lorenz & Almgren, 2011, "Mean-variance optimal adaptive execution".
    Raises:
      ValueError: in `reset_env` and `step_env`, for parameters outside of their ranges.
    """

    name: str = "Execution-v0"
    num_actions: int = 1

    @property
    def default_params(self) -> ExecutionParams:
        return ExecutionParams()

    def reset_env(self, key, params):
        del key
        _check(params)
        zero = jnp.zeros((), jnp.result_type(float))
        state = ExecutionState(zero + 1, zero, jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        _check(params)
        time, interval = state.time + 1, params.horizon / params.max_steps_in_episode
        last = time >= params.max_steps_in_episode
        sold = state.left * jnp.where(last, 1.0, jnp.clip(jnp.reshape(action, ()), 0, 1))
        left = jnp.where(last, 0.0, state.left - sold)
        shares = sold * params.shares
        received = state.price - params.half_spread - params.temporary_impact * shares / interval
        noise = params.volatility * jnp.sqrt(interval) * jax.random.normal(key, (), state.price.dtype)
        price = state.price + noise - params.permanent_impact * shares
        impact = params.temporary_impact - params.permanent_impact * interval / 2
        risk = params.risk_aversion * params.volatility**2 * interval * params.shares * left**2
        reward = -(params.half_spread * sold + impact * params.shares * sold**2 / interval + risk)
        state = ExecutionState(left, price.astype(state.price.dtype), time)
        info = {"shortfall": -shares * received}
        return self._see(state, params), state, reward.astype(jnp.float32), last, info

    def _see(self, state, params):
        return jnp.stack([1 - state.time / params.max_steps_in_episode, state.left]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Box(0.0, 1.0, (1,), jnp.float32)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (2,), jnp.float32)

    def render(self, state, params):
        """A figure of the shares that are left, beside the best schedule."""
        from matplotlib.figure import Figure

        best, now = optimal_holdings(params), int(state.time)
        days = np.linspace(0, float(params.horizon), len(best))
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axis = figure.subplots()
        axis.plot(days, best / best[0], "o-", color="tab:gray", label="optimum")
        axis.bar(days[now], float(state.left), 0.3 * days[1], color="tab:blue", label="left")
        axis.set(xlabel="day", ylabel="fraction of the order", ylim=(0, 1.05), xlim=(-0.2 * days[1], days[-1] * 1.05))
        axis.legend(loc="upper right")
        return figure


def _check(params: ExecutionParams) -> None:
    check_one_problem("Execution", ExecutionParams, params)
    check_whole("Execution", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)
    check_range("Execution", *POSITIVE, shares=params.shares, horizon=params.horizon)
    check_range(
        "Execution",
        *NOT_NEGATIVE,
        volatility=params.volatility,
        half_spread=params.half_spread,
        permanent_impact=params.permanent_impact,
        risk_aversion=params.risk_aversion,
    )
    check_range("Execution", *POSITIVE, temporary_impact=params.temporary_impact)
    interval = params.horizon / params.max_steps_in_episode
    impact = params.temporary_impact - params.permanent_impact * interval / 2
    check_range("Execution", *POSITIVE, **{"temporary_impact - permanent_impact τ/2": impact})


def optimal_holdings(params: ExecutionParams) -> np.ndarray:
    """The shares left after 0, 1, …, N trades of the schedule with the least E + λV, float64 `[N + 1]`.

        xⱼ = X sinh(κ (T - tⱼ)) / sinh(κT),   cosh(κτ) = 1 + λσ²τ² / (2η̃);   X (1 - j/N) for λσ² = 0

    No policy has a higher return: it depends on the holdings alone, and is a concave function of them.

    Reference: Almgren & Chriss, 2001, section 2.2.
    Args:
      params: of one order, all of them scalars.
    Raises:
      ValueError: for parameters outside of their ranges, or of several orders.

    >>> (-np.diff(optimal_holdings(ExecutionParams()))).round(1).tolist()
    [458044.4, 252101.3, 141956.7, 85755.7, 62141.8]
    """
    _check(params)
    num_trades = int(params.max_steps_in_episode)
    interval, left = float(params.horizon) / num_trades, np.arange(num_trades, -1, -1)
    impact = params.temporary_impact - params.permanent_impact * interval / 2
    ratio = params.risk_aversion * params.volatility**2 * interval**2 / (2 * impact)
    step = float(np.log1p(ratio + np.sqrt(ratio * (ratio + 2))))  # κτ; arccosh(1 + ratio) is inexact for small ratios
    if step == 0:
        return params.shares * left / num_trades
    # sinh a / sinh b, without overflow
    fraction = np.exp(step * (left - num_trades)) * np.expm1(-2 * step * left) / np.expm1(-2 * step * num_trades)
    return params.shares * fraction


def cost(holdings: Any, params: ExecutionParams) -> tuple[float, float]:
    """The mean E in $ and the variance V in $² of the implementation shortfall of a schedule.

        E = ½γX² + ε Σ|nⱼ| + (η̃/τ) Σ nⱼ²,   V = σ²τ Σ xⱼ²,   nⱼ = xⱼ₋₁ - xⱼ,   j = 1 … N

    Args:
      holdings: the shares left after 0, 1, …, N trades, `[N + 1]`; the first is X and the last 0.
      params: of one order, all of them scalars.
    Raises:
      ValueError: for other holdings, or parameters outside of their ranges or of several orders.
    Reference: Almgren & Chriss, 2001, sections 1.4 and 1.5.

    >>> round(cost([1e6, 8e5, 6e5, 4e5, 2e5, 0], ExecutionParams())[0], 2)
    662500.0
    """
    _check(params)
    holdings, num_trades = np.asarray(holdings, float), int(params.max_steps_in_episode)
    ends = [float(params.shares), 0.0]
    valid = holdings.shape == (num_trades + 1,) and np.isfinite(holdings).all()
    if not valid or not np.allclose(holdings[[0, -1]], ends, atol=1e-6 * params.shares):
        raise ValueError(
            f"cost: holdings has shape {holdings.shape} and the ends {holdings.flat[:1]} and {holdings.flat[-1:]}; "
            f"it must have {num_trades + 1} finite numbers, from {ends[0]:g} to 0"
        )
    interval, sold = params.horizon / num_trades, -np.diff(holdings)
    impact = params.temporary_impact - params.permanent_impact * interval / 2
    fixed = params.permanent_impact * params.shares**2 / 2 + params.half_spread * np.abs(sold).sum()
    variance = params.volatility**2 * interval * (holdings[1:] ** 2).sum()
    return float(fixed + impact / interval * (sold**2).sum()), float(variance)


def optimal_return(params: ExecutionParams) -> float:
    """The return of the best schedule, -(E + λV - ½γX²) / X, in $ per share.

    >>> round(optimal_return(ExecutionParams()), 6)
    -1.150356
    """
    return schedule_return(optimal_holdings(params), params)


def schedule_return(holdings: Any, params: ExecutionParams) -> float:
    """The return of a schedule, -(E + λV - ½γX²) / X, in $ per share; arguments and errors are those of `cost`."""
    mean, variance = cost(holdings, params)
    permanent = params.permanent_impact * params.shares**2 / 2
    return float(-(mean + params.risk_aversion * variance - permanent) / params.shares)


def even_holdings(params: ExecutionParams) -> np.ndarray:
    """The shares left after 0, 1, …, N trades of one size, the schedule with the least mean cost, float64 `[N + 1]`."""
    _check(params)
    return params.shares * np.linspace(1, 0, int(params.max_steps_in_episode) + 1)
