"""Car following as a linear-quadratic regulator: the part of driving on a highway whose optimum is exact.

Distances are in m, times in s, accelerations in m/s²; the reward is minus a weighted sum of squares, without unit.
Parameters: `CarFollowingParams`. The optimum is linear in the state: `optimal_gains` by the Riccati recursion,
`optimal_return`, -3.733 for the default parameters, and `linear_return` for any other gains.

Reference: Bertsekas, 2017, "Dynamic programming and optimal control", volume I, section 3.1.
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

MAX_ACCELERATION = 12.0  # m/s²; the optimum of the default parameters needs less than half of it


@struct.dataclass
class CarFollowingParams:
    """Costs, noise and time; every field may be an array of many variants under `vmap`.

    interval: τ > 0, s.  headway: h ≥ 0, s.  leader_noise: σ ≥ 0, m/s².  gap_cost: q_e ≥ 0, 1/m².
    speed_cost: q_w ≥ 0, s²/m².  acceleration_cost: r > 0, s⁴/m².  initial_gap, initial_speed: standard deviations of
    e in m and w in m/s at the beginning, ≥ 0.  max_steps_in_episode: T, steps.
    """

    interval: Any = 0.5
    headway: Any = 1.5
    leader_noise: Any = 0.5
    gap_cost: Any = 0.02
    speed_cost: Any = 0.1
    acceleration_cost: Any = 0.2
    initial_gap: Any = 5.0
    initial_speed: Any = 2.0
    max_steps_in_episode: int = 40


class CarFollowingState(NamedTuple):
    """(e, w) `[2]`, and the steps taken."""

    errors: Array
    time: Array


class CarFollowing(Environment):
    """Follow a car whose acceleration is noise, at a gap that grows with the own speed.

    With the gap d, the own speed v and the leader's v_l, the state is the error of the gap e = d - d₀ - h v and the
    relative speed w = v_l - v. The action is the acceleration a in m/s², float32 `[1]`:

        e' = e + w τ + (n - a) τ²/2 - h a τ,   w' = w + (n - a) τ,   n ~ N(0, σ²)
        reward = -(q_e e'² + q_w w'² + r a²)

    The episode terminates after T steps. Observations, float32 `[3]`, are (e / 10, w / 5, fraction of the steps left).
    The optimum is `optimal_gains`, and its return `optimal_return`, as long as no action is clipped at ±12 m/s².
    64-bit JAX computes in float64.

    Reference: Bertsekas, 2017, "Dynamic programming and optimal control", volume I, section 3.1.
    Raises:
      ValueError: in `reset_env` and `step_env`, for parameters outside of their ranges.
    """

    name: str = "CarFollowing-v0"
    num_actions: int = 1

    @property
    def default_params(self) -> CarFollowingParams:
        return CarFollowingParams()

    def reset_env(self, key, params):
        _check(params)
        spread = jnp.stack([jnp.asarray(x, jnp.result_type(float)) for x in (params.initial_gap, params.initial_speed)])
        errors = spread * jax.random.normal(key, (2,), spread.dtype)
        state = CarFollowingState(errors, jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        _check(params)
        a = jnp.clip(jnp.reshape(action, ()), -MAX_ACCELERATION, MAX_ACCELERATION)
        noise = params.leader_noise * jax.random.normal(key, (), state.errors.dtype)
        (e, w), interval = state.errors, params.interval
        e = e + w * interval + (noise - a) * interval**2 / 2 - params.headway * a * interval
        w = w + (noise - a) * interval
        reward = -(params.gap_cost * e**2 + params.speed_cost * w**2 + params.acceleration_cost * a**2)
        state = CarFollowingState(jnp.stack([e, w]).astype(state.errors.dtype), state.time + 1)
        ended = state.time >= params.max_steps_in_episode
        return self._see(state, params), state, reward.astype(jnp.float32), ended, {}

    def _see(self, state, params):
        left = 1 - state.time / params.max_steps_in_episode
        return jnp.append(state.errors / jnp.array([10.0, 5.0]), left).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Box(-MAX_ACCELERATION, MAX_ACCELERATION, (1,), jnp.float32)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (3,), jnp.float32)

    def render(self, state, params):
        """A figure of the two errors."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4, 2.6), layout="constrained")
        axis = figure.subplots()
        e, w = (float(x) for x in state.errors)
        axis.barh(["w, m/s", "e, m"], [w, e], color=["tab:orange", "tab:blue"])
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlim=(-15, 15), title=f"{float(state.time * params.interval):.1f} s: e {e:.1f} m, w {w:.1f} m/s")
        return figure


