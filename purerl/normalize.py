"""Running moments, and the two things that are normalised by them: observations and rewards."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl.core import Agent, Array, Reward, Rollout, Transition, check_range


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of everything seen; the last two have x's structure."""

    count: Array  # float32 []
    mean: Any
    m2: Any


def moments(example: Any) -> Moments:
    """Moments of nothing yet, for values like one row of `example [N, ...]`."""
    zeros = lambda x: jnp.zeros(x.shape[1:], jnp.float32)
    return Moments(jnp.zeros(()), jax.tree.map(zeros, example), jax.tree.map(zeros, example))


def merge(state: Moments, x: Any, valid: Array) -> Moments:
    """Moments of what was seen and of `x [..., *shape]` where `valid [...]`, exactly as if computed at once.

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
    """Population deviation, with x's structure; 1 before anything was seen, so that dividing changes nothing."""

    def root(m2: Array) -> Array:
        return jnp.sqrt(jnp.where(state.count > 0, m2 / jnp.maximum(state.count, 1), 1.0))

    return jax.tree.map(root, state.m2)


def standardize(state: Moments, x: Any, clip: float = 10.0) -> Any:
    """(x - mean) / deviation of `x [..., *shape]`, within ±clip; x itself before anything was seen.

    Leaves of bools, such as a mask of legal actions, stay as they are.
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
    """The same agent, seeing standardised observations.

    `act` and the whole of `update` see the same frozen moments (else a policy ratio would not start at 1); what
    the block showed is merged last. The first block is seen as it is, and seeds the moments.
    """

    def init(key, obs):
        seen = moments(obs)
        return NormalizedState(agent.init(key, standardize(seen, obs, clip)), seen)

    def act(key, state, memory, obs):
        return agent.act(key, state.agent, memory, standardize(state.moments, obs, clip))

    def greedy(state, memory, obs):
        return agent.greedy(state.agent, memory, standardize(state.moments, obs, clip))

    def update(key, state, rollout):
        tr = rollout.transitions
        see = lambda obs: standardize(state.moments, obs, clip)
        block = Rollout(tr._replace(obs=see(tr.obs), next_obs=see(tr.next_obs)), rollout.memory)
        inner, metrics = agent.update(key, state.agent, block)
        return NormalizedState(inner, merge(state.moments, tr.obs, tr.valid)), metrics

    return agent._replace(init=init, act=act, greedy=greedy, update=update)


class RewardScale(NamedTuple):
    discounted: Array  # float32 [N]: each environment's discounted return so far in its episode
    moments: Moments


def discounted_so_far(start: Array, transitions: Transition, gamma) -> tuple[Array, Array]:
    """Gₜ = γ Gₜ₋₁ + rₜ within each episode: the value to carry on `[N]`, and G of every step `[T, N]`."""

    def step(before: Array, now: tuple[Array, Array, Array]):
        reward, ended, valid = now
        so_far: Array = jax.lax.select(valid, gamma * before + reward, jnp.zeros_like(before))
        return jax.lax.select(ended, jnp.zeros_like(so_far), so_far), so_far

    ended = transitions.terminated | transitions.truncated
    return jax.lax.scan(step, start, (transitions.reward, ended, transitions.valid))


def rewards(gamma, clip: float = 10.0) -> Reward:
    """Rewards divided by the running deviation of the discounted return, within ±clip; their mean is kept.

    The return is gathered within an episode and starts again from 0 after its last reward. A block's returns
    are merged into the moments first, then its rewards are divided: the scale is frozen at collection.
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
