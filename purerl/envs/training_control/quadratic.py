"""Gradient descent on a quadratic with K learning rates, whose optimum is K steps of conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts, check_functions
from purerl.core import Array
from purerl.envs.training_control.rewards import LossReward, fall_of_log_loss, log_loss

CURVATURE = np.logspace(-2, 0, 20)
LARGEST = 1e15  # of |θ|, so that the loss of a diverging run stays finite in float32


@struct.dataclass
class QuadraticParams:
    """curvature: λ > 0, float `[d]`.  start: θ₀, float `[d]`.  max_steps_in_episode: K, read by evaluation alone."""

    curvature: Any
    start: Any
    max_steps_in_episode: int


class QuadraticState(NamedTuple):
    """θ `[d]`, the log rates so far scaled to ±1 `[K]` (0 where there is none yet), and the steps taken."""

    position: Array
    taken: Array
    time: Array


class LogRate(NamedTuple):
    """A learning rate as an action: its natural logarithm, in a Box of shape (1,)."""

    low: float
    high: float

    @property
    def space(self) -> spaces.Box:
        """log rate, float32 `[1]`, between log low and log high."""
        return spaces.Box(self.low, self.high, (1,), jnp.float32)

    def unit(self, log_rate: Array) -> Array:
        """The log rate scaled to ±1."""
        return (2 * log_rate - self.high - self.low) / (self.high - self.low)


def log_rate_between(function: str, rates: tuple[float, float]) -> LogRate:
    """The action of a learning rate between two bounds, 0 < low < high.

    Raises:
      ValueError: for other bounds.
    """
    low, high = rates
    if not 0 < low < high < math.inf:
        raise ValueError(f"{function}: rates is {rates!r}; it must be (low, high) with 0 < low < high, both finite")
    return LogRate(math.log(low), math.log(high))


def as_float(x: Any) -> Array:
    """An array of the default float type: float64 data stay exact where JAX computes in float64."""
    return jnp.asarray(x, jnp.result_type(float))


class Quadratic(Environment):
    """Choose the K learning rates of gradient descent on f(θ) = ½ Σ λᵢ θᵢ², to minimise the final loss.

        θ ← θ - α λ θ,   reward log f(θ) - log f(θ') by default

    The action is log α, float32 `[1]`. The episode terminates after K steps: the budget is part of the task, and no
    value follows it. Observations, float32 `[K + 2]`, are (log f(θ)/f(θ₀), fraction of the steps left, the log rates
    so far scaled to ±1). They have no scale of the loss, so that one network fits every f(θ₀), and they determine the
    state, since θ is a function of the rates. `info` has the `loss` after the step.

    The final loss does not depend on the order of the rates; the optimum is `optimal_rates`. 64-bit JAX computes in
    float64.

    Args:
      num_steps: K.
      reward: a function of `training_control.rewards`.
      rates: the bounds of α. By default they contain the optimal rates for K up to 8, which lie between 1/max λ and
        1/min λ.
    Raises:
      ValueError: for a count, bounds or a reward that are none.
    """

    name: str = "Quadratic-v0"
    num_actions: int = 1

    def __init__(
        self,
        num_steps: int = 3,
        reward: LossReward = fall_of_log_loss,
        rates: tuple[float, float] = (0.1, 30.0),
    ):
        check_counts("Quadratic", num_steps=num_steps)
        check_functions("Quadratic", reward=reward)
        self._num_steps, self._reward, self._log_rate = num_steps, reward, log_rate_between("Quadratic", rates)

    @property
    def default_params(self) -> QuadraticParams:
        return QuadraticParams(CURVATURE, np.ones(len(CURVATURE)), self._num_steps)

    def reset_env(self, key, params):
        del key
        start = as_float(params.start)
        state = QuadraticState(start, jnp.zeros(self._num_steps, start.dtype), jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        del key
        curvature, log_rate = as_float(params.curvature), jnp.reshape(action, ())
        position = state.position * (1 - jnp.exp(log_rate) * curvature)
        position = jnp.clip(position, -LARGEST, LARGEST)
        before, after = loss(state.position, curvature), loss(position, curvature)
        taken = state.taken.at[state.time].set(self._log_rate.unit(log_rate))
        state = QuadraticState(position, taken, state.time + 1)
        last = state.time >= self._num_steps
        return self._see(state, params), state, self._reward(before, after, last), last, {"loss": after}

    def _see(self, state, params):
        curvature = as_float(params.curvature)
        fallen = log_loss(loss(state.position, curvature)) - log_loss(loss(as_float(params.start), curvature))
        left = 1 - state.time / self._num_steps
        return jnp.concatenate([jnp.stack([fallen, left]), state.taken]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return self._log_rate.space

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (self._num_steps + 2,), jnp.float32)


def loss(position: Any, curvature: Any) -> Any:
    """½ Σ λᵢ θᵢ², of position θ and curvature λ, float `[..., d]` each; returns `[...]`.

    >>> loss(np.array([1.0, 2.0]), np.array([1.0, 0.5])).item()
    1.5
    """
    return 0.5 * (curvature * position**2).sum(-1)


def losses(rates: Any, curvature: Any = CURVATURE, start: Any = 1.0) -> np.ndarray:
    """The losses after 0, 1, …, K steps at the given rates `[K]`, float64 `[K + 1]`.

    >>> losses([1.34498]).round(6).tolist()
    [2.304758, 0.554285]
    """
    position = np.broadcast_to(np.asarray(start, float), np.shape(curvature))
    path = [position]
    for rate in np.asarray(rates, float):
        path.append(path[-1] * (1 - rate * curvature))
    return loss(np.stack(path), curvature)


def optimal_rates(num_steps: int, curvature: Any = CURVATURE, start: Any = 1.0) -> np.ndarray:
    """The K learning rates that minimise the final loss, float64 `[K]`, ascending: 1 / μₖ.

        μ = the eigenvalues of diag(λ) on the Krylov space span{g, λg, …, λ^{K-1}g},   g = λθ₀

    After K steps θᵢ = p(λᵢ) θ₀ᵢ with p(λ) = Π (1 - αₖ λ), so the best rates are one over the roots of the polynomial
    that minimises ½ Σ λᵢ p(λᵢ)² θ₀ᵢ² with p(0) = 1. This is the residual polynomial of K steps of conjugate gradients,
    and its roots are the Ritz values μ.

    Reference: Hestenes & Stiefel, 1952, doi:10.6028/jres.049.044, sections 14 to 16.
    Args:
      num_steps: K.  curvature: λ > 0, `[d]`.  start: θ₀, `[d]` or a scalar.
    Raises:
      ValueError: if K is not a positive int, or at least as large as the number of different λ with θ₀ ≠ 0: there
        the final loss is 0 at the rates 1 / λ.

    >>> optimal_rates(2).round(6).tolist()
    [1.077574, 2.595924]
    """
    check_counts("optimal_rates", num_steps=num_steps)
    curvature = np.asarray(curvature, float)
    start = np.broadcast_to(np.asarray(start, float), curvature.shape)
    different = len(np.unique(curvature[start != 0]))
    if num_steps >= different:
        raise ValueError(
            f"optimal_rates: num_steps is {num_steps}; it must be less than {different}, the different curvatures"
        )
    basis = np.zeros((0, len(curvature)))
    vector = curvature * start
    for _ in range(num_steps):
        for _ in range(2):  # once leaves rounding errors that grow with K
            vector = vector - (basis @ vector) @ basis
        basis = np.concatenate([basis, vector[None] / np.linalg.norm(vector)])
        vector = curvature * basis[-1]
    return 1 / np.linalg.eigvalsh(basis * curvature @ basis.T)[::-1]


def steepest_descent_rates(num_steps: int, curvature: Any = CURVATURE, start: Any = 1.0) -> np.ndarray:
    """The rate of the lowest next loss at each step (the greedy schedule), float64 `[K]`: Σ λ²θ² / Σ λ³θ².

    >>> losses(steepest_descent_rates(3))[-1].round(6).item()
    0.182399
    """
    check_counts("steepest_descent_rates", num_steps=num_steps)
    position, rates = np.broadcast_to(np.asarray(start, float), np.shape(curvature)), []
    for _ in range(num_steps):
        gradient = curvature * position
        rates.append((gradient**2).sum() / (curvature * gradient**2).sum())
        position = position - rates[-1] * gradient
    return np.array(rates)


def line_minimum(function: Callable[[float], float], low: float, high: float, rounds: int = 8) -> float:
    """The argument of a function's minimum between two positive bounds, on a grid in the logarithm that is refined.

    The first of the grids of 41 points must have the minimum between the two neighbours of its lowest point.
    """
    for _ in range(rounds):
        grid = np.exp(np.linspace(math.log(low), math.log(high), 41))
        best = int(np.argmin([function(x) for x in grid]))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 40)])
    return math.sqrt(low * high)


def best_constant_rate(num_steps: int, curvature: Any = CURVATURE, start: Any = 1.0) -> float:
    """The constant rate of the lowest final loss, found numerically.

    >>> round(best_constant_rate(2), 4)
    1.4566
    """
    check_counts("best_constant_rate", num_steps=num_steps)
    final = lambda rate: losses(np.full(num_steps, rate), curvature, start)[-1]
    return line_minimum(final, 1e-3 / np.max(curvature), 1e3 / np.max(curvature))
