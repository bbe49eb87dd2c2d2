"""Randomised local search on LeadingOnes with a choice of how many bits to flip, whose expected time is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_counts
from purerl.core import Array

PORTFOLIO = (1, 2, 4, 8, 16)


@struct.dataclass
class LeadingOnesParams:
    """max_steps_in_episode: the time limit, in steps of at most n evaluations."""

    max_steps_in_episode: int = 500


class LeadingOnesState(NamedTuple):
    """The number of leading ones, the evaluations so far, and the steps taken, all int32."""

    leading: Array
    evaluations: Array
    time: Array


class LeadingOnes(Environment):
    """Choose how many bits k randomised local search flips, to find the string of n ones in the fewest evaluations.

    The search flips k different bits drawn uniformly and keeps the result if it has at least as many leading ones. It
    then improves with probability p(i, k) = C(n-i-1, k-1) / C(n, k), where i is the number of leading ones. One step
    is n evaluations with the same k, or fewer if one improves. With one evaluation a step an episode would have about
    1,000 steps, nearly all of which change nothing; a step until the next improvement would be endless where p = 0.
    Since the best k depends on i alone, repeating it loses nothing.

    Bits behind the first zero are uniform at all times, given i, so that the number of leading ones is the whole state:
    the evaluations until an improvement are drawn from a geometric distribution, and an improvement gains one bit and
    the ones that follow it by chance. Both have the law of the search itself.

    An action is an index into the portfolio, the reward -(evaluations) / n, and γ should be 1. The episode terminates
    at n leading ones; the time limit truncates it. Observations, float32 `[2]`, are (i / n, log(n / (i+1)) / log n):
    the best k is about n / (i+1). `info` has the `evaluations` of the step.

    Reference: Biedenkapp et al., 2022, arXiv:2202.03259, section 3.
    Args:
      size: n.
      portfolio: the values of k, ints in 1 .. n.
    Raises:
      ValueError: for n < 2, or a portfolio that is empty or has another value.
    """

    name: str = "LeadingOnes-v0"

    def __init__(self, size: int = 50, portfolio: Sequence[int] = PORTFOLIO):
        self._improves = improvement_probability(size, portfolio).astype(np.float32)
        self._size, self._num_actions = size, len(portfolio)

    @property
    def num_actions(self) -> int:
        return self._num_actions

    @property
    def default_params(self) -> LeadingOnesParams:
        return LeadingOnesParams()

    def reset_env(self, key, params):
        zero = jnp.zeros((), jnp.int32)
        state = LeadingOnesState(self._leading(key, jnp.int32(-1)), zero, zero)
        return self.see(state.leading), state

    def step_env(self, key, state, action, params):
        wait_key, bits_key = jax.random.split(key)
        p = jnp.asarray(self._improves)[state.leading, action]
        uniform = jax.random.uniform(wait_key, minval=jnp.finfo(jnp.float32).tiny)
        wait = 1 + jnp.floor(jnp.log(uniform) / jnp.log1p(-p))  # geometric, by inversion; infinite where p = 0
        improved = wait <= self._size
        evaluations = jnp.minimum(wait, self._size).astype(jnp.int32)
        leading = jnp.where(improved, self._leading(bits_key, state.leading), state.leading)
        state = LeadingOnesState(leading, state.evaluations + evaluations, state.time + 1)
        reward = -evaluations.astype(jnp.float32) / self._size
        return self.see(state.leading), state, reward, leading >= self._size, {"evaluations": evaluations}

    def _leading(self, key, flipped):
        """The leading ones of a string whose first `flipped` + 1 bits are ones, and whose others are uniform."""
        bits = jax.random.bernoulli(key, 0.5, (self._size,)) | (jnp.arange(self._size) <= flipped)
        return jnp.cumprod(bits.astype(jnp.int32)).sum(dtype=jnp.int32)

    def see(self, leading):
        """The observation at a number of leading ones."""
        scale = jnp.log(self._size / (leading + 1.0)) / math.log(self._size)
        return jnp.stack([leading / self._size, jnp.maximum(scale, 0.0)]).astype(jnp.float32)

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (2,), jnp.float32)


def improvement_probability(size: int, portfolio: Sequence[int] = PORTFOLIO) -> np.ndarray:
    """p(i, k) = C(n-i-1, k-1) / C(n, k) for i = 0, …, n - 1 and every k of the portfolio, float64 `[n, K]`.

    Raises:
      ValueError: for n < 2, or a portfolio that is empty or has a value outside of 1 .. n.

    >>> improvement_probability(3, (1, 2)).round(3).tolist()
    [[0.333, 0.667], [0.333, 0.333], [0.333, 0.0]]
    """
    check_counts("LeadingOnes", size=size)
    if size < 2:
        raise ValueError(f"LeadingOnes: size is {size}; it must be at least 2")
    if not len(portfolio) or any(not isinstance(k, int) or not 1 <= k <= size for k in portfolio):
        raise ValueError(f"LeadingOnes: portfolio is {portfolio!r}; it must be ints in 1 .. {size}, the size")
    return np.array([[math.comb(size - i - 1, k - 1) / math.comb(size, k) for k in portfolio] for i in range(size)])


def expected_evaluations(flips: Any) -> float:
    """½ Σᵢ 1 / p(i, kᵢ): the expected evaluations until all bits are ones, from a uniform string, without a limit.

    The half is the probability that a number of leading ones occurs at all.

    Reference: Biedenkapp et al., 2022, arXiv:2202.03259, section 3.
    Args:
      flips: k at 0, …, n - 1 leading ones, ints `[n]`.
    Returns:
      The expectation, infinite where some k can never improve.

    >>> expected_evaluations([1] * 50)
    1250.0
    """
    size = len(flips)
    p = [math.comb(size - i - 1, int(k) - 1) / math.comb(size, int(k)) for i, k in enumerate(flips)]
    return 0.5 * math.fsum(1 / x if x else math.inf for x in p)


def best_flips(size: int, portfolio: Sequence[int] | None = None) -> np.ndarray:
    """The k of the fewest expected evaluations at 0, …, n - 1 leading ones, int `[n]`.

    portfolio: the values allowed; None: 1, …, n.

    >>> round(expected_evaluations(best_flips(50, PORTFOLIO)), 4), round(expected_evaluations(best_flips(50)), 4)
    (974.8847, 969.7452)
    """
    allowed = tuple(range(1, size + 1)) if portfolio is None else tuple(portfolio)
    return np.array(allowed)[improvement_probability(size, allowed).argmax(-1)]
