"""Rewards from named terms, and transformations of rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from purerl import bellman, losses
from purerl.arguments import check_functions, check_range
from purerl.core import Array, Reward, Transition

Term = Callable[[Transition], Array]  # of a block [T, N, ...], or of anything with such leading axes


def environment(transitions: Transition) -> Array:
    """The current reward of the transitions, `[T, N]`."""
    return transitions.reward


def check_reward(name: str, value: Any, transitions: Transition) -> Array:
    """A reward as float32 `[T, N]`; raises a ValueError that names it if it has not the shape of the transitions."""
    wanted = transitions.reward.shape
    shape = jnp.shape(value) if hasattr(value, "dtype") or isinstance(value, float | int) else None
    if shape != wanted:
        hint = "; a function of hyperparameters must call its parameter hp" if isinstance(value, Reward) else ""
        found = f"{value!r:.80}{hint}" if shape is None else f"a reward of shape {shape}"
        raise ValueError(f"{name} gives {found}; it must be that of the transitions, {wanted}")
    return jnp.asarray(value, jnp.float32)


def mean_over_valid(x: Array, transitions: Transition) -> Array:
    """The mean of `x [T, N]` over the steps that are valid."""
    return losses.masked_mean(x, transitions.valid)


def term(function: Term | Reward, name: str | None = None) -> Reward:
    """Convert a function of transitions to a `Reward`; a `Reward` is returned unchanged.

    Raises:
      ValueError: if it is neither; when it is applied, if the function does not return one number per step.
    """
    if isinstance(function, Reward):
        return function
    if not callable(function):
        raise ValueError(f"{name or 'term'} is {function!r}; it must be a function of transitions, or a Reward")
    name = name or getattr(function, "__name__", repr(function))
    return Reward(lambda key, tr: (), lambda key, state, tr: ((), check_reward(name, function(tr), tr), {}))


def mean_over_steps(x: Array, transitions: Transition) -> Array:
    """The mean of `x [T, N]` over valid steps, of the environments in which it is nowhere NaN."""
    return losses.scorable_mean(x, transitions.valid)


def mean_over_episodes(x: Array, transitions: Transition) -> Array:
    """The mean over episodes of their sums of `x [T, N]`, in blocks of one episode for each environment.

    Episodes in which `x` is NaN do not count; NaN if there are no others.
    """
    total = jnp.where(transitions.valid, x, 0.0).sum(0)
    scored = ~jnp.isnan(total)
    return jnp.where(scored, total, 0.0).sum() / jnp.where(scored.any(), scored.sum(), jnp.nan)


def weighted(
    terms: Mapping[str, Term | Reward],
    weights: Mapping[str, Any],
    mean: Callable[[Array, Transition], Array] = mean_over_steps,
) -> Reward:
    """Σ wᵢ rᵢ of named terms; each term is logged before and after weighting.

    Args:
      terms: functions of transitions, or `Reward`s.  weights: a number for each, traced or not.
      mean: the mean that is logged, of a term `[T, N]` and transitions: over steps, or `mean_over_episodes`.
    Returns:
      A `Reward`; its metrics are `NAME` and `weighted/NAME`, means over steps, which reveal an infinite term. Where a
      term is NaN, because it cannot be scored, so is the sum, unless its weight is 0; its means are over the
      environments in which it is nowhere NaN, and NaN if there is none.
    Raises:
      ValueError: if the names differ, or a term does not return one number per step.
    """
    if set(terms) != set(weights):
        raise ValueError(f"weighted: terms are {sorted(terms)} and weights {sorted(weights)}; the names must agree")
    parts = {name: term(part, f"weighted: term {name!r}") for name, part in terms.items()}

    def init(key, transition):
        keys = jax.random.split(key, len(parts))
        return {name: part.init(k, transition) for k, (name, part) in zip(keys, parts.items(), strict=True)}

    def apply(key, state, transitions):
        total, metrics, after = jnp.zeros(transitions.reward.shape), {}, {}
        for own_key, (name, part) in zip(jax.random.split(key, len(parts)), parts.items(), strict=True):
            after[name], raw, more = part.apply(own_key, state[name], transitions)
            raw = check_reward(f"weighted: term {name!r}", raw, transitions)
            # a term of weight 0 is only reported, and may be NaN
            total = total + jnp.where(weights[name] == 0, 0.0, weights[name] * raw)
            value = mean(raw, transitions)
            metrics |= {**more, name: value, f"weighted/{name}": weights[name] * value}
        return after, total, metrics

    return Reward(init, apply)


def chain(*rewards: Term | Reward) -> Reward:
    """Compose rewards: each is applied to the reward of the previous one.

    Raises:
      ValueError: if two of them report a metric of the same name.
    """
    parts = [term(part) for part in rewards]

    def init(key, transition):
        return tuple(part.init(k, transition) for part, k in zip(parts, jax.random.split(key, len(parts)), strict=True))

    def apply(key, state, transitions):
        after, metrics = [], {}
        for part, own_key, own in zip(parts, jax.random.split(key, len(parts)), state, strict=True):
            own, reward, more = part.apply(own_key, own, transitions)
            if twice := sorted(metrics.keys() & more.keys()):
                raise ValueError(f"chain: two of its rewards report {', '.join(twice)}; give their terms other names")
            transitions = transitions._replace(reward=check_reward("chain: one of its rewards", reward, transitions))
            after.append(own)
            metrics |= more
        return tuple(after), transitions.reward, metrics

    return Reward(init, apply)


def scale(factor) -> Reward:
    """r · factor."""
    return term(lambda tr: factor * tr.reward, "scale")


def clip(low, high) -> Reward:
    """r clipped to [low, high]."""
    check_range("clip", low, math.inf, high=high)
    return term(lambda tr: jnp.clip(tr.reward, low, high), "clip")


def sign() -> Reward:
    """The sign of r, as for Atari games. Mnih et al., 2015, doi:10.1038/nature14236."""
    return term(lambda tr: jnp.sign(tr.reward), "sign")


def symlog() -> Reward:
    """sign(r) log(1 + |r|), see `bellman.symlog`. Hafner et al., 2023, arXiv:2301.04104, eq. 9."""
    return term(lambda tr: bellman.symlog(tr.reward), "symlog")


def when(
    condition: Callable[[Transition], Array], then: Term | Reward, otherwise: Term | Reward = environment
) -> Reward:
    """One reward where a condition holds, another elsewhere.

    Args:
      condition: a function of transitions to bool `[T, N]`.
    """
    check_functions("when", condition=condition)
    then, otherwise = term(then, "when: then"), term(otherwise, "when: otherwise")

    def init(key, transition):
        then_key, otherwise_key = jax.random.split(key)
        return then.init(then_key, transition), otherwise.init(otherwise_key, transition)

    def apply(key, state, transitions):
        keys = jax.random.split(key, 2)
        first, a, more = then.apply(keys[0], state[0], transitions)
        second, b, others = otherwise.apply(keys[1], state[1], transitions)
        holds = condition(transitions)
        if jnp.shape(holds) != transitions.reward.shape:
            raise ValueError(f"when: the condition has shape {jnp.shape(holds)}; it must be {transitions.reward.shape}")
        return (first, second), jnp.where(holds, a, b), {**more, **others}

    return Reward(init, apply)


def anneal(schedule: Callable[[Array], Any], reward: Term | Reward = environment) -> Reward:
    """A reward multiplied by a schedule over environment steps.

    Args:
      schedule: a function of the environment steps so far, float32 `[]`, to the factor, such as
        `lambda steps: schedules.linear(steps, 1.0, 0.0, 1e5)`; all steps of a block have the same factor.
    Returns:
      A `Reward`; its metric is `anneal`, the factor.
    """
    check_functions("anneal", schedule=schedule)
    inner = term(reward, "anneal: reward")

    def init(key, transition):
        return jnp.zeros((), jnp.int32), inner.init(key, transition)

    def apply(key, state, transitions):
        blocks, own = state
        own, given, metrics = inner.apply(key, own, transitions)
        factor = jnp.asarray(schedule(blocks.astype(jnp.float32) * transitions.reward.size), jnp.float32)
        return (blocks + 1, own), factor * given, {**metrics, "anneal": factor}

    return Reward(init, apply)