def _check(params: CarFollowingParams) -> None:
    check_one_problem("CarFollowing", CarFollowingParams, params)
    check_whole("CarFollowing", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)
    check_range("CarFollowing", *POSITIVE, interval=params.interval, acceleration_cost=params.acceleration_cost)
    names = ("headway", "leader_noise", "gap_cost", "speed_cost", "initial_gap", "initial_speed")
    check_range("CarFollowing", *NOT_NEGATIVE, **{name: getattr(params, name) for name in names})


def matrices(params: CarFollowingParams) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A `[2, 2]`, B `[2]`, G `[2]` and Q `[2, 2]` of x' = A x + B a + G n and the cost x'ᵀ Q x' + r a², float64."""
    _check(params)
    interval = float(params.interval)
    a = np.array([[1, interval], [0, 1]])
    g = np.array([interval**2 / 2, interval])
    b = -g - np.array([params.headway * interval, 0])
    return a, b, g, np.diag([float(params.gap_cost), float(params.speed_cost)])


def optimal_gains(params: CarFollowingParams) -> np.ndarray:
    """The gains K of the best policy a = -Kₜ x, x = (e, w), float64 `[T, 2]`.

        S = Q + Pₜ₊₁,   Kₜ = BᵀSA / (r + BᵀSB),   Pₜ = AᵀS (A - B Kₜ),   P_T = 0

    Reference: Bertsekas, 2017, volume I, section 3.1.
    Raises:
      ValueError: for parameters outside of their ranges.

    >>> optimal_gains(CarFollowingParams())[0].round(4).tolist()
    [-0.2368, -0.5829]
    """
    a, b, _, q = matrices(params)
    value, gains = np.zeros((2, 2)), []
    for _ in range(int(params.max_steps_in_episode)):
        s = q + value
        gains.append(b @ s @ a / (params.acceleration_cost + b @ s @ b))
        value = a.T @ s @ (a - np.outer(b, gains[-1]))
    return np.array(gains[::-1])


def linear_return(gains: Any, params: CarFollowingParams) -> float:
    """The mean return of a policy a = -Kₜ x, by the second moments Xₜ of the state.

        Xₜ₊₁ = (A - B Kₜ) Xₜ (A - B Kₜ)ᵀ + σ² G Gᵀ,   -Σ tr(Q Xₜ₊₁) + r Kₜ Xₜ Kₜᵀ

    Args:
      gains: `[T, 2]`, or `[2]` for all steps.
    Raises:
      ValueError: for gains of another shape, or parameters outside of their ranges.
    """
    a, b, g, q = matrices(params)
    shape = (int(params.max_steps_in_episode), 2)
    if np.shape(gains) not in ((2,), shape):
        raise ValueError(f"linear_return: gains has shape {np.shape(gains)}; it must be (2,) or {shape}")
    moments, total = np.diag([float(params.initial_gap) ** 2, float(params.initial_speed) ** 2]), 0.0
    for k in np.broadcast_to(np.asarray(gains, float), shape):
        total -= params.acceleration_cost * (k @ moments @ k)
        closed = a - np.outer(b, k)
        moments = closed @ moments @ closed.T + params.leader_noise**2 * np.outer(g, g)
        total -= np.trace(q @ moments)
    return float(total)


def optimal_return(params: CarFollowingParams) -> float:
    """The mean return of the best policy, `linear_return` of `optimal_gains`.

    >>> round(optimal_return(CarFollowingParams()), 3)
    -3.733
    """
    return linear_return(optimal_gains(params), params)
