"""Running moments, and the normalisation of observations, rewards and values."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.arguments import check_range
from purerl.core import Agent, Array, Reward, Rollout, Transition

__all__ = [
    "Moments",
    "NormalizedState",
    "PopArt",
    "RewardScale",
    "deviation",
    "discounted_so_far",
    "merge",
    "moments",
    "observations",
    "popart",
    "popart_deviation",
    "popart_normalize",
    "popart_rescale",
    "popart_update",
    "popart_value",
    "rewards",
    "standardize",
]


class Moments(NamedTuple):
    """Running count, mean and sum of squared deviations; the last two have the structure of x."""

    count: Array  # float32 []
    mean: Any
    m2: Any


def moments(example: Any) -> Moments:
    """Initial moments with a count of 0, for values of the shape of one row of `example [N, ...]`."""
    zeros = lambda x: jnp.zeros(x.shape[1:], jnp.float32)
    return Moments(jnp.zeros(()), jax.tree.map(zeros, example), jax.tree.map(zeros, example))


def merge(state: Moments, x: Any, valid: Array) -> Moments:
    """Update moments with the values `x [..., *shape]` where `valid [...]`; equal to the moments of all values at once.

        n = n₁ + n₂,   μ = μ₁ + (μ₂ - μ₁) n₂/n,   M = M₁ + M₂ + (μ₂ - μ₁)² n₁n₂/n

    Reference: Chan, Golub & LeVeque, 1983, eq. 1.5.
    """
    size = valid.sum(dtype=jnp.float32)
    count = state.count + size

    def join(mean: Array, m2: Array, x: Array):
        mask = valid.reshape(*valid.shape, *[1] * mean.ndim)
        axes = tuple(range(valid.ndim))
        x = jnp.where(mask, x.astype(jnp.float32), 0.0)
        new_mean = x.sum(axes) / jnp.maximum(size, 1)
        new_m2 = jnp.where(mask, jnp.square(x - new_mean), 0.0).sum(axes)
        delta = new_mean - mean
        share = size / jnp.maximum(count, 1)
        return mean + delta * share, m2 + new_m2 + jnp.square(delta) * state.count * share

    joined = jax.tree.map(join, state.mean, state.m2, x)
    mean, m2 = jax.tree.transpose(jax.tree.structure(state.mean), jax.tree.structure((0, 0)), joined)
    return Moments(count, mean, m2)


def deviation(state: Moments) -> Any:
    """Population standard deviation, leaves `[*shape]`; 1 while the count is 0."""

    def root(m2: Array) -> Array:
        return jnp.sqrt(jnp.where(state.count > 0, m2 / jnp.maximum(state.count, 1), 1.0))

    return jax.tree.map(root, state.m2)


def standardize(state: Moments, x: Any, clip: float = 10.0) -> Any:
    """(x - mean) / deviation of `x [..., *shape]`, clipped to ±clip; the clipped x itself while the count is 0.

    Leaves of dtype bool, such as a mask of legal actions, are not changed.
    """

    def scale(x, mean, std):
        if x.dtype == bool:
            return x
        return jnp.clip((x.astype(jnp.float32) - mean) / jnp.maximum(std, 1e-4), -clip, clip)

    return jax.tree.map(scale, x, state.mean, deviation(state))


class NormalizedState(NamedTuple):
    agent: Any
    moments: Moments


def observations(agent: Agent, clip: float = 10.0) -> Agent:
    """An agent whose observations are standardised.

    `act` and `update` use the same moments, so that a policy ratio starts at 1; the moments are updated with the
    block's observations after the update. The first block is not standardised, and initialises the moments.
    """

    def init(key, obs):
        seen = moments(obs)
        return NormalizedState(agent.init(key, standardize(seen, obs, clip)), seen)

    def acting(act):
        return lambda key, state, memory, obs: act(key, state.agent, memory, standardize(state.moments, obs, clip))

    def on_standardized(function):
        return lambda state, memory, obs: function(state.agent, memory, standardize(state.moments, obs, clip))

    def update(key, state, rollout):
        tr = rollout.transitions
        see = lambda obs: standardize(state.moments, obs, clip)
        block = Rollout(tr._replace(obs=see(tr.obs), next_obs=see(tr.next_obs)), rollout.memory)
        inner, metrics = agent.update(key, state.agent, block)
        return NormalizedState(inner, merge(state.moments, tr.obs, tr.valid)), metrics

    collect = None if agent.collect is None else acting(agent.collect)
    values = None if agent.values is None else on_standardized(agent.values)
    about = {"act": acting(agent.act), "greedy": on_standardized(agent.greedy), "collect": collect, "values": values}
    return agent._replace(init=init, update=update, **about)


class RewardScale(NamedTuple):
    discounted: Array  # float32 [N]: each environment's discounted return so far in its episode
    moments: Moments


def discounted_so_far(start: Array, transitions: Transition, gamma) -> tuple[Array, Array]:
    """Gₜ = γ Gₜ₋₁ + rₜ within each episode; returns the value to carry to the next block `[N]`, and G `[T, N]`."""

    def step(before: Array, now: tuple[Array, Array, Array]):
        reward, ended, valid = now
        so_far: Array = jax.lax.select(valid, gamma * before + reward, jnp.zeros_like(before))
        return jax.lax.select(ended, jnp.zeros_like(so_far), so_far), so_far

    ended = transitions.terminated | transitions.truncated
    return jax.lax.scan(step, start, (transitions.reward, ended, transitions.valid))


def rewards(gamma, clip: float = 10.0) -> Reward:
    """Divide rewards by the running deviation of the discounted return and clip them to ±clip; no mean is subtracted.

    The return is accumulated within an episode and starts from 0 in the next episode. The moments are updated with the
    returns of a block before its rewards are divided; stored rewards are not rescaled later.
    """
    check_range("normalize.rewards", 0, 1, gamma=gamma)

    def init(key, transition):
        return RewardScale(jnp.zeros(transition.reward.shape), moments(transition.reward))

    def apply(key, state, transitions):
        carry_on, returns = discounted_so_far(state.discounted, transitions, gamma)
        seen = merge(state.moments, returns, transitions.valid)
        scale = jnp.maximum(deviation(seen), 1e-4)
        reward = jnp.clip(transitions.reward / scale, -clip, clip)
        return RewardScale(carry_on, seen), reward, {"reward_scale": scale}

    return Reward(init, apply)


# --- values of any scale ------------------------------------------------------------------------------------------


class PopArt(NamedTuple):
    """Running mean and variance of a value head's targets, `[*shape]` each: per output, or shared by all outputs."""

    mean: Array
    variance: Array


