"""Enumeration of finite environments as MDPs, for comparison of learned policies with the exact optimum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import check_step_env
from purerl.core import Key, where_ended
from purerl.distributions import clip_to_space, is_discrete
from purerl.tabular.mdp import MDP, checked


class Enumerated(NamedTuple):
    """An environment's MDP and its states. The last state represents every termination."""

    mdp: MDP  # sparse, with the rewards of each successor
    states: Any  # the environment's, leaves [S - 1, ...]
    obs: Any  # [S - 1, ...]


def _rows(tree: Any, ignore: Sequence[str]) -> np.ndarray:
    """The bytes of each state, uint8 [B, bytes], without leaves that are ignored; NumPy leaves `[B, ...]`."""
    columns = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = str(getattr(path[-1], "name", getattr(path[-1], "key", ""))) if path else ""
        if name not in ignore:
            leaf = np.ascontiguousarray(leaf)
            leaf = leaf + 0 if leaf.dtype.kind == "f" else leaf  # -0.0 and 0.0 are one state
            columns.append(leaf.reshape(len(leaf), -1).view(np.uint8))
    return np.concatenate(columns, axis=1)


def _as_numpy(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def _probabilities(where: str, counts: np.ndarray, denominator: int | None) -> np.ndarray:
    share = counts / counts.sum()
    if denominator is None:
        return share
    exact = np.round(share * denominator)
    if exact.sum() != denominator or (exact == 0).any():
        raise ValueError(
            f"from_env: {where} has outcomes of {counts.tolist()} samples, which are not multiples of 1/{denominator}: "
            "give more samples, or another denominator"
        )
    return exact / denominator


def from_env(
    env: Any,
    env_params: Any,
    key: Key,
    num_samples: int = 64,
    denominator: int | None = None,
    start_denominator: int | None = None,
    ignore: Sequence[str] = (),
    max_states: int = 10_000,
) -> Enumerated:
    """Enumerate a finite environment: all states that can be reached, with transitions and rewards.

    Every state is stepped `num_samples` times with every action. Probabilities are frequencies, so they are exact where
    the environment is deterministic, or where a denominator is known: then they are rounded to its multiples. Only
    terminations end it; time limits do not. With an `action_mask` in observations only legal actions are tried, and the
    MDP says what that is.

    Args:
      env, env_params: a gymnax 1.x environment with Discrete actions, such as `purerl.make(id)` gives.
      denominator, start_denominator: of which transitions' and first states' probabilities are multiples of one.
      ignore: leaves of the state that make no difference, such as `("time",)` for a clock that only limits it.
        64 episodes of random actions are played, to the time limit or 1,000 steps, and must keep to the table.
      max_states: give up beyond these.
    Returns:
      See `Enumerated`.
    Raises:
      ValueError: if there are more states, an ignored leaf matters, or probabilities do not suit the denominator.

    >>> import purerl
    >>> env, env_params = purerl.make("TMaze-v0")
    >>> from_env(env, env_params.replace(length=3), jax.random.key(0), ignore=("time",)).mdp.P.shape
    (9, 4, 1)
    """
    check_step_env("from_env", env)
    space = env.action_space(env_params)
    if not is_discrete(space):
        raise ValueError(f"from_env: the action space is {space!r}; it must be Discrete")
    num_actions, chunk = int(space.n), 64
    reset_key, step_key, play_key = jax.random.split(key, 3)

    def step(key, state, action):
        obs, state, reward, terminated, _ = env.step_env(key, state, clip_to_space(space, action), env_params)
        return (obs, state), reward, jnp.asarray(terminated, bool)

    over_samples = jax.vmap(step, (0, None, None))
    over_actions = jax.vmap(over_samples, (0, None, 0))

    @jax.jit
    def over_states(key, states):
        keys = jax.random.split(key, (chunk, num_actions, num_samples))
        return jax.vmap(over_actions, (0, 0, None))(keys, states, jnp.arange(num_actions))

    def mask(obs) -> Any:
        """What observations `[B, ...]` say is legal, bool `[B, A]`; None if they do not."""
        return obs["action_mask"] if isinstance(obs, Mapping) and "action_mask" in obs else None

    def outcomes(key, states):
        """NumPy leaves [B, A, K, ...] of what follows states [B, ...], in calls of one shape."""
        size = len(jax.tree.leaves(states)[0])
        index = np.arange(size + -size % chunk) % size
        parts = []
        for i in range(0, len(index), chunk):
            part = jax.tree.map(lambda x: x[index[i : i + chunk]], states)
            parts.append(_as_numpy(over_states(jax.random.fold_in(key, i), part)))
        return jax.tree.map(lambda *x: np.concatenate(x)[:size], *parts)

    @jax.jit
    def play(key):
        """Random episodes: states [T, E, ...], actions [T, E], and what came of them."""
        limit = min(int(getattr(env_params, "max_steps_in_episode", 1000)), 1000)
        begin = jax.vmap(lambda key: env.reset(key, env_params))

        def one(seen, key):
            obs, state = seen
            act_key, step_key, reset_key = jax.random.split(key, 3)
            if mask(obs) is None:
                action = jax.random.randint(act_key, (64,), 0, num_actions)
            else:
                action = jax.random.categorical(act_key, jnp.where(mask(obs), 0.0, -jnp.inf))
            after, reward, end = jax.vmap(step)(jax.random.split(step_key, 64), state, action)
            fresh = begin(jax.random.split(reset_key, 64))
            return where_ended(end, fresh, after), (state, action, (after[1], reward, end))

        start_key, run_key = jax.random.split(key)
        return jax.lax.scan(one, begin(jax.random.split(start_key, 64)), jax.random.split(run_key, limit))[1]

    number: dict[bytes, int] = {}
    first: list[Any] = []  # each (obs, state) as it was first met

    def meet(looks: tuple[Any, Any]) -> list[int]:
        """Numbers of states of (obs, state) [B, ...], new ones for new states."""
        found = []
        for i, row in enumerate(_rows(looks[1], ignore)):
            name = row.tobytes()
            if name not in number:
                number[name] = len(first)
                first.append(jax.tree.map(lambda x: x[i], looks))
                if len(first) > max_states:
                    raise ValueError(
                        f"from_env: there are more than max_states, {max_states}, states; if they count time and "
                        "nothing else hangs on it, ignore=('time',)"
                    )
            found.append(number[name])
        return found

    def table(key, looks) -> list[list[dict[int, tuple[int, float]]]]:
        """Of states and actions: successor (-1: the end) -> (samples, sum of rewards); nothing of what is not legal."""
        obs, states = looks
        following, reward, terminated = outcomes(key, states)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), following)
        legal = np.ones(terminated.shape[:2], bool) if mask(obs) is None else np.asarray(mask(obs), bool)
        goes_on = (~terminated & legal[..., None]).reshape(-1)
        to = np.full(goes_on.shape, -1)
        if goes_on.any():
            to[goes_on] = meet(jax.tree.map(lambda x: x[goes_on], flat))
        to, rows = to.reshape(terminated.shape), []
        for s in range(len(to)):
            rows.append([])
            for a in range(num_actions):
                pairs: dict[int, tuple[int, float]] = {}
                seen = zip(to[s, a].tolist(), reward[s, a].tolist(), strict=True) if legal[s, a] else ()
                for successor, r in seen:
                    count, total = pairs.get(successor, (0, 0.0))
                    pairs[successor] = (count + 1, total + r)
                rows[-1].append(pairs)
        return rows

    stack = lambda looks: jax.tree.map(lambda *x: np.stack(x), *looks)
    starts = _as_numpy(jax.jit(jax.vmap(lambda key: env.reset(key, env_params)))(jax.random.split(reset_key, 4096)))
    start_counts = np.bincount(meet(starts))
    rows: list = []
    while len(rows) < len(first):
        rows += table(jax.random.fold_in(step_key, len(rows)), stack(first[len(rows) :]))
    begun, actions, (reached, rewards, terminated) = _as_numpy(play(play_key))
    flat = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
    number_of = lambda states: [number.get(row.tobytes()) for row in _rows(flat(states), ignore)]
    there = [-1 if end else to for end, to in zip(terminated.ravel(), number_of(reached), strict=True)]
    for s, a, to, r in zip(number_of(begun), actions.ravel().tolist(), there, rewards.ravel().tolist(), strict=True):
        count, total = (0, 0.0) if s is None else rows[s][a].get(to, (0, 0.0))
        if not count or not math.isclose(total / count, r, rel_tol=1e-4, abs_tol=1e-6):
            where = "a state not met before" if s is None else f"state {s}"
            to = "an end" if to == -1 else "a state not met before" if to is None else f"state {to}"
            raise ValueError(
                f"from_env: {where} with action {a} led to {to} with reward {r:g}, which {num_samples} samples of each "
                f"pair do not show: more hangs on what was ignored, {tuple(ignore)}, or chance has more outcomes: "
                "ignore less, or give more samples"
            )

    num_states, width = len(first) + 1, max(len(pairs) for row in rows for pairs in row)
    shape = (num_states, num_actions, width)
    probability, reward, successors = np.zeros(shape), np.zeros(shape), np.full(shape, num_states - 1, np.int32)
    probability[-1, :, 0] = 1
    for s, row in enumerate(rows):
        for a, pairs in enumerate(row):
            if not pairs:  # not legal
                continue
            to, counts, totals = zip(*((k, c, t) for k, (c, t) in sorted(pairs.items())), strict=True)
            k = np.arange(len(to))
            probability[s, a, k] = _probabilities(f"state {s} with action {a}", np.array(counts), denominator)
            reward[s, a, k] = np.array(totals) / np.array(counts)
            successors[s, a, k] = np.where(np.array(to) < 0, num_states - 1, to)
    start = np.zeros(num_states)
    start[: len(start_counts)] = _probabilities("the start", start_counts, start_denominator)
    terminal = np.arange(num_states) == num_states - 1
    obs, states = stack(first)
    legal = None
    if mask(obs) is not None:
        legal = np.concatenate([np.asarray(mask(obs), bool), np.ones((1, num_actions), bool)])
    return Enumerated(checked(MDP(probability, reward, terminal, start, successors, legal)), states, obs)


