"""A battery that buys and sells energy on an hourly market, with the optimum for known prices.

Energy is in MWh, power in MW, prices and wear in money per MWh, time in hours; the reward is the money earned in the
hour. `Battery-v0` has a week of `daily_prices`, a smooth series with two peaks a day; `sampled_prices` adds noise, and
any series of one's own is `BatteryParams(prices=...)`, checked for gaps. The optimum for known prices is exact, by
dynamic programming: `optimum`, 767.64 for the default week. A baseline that knows the next day alone is
`quantile_rule`, 624.21.

Reference: Sioshansi, Denholm, Jenkin & Weiss, 2009, "Estimating the value of electricity storage in PJM: Arbitrage and
some welfare effects", doi:10.1016/j.eneco.2008.10.005 (a price taker with known prices).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import as_numbers, check_counts, check_one_problem, check_range, check_whole, is_known
from purerl.core import Array
from purerl.envs.fields.pictures import bars

DISCHARGE, REST, CHARGE = range(3)


@struct.dataclass
class BatteryParams:
    """prices: money per MWh in each hour, float `[T]`, none of them 0.  typical: the price that observations divide by.

    capacity: MWh.  power: of charging and discharging, MW.  start: energy at the beginning, MWh.
    efficiency: of charging and of discharging, each, in (0, 1]; a round trip has its square.
    wear: money per MWh charged or discharged.  max_steps_in_episode: T, hours; the environment sets it in its defaults.
    """

    prices: Any
    capacity: Any = 4.0
    power: Any = 1.0
    start: Any = 0.0
    efficiency: Any = 0.95
    wear: Any = 0.0
    typical: Any = 50.0
    max_steps_in_episode: int = 168


class BatteryState(NamedTuple):
    """The energy stored, MWh, float32, and the hours passed, int32."""

    energy: Array
    time: Array


class Battery(Environment):
    """In each hour discharge, rest or charge at full power, at that hour's price.

        e' = clip(e + u, 0, capacity),   u = -power · 1 h, 0 or power · 1 h for the actions 0, 1, 2,   Δ = e' - e
        reward = -price Δ / efficiency - wear Δ   if Δ ≥ 0,   price |Δ| efficiency - wear |Δ|   if Δ < 0,   in money

    The market buys and sells any amount at its price (a price taker). The episode terminates after the T hours of the
    series; energy left then is worth nothing. Observations, float32 `[lookahead + 4]`, are (e / capacity, the share of
    the next `lookahead` hours that are still to come, sine and cosine of the hour of the day, the prices of those hours
    from the current one on, divided by the typical price; 0 beyond the end). No other price is seen. `info` has the
    `energy` moved, Δ. `optimum` is the best that can be done by one who knows all prices.

    Args:
      num_hours: T.
      lookahead: hours whose prices are known, including the current one; 24 is roughly a day-ahead market.
      params: the default parameters; None: the prices are `daily_prices`.
    Raises:
      ValueError: for a count that is none or for another length of prices, and in `reset_env` and `step_env` for prices
        that are missing (not finite, or 0), a capacity, power or efficiency that is not positive, a time limit other
        than T, or others out of range.
    """

    name: str = "Battery-v0"
    num_actions: int = 3

    def __init__(self, num_hours: int = 168, lookahead: int = 24, params: BatteryParams | None = None):
        check_counts("Battery", num_hours=num_hours, lookahead=lookahead)
        self._num_hours, self._lookahead = num_hours, lookahead
        daily = BatteryParams(daily_prices(num_hours), max_steps_in_episode=num_hours)
        self._params = daily if params is None else replace(params, max_steps_in_episode=num_hours)
        self._check(self._params)

    def _check(self, params: BatteryParams) -> None:
        _check_one("Battery", params)
        check_whole("Battery", self._num_hours, self._num_hours, max_steps_in_episode=params.max_steps_in_episode)
        if np.shape(params.prices) != (self._num_hours,):
            raise ValueError(
                f"Battery: prices have shape {np.shape(params.prices)}; it must be ({self._num_hours},), num_hours"
            )

    @property
    def default_params(self) -> BatteryParams:
        return self._params

    def reset_env(self, key, params):
        del key
        self._check(params)
        state = BatteryState(jnp.asarray(params.start, jnp.float32), jnp.zeros((), jnp.int32))
        return self.see(state, params), state

    def step_env(self, key, state, action, params):
        del key
        self._check(params)
        energy = jnp.clip(state.energy + (jnp.asarray(action) - REST) * params.power, 0.0, params.capacity)
        moved = energy - state.energy
        price = jnp.asarray(params.prices, jnp.float32)[state.time]
        reward = revenue(price, moved, params)
        state = BatteryState(jnp.asarray(energy, jnp.float32), state.time + 1)
        last = state.time >= self._num_hours
        return self.see(state, params), state, jnp.asarray(reward, jnp.float32), last, {"energy": moved}

    def see(self, state: BatteryState, params: BatteryParams) -> Array:
        """The observation of a state, float32 `[lookahead + 4]`."""
        hours = state.time + jnp.arange(self._lookahead)
        there = hours < self._num_hours
        known = jnp.asarray(params.prices, jnp.float32)[jnp.minimum(hours, self._num_hours - 1)]
        angle = 2 * math.pi * state.time / 24
        about = (state.energy / params.capacity, there.mean(), jnp.sin(angle), jnp.cos(angle))
        about = jnp.stack([jnp.asarray(x, jnp.float32) for x in about])
        return jnp.concatenate([about, jnp.where(there, known / params.typical, 0.0)]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Discrete(3)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (self._lookahead + 4,), jnp.float32)

    def render(self, state, params):
        """The prices that are known, from the current hour on in orange, and the energy, as a share of the capacity."""
        known = np.asarray(params.prices)[int(state.time) :][: self._lookahead]
        known = np.pad(known, (0, self._lookahead - len(known)), constant_values=np.nan)
        names = [str(int(state.time) + n) if n % 6 == 0 else "" for n in range(len(known))]
        colors = ["C1", *["C0"] * (len(known) - 1)]
        low, high = min(0.0, float(np.min(params.prices))), float(np.max(params.prices))
        share = float(state.energy) / float(params.capacity)
        return bars(known, names, (low, 1.05 * high), f"price by hour; battery {share:.0%} full", colors)


def check_battery(params: BatteryParams) -> None:
    """Raise a ValueError that names the first parameter out of range; traced values are not checked."""
    tiny = float(np.finfo(np.float32).tiny)
    check_range("Battery", tiny, 1e30, capacity=params.capacity, power=params.power, typical=params.typical)
    check_range("Battery", 0.0, params.capacity, start=params.start)
    check_range("Battery", tiny, 1.0, efficiency=params.efficiency)
    check_range("Battery", 0.0, 1e30, wear=params.wear)
    if not is_known(params.prices):
        return
    prices = np.atleast_1d(as_numbers("Battery", "prices", params.prices))
    missing = ~np.isfinite(prices) | (prices == 0)
    if not prices.size or missing.any():
        where = f"{prices[missing][0]} in hour {np.argwhere(missing)[0][-1]}" if prices.size else "empty"
        raise ValueError(f"Battery: prices are {where}; each hour needs a price, finite and not 0")


def _check_one(function: str, params: BatteryParams) -> None:
    check_battery(params)
    check_one_problem(function, BatteryParams, params, prices=1)


def revenue(price: Any, moved: Any, params: BatteryParams) -> Any:
    """Money earned by a change Δ of the energy stored, MWh, `[...]`, at a price per MWh.

    >>> revenue(100.0, -1.0, BatteryParams(daily_prices(24), efficiency=0.9)).item()
    90.0
    """
    traded = jnp.where(jnp.asarray(moved) > 0, moved / params.efficiency, moved * params.efficiency)
    return -price * traded - params.wear * jnp.abs(moved)


# --- prices -----------------------------------------------------------------------------------------------------------


def daily_prices(num_hours: int) -> np.ndarray:
    """A price for each hour from midnight on: two peaks a day, lower on each seventh day; money per MWh, float64 `[T]`.

        p(t) = (50 + 12 cos(2π (t - 19) / 24) + 10 cos(4π (t - 8) / 24)) (1 - 0.15 [day is a seventh])

    >>> daily_prices(24).round(1)[[3, 8, 14, 19]].tolist()
    [35.3, 48.4, 43.1, 70.7]
    """
    check_counts("daily_prices", num_hours=num_hours)
    hour = np.arange(num_hours)
    daily = 50 + 12 * np.cos(2 * np.pi * (hour - 19) / 24) + 10 * np.cos(4 * np.pi * (hour - 8) / 24)
    return daily * (1 - 0.15 * (hour // 24 % 7 == 6))


def sampled_prices(key: Any, num_hours: int, std: Any = 8.0, persistence: Any = 0.9) -> Array:
    """The daily prices times e^x, x an AR(1) process of a stationary deviation, float32 `[T]`, all positive.

        x' = φ x + √(1 - φ²) (σ / 50) ε

    Args:
      std: σ, about the deviation of prices, money per MWh.  persistence: φ in [0, 1).
    """
    check_counts("sampled_prices", num_hours=num_hours)
    check_range("sampled_prices", 0.0, 1e30, std=std)
    check_range("sampled_prices", 0.0, 1 - 1e-6, persistence=persistence)
    noise = jax.random.normal(key, (num_hours,)) * std / 50
    scale = jnp.sqrt(1 - jnp.square(persistence))

    def step(x, shock):
        x = persistence * x + scale * shock
        return x, x

    path = jnp.append(noise[:1], jax.lax.scan(step, noise[0], noise[1:])[1])
    return jnp.asarray(daily_prices(num_hours), jnp.float32) * jnp.exp(path)


# --- the optimum, and a rule ------------------------------------------------------------------------------------------


class Optimum(NamedTuple):
    """The largest return, and the actions of one policy that has it, int `[T]`."""

    value: float
    actions: np.ndarray


def optimum(params: BatteryParams) -> Optimum:
    """The largest return for prices that are all known, by dynamic programming over the energies that can occur.

        V_t(e) = max_u revenue(p_t, e' - e) + V_{t+1}(e'),   e' = clip(e + u, 0, capacity),   V_T = 0

    Starting from 0, the capacity and `start`, steps of full power end there again or at one of the bounds, so that the
    grid is finite and the optimum exact. If the capacity and `start` are multiples of power · 1 h, no battery that can
    use a part of its power earns more: the problem is then a network flow, whose optimum is at whole steps.

    Args:
      params: of one battery: prices `[T]`, and scalars.
    Raises:
      ValueError: for parameters out of range, or of several batteries.

    >>> optimum(BatteryParams(np.array([10.0, 30.0, 20.0, 50.0]), capacity=1.0, efficiency=1.0))
    Optimum(value=50.0, actions=array([2, 0, 2, 0]))
    """
    _check_one("optimum", params)
    prices = np.asarray(params.prices, float)
    power = min(float(params.power), float(params.capacity))  # more fills and empties it as well
    capacity, start = float(params.capacity) / power, float(params.start) / power  # in steps
    steps = np.arange(-math.ceil(capacity), math.ceil(capacity) + 1)
    grid = np.unique(np.round(np.clip(np.add.outer((0.0, capacity, start), steps), 0, capacity), 9))
    after = np.clip(grid[:, None] + np.arange(-1, 2), 0, capacity)
    to = np.abs(after[..., None] - grid).argmin(-1)
    moved = (grid[to] - grid[:, None]) * power
    traded = np.where(moved > 0, moved / params.efficiency, moved * params.efficiency)
    rest_first = np.array([REST, DISCHARGE, CHARGE])
    value, best = np.zeros(len(grid)), np.zeros((len(prices), len(grid)), int)
    for t in reversed(range(len(prices))):
        total = -prices[t] * traded - params.wear * np.abs(moved) + value[to]
        best[t], value = rest_first[total[:, rest_first].argmax(-1)], total.max(-1)
    at, actions = int(np.abs(grid - start).argmin()), []
    first = at
    for t in range(len(prices)):
        actions.append(best[t, at])
        at = to[at, actions[-1]]
    return Optimum(float(value[first]), np.array(actions))


def quantile_rule(obs: Any, quantile: Any = 0.25) -> Array:
    """Charge if the price is in the lowest part of the known ones, discharge if in the highest; int32 `[...]`.

    Args:
      obs: of `Battery`, `[..., lookahead + 4]`.  quantile: the share of hours to charge in, and to discharge in.
    """
    known = obs[..., 4:]
    there = jnp.where(known == 0, jnp.nan, known)
    low, high = jnp.nanquantile(there, quantile, -1), jnp.nanquantile(there, 1 - quantile, -1)
    price = known[..., 0]
    return jnp.where(price <= low, CHARGE, jnp.where(price >= high, DISCHARGE, REST)).astype(jnp.int32)
