"""Rewards as pure functions of a block of transitions: build them from terms, change them, add to them.

A `Reward` is `init` and `apply` (see `purerl.core`); what a learner is paid is what `apply` gives, and what is reported
as the return stays the environment's own. `weighted` builds a reward from named terms; everything else takes the reward
that is there, `transitions.reward`, and changes it or adds to it, so that `chain` puts them one after another. Weights
and coefficients are numbers that may be traced: a sweep over designs is a `vmap`. Those that learn or count see every
block once, when it is collected: what a replay keeps is the reward as it was then.

>>> terms = {"task": environment, "effort": lambda tr: -abs(tr.action)}
>>> reward = chain(weighted(terms, {"task": 1.0, "effort": 0.5}), clip(-1.0, 1.0))
>>> one = lambda x: jnp.full((1, 1), x)  # a block of one step of one environment
>>> tr = Transition(one(0.0), one(3.0), one(1.2), one(0.0), one(False), one(False), one(True))
>>> key = jax.random.key(0)
>>> _, paid, metrics = reward.apply(key, reward.init(key, tr), tr)
>>> round(paid.item(), 2), metrics["effort"].item(), metrics["weighted/effort"].item()
(-0.3, -3.0, -1.5)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from purerl import bellman, losses
from purerl.core import Array, Key, Network, Reward, Transition, check_counts, check_functions, check_range
from purerl.normalize import Moments, deviation, merge, moments, standardize
from purerl.normalize import rewards as normalize
from purerl.updates import Trained, adam, sgd

__all__ = [
    "RND", "Term", "anneal", "chain", "clip", "count_bonus", "environment", "lagrangian", "learn_preferences",
    "modelled", "normalize", "potential", "preference_loss", "rnd", "scale", "sign", "symlog", "term", "terminal_bonus",
    "weighted", "when",
]  # fmt: skip

Term = Callable[[Transition], Array]  # of a block [T, N, ...], or of anything with such leading axes


def environment(transitions: Transition) -> Array:
    """The reward that is there."""
    return transitions.reward


def _checked(name: str, value: Any, transitions: Transition) -> Array:
    shape, wanted = jnp.shape(value), transitions.reward.shape
    if shape != wanted:
        raise ValueError(f"{name} gives a reward of shape {shape}; it must be that of the transitions, {wanted}")
    return jnp.asarray(value, jnp.float32)


def _mean(x: Array, transitions: Transition) -> Array:
    return losses.masked_mean(x, transitions.valid)


_ADAM = adam(None, eps=1e-8)


def _fit(loss: Callable, params: Any, opt_state: Any, learning_rate, num_steps: int) -> tuple[Any, Any, Array]:
    """Parameters after so many steps of Adam, the optimiser's state, and the loss before every step."""

    def twice(params, _):
        value = loss(params)
        return value, value

    step = sgd(twice, _ADAM)
    begin = Trained(params, opt_state, jnp.zeros((), jnp.int32))
    trained, values = jax.lax.scan(lambda state, _: step(state, (), learning_rate), begin, length=num_steps)
    return trained.params, trained.opt_state, values


def _flat(tree: Any) -> Any:
    """Leaves `[T, N, ...]` as `[T·N, ...]`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def term(function: Term | Reward, name: str | None = None) -> Reward:
    """A plain function of transitions as a `Reward`; a `Reward` as it is.

    Raises:
      ValueError: if it is neither; when it is applied, naming the function, if it does not give one number a step.
    """
    if isinstance(function, Reward):
        return function
    if not callable(function):
        raise ValueError(f"{name or 'term'} is {function!r}; it must be a function of transitions, or a Reward")
    name = name or getattr(function, "__name__", repr(function))
    return Reward(lambda key, tr: (), lambda key, state, tr: ((), _checked(name, function(tr), tr), {}))


def weighted(terms: Mapping[str, Term | Reward], weights: Mapping[str, Any]) -> Reward:
    """Σ wᵢ rᵢ of named terms, each of them logged as it is and as it counts.

    Args:
      terms: functions of transitions, or `Reward`s.  weights: a number of each, traced or not.
    Returns:
      A `Reward`; its metrics are `NAME` and `weighted/NAME`, means over steps. A term that is not finite shows there.
    Raises:
      ValueError: if the names differ, or a term does not give one number a step.
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
            raw = _checked(f"weighted: term {name!r}", raw, transitions)
            total = total + weights[name] * raw
            mean = _mean(raw, transitions)
            metrics |= {**more, name: mean, f"weighted/{name}": weights[name] * mean}
        return after, total, metrics

    return Reward(init, apply)