def popart(shape: tuple[int, ...] = ()) -> PopArt:
    """Initial statistics: a mean of 0 and a variance of 1, `[*shape]` each."""
    return PopArt(jnp.zeros(shape), jnp.ones(shape))


def popart_deviation(state: PopArt, low=1e-4, high=1e6) -> Array:
    """σ clipped to [low, high], `[*shape]`; the bounds handle constant targets and outliers."""
    return jnp.clip(jnp.sqrt(jnp.maximum(state.variance, 1e-12)), low, high)


def popart_update(state: PopArt, target: Array, valid: Array, rate) -> PopArt:
    """Update the statistics by an exponential moving average over blocks of targets.

        μ' = μ + β (m - μ),   v' = (1 - β) v + β s² + β (1 - β) (m - μ)²

    for targets of mean m and variance s². This equals the paper's moving E[G²] - E[G]², without the cancellation of
    that difference. If no target is valid, the statistics do not change.
    Args:
      target: G in units of the return, float `[..., *shape]`.  valid: bool `[...]`.  rate: β in [0, 1].
    Raises:
      ValueError: at trace time, if shapes differ or β is known and not in [0, 1].
    Reference: van Hasselt et al., 2016, arXiv:1602.07714, section 2 (ART).

    >>> state = popart_update(popart(), jnp.array([1.0, 3.0]), jnp.ones(2, bool), 1.0)
    >>> state.mean.item(), state.variance.item()
    (2.0, 1.0)
    """
    check_range("popart_update", 0, 1, rate=rate)
    if jnp.shape(target) != jnp.shape(valid) + jnp.shape(state.mean):
        shapes = f"target {jnp.shape(target)}, valid {jnp.shape(valid)}, statistics {jnp.shape(state.mean)}"
        raise ValueError(
            f"popart_update: target must have the axes of valid, then those of the statistics, got {shapes}"
        )
    seen = merge(Moments(jnp.zeros(()), jnp.zeros_like(state.mean), jnp.zeros_like(state.mean)), target, valid)
    rate = jnp.where(seen.count > 0, rate, 0.0)
    away, variance = seen.mean - state.mean, seen.m2 / jnp.maximum(seen.count, 1)
    variance = (1 - rate) * state.variance + rate * variance + rate * (1 - rate) * jnp.square(away)
    return PopArt(state.mean + rate * away, variance)


def popart_rescale(kernel: Array, bias: Array, old: PopArt, new: PopArt) -> tuple[Array, Array]:
    """Rescale the last layer for new statistics, so that its unnormalised output σ (Wh + b) + μ is unchanged.

        W' = W σ/σ',   b' = (σ b + μ - μ') / σ'

    Args:
      kernel: W, float `[K, H]`, outputs first as in `networks.heads.Head`.  bias: b, float `[K]`.
      old, new: statistics of shape `[K]` or `[]`.
    Returns:
      (W', b'), float `[K, H]` and `[K]`.
    Raises:
      ValueError: at trace time, if shapes differ.
    Reference: van Hasselt et al., 2016, arXiv:1602.07714, proposition 1 (POP).

    >>> new = PopArt(jnp.array(1.0), jnp.array(4.0))
    >>> [x.tolist() for x in popart_rescale(jnp.array([[2.0]]), jnp.array([3.0]), popart(), new)]
    [[[1.0]], [1.0]]
    """
    shapes = [jnp.shape(x) for x in (kernel, bias, old.mean, new.mean)]
    size = shapes[1][-1:]
    if (
        shapes[1] != size
        or shapes[0][:1] != size
        or len(shapes[0]) != 2
        or any(s not in ((), size) for s in shapes[2:])
    ):
        raise ValueError(f"popart_rescale: kernel must be [K, H], bias [K] and statistics [K] or [], got {shapes}")
    before, after = popart_deviation(old), popart_deviation(new)
    ratio = jnp.broadcast_to(before / after, size)
    return kernel * ratio[:, None], (before * bias + (old.mean - new.mean)) / after


def popart_normalize(state: PopArt, x: Array) -> Array:
    """(G - μ) / σ: the target of the head, `[..., *shape]`.

    >>> popart_normalize(PopArt(jnp.array(1.0), jnp.array(4.0)), jnp.array(5.0)).item()
    2.0
    """
    return (x - state.mean) / popart_deviation(state)


def popart_value(state: PopArt, output: Array) -> Array:
    """σ · output + μ: the head's output in units of the return, `[..., *shape]`.

    >>> popart_value(PopArt(jnp.array(1.0), jnp.array(4.0)), jnp.array(2.0)).item()
    5.0
    """
    return popart_deviation(state) * output + state.mean