def from_gymnasium(P: Mapping[int, Mapping[int, Sequence[tuple]]], start: Any = None) -> MDP:
    """The MDP of a table of gymnasium's toy texts, `env.unwrapped.P`.

    A state that is only ever entered with `terminated` is terminal. If one is entered with and without, episodes that
    terminate there lead to one state more, the last. An action that a state does not have is not legal.
    Args:
      P: `P[state][action] = [(probability, next state, reward, terminated), ...]`, states from 0.
      start: where episodes begin, float `[S]`, such as `env.unwrapped.initial_state_distrib`; None: as of `MDP`.
    Returns:
      A sparse MDP with the rewards of each successor, float64.
    Raises:
      ValueError: if states or actions are not numbered from 0, a row is not of four entries, or the rest of `MDP`.

    >>> one_way = {0: {0: [(0.5, 0, -1.0, False), (0.5, 1, 2.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
    >>> mdp = from_gymnasium(one_way)
    >>> mdp.terminal.tolist(), (mdp.P * mdp.R).sum(-1).tolist()
    ([False, True], [[0.5], [0.0]])
    """
    states, actions = sorted(P), sorted({a for row in P.values() for a in row})
    for name, numbers in (("states", states), ("actions", actions)):
        if not numbers or numbers != list(range(len(numbers))):
            raise ValueError(
                f"from_gymnasium: {name} of P are {numbers[:10]}; they must be numbers from 0, all of them"
            )
    ways = {(s, a): [tuple(way) for way in row] for s in states for a, row in P[s].items()}
    for pair, row in ways.items():
        bad = [way for way in row if len(way) != 4 or way[1] not in P]
        if bad or not row:
            raise ValueError(
                f"from_gymnasium: P[{pair[0]}][{pair[1]}] has {bad[0] if bad else 'nothing'}; each must be "
                f"(probability, next state of {len(states)}, reward, terminated)"
            )
    flags: list[set[bool]] = [set() for _ in states]
    for row in ways.values():
        for p, to, _, ends in row:
            if p > 0:
                flags[to].add(bool(ends))
    extra = int(any(len(seen) == 2 for seen in flags))
    num_states, width = len(states) + extra, max(len(row) for row in ways.values())
    shape = (num_states, len(actions), width)
    probability, reward, successors = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int32)
    terminal = np.array([seen == {True} for seen in flags] + [True] * extra, bool)
    legal = np.ones(shape[:2], bool)
    probability[-1, :, 0] = extra
    successors[-1] = (num_states - 1) * extra
    for s in states:
        for a in actions:
            legal[s, a] = (s, a) in ways
            for k, (p, to, r, ends) in enumerate(ways.get((s, a), ())):
                elsewhere = ends and len(flags[to]) == 2
                probability[s, a, k], reward[s, a, k], successors[s, a, k] = p, r, num_states - 1 if elsewhere else to
    if start is not None:
        start = np.concatenate([np.asarray(start, np.float64), np.zeros(extra)])
    return checked(MDP(probability, reward, terminal, start, successors, None if legal.all() else legal))