def chain(*rewards: Term | Reward) -> Reward:
    """One after another: each sees the reward that the one before it gave.

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
            transitions = transitions._replace(reward=_checked("chain: one of its rewards", reward, transitions))
            after.append(own)
            metrics |= more
        return tuple(after), transitions.reward, metrics

    return Reward(init, apply)


# --- changes of the reward that is there ----------------------------------------------------------------------------


def scale(factor) -> Reward:
    """r · factor."""
    return term(lambda tr: factor * tr.reward, "scale")


def clip(low, high) -> Reward:
    """r within [low, high]."""
    check_range("clip", low, math.inf, high=high)
    return term(lambda tr: jnp.clip(tr.reward, low, high), "clip")


def sign() -> Reward:
    """-1, 0 or 1, as for Atari games. Mnih et al., 2015, doi:10.1038/nature14236."""
    return term(lambda tr: jnp.sign(tr.reward), "sign")


def symlog() -> Reward:
    """sign(r) log(1 + |r|), see `bellman.symlog`. Hafner et al., 2023, arXiv:2301.04104, eq. 9."""
    return term(lambda tr: bellman.symlog(tr.reward), "symlog")


def when(
    condition: Callable[[Transition], Array], then: Term | Reward, otherwise: Term | Reward = environment
) -> Reward:
    """One reward where a condition holds, another where it does not.

    Args:
      condition: bool of the transitions, `[T, N]`.
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
    """A reward times a number that changes over the environment's steps.

    Args:
      schedule: the factor after so many steps, float32 `[]`, such as
        `lambda steps: schedules.linear(steps, 1.0, 0.0, 1e5)`; all steps of a block have the same one.
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


# --- what is added to it --------------------------------------------------------------------------------------------


def terminal_bonus(value, condition: Callable[[Transition], Array] | None = None) -> Reward:
    """r + value where the MDP ended (not where the clock did), or where it ended and a condition holds.

    Args:
      value: a number.  condition: bool of the transitions, `[T, N]`, such as `lambda tr: tr.next_obs[..., 0] > 0.5`.
    """

    def added(tr):
        here = tr.terminated if condition is None else tr.terminated & condition(tr)
        return tr.reward + jnp.where(here, value, 0.0)

    return term(added, "terminal_bonus")


def potential(phi: Callable[[Any], Array], gamma=None) -> Reward:
    """Shaping that leaves every optimal policy as it is.

        r + γ (1 - terminated) Φ(s') - Φ(s)

    Φ counts as 0 where the MDP ends, and as it is where the clock cut: there, values are bootstrapped.
    Args:
      phi: Φ, of observations with leading axes `[T, N]` to `[T, N]`.
      gamma: γ, the learner's own discount.
    Raises:
      ValueError: without γ, or for another shape.
    Reference: Ng, Harada & Russell, 1999, theorem 1; Grześ, 2017, "Reward shaping in episodic reinforcement learning".
    """
    if gamma is None:
        raise ValueError("potential: gamma is None; it must be the learner's, or shaping changes what is optimal")
    check_range("potential", 0, 1, gamma=gamma)
    check_functions("potential", phi=phi)

    def shaped(tr):
        now, after = _checked("potential: phi", phi(tr.obs), tr), _checked("potential: phi", phi(tr.next_obs), tr)
        return tr.reward + gamma * jnp.where(tr.terminated, 0.0, after) - now

    return term(shaped, "potential")


def count_bonus(index: Callable[[Any], Array], num: int, weight=1.0) -> Reward:
    """r + weight / √n(s'), n the visits of s' so far, those of the block included.

    Args:
      index: which of the counted states an observation is, int in `[0, num)`, for leading axes `[T, N]`.
      num: how many there are.  weight: of the bonus.
    Returns:
      A `Reward`; its metric is `count_bonus`, the mean of 1 / √n.
    Reference: Strehl & Littman, 2008, "An analysis of model-based interval estimation", eq. 4; Bellemare et al., 2016,
      arXiv:1606.01868.
    """
    check_counts("count_bonus", num=num)
    check_functions("count_bonus", index=index)

    def apply(key, counts, transitions):
        del key  # nothing is drawn
        at = index(transitions.next_obs)
        counts = counts.at[at].add(transitions.valid.astype(jnp.int32), mode="drop")
        bonus = 1 / jnp.sqrt(jnp.maximum(counts[at], 1).astype(jnp.float32))
        reward = _checked("count_bonus: index", transitions.reward + weight * bonus, transitions)
        return counts, reward, {"count_bonus": _mean(bonus, transitions)}

    return Reward(lambda key, transition: jnp.zeros(num, jnp.int32), apply)


class RND(NamedTuple):
    """The state of `rnd`."""

    target: Any  # parameters that never change
    params: Any  # of the predictor
    opt_state: Any
    seen: Moments  # of observations
    discounted: Array  # float32 [N]: the bonus's discounted return, over the ends of episodes
    returns: Moments  # of that


def rnd(
    network: Network, weight=1.0, learning_rate=1e-4, gamma=0.99, num_steps: int = 1, clip_obs: float = 5.0
) -> Reward:
    """r + weight · how badly a trained network predicts a random one of s': what is new is predicted badly.

        bonus = ‖f(s') - f̂(s')‖² / F / σ,   f fixed, f̂ trained on every block

    Observations are standardised by their running moments and clipped; the bonus is divided by the running deviation σ
    of its own discounted return, which does not end with episodes.
    Args:
      network: of f and f̂, with parameters of their own: observations `[B, ...]` to features `[B, F]`.
      weight: of the bonus.  learning_rate: of Adam for f̂.  gamma: the discount in σ.
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
        opt_state, discounted = _ADAM.init(params), jnp.zeros(transition.reward.shape)
        target = network.init(target_key, transition.next_obs)
        return RND(target, params, opt_state, moments(transition.next_obs), discounted, moments(transition.reward))

    def apply(key, state, transitions):
        del key  # nothing is drawn
        seen = merge(state.seen, transitions.next_obs, transitions.valid)
        obs = _flat(standardize(seen, transitions.next_obs, clip_obs))
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
        params, opt_state, values = _fit(loss, state.params, state.opt_state, learning_rate, num_steps)
        state = RND(state.target, params, opt_state, seen, discounted, returns)
        metrics = {"rnd": _mean(bonus, transitions), "rnd_loss": values[0]}
        return state, transitions.reward + weight * bonus, metrics

    return Reward(init, apply)


def lagrangian(cost: Term, limit, learning_rate=0.05, initial=0.0) -> Reward:
    """A task with a constraint: the reward less a multiple of a cost, which rises while the cost is above its limit.

        (r - λ c) / (1 + λ),   λ ← [λ + α (mean c - limit)]⁺   after every block

    Args:
      cost: of transitions, such as `lambda tr: tr.info["cost"]` (with `learner(..., info=("cost",))`).
      limit: of the mean cost of a step.  learning_rate: α.  initial: λ at first, ≥ 0.
    Returns:
      A `Reward`; its metrics are `cost`, the mean of a step, and `multiplier`, λ.
    Reference: Tessler, Mankowitz & Mannor, 2018, arXiv:1805.11074, eq. 5 and 9; dividing keeps rewards at one scale.
    """
    check_range("lagrangian", 0, math.inf, learning_rate=learning_rate, initial=initial)
    check_functions("lagrangian", cost=cost)

    def apply(key, multiplier, transitions):
        del key  # nothing is drawn
        paid = _checked("lagrangian: cost", cost(transitions), transitions)
        mean = _mean(paid, transitions)
        reward = (transitions.reward - multiplier * paid) / (1 + multiplier)
        after = jnp.maximum(multiplier + learning_rate * (mean - limit), 0.0)
        return after, reward, {"cost": mean, "multiplier": multiplier}

    return Reward(lambda key, transition: jnp.asarray(initial, jnp.float32), apply)


# --- rewards from preferences ---------------------------------------------------------------------------------------


def preference_loss(reward_a: Array, reward_b: Array, preferred) -> Array:
    """-log P(what was preferred), where segments are preferred by the softmax of their sums of rewards.

        P(b over a) = 1 / (1 + e^{Σ r_a - Σ r_b})

    Args:
      reward_a, reward_b: of every step, float `[..., L]`.  preferred: 1 for b, 0 for a, ½ for neither, `[...]`.
    Returns:
      Loss, float `[...]`.
    Reference: Christiano et al., 2017, arXiv:1706.03741, eq. 1; Bradley & Terry, 1952.

    >>> round(preference_loss(jnp.zeros(3), jnp.zeros(3), 1.0).item(), 4)
    0.6931
    """
    if jnp.shape(reward_a) != jnp.shape(reward_b):
        raise ValueError(f"preference_loss: segments have rewards of shapes {reward_a.shape} and {reward_b.shape}")
    gap = reward_b.sum(-1) - reward_a.sum(-1)
    return optax.sigmoid_binary_cross_entropy(gap, jnp.asarray(preferred, gap.dtype))


def learn_preferences(
    key: Key,
    network: Network,
    segments_a: Any,
    segments_b: Any,
    preferred: Array,
    num_steps: int = 500,
    learning_rate=1e-3,
) -> tuple[Any, Array]:
    """Parameters of a reward from preferences between pairs of segments, by Adam on `preference_loss` of all pairs.

    Args:
      network: what it sees of a step, leaves `[B, ...]`, to `[B]` or `[B, 1]`.
      segments_a, segments_b: what it sees, leaves `[P, L, ...]`: observations, or (observations, actions).
      preferred: `[P]`, see `preference_loss`.
    Returns:
      Parameters, for `modelled`, and the loss of every step, `[num_steps]`.
    """
    check_counts("learn_preferences", num_steps=num_steps)
    num, length = jax.tree.leaves(segments_a)[0].shape[:2]
    params = network.init(key, jax.tree.map(lambda x: x[:, 0], segments_a))
    rewards = lambda params, segments: network.apply(params, _flat(segments)).reshape(num, length)
    loss = lambda params: preference_loss(rewards(params, segments_a), rewards(params, segments_b), preferred).mean()
    params, _, values = _fit(loss, params, _ADAM.init(params), learning_rate, num_steps)
    return params, values


def modelled(network: Network, params: Any, see: Callable[[Transition], Any] = lambda tr: tr.obs) -> Reward:
    """The reward of a network, such as one that `learn_preferences` gave, in place of the one that is there.

    Args:
      see: what the network is shown of transitions: as it was shown of segments.
    """

    def reward(tr):
        given = network.apply(params, _flat(see(tr)))
        return given.reshape(tr.reward.shape) if given.size == math.prod(tr.reward.shape) else given

    return term(reward, "modelled: network")
