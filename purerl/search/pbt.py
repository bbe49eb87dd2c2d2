"""Population-based training: members of a batch of runs copy better ones, and then change hyperparameters.

The exchange is a pure function between chunks of `training.run`. Jaderberg et al., 2017, arXiv:1711.09846.

>>> import jax, purerl
>>> from purerl.search import designs, pbt
>>> from purerl.search.spaces import log_uniform
>>> env, env_params = purerl.make("CartPole-v1")
>>> policy = purerl.distributions.for_space(env.action_space(env_params))
>>> agent = lambda hp: purerl.a2c(purerl.networks.actor_critic(policy), policy, hp)
>>> make = purerl.batch(lambda hp: purerl.learner(env, env_params, agent(hp), num_envs=8, rollout_length=5))
>>> space = {"learning_rate": log_uniform(1e-4, 1e-2), "entropy_cost": log_uniform(1e-4, 1e-1)}
>>> hp = pbt.members(purerl.A2C(), designs.sobol(space, 4))
>>> evolution = pbt.evolve(make, hp, jax.random.key(0), num_updates=8, every=4, exchange=pbt.exchange(space))
>>> [(generation.iteration, generation.parent.shape) for generation in evolution]  # log and save in such a loop
[(4, (4,)), (8, (4,))]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.arguments import check_counts, check_present
from purerl.core import Array, Key, Learner
from purerl.hyperparameters import hints_of, is_float
from purerl.search import spaces
from purerl.search.spaces import Interval, Space
from purerl.training.loop import as_arrays

__all__ = [
    "Generation",
    "History",
    "ancestors",
    "best",
    "copied",
    "declared",
    "evolve",
    "exchange",
    "explored",
    "gaussian",
    "history",
    "latest_returns",
    "members",
    "most_replaced",
    "perturb",
    "resample",
    "schedule",
    "truncation",
]

Select = Callable[[Key, Array], Array]  # scores float32 [n] -> the parent of each member, int32 [n]
Explore = Callable[[Key, Array, Interval], Array]  # a value float32 [], and the interval in which it is kept -> another

# --- exploit: who copies whom -----------------------------------------------------------------------------------------


def most_replaced(share: float, n: int) -> int:
    """The k of `truncation`, for n members that all have a finite score.

    >>> most_replaced(0.2, 8), most_replaced(0.0, 8), most_replaced(0.1, 2)
    (2, 0, 1)
    """
    return min(max(round(share * n), 1), n // 2) if share else 0


def truncation(share: float = 0.2) -> Select:
    """Truncation selection: each of the k lowest members copies one of the k highest, all as probable.

        k = min(max(round(share · n), 1), ⌊n / 2⌋), and 0 if share is 0

    A member whose score is NaN or +∞ is broken: it is replaced besides, nobody copies it, and it counts among the k
    lowest. One whose score is -∞ has none yet: it stays, and nobody copies it; k is at most half of the others then.
    Of equal scores the first is lower. Where no score is finite, nobody is replaced.

    Args:
      share: in [0, 0.5].
    Returns:
      `(key, scores float32 [n]) -> parent int32 [n]`; members that stay are their own parents.
    Raises:
      ValueError: for a share outside of its range.
    Reference: Jaderberg et al., 2017, arXiv:1711.09846, section 4.1.1.

    >>> truncation(0.5)(jax.random.key(0), jnp.array([3.0, 1.0])).tolist()
    [0, 0]
    >>> truncation(0.0)(jax.random.key(0), jnp.array([-jnp.inf, jnp.nan, 3.0])).tolist()
    [0, 2, 2]
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 0.5:
        raise ValueError(f"truncation: share is {share!r}; it must be a number in [0, 0.5]")

    def select(key: Key, scores: Array) -> Array:
        n, absent, finite = scores.shape[0], jnp.isneginf(scores), jnp.isfinite(scores)
        known = n - absent.sum()
        count = jnp.minimum(most_replaced(share, n), known // 2)
        order = jnp.lexsort((jnp.where(finite, scores, -jnp.inf), absent))  # broken ones first; stable
        rank = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
        parents = jnp.clip(finite.sum(), 1, jnp.maximum(count, 1))
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, parents))(jax.random.split(key, n))
        chosen = order[known - 1 - draw]
        broken = ~finite & ~absent
        replaced = ((rank < count) | broken) & finite.any()
        return jnp.where(replaced, chosen, jnp.arange(n)).astype(jnp.int32)

    return select


