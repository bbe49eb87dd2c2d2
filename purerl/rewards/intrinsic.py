"""Bonuses for novel states: visit counts and random network distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purerl import losses
from purerl.arguments import check_counts, check_functions, check_range
from purerl.core import Array, Network, Reward
from purerl.gradients import Trained, adam, sgd
from purerl.normalize import Moments, deviation, merge, moments, standardize
from purerl.rewards.terms import check_reward, mean_over_valid

ADAM = adam(None, eps=1e-8)


def fit(loss: Callable, params: Any, opt_state: Any, learning_rate, num_steps: int) -> tuple[Any, Any, Array]:
    """Minimise a loss by `num_steps` steps of Adam; returns parameters, optimiser state and losses `[num_steps]`."""

    def twice(params, _):
        value = loss(params)
        return value, value

    step = sgd(twice, ADAM)
    begin = Trained(params, opt_state, jnp.zeros((), jnp.int32))
    trained, values = jax.lax.scan(lambda state, _: step(state, (), learning_rate), begin, length=num_steps)
    return trained.params, trained.opt_state, values


def flatten_time(tree: Any) -> Any:
    """Leaves `[T, N, ...]` as `[T·N, ...]`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def count_bonus(index: Callable[[Any], Array], num: int, weight=1.0) -> Reward:
    """r + weight / √n(s'), where n counts the visits of s' so far, including those of the block.

    Args:
      index: a function of observations with leading axes `[T, N]` to state indices, int `[T, N]` in `[0, num)`.
      num: the number of states.  weight: the weight of the bonus.
    Returns:
      A `Reward`; its metric is `count_bonus`, the mean of 1 / √n.
    Reference: Strehl & Littman, 2008, "An analysis of model-based interval estimation", eq. 4; Bellemare et al., 2016,
      arXiv:1606.01868.
    """
    check_counts("count_bonus", num=num)
    check_functions("count_bonus", index=index)

    def apply(key, counts, transitions):
        del key  # not used
        at = index(transitions.next_obs)
        counts = counts.at[at].add(transitions.valid.astype(jnp.int32), mode="drop")
        bonus = 1 / jnp.sqrt(jnp.maximum(counts[at], 1).astype(jnp.float32))
        reward = check_reward("count_bonus: index", transitions.reward + weight * bonus, transitions)
        return counts, reward, {"count_bonus": mean_over_valid(bonus, transitions)}

    return Reward(lambda key, transition: jnp.zeros(num, jnp.int32), apply)


class RND(NamedTuple):
    """The state of `rnd`."""

    target: Any  # fixed parameters
    params: Any  # of the predictor
    opt_state: Any
    seen: Moments  # of observations
    discounted: Array  # float32 [N]: the bonus's discounted return, not reset at the ends of episodes
    returns: Moments  # of that


def rnd(
    network: Network, weight=1.0, learning_rate=1e-4, gamma=0.99, num_steps: int = 1, clip_obs: float = 5.0
) -> Reward:
    """Random network distillation: r + weight · bonus, the error of predicting a fixed random network's features of s'.

        bonus = ‖f(s') - f̂(s')‖² / F / σ,   f fixed, f̂ trained on every block

    Observations are standardised by their running moments and clipped; the bonus is divided by the running deviation σ
    of its discounted return, which continues across the ends of episodes.
    Args:
      network: the architecture of f and f̂: observations `[B, ...]` to features `[B, F]`.
      weight: the weight of the bonus.  learning_rate: the step size of Adam for f̂.  gamma: the discount in σ.
      num_steps: gradient steps on each block.  clip_obs: bound of standardised observations.
    Returns:
      A `Reward`; its metrics are `rnd`, the bonus's mean, and `rnd_loss`.
    Reference: Burda et al., 2018, arXiv:1810.12894, sections 2.2 to 2.4.
    """
    check_counts("rnd", num_steps=num_steps)
    check_range("rnd", 0, 1, gamma=gamma)
    check_range("rnd", 0, math.inf, learning_rate=learning_rate, clip_obs=clip_obs)

    def init(key, transition):
        target_key, key = jax.random.split(key)
        params = network.init(key, transition.next_obs)
        opt_state, discounted = ADAM.init(params), jnp.zeros(transition.reward.shape)
        target = network.init(target_key, transition.next_obs)
        return RND(target, params, opt_state, moments(transition.next_obs), discounted, moments(transition.reward))

    def apply(key, state, transitions):
        del key  # not used
        seen = merge(state.seen, transitions.next_obs, transitions.valid)
        obs = flatten_time(standardize(seen, transitions.next_obs, clip_obs))
        wanted = network.apply(state.target, obs)
        error = lambda params: jnp.square(network.apply(params, obs) - wanted).mean(-1)
        valid = transitions.valid.reshape(-1)
        raw = jnp.where(transitions.valid, error(state.params).reshape(transitions.reward.shape), 0.0)

        def gather(before, now):
            so_far = gamma * before + now
            return so_far, so_far

        discounted, gathered = jax.lax.scan(gather, state.discounted, raw)
        returns = merge(state.returns, gathered, transitions.valid)
        bonus = raw / jnp.maximum(deviation(returns), 1e-8)
        loss = lambda params: losses.masked_mean(error(params), valid)
        params, opt_state, values = fit(loss, state.params, state.opt_state, learning_rate, num_steps)
        state = RND(state.target, params, opt_state, seen, discounted, returns)
        metrics = {"rnd": mean_over_valid(bonus, transitions), "rnd_loss": values[0]}
        return state, transitions.reward + weight * bonus, metrics

    return Reward(init, apply)
