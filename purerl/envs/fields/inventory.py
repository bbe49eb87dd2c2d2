"""Inventory control: the newsvendor, a stock reviewed every period, and stages in a row.

| id | decision | optimum | of the default parameters |
|---|---|---|---|
| `Newsvendor-v0` | one order before one demand | `newsvendor_optimum`, closed form | 56.604 units, cost 1.997605 |
| `Inventory-v0` | orders in every period, at a cost per order | `best_policy`, (s, S) | (4, 10), 8.034112 per period |
| `FiniteInventory-v0` | the same over 5 periods | `plan`, (s, S) of each period | cost 1558.87 from no stock |
| `SerialInventory-v0` | an order of each of 3 stages | `echelon_base_stock` | levels (9, 15, 26), 52.0467 per period |

Costs are in money, stocks, orders and demands in units, times in periods; rewards are minus costs. Every optimum is
exact and computed without simulation. Parameters, the law of demand among them, are data: `NewsvendorParams`,
`InventoryParams`, `SerialInventoryParams`; `poisson` and `rounded_normal` are laws of demand. Baselines:
`average_cost` is the cost of any (s, S) policy, `order` and `base_stock_orders` are the policies' orders.

Reference: Snyder & Shen, 2019, "Fundamentals of supply chain theory", chapters 4 and 6.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
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
    check_one_problem,
    check_positive,
    check_range,
    check_scalars,
    check_whole,
    is_known,
    on_one_line,
)
from purerl.core import Array
from purerl.envs.fields.pictures import bars
from purerl.envs.spaces import MultiDiscrete

MOST_ENUMERATED = 2000  # units

# --- the newsvendor ---------------------------------------------------------------------------------------------------


@struct.dataclass
class NewsvendorParams:
    """holding, penalty: h, p > 0, money per unit left over and per unit short.  mean, std: of demand, units."""

    holding: Any = 0.18
    penalty: Any = 0.70
    mean: Any = 50.0
    std: Any = 8.0
    max_steps_in_episode: int = 1


class NewsvendorState(NamedTuple):
    """The units ordered and demanded in the period, 0 before it, and the steps taken."""

    ordered: Array  # float32 []
    demand: Array  # float32 []
    time: Array  # int32 []


class Newsvendor(Environment):
    """Order S units before the demand of a single period, D ~ N(μ, σ²), is known.

        reward = -(h (S - D)⁺ + p (D - S)⁺),   in money

    The action is S, units, float32 `[1]` in [0, capacity]. Observations, float32 `[3]`, are (p / (p + h), μ / capacity,
    σ / capacity), so that one policy can serve any parameters. Every episode is one step. `info` has the `demand`. The
    optimum is `newsvendor_optimum`.

    Reference: Snyder & Shen, 2019, "Fundamentals of supply chain theory", section 4.3.
    Args:
      capacity: the largest order, units. An optimal order above it cannot be placed; the best one is then the capacity.
    Raises:
      ValueError: for a capacity that is not positive, and in `reset_env` and `step_env` for such costs or standard
        deviation.
    """

    name: str = "Newsvendor-v0"
    num_actions: int = 1

    def __init__(self, capacity: float = 100.0):
        check_positive("Newsvendor", capacity=capacity)
        self._capacity = float(capacity)

    def _check(self, params: NewsvendorParams) -> None:
        check_one_problem("Newsvendor", NewsvendorParams, params)
        _check_newsvendor(params)

    @property
    def default_params(self) -> NewsvendorParams:
        return NewsvendorParams()

    def reset_env(self, key, params):
        del key
        self._check(params)
        zero = jnp.zeros((), jnp.float32)
        return self._see(params), NewsvendorState(zero, zero, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        self._check(params)
        ordered = jnp.clip(jnp.reshape(action, ()), 0.0, self._capacity)
        demand = params.mean + params.std * jax.random.normal(key)
        cost = params.holding * jnp.maximum(ordered - demand, 0) + params.penalty * jnp.maximum(demand - ordered, 0)
        state = NewsvendorState(ordered, jnp.asarray(demand, jnp.float32), state.time + 1)
        return self._see(params), state, -jnp.asarray(cost, jnp.float32), jnp.ones((), bool), {"demand": state.demand}

    def _see(self, params):
        ratio = params.penalty / (params.penalty + params.holding)
        seen = (ratio, params.mean / self._capacity, params.std / self._capacity)
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in seen])

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Box(0.0, self._capacity, (1,), jnp.float32)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (3,), jnp.float32)

    def render(self, state, params):
        """The units ordered and demanded."""
        return bars([state.ordered, state.demand], ["ordered", "demanded"], (0, self._capacity), "newsvendor")


def newsvendor_optimum(params: NewsvendorParams) -> tuple[np.ndarray, np.ndarray]:
    """The optimal order and its expected cost, float64 `[...]` each, for parameters of that shape.

        S* = μ + z σ,   z = Φ⁻¹(p / (p + h)),   cost (h + p) σ φ(z)

    Reference: Snyder & Shen, 2019, eqs. 4.24 and 4.30.
    Raises:
      ValueError: for costs or a standard deviation that are not positive.

    >>> [round(x.item(), 6) for x in newsvendor_optimum(NewsvendorParams())]
    [56.603956, 1.997605]
    """
    _check_newsvendor(params)
    holding, penalty, mean, std = (
        np.asarray(x, float) for x in (params.holding, params.penalty, params.mean, params.std)
    )
    z = np.vectorize(NormalDist().inv_cdf, otypes=[float])(penalty / (penalty + holding))
    return mean + z * std, (holding + penalty) * std * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _normal_cdf(z: Any) -> np.ndarray:
    return np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[float])(z)


def _check_newsvendor(params: NewsvendorParams) -> None:
    check_positive("Newsvendor", holding=params.holding, penalty=params.penalty, std=params.std)
    check_whole("Newsvendor", 1, 1, max_steps_in_episode=params.max_steps_in_episode)
    check_range("Newsvendor", -1e30, 1e30, mean=params.mean)


# --- laws of demand ---------------------------------------------------------------------------------------------------


def poisson(mean: Any, size: int) -> np.ndarray:
    """P(D = 0, …, size - 1) of Poisson demand, means `[...]`; returns float64 `[..., size]` that adds up to 1.

    The tail beyond the table is left out, and the rest divided by its sum.

    >>> poisson(6.0, 41)[:3].round(5).tolist()
    [0.00248, 0.01487, 0.04462]
    """
    check_counts("poisson", size=size)
    check_positive("poisson", mean=mean)
    units = np.arange(size)
    log_factorial = np.cumsum(np.log(np.maximum(units, 1)))
    return _normalized(units * np.log(np.asarray(mean, float)[..., None]) - log_factorial)


def rounded_normal(mean: float, std: float, size: int) -> np.ndarray:
    """P(D = d) = Φ((d + ½ - μ) / σ) - Φ((d - ½ - μ) / σ), d = 0, …, size - 1, divided by its sum, float64 `[size]`.

    >>> rounded_normal(100.0, 20.0, 201)[100].round(6).item()
    0.019945
    """
    check_counts("rounded_normal", size=size)
    check_positive("rounded_normal", std=std)
    check_range("rounded_normal", -1e30, 1e30, mean=mean)
    inside = np.diff(_normal_cdf((np.arange(size + 1) - 0.5 - mean) / std))
    if not inside.sum() > 0:
        raise ValueError(f"rounded_normal: mean is {mean}; no demand from 0 to {size - 1} is possible for std {std}")
    return inside / inside.sum()


def _normalized(log_p: np.ndarray) -> np.ndarray:
    p = np.exp(log_p - log_p.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


# --- periodic review --------------------------------------------------------------------------------------------------


@struct.dataclass
class InventoryParams:
    """The costs, the demand and the warehouse of `Inventory`; all are data, so that a batch of them is one program.

    demand: P(D = d), float `[M]`, d = 0, …, M - 1 units.
    holding, penalty: h, p > 0, money per unit in stock and per unit backordered at a period's end.
    order_cost, unit_cost: K, c ≥ 0, money per order and per unit ordered.
    terminal_holding, terminal_penalty: money per unit in stock and backordered after the last period, if there is one.
    start: units before the first period.  capacity: the most units in stock; orders are cut to it.
    """

    demand: Any
    holding: Any = 1.0
    penalty: Any = 4.0
    order_cost: Any = 5.0
    unit_cost: Any = 0.0
    terminal_holding: Any = 0.0
    terminal_penalty: Any = 0.0
    start: Any = 0
    capacity: Any = 20
    max_steps_in_episode: int = 100


class InventoryState(NamedTuple):
    """Units in stock (below 0: backordered), those of the last order and demand, and the steps taken, all int32."""

    stock: Array
    ordered: Array
    demand: Array
    time: Array


class Inventory(Environment):
    """Order units for a stock x at the start of every period; they arrive at once, then demand D is served from it.

        y = x + q,   x' = y - D,   reward = -(K [q > 0] + c q + h (x')⁺ + p (-x')⁺),   in money

    Demand that exceeds the stock is backordered: x' is negative. The action is q, an int in 0 .. max_order. It is cut
    to capacity - x, and K is due if anything is ordered. Without a horizon the task is endless, truncated at
    `max_steps_in_episode`, and its optimum is the (s, S) policy of the lowest average cost, `best_policy`. With a
    horizon of T periods the episode terminates after T, the last reward includes minus the terminal costs of x', and
    the optimum is `plan`. Observations are x / capacity, and with a horizon the fraction of periods left: float32 `[1]`
    or `[2]`. `info` has the `demand` and the units `ordered`.

    Reference: Snyder & Shen, 2019, "Fundamentals of supply chain theory", sections 4.3 and 4.4.
    Args:
      max_order: the most units of an order.
      horizon: T, or None.
      params: the default parameters; None: Poisson demand of mean 6 and the costs of `InventoryParams`.
    Raises:
      ValueError: for a count that is none, and in `reset_env` and `step_env` for costs, probabilities or a capacity out
        of range, or a time limit other than the horizon.
    """

    def __init__(self, max_order: int = 20, horizon: int | None = None, params: InventoryParams | None = None):
        check_counts("Inventory", max_order=max_order, **({} if horizon is None else {"horizon": horizon}))
        self._max_order, self._horizon = max_order, horizon
        self._params = InventoryParams(poisson(6.0, 41)) if params is None else params
        check_inventory(self._params)

    @property
    def name(self) -> str:
        return "Inventory-v0" if self._horizon is None else "FiniteInventory-v0"

    @property
    def num_actions(self) -> int:
        return self._max_order + 1

    def _check(self, params: InventoryParams) -> None:
        _check_one("Inventory", params)
        ends = (1, 2**31 - 1) if self._horizon is None else (self._horizon, self._horizon)
        check_whole("Inventory", *ends, max_steps_in_episode=params.max_steps_in_episode)

    @property
    def default_params(self) -> InventoryParams:
        return self._params if self._horizon is None else replace(self._params, max_steps_in_episode=self._horizon)

    def reset_env(self, key, params):
        del key
        self._check(params)
        zero = jnp.zeros((), jnp.int32)
        state = InventoryState(jnp.asarray(params.start, jnp.int32), zero, zero, zero)
        return self.see(state, params), state

    def step_env(self, key, state, action, params):
        self._check(params)
        probability = jnp.asarray(params.demand, jnp.float32)
        demand = jax.random.choice(key, probability.shape[0], p=probability).astype(jnp.int32)
        room = jnp.maximum(jnp.asarray(params.capacity, jnp.int32) - state.stock, 0)
        ordered = jnp.clip(jnp.asarray(action, jnp.int32), 0, jnp.minimum(self._max_order, room))
        state = InventoryState(state.stock + ordered - demand, ordered, demand, state.time + 1)
        cost = params.order_cost * (ordered > 0) + params.unit_cost * ordered
        cost += _linear(state.stock, params.holding, params.penalty)
        last = jnp.zeros((), bool) if self._horizon is None else state.time >= self._horizon
        cost += jnp.where(last, _linear(state.stock, params.terminal_holding, params.terminal_penalty), 0.0)
        info = {"demand": demand, "ordered": ordered}
        return self.see(state, params), state, -jnp.asarray(cost, jnp.float32), last, info

    def see(self, state: InventoryState, params: InventoryParams) -> Array:
        """The observation of a state, float32 `[1]` or, with a horizon, `[2]`."""
        seen = [state.stock / params.capacity]
        if self._horizon is not None:
            seen.append(1 - state.time / self._horizon)
        return jnp.stack([jnp.asarray(x, jnp.float32) for x in seen])

    def is_truncated(self, state, params):
        return (state.time >= params.max_steps_in_episode) & (self._horizon is None)

    def action_space(self, params=None):
        return spaces.Discrete(self._max_order + 1)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (1 if self._horizon is None else 2,), jnp.float32)

    def render(self, state, params):
        """The stock at the period's end, the order and the demand."""
        values, names = (state.stock, state.ordered, state.demand), ("stock", "ordered", "demanded")
        return bars(values, names, (-int(params.capacity), int(params.capacity)), "inventory", ("C0", "C1", "C3"))


def finite_horizon(max_order: int = 250, horizon: int = 5, params: InventoryParams | None = None) -> Inventory:
    """`Inventory` over a finite horizon; by default demand is N(100, 20²), rounded to units.

    The published cost is 1558.69, of a demand cut at 4 σ; that of this demand is 1558.87, of the same policy: `plan`.

    Reference: Snyder & Shen, 2019, example 4.7, for the default parameters.
    """
    if params is None:
        params = InventoryParams(
            rounded_normal(100.0, 20.0, 201), penalty=20.0, order_cost=50.0, unit_cost=2.0, terminal_holding=1.0,
            terminal_penalty=20.0, capacity=250,
        )  # fmt: skip
    return Inventory(max_order, horizon, params)


def check_inventory(params: InventoryParams) -> None:
    """Raise a ValueError that names the first parameter out of range; traced values are not checked."""
    check_positive("Inventory", holding=params.holding, penalty=params.penalty)
    names = ("order_cost", "unit_cost", "terminal_holding", "terminal_penalty")
    check_range("Inventory", 0.0, 1e30, **{name: getattr(params, name) for name in names})
    check_whole("Inventory", 1, 2**30, capacity=params.capacity)
    check_whole("Inventory", -(2**30), params.capacity, start=params.start)
    _check_demand("Inventory", params.demand)


def _check_one(function: str, params: InventoryParams) -> None:
    check_inventory(params)
    check_one_problem(function, InventoryParams, params, demand=1)


def _check_demand(function: str, demand: Any) -> None:
    if not is_known(demand):
        return
    p = as_numbers(function, "demand", demand)
    if p.ndim < 1 or not p.size or not np.isfinite(p).all() or (p < 0).any() or (p > 1).any():
        raise ValueError(
            f"{function}: demand is {on_one_line(demand)}; it must be probabilities in [0, 1], of 0, 1, … units"
        )
    if not np.allclose(p.sum(-1), 1, atol=1e-5):
        raise ValueError(f"{function}: demand adds up to {on_one_line(p.sum(-1))}; probabilities must add up to 1")


def _linear(stock: Any, holding: Any, penalty: Any) -> Any:
    """h x⁺ + p x⁻."""
    return holding * jnp.maximum(stock, 0) + penalty * jnp.maximum(-stock, 0)


def one_period_cost(level: Any, params: InventoryParams) -> np.ndarray:
    """G(y) = Σ_d P(d) (h (y - d)⁺ + p (d - y)⁺) of stocks y `[...]`, int, float64 `[...]`.

    >>> one_period_cost([0, 10], InventoryParams(poisson(6.0, 41))).round(4).tolist()
    [24.0, 4.3867]
    """
    check_inventory(params)
    probability = np.asarray(params.demand, float)
    left = np.asarray(level, float)[..., None] - np.arange(len(probability))
    return np.where(left > 0, params.holding * left, -params.penalty * left) @ probability


def average_cost(reorder: int, order_up_to: int, params: InventoryParams) -> float:
    """The average cost per period of the (s, S) policy: if x ≤ s order up to S, otherwise nothing.

        c(s, S) = (K + Σ_{j<S-s} m(j) G(S - j)) / Σ_{j<S-s} m(j) + c E[D],   m(j) = [j = 0] + Σ_{d≤j} P(d) m(j - d)

    m(j) is the expected number of periods of a cycle in which the stock after ordering is S - j.

    Reference: Zheng & Federgruen, 1991, doi:10.1287/opre.39.4.654, eq. 4.
    Raises:
      ValueError: unless s < S are whole numbers, if the demand is always 0, or for parameters out of range or of
        several problems.

    >>> round(average_cost(4, 10, InventoryParams(poisson(6.0, 41))), 9)
    8.034111561
    """
    check_scalars("average_cost", reorder=reorder, order_up_to=order_up_to)
    check_whole("average_cost", -(2**30), 2**30, reorder=reorder, order_up_to=order_up_to)
    reorder, order_up_to = int(reorder), int(order_up_to)
    if reorder >= order_up_to:
        raise ValueError(f"average_cost: reorder is {reorder}; it must be below order_up_to, {order_up_to}")
    _check_one("average_cost", params)
    probability = np.asarray(params.demand, float)
    if probability[0] >= 1:
        raise ValueError("average_cost: demand is always 0; an average over cycles needs some demand")
    visits = np.zeros(order_up_to - reorder)
    for j in range(len(visits)):
        most = min(j, len(probability) - 1)
        visits[j] = ((j == 0) + probability[1 : most + 1] @ visits[j - most : j][::-1]) / (1 - probability[0])
    levels = one_period_cost(order_up_to - np.arange(len(visits)), params)
    bought = params.unit_cost * probability @ np.arange(len(probability))
    return float((params.order_cost + visits @ levels) / visits.sum() + bought)


def best_policy(params: InventoryParams) -> tuple[int, int, float]:
    """The (s, S) of the lowest average cost among all policies, and that cost, without a limit of capacity or orders.

    Reference: Zheng & Federgruen, 1991, doi:10.1287/opre.39.4.654, the algorithm of section 2.
    Raises:
      ValueError: for parameters out of range or of several problems, or if an economic order quantity, √(2Kμ/h) or
        √(2Kμ/p), is above 2,000 units: policies are enumerated one unit at a time.

    >>> best_policy(InventoryParams(poisson(6.0, 41)))[:2]
    (4, 10)
    """
    _check_one("best_policy", params)
    mean = np.asarray(params.demand, float) @ np.arange(len(params.demand))
    quantity = math.sqrt(2 * params.order_cost * mean / min(params.holding, params.penalty))
    if quantity > MOST_ENUMERATED:
        raise ValueError(
            f"best_policy: the economic order quantity is {quantity:.4g} units; it must be at most {MOST_ENUMERATED}: "
            "use a larger unit, or holding and penalty that are larger relative to order_cost"
        )
    bought = params.unit_cost * np.asarray(params.demand, float) @ np.arange(len(params.demand))
    level = lambda y: float(one_period_cost(y, params) + bought)
    best = int(np.argmin(one_period_cost(np.arange(len(params.demand)), params)))
    reorder, order_up_to = best - 1, best
    while average_cost(reorder, order_up_to, params) > level(reorder):
        reorder -= 1
    cost, candidate = average_cost(reorder, order_up_to, params), order_up_to + 1
    while level(candidate) <= cost:
        if average_cost(reorder, candidate, params) < cost:
            order_up_to = candidate
            while average_cost(reorder, order_up_to, params) <= level(reorder + 1):
                reorder += 1
            cost = average_cost(reorder, order_up_to, params)
        candidate += 1
    return reorder, order_up_to, cost


def order(stock: Any, reorder: Any, order_up_to: Any) -> Any:
    """The order of an (s, S) policy, `[...] -> [...]`: S - x where x ≤ s, otherwise 0.

    >>> order(jnp.array([-2, 4, 5]), 4, 10).tolist()
    [12, 6, 0]
    """
    return jnp.where(stock <= reorder, order_up_to - stock, 0)


class Plan(NamedTuple):
    """The optimum over a finite horizon: s and S of every period, int `[T]`, and the expected cost from `start`."""

    reorder: np.ndarray
    order_up_to: np.ndarray
    cost: float


def plan(horizon: int, params: InventoryParams) -> Plan:
    """The policy of lowest expected cost over T periods, by dynamic programming over whole units.

        V_t(x) = min_{y≥x} K [y > x] + c (y - x) + G(y) + Σ_d P(d) V_{t+1}(y - d),   V_T(x) = h_T x⁺ + p_T x⁻

    In period t the policy orders up to S_t where x ≤ s_t. Orders are limited by the capacity alone. Where no order pays
    from any stock that can occur, s_t is below all of these.

    Reference: Snyder & Shen, 2019, eq. 4.66.
    Raises:
      ValueError: for a horizon that is none, or parameters out of range or of several problems.

    >>> plan(5, finite_horizon().default_params).order_up_to.tolist()
    [133, 133, 133, 133, 126]
    """
    check_counts("plan", horizon=horizon)
    _check_one("plan", params)
    probability, most = np.asarray(params.demand, float), len(params.demand) - 1
    levels = np.arange(min(0, int(params.start)) - most * horizon, int(params.capacity) + 1)
    value = np.where(levels > 0, params.terminal_holding * levels, -params.terminal_penalty * levels)
    reorder, order_up_to = [], []
    for _ in range(horizon):
        levels = levels[most:]
        staying = one_period_cost(levels, params) + np.convolve(value, probability, "valid")
        total = staying + params.unit_cost * levels
        ordering = np.minimum.accumulate(total[::-1])[::-1] + params.order_cost  # of the best y ≥ x
        order_up_to.append(int(levels[np.argmin(total)]))
        reorder.append(int(levels[np.flatnonzero(ordering < total)].max(initial=levels[0] - 1)))
        value = np.minimum(total, ordering) - params.unit_cost * levels
    return Plan(np.array(reorder[::-1]), np.array(order_up_to[::-1]), float(value[levels == params.start][0]))


# --- a serial system --------------------------------------------------------------------------------------------------


@struct.dataclass
class SerialInventoryParams:
    """The costs, the demand and the lead times of `SerialInventory`; stage 0 serves the customers.

    demand: P(D = d), float `[M]`.  penalty: money per unit backordered at a period's end.
    holding: H, money per unit in stock at a stage, or on its way from there, at a period's end, float `[N]`; not
    increasing, since goods gain value downstream.
    lead: L, periods on the way to each stage, int `[N]`.
    """

    demand: Any
    holding: Any
    penalty: Any
    lead: Any
    max_steps_in_episode: int = 100


class SerialInventoryState(NamedTuple):
    """Units in stock `[N]`, below 0 at stage 0: backordered; units that arrive after 1, …, periods `[N, max_lead]`."""

    stock: Array
    transit: Array
    time: Array


class SerialInventory(Environment):
    """N stages in a row, each of which orders from the one before it in every period; the last stage faces demand D.

        shipped to j:  min(order of j, stock of j + 1), all that is ordered for j = N - 1; there Lⱼ periods later
        x'₀ = x₀ - D,   reward = -(Σⱼ Hⱼ xⱼ⁺ + Σⱼ<N-1 Hⱼ₊₁ (units on the way to j) + p x₀⁻),   at the period's end

    Stages ship in turn from stage N - 1 on, then demand is served, then shipments move on: with Lⱼ = 0 they can be
    shipped onwards or sold in the same period. The action is the order of each stage, ints in 0 .. max_order, `[N]`.
    Observations, float32 `[N (1 + max_lead)]`, are all stocks and shipments, divided by max_order. The task is endless,
    truncated at `max_steps_in_episode`. The optimum is the echelon base-stock policy `echelon_base_stock`. `info` has
    the `demand`.

    Reference: Clark & Scarf, 1960, doi:10.1287/mnsc.6.4.475; Snyder & Shen, 2019, section 6.2.
    Args:
      max_order: the most units of an order of a stage.
      params: the default parameters, which determine N and the longest lead time; None: three stages.
    Raises:
      ValueError: for a count that is none, and, also in `reset_env` and `step_env`, for parameters out of range.
    """

    name: str = "SerialInventory-v0"

    def __init__(self, max_order: int = 20, params: SerialInventoryParams | None = None):
        check_counts("SerialInventory", max_order=max_order)
        if params is None:
            lead, holding = np.array([0, 1, 2]), np.array([7.0, 4.0, 2.0])
            params = SerialInventoryParams(poisson(5.0, 31), holding, 37.12, lead)
        check_serial(params)
        self._params, self._max_order = params, max_order
        self._num_stages, self._max_lead = np.shape(params.lead)[-1], max(1, int(np.max(params.lead)))

    @property
    def num_actions(self) -> int:
        return self._num_stages

    @property
    def default_params(self) -> SerialInventoryParams:
        return self._params

    def _check(self, params: SerialInventoryParams) -> None:
        check_one_problem("SerialInventory", SerialInventoryParams, params, demand=1, holding=1, lead=1)
        check_serial(params)
        if np.shape(params.lead)[-1] != self._num_stages:
            shape = np.shape(params.lead)
            raise ValueError(f"SerialInventory: lead has shape {shape}; it must be ({self._num_stages},), the stages")
        check_range("SerialInventory", 0, self._max_lead, lead=params.lead)  # `transit` has no room for longer ones

    def reset_env(self, key, params):
        del key
        self._check(params)
        stock, zero = jnp.zeros(self._num_stages, jnp.int32), jnp.zeros((), jnp.int32)
        state = SerialInventoryState(stock, jnp.zeros((self._num_stages, self._max_lead), jnp.int32), zero)
        return self.see(state), state

    def step_env(self, key, state, action, params):
        self._check(params)
        probability = jnp.asarray(params.demand, jnp.float32)
        demand = jax.random.choice(key, probability.shape[0], p=probability).astype(jnp.int32)
        orders = jnp.clip(jnp.asarray(action, jnp.int32), 0, self._max_order)
        lead, holding = jnp.asarray(params.lead, jnp.int32), jnp.asarray(params.holding, jnp.float32)
        stock, transit = state.stock, state.transit
        for j in reversed(range(self._num_stages)):
            shipped = orders[j]
            if j + 1 < self._num_stages:
                shipped = jnp.minimum(shipped, stock[j + 1])
                stock = stock.at[j + 1].add(-shipped)
            stock = stock.at[j].add(jnp.where(lead[j] == 0, shipped, 0))
            transit = transit.at[j].add(jnp.where(jnp.arange(self._max_lead) == lead[j] - 1, shipped, 0))
        stock = stock.at[0].add(-demand)
        held = holding @ jnp.maximum(stock, 0) + holding[1:] @ transit[:-1].sum(-1)
        cost = held + params.penalty * jnp.maximum(-stock[0], 0)
        stock, transit = stock + transit[:, 0], jnp.pad(transit[:, 1:], ((0, 0), (0, 1)))
        state = SerialInventoryState(stock, transit, state.time + 1)
        return self.see(state), state, -jnp.asarray(cost, jnp.float32), jnp.zeros((), bool), {"demand": demand}

    def see(self, state: SerialInventoryState) -> Array:
        """The observation of a state, float32 `[N (1 + max_lead)]`."""
        return jnp.append(state.stock, state.transit.reshape(-1)).astype(jnp.float32) / self._max_order

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return MultiDiscrete([self._max_order + 1] * self._num_stages)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (self._num_stages * (1 + self._max_lead),), jnp.float32)

    def render(self, state, params):
        """The stock of each stage, the supplier's side to the left."""
        names = [f"stage {j}" for j in reversed(range(self._num_stages))]
        return bars(state.stock[::-1], names, (-2 * self._max_order, 2 * self._max_order), "stock")