def copied(tree: Any, parent: Array) -> Any:
    """A population in which each member has what its parent had; keys remain those of the member.

    A member copies only a parent that stays, that is parent[parent[i]] = parent[i]: the copies are made in place, one
    after another. If the buffers of the tree are donated, as by `evolve`, the memory is that of the population and one
    member. The whole state of a parent is copied, its environments and its replay too, since a replay must remain
    consistent with the environments that it was filled from; only leaves that are typed keys are not, so that child
    and parent differ in what they sample.

    Args:
      tree: leaves `[n, ...]`; those without axes are shared by all members, and stay.
      parent: int32 `[n]`.

    >>> copied({"x": jnp.array([1.0, 2.0])}, jnp.array([1, 1]))["x"].tolist()
    [2.0, 2.0]
    """
    own = lambda x: not jnp.ndim(x) or jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    leaves, structure = jax.tree.flatten(tree)
    moving = [x for x in leaves if not own(x)]

    def copy(i, moving):
        row = [jax.lax.dynamic_index_in_dim(x, parent[i], keepdims=False) for x in moving]
        return [jax.lax.dynamic_update_index_in_dim(x, new, i, 0) for x, new in zip(moving, row, strict=True)]

    moved = iter(jax.lax.fori_loop(0, parent.shape[0], copy, moving))
    return structure.unflatten([x if own(x) else next(moved) for x in leaves])


# --- explore: other hyperparameters -----------------------------------------------------------------------------------


def perturb(*factors: float) -> Explore:
    """Multiplication by one of the factors, all as probable; without any, by 0.8 or 1.2.

    A value of 0 stays 0. In an interval that is narrower than the factors, such as [0.9, 1] of a discount, only its two
    ends are reached: use `gaussian` there.

    Raises:
      ValueError: for factors that are not positive and finite.
    """
    factors = factors or (0.8, 1.2)
    if not (np.isfinite(factors).all() and np.greater(factors, 0).all()):
        raise ValueError(f"perturb: factors are {', '.join(map(str, factors))}; they must be positive and finite")
    return lambda key, x, interval: x * jax.random.choice(key, jnp.array(factors, x.dtype))


def _width(function: str, interval: Interval) -> tuple[float, float]:
    """The ends of an interval, or of its logarithms."""
    if not np.isfinite(interval[:2]).all():
        raise ValueError(f"{function}: the interval is [{interval.low:g}, {interval.high:g}]; it must be finite: name "
                         "the hyperparameter in the space")  # fmt: skip
    low, high = np.log(interval[:2]) if interval.log else interval[:2]
    return float(low), float(high)


def gaussian(scale: float) -> Explore:
    """Addition of normal noise of standard deviation `scale` times the interval; of a log interval, in logarithms.

    Raises:
      ValueError: unless scale is positive and finite; at trace time, for an interval that is not finite.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"gaussian: scale is {scale!r}; it must be positive and finite")

    def explore(key, x, interval):
        low, high = _width("gaussian", interval)
        noise = scale * (high - low) * jax.random.normal(key, (), x.dtype)
        return x * jnp.exp(noise) if interval.log else x + noise

    return explore


def resample(probability: float = 0.25, otherwise: Explore | None = None) -> Explore:
    """With a probability a new value of the interval, uniform on its scale, and otherwise another exploration.

    Args:
      otherwise: None: `perturb()`.
    Raises:
      ValueError: for a probability outside of [0, 1]; at trace time, for an interval that is not finite.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"resample: probability is {probability!r}; it must lie in [0, 1]")
    otherwise = perturb() if otherwise is None else otherwise

    def explore(key, x, interval):
        low, high = _width("resample", interval)
        which_key, value_key, other_key = jax.random.split(key, 3)
        value = jax.random.uniform(value_key, (), x.dtype, low, high)
        value = jnp.exp(value) if interval.log else value
        return jnp.where(jax.random.bernoulli(which_key, probability), value, otherwise(other_key, x, interval))

    return explore


