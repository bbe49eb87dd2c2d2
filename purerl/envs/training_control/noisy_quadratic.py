"""Stochastic gradient descent on a quadratic whose minimum is a random one at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts, check_functions, check_range
from purerl.core import Array
from purerl.envs.training_control.quadratic import LARGEST, as_float, line_minimum, log_rate_between
from purerl.envs.training_control.rewards import LossReward, fall_of_log_loss, log_loss

CURVATURE = np.logspace(-2, 0, 50)
POWERS = (0, 1, 2, 3)  # of h, in the observed moments


@struct.dataclass
class NoisyQuadraticParams:
    """curvature: h > 0, float `[d]`.  start: E θ₀², float `[d]`.  max_steps_in_episode: T, the budget."""

    curvature: Any
    start: Any
    max_steps_in_episode: int


class NoisyQuadraticState(NamedTuple):
    """A = E θ² `[d]` (θ itself where it is sampled), the last log rate scaled to ±1 (0 at first), the steps taken."""

    value: Array
    last: Array
    time: Array


class NoisyQuadratic(Environment):
    """Choose the T learning rates of stochastic gradient descent on a quadratic, to minimise the final expected loss.

        gradient h(θ - c),   c ~ N(0, 1/h),   A = E θ² ← (1 - αh)² A + α² h,   L = ½ Σ h A

    The expectation A is the state of a deterministic MDP; with `sampled` the state is θ, which starts from N(0, A₀),
    and the loss ½ Σ h θ². The constant ½ Σ h E c² is left out.

    The action is log α, float32 `[1]`. The episode terminates after T steps: the budget is part of the task, and no
    value follows it. Observations, float32 `[6]`, are (fraction of the steps left, the last log rate scaled to ±1,
    log Σ hᵏA / Σ hᵏA₀ for k = 0, 1, 2, 3). A rate makes directions of large curvature fall first, while noise keeps
    them from falling further; the moments show how far either has come, of which the loss alone, k = 1, tells nothing.
    They are relative to the start, so neither the scale of the loss nor the number of directions matters. `info` has
    the `loss` after the step.

    With γ = 1 the rewards of all steps add up to the fall of the loss over the whole budget. With γ < 1 a low loss soon
    is worth more than a low loss at last, rates fall too early, and the final loss is higher: `best_schedule` has the
    optimum for each γ.

    Reference: Wu, Ren, Liao & Grosse, 2018, arXiv:1803.02021, sections 2 and 3.
    Args:
      num_steps: T.
      sampled: whether θ is sampled.
      reward: a function of `training_control.rewards`.
      rates: the bounds of α. At 2 / max h and below no run diverges.
    Raises:
      ValueError: for a count, bounds or a reward that are none.
    """

    name: str = "NoisyQuadratic-v0"
    num_actions: int = 1

    def __init__(
        self,
        num_steps: int = 50,
        sampled: bool = False,
        reward: LossReward = fall_of_log_loss,
        rates: tuple[float, float] = (0.005, 2.0),
    ):
        check_counts("NoisyQuadratic", num_steps=num_steps)
        check_functions("NoisyQuadratic", reward=reward)
        self._num_steps, self._sampled, self._reward = num_steps, sampled, reward
        self._log_rate = log_rate_between("NoisyQuadratic", rates)

    @property
    def default_params(self) -> NoisyQuadraticParams:
        return NoisyQuadraticParams(CURVATURE, np.ones(len(CURVATURE)), self._num_steps)

    def reset_env(self, key, params):
        start = as_float(params.start)
        value = jnp.sqrt(start) * jax.random.normal(key, start.shape, start.dtype) if self._sampled else start
        state = NoisyQuadraticState(value, jnp.zeros((), start.dtype), jnp.zeros((), jnp.int32))
        return self._see(state, params), state

    def step_env(self, key, state, action, params):
        curvature, log_rate = as_float(params.curvature), as_float(jnp.reshape(action, ()))
        rate = jnp.exp(log_rate)
        if self._sampled:
            noise = jnp.sqrt(curvature) * jax.random.normal(key, curvature.shape, curvature.dtype)
            value = state.value - rate * (curvature * state.value - noise)
        else:
            value = second_moment(state.value, curvature, rate)
        value = jnp.clip(value, -LARGEST, LARGEST)
        before, after = (loss(self._moment(x), curvature) for x in (state.value, value))
        state = NoisyQuadraticState(value, self._log_rate.unit(log_rate), state.time + 1)
        last = state.time >= params.max_steps_in_episode
        return self._see(state, params), state, self._reward(before, after, last), last, {"loss": after}

    def _moment(self, value):
        return jnp.square(value) if self._sampled else value

    def _see(self, state, params):
        weights = as_float(params.curvature) ** jnp.array(POWERS)[:, None]
        moments = log_loss(weights @ self._moment(state.value)) - log_loss(weights @ as_float(params.start))
        left = 1 - state.time / params.max_steps_in_episode
        return jnp.concatenate([jnp.stack([left, state.last]), moments]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return self._log_rate.space

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (2 + len(POWERS),), jnp.float32)


def second_moment(moment: Any, curvature: Any, rate: Any) -> Any:
    """(1 - αh)² A + α² h: E θ² `[..., d]` after a step, of moment A and curvature h, `[..., d]` each."""
    return (1 - rate * curvature) ** 2 * moment + rate**2 * curvature


def loss(moment: Any, curvature: Any) -> Any:
    """½ Σ h A, of moment A and curvature h, float `[..., d]` each; returns `[...]`.

    >>> round(loss(np.ones(50), CURVATURE).item(), 6)
    5.523283
    """
    return 0.5 * (curvature * moment).sum(-1)


def moments(rates: Any, curvature: Any = CURVATURE, start: Any = 1.0) -> np.ndarray:
    """A after 0, 1, …, T steps at the given rates `[T]`, float64 `[T + 1, d]`."""
    path = [np.broadcast_to(np.asarray(start, float), np.shape(curvature))]
    for rate in np.asarray(rates, float):
        path.append(second_moment(path[-1], curvature, rate))
    return np.stack(path)


def losses(rates: Any, curvature: Any = CURVATURE, start: Any = 1.0) -> np.ndarray:
    """The expected losses after 0, 1, …, T steps at the given rates `[T]`, float64 `[T + 1]`."""
    return loss(moments(rates, curvature, start), curvature)


def lowest_rate(moment: Any, curvature: Any, costate: Any) -> Any:
    """The rate after which Σ c A' is lowest: Σ c h A / Σ c (h² A + h), for a costate c ≥ 0 of A'."""
    return (costate * curvature * moment).sum() / (costate * (curvature**2 * moment + curvature)).sum()


def greedy_schedule(num_steps: int, curvature: Any = CURVATURE, start: Any = 1.0) -> np.ndarray:
    """The rate of the lowest next loss at each step, float64 `[T]`."""
    check_counts("greedy_schedule", num_steps=num_steps)
    moment, rates = np.broadcast_to(np.asarray(start, float), np.shape(curvature)), []
    for _ in range(num_steps):
        rates.append(lowest_rate(moment, curvature, curvature))
        moment = second_moment(moment, curvature, rates[-1])
    return np.array(rates)


def best_schedule(
    num_steps: int,
    gamma: float = 1.0,
    curvature: Any = CURVATURE,
    start: Any = 1.0,
    sweeps: int = 1_000,
) -> np.ndarray:
    """The schedule that maximises Σ γᵗ (Lₜ - Lₜ₊₁), float64 `[T]`; with γ = 1 that of the lowest final loss.

        cₜ = (1 - γ) h + γ (1 - αₜh)² cₜ₊₁,   c_T = h,   αₜ = Σ cₜ₊₁ h Aₜ / Σ cₜ₊₁ (h² Aₜ + h)

    c is the gradient of minus the discounted return after step t with respect to Aₜ, through the deterministic
    moments and up to a factor. The return is a parabola in each rate where the others are given, so a sweep from the
    last rate to the first, each set to its own optimum, cannot lower it. It starts from the greedy schedule, and ends
    at a stationary point. γ = 0 is the greedy schedule.

    Args:
      num_steps: T.  gamma: γ, in [0, 1].  sweeps: the number of sweeps at most; it ends where rates no longer change.
    Raises:
      ValueError: for a count or a γ that is none.
    """
    check_counts("best_schedule", num_steps=num_steps, sweeps=sweeps)
    check_range("best_schedule", 0.0, 1.0, gamma=gamma)
    rates = greedy_schedule(num_steps, curvature, start)
    for _ in range(sweeps):
        path, before, costate = moments(rates, curvature, start), rates.copy(), curvature
        for t in reversed(range(num_steps)):
            rates[t] = lowest_rate(path[t], curvature, costate)
            costate = (1 - gamma) * curvature + gamma * (1 - rates[t] * curvature) ** 2 * costate
        if np.abs(rates - before).max() < 1e-10:
            break
    return rates


def constant(rate: float, num_steps: int) -> np.ndarray:
    """A constant schedule, float64 `[T]`."""
    return np.full(num_steps, rate)


def cosine(rate: float, num_steps: int) -> np.ndarray:
    """½ rate (1 + cos(πt/T)) for t = 0, …, T - 1: the cosine schedule that would be 0 at T, float64 `[T]`."""
    return 0.5 * rate * (1 + np.cos(np.pi * np.arange(num_steps) / num_steps))


def best_of_shape(
    shape: Callable[[float, int], np.ndarray], num_steps: int, curvature: Any = CURVATURE, start: Any = 1.0
) -> float:
    """The first rate of the lowest final loss among schedules of one shape, `constant` or `cosine`.

    >>> round(best_of_shape(constant, 10), 3)
    0.278
    """
    check_counts("best_of_shape", num_steps=num_steps)
    check_functions("best_of_shape", shape=shape)
    final = lambda rate: losses(shape(rate, num_steps), curvature, start)[-1]
    return line_minimum(final, 1e-3 / np.max(curvature), 10 / np.max(curvature))