def check_serial(params: SerialInventoryParams) -> None:
    """Raise a ValueError that names the first parameter out of range; traced values are not checked."""
    if not is_known(params):
        return
    _check_demand("SerialInventory", params.demand)
    check_positive("SerialInventory", holding=params.holding, penalty=params.penalty)
    check_whole("SerialInventory", 0, 2**20, lead=params.lead)
    check_whole("SerialInventory", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)
    if np.shape(params.holding) != np.shape(params.lead) or not np.shape(params.lead):
        shapes = f"{np.shape(params.holding)} and {np.shape(params.lead)}"
        raise ValueError(f"SerialInventory: holding and lead have shapes {shapes}; both must be (N,), N stages")
    if (np.diff(params.holding) > 0).any():
        raise ValueError(
            f"SerialInventory: holding is {on_one_line(params.holding)}; it must not increase from stage 0 on"
        )


def echelon_base_stock(params: SerialInventoryParams) -> tuple[np.ndarray, float]:
    """The echelon base-stock levels S of the lowest average cost among all policies, int `[N]`, and that cost.

        Cⱼ(y) = hⱼ (y - (Lⱼ + 1) μ) + E[Cⱼ₋₁(min(Sⱼ₋₁, y - D(Lⱼ)))],   Sⱼ = argmin Cⱼ,   cost C_{N-1}(S_{N-1})

    with hⱼ = Hⱼ - Hⱼ₊₁, D(L) the demand of L periods, and (p + H₀) E[(y - D(L₀ + 1))⁻] as the last term of C₀. In each
    period stage j orders up to Sⱼ: `base_stock_orders`.

    Reference: Clark & Scarf, 1960; Snyder & Shen, 2019, section 6.2.2.
    Raises:
      ValueError: for parameters out of range.

    >>> echelon_base_stock(SerialInventory().default_params)[0].tolist()
    [9, 15, 26]
    """
    check_serial(params)
    demand, holding = np.asarray(params.demand, float), np.asarray(params.holding, float)
    lead = np.asarray(params.lead, int)
    most, mean = len(demand) - 1, demand @ np.arange(len(demand))
    levels = np.arange(-most * (int(lead.sum()) + 1), most * (int(lead.sum()) + 1) + 1)
    following = (params.penalty + holding[0]) * np.maximum(-levels, 0.0)
    following, levels = np.convolve(following, demand, "valid"), levels[most:]
    base_stock, cost = [], np.inf
    for periods, echelon in zip(lead, holding - np.append(holding[1:], 0.0), strict=True):
        for _ in range(periods):
            following, levels = np.convolve(following, demand, "valid"), levels[most:]
        total = following + echelon * (levels - (periods + 1) * mean)
        best = int(total.argmin())
        base_stock.append(int(levels[best]))
        following, cost = total[np.minimum(np.arange(len(levels)), best)], float(total[best])
    return np.array(base_stock), cost


def base_stock_orders(state: SerialInventoryState, base_stock: Any) -> Array:
    """The orders of an echelon base-stock policy, int32 `[N]`: (Sⱼ - all units at, on the way to, after stage j)⁺."""
    echelon = jnp.cumsum(state.stock + state.transit.sum(-1))
    return jnp.maximum(jnp.asarray(base_stock) - echelon, 0).astype(jnp.int32)