def declared(config: type) -> dict[str, Interval]:
    """The interval that each float of a config admits, as its field declares it; ends that are open are left out.

    >>> from purerl import PPO
    >>> declared(PPO)["gamma"], declared(PPO)["learning_rate"]
    (Interval(low=0.0, high=1.0, log=False), Interval(low=0.0, high=inf, log=False))
    """
    hints, tiny = hints_of(config), np.finfo(np.float32)
    found = {}
    for field in dataclasses.fields(config):
        if is_float(hints[field.name]):
            low, high, open_low = field.metadata.get("range", (None, None, False))
            low = -np.inf if low is None else float(low)
            # denormal numbers count as 0 in compiled programs
            above = max(float(np.nextafter(np.float32(low), np.float32(np.inf))), low + float(tiny.tiny))
            found[field.name] = Interval(above if open_low else low, np.inf if high is None else float(high))
    return found


def explored(key: Key, hp: Any, who: Array, intervals: Mapping[str, Interval], explore: Explore) -> Any:
    """Hyperparameters of a population of which some members have changed theirs.

    Each hyperparameter of each member has a key of its own.

    Args:
      hp: a `@config`; fields with an axis have one value for each member, float32 `[n]`.
      who: bool `[n]`, the members that change theirs.
      intervals: those in which values are kept, by the names of the fields that change.
    """
    changed = {}
    for index, (name, interval) in enumerate(intervals.items()):
        before = getattr(hp, name)
        keys = jax.random.split(jax.random.fold_in(key, index), len(before))
        after = jax.vmap(lambda key, x, interval=interval: explore(key, x, interval))(keys, before)
        changed[name] = jnp.where(who, jnp.clip(after, *interval[:2]), before)
    return dataclasses.replace(hp, **changed)


# --- the exchange -----------------------------------------------------------------------------------------------------


def _intervals(hp: Any, space: Space | None, n: int) -> dict[str, Interval]:
    """The intervals of the fields that are explored.

    Raises:
      ValueError: for hyperparameters or a space that do not fit.
    """
    if not dataclasses.is_dataclass(hp) or isinstance(hp, type):
        raise ValueError(f"exchange: hp is {hp!r:.60}; it must be an instance of a purerl.config class")
    everything = declared(type(hp))
    own = {name: x for name, x in everything.items() if np.ndim(getattr(hp, name))}
    if space is not None:
        spaces.check(space, type(hp))
    for name, dimension in (space or {}).items():
        if not isinstance(dimension, Interval):
            raise ValueError(f"exchange: the space has {name} as a choice; it must be an interval")
        if name not in own:
            raise ValueError(f"exchange: {name} has one value for all members; it must have one for each, [{n}]")
    for name in own:
        if np.shape(getattr(hp, name)) != (n,):
            raise ValueError(f"exchange: {name} has shape {np.shape(getattr(hp, name))}; it must be ({n},), as scores")
    if not own:
        raise ValueError(f"exchange: every field of hp has one value for all members; one must have shape ({n},)")
    return own if space is None else {name: x for name, x in space.items() if isinstance(x, Interval)}


def exchange(space: Space | None = None, select: Select | None = None, explore: Explore | None = None) -> Callable:
    """The exchange of a population: select, copy, and explore the hyperparameters of those that copied.

    It compiles for any number of members. A member that is not replaced keeps its hyperparameters and state to the
    bit, whatever happens to others; a child has the hyperparameters and the state of its parent, but for keys (see
    `copied`), and then changes its hyperparameters within their intervals, each with a key of its own.

    Args:
      space: intervals of the hyperparameters that are explored. None: every float of the config that has a value for
        each member, in the range that its field declares.
      select: None: `truncation(0.2)`. A parent that is itself replaced is not copied: its child stays as it is.
      explore: None: `perturb()`.
    Returns:
      `(key, hp, state, scores float32 [n]) -> (hp, state, parent int32 [n])`, where leaves of hp with an axis are
      `[n]`, those of the state `[n, ...]`, as for `training.batch`, and parents are their own where nothing changed.
      Higher scores are better; see `truncation` for those that are not finite.
    Raises:
      ValueError: at trace time, for hyperparameters or scores of other shapes, or a space that does not fit.
    Reference: Jaderberg et al., 2017, arXiv:1711.09846, algorithm 1.
    """
    select, explore = select or truncation(), explore or perturb()

    def apply(key: Key, hp: Any, state: Any, scores: Array) -> tuple[Any, Any, Array]:
        if jnp.ndim(scores) != 1:
            raise ValueError(f"exchange: scores has shape {jnp.shape(scores)}; it must be [n]")
        intervals = _intervals(hp, space, scores.shape[0])
        select_key, explore_key = jax.random.split(key)
        parent = select(select_key, scores)
        own = jnp.arange(len(parent), dtype=parent.dtype)
        parent = jnp.where(parent[parent] == parent, parent, own)
        hp, state = copied((hp, state), parent)
        return explored(explore_key, hp, parent != own, intervals, explore), state, parent

    return apply


# --- a loop -----------------------------------------------------------------------------------------------------------


class Generation(NamedTuple):
    """A population after an exchange: what the next generation starts from, and what the last one did."""

    iteration: int  # updates so far
    hp: Any  # with which the members go on
    state: Any  # leaves [n, ...]; valid until the next generation
    trained: Any  # the hyperparameters with which this generation was trained
    metrics: dict[str, Array]  # [n], of this generation
    scores: Array  # float32 [n], before the exchange
    parent: Array  # int32 [n]: from whom each member has its state


def latest_returns(state: Any, metrics: Mapping[str, Array], before: Array) -> Array:
    """The mean return of the episodes that finished in the generation, or the score before if none did, float32 `[n]`.

    NaN for a member whose metrics were not all finite; -∞ before its first episode has finished.
    """
    scores = jnp.where(metrics["episodes"] > 0, metrics["episode_return"], before)
    return jnp.where(state.nonfinite > 0, jnp.nan, scores)


def members(hp: Any, points: Sequence[Mapping[str, float]]) -> Any:
    """Hyperparameters of a population: each point of a design is a member, float32 `[n]` for each of its names.

    >>> from purerl import PPO
    >>> members(PPO(), [{"clip": 0.1}, {"clip": 0.3}]).clip.tolist()
    [0.10000000149011612, 0.30000001192092896]
    """
    if not points:
        raise ValueError("members: points is empty; each of them is a member")
    return dataclasses.replace(hp, **{name: jnp.array([point[name] for point in points]) for name in points[0]})


def evolve(
    make: Callable[[Any], Learner],
    hp: Any,
    key: Key,
    num_updates: int,
    every: int,
    exchange: Callable,
    score: Callable[[Any, Mapping[str, Array], Array], Array] = latest_returns,
    start: Generation | None = None,
) -> Iterator[Generation]:
    """Population-based training: generations of `every` updates, each followed by an exchange.

    The first half of the key gives the keys of the members, `split(split(key)[0], n)`; that of the exchange at an
    iteration is `fold_in(split(key)[1], iteration)`. A run that goes on from a generation therefore equals one that was
    not interrupted. Two programs are compiled.

    Args:
      make: of a batch: `purerl.batch(make)`, also over devices; with `isolate=True` each member is, bit for bit on a
        CPU, what it would be alone until it first copies another.
      hp: hyperparameters; leaves with an axis `[n]` have a value for each member. Not read if `start` is given.
      num_updates: updates of each member, counted from the beginning; `every` must divide it.
      every: updates of a generation.  exchange: such as `exchange(space)`.
      score: `(state, metrics, scores before) -> scores [n]`; before the first generation they are -∞.
      start: a generation that was yielded, to go on from; its state is donated.
    Yields:
      `Generation`; its state is valid until the next one (copy it to store it).
    Raises:
      ValueError: for counts that are not positive or do not divide, hyperparameters without an axis, or a start whose
        state was donated.
    """
    check_counts("evolve", num_updates=num_updates, every=every)
    if num_updates % every:
        raise ValueError(f"evolve: every is {every}; it must divide num_updates, which is {num_updates}")
    if start is not None:
        check_present("evolve", state=start.state)
        hp = start.hp
    sizes = {x.shape[0] for x in jax.tree.leaves(hp) if jnp.ndim(x)}
    if len(sizes) != 1:
        raise ValueError(f"evolve: leaves of hp have {sorted(sizes)} values; those of some must be [n], of others []")
    return _evolve(make, hp, key, num_updates, every, exchange, score, start, sizes.pop())


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _exchange(exchange, score, key, hp, state, metrics, before):
    scores = jnp.asarray(score(state, metrics, before), jnp.float32)
    hp, state, parent = exchange(key, hp, state, scores)
    return hp, state, scores, parent


def _evolve(make, hp, key, num_updates, every, exchange, score, start, n):
    member_key, exchange_key = jax.random.split(key)
    keys, state, scores, first = jax.random.split(member_key, n), None, jnp.full(n, -jnp.inf, jnp.float32), 0
    hp = as_arrays(hp)
    if start is not None:
        keys, state, scores, first = None, start.state, start.scores[start.parent], start.iteration
    for iteration in range(first + every, num_updates + 1, every):
        ((_, state, metrics),) = training.run(make, hp, keys, every, every, state)
        at, trained, keys = jax.random.fold_in(exchange_key, iteration), hp, None
        hp, state, scores, parent = _exchange(exchange, score, at, hp, state, metrics, scores)
        yield Generation(iteration, hp, state, trained, metrics, scores, parent)
        scores = scores[parent]


# --- lineage ----------------------------------------------------------------------------------------------------------


class History(NamedTuple):
    """The generations of a population, on the host."""

    iterations: np.ndarray  # int [G]: updates at the end of each
    scores: np.ndarray  # float [G, n]
    parents: np.ndarray  # int [G, n]
    hyperparameters: dict[str, np.ndarray]  # float [G, n], those with which each generation was trained


def history(generations: Sequence[Generation]) -> History:
    """The history of generations, of which the states are not read.

    Raises:
      ValueError: if there is none.
    """
    if not generations:
        raise ValueError("history: generations is empty; give those that `evolve` yielded")
    stack = lambda values: np.stack([np.asarray(x) for x in values])
    hps = [generation.trained for generation in generations]
    return History(
        stack(generation.iteration for generation in generations),
        stack(generation.scores for generation in generations),
        stack(generation.parent for generation in generations),
        {name: stack(getattr(hp, name) for hp in hps) for name, x in vars(hps[0]).items() if np.ndim(x)},
    )


def best(scores: np.ndarray) -> int:
    """The member of the highest of the scores `[n]` that are finite, the first of equal ones; 0 if none is finite.

    >>> best(np.array([1.0, np.inf, 3.0]))
    2
    """
    return int(np.where(np.isfinite(scores), scores, -np.inf).argmax())


def schedule(history: History, member: int | None = None) -> dict[str, np.ndarray]:
    """The hyperparameters, float `[G]` each, with which a member and its ancestors were trained.

    Args:
      member: one of the last generation. None: the one of its highest score.
    Raises:
      ValueError: if no score is finite.
    """
    if member is None:
        member = best(history.scores[-1])
        if not np.isfinite(history.scores[-1][member]):
            raise ValueError("schedule: no score of the last generation is finite; give a member")
    line = ancestors(history.parents, member)
    return {name: x[np.arange(len(line)), line] for name, x in history.hyperparameters.items()}


def ancestors(parents: np.ndarray, member: int) -> np.ndarray:
    """The members from which one comes: which of each generation, int `[G]`, has trained what it holds at the end.

    Args:
      parents: int `[G, n]`, the parents of each generation's exchange.
      member: one of the last generation, before its exchange, such as the one of the highest score.

    >>> ancestors(np.array([[0, 0], [1, 1], [0, 1]]), 0).tolist()
    [0, 1, 0]
    """
    found = [member]
    for parent in np.asarray(parents)[-2::-1]:
        found.append(int(parent[found[-1]]))
    return np.array(found[::-1])
