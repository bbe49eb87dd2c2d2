"""Example MDPs, including those of textbooks. All except `garnet` are NumPy arrays in float64."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from purerl.core import Key
from purerl.tabular.mdp import MDP, checked

UP, RIGHT, DOWN, LEFT = (-1, 0), (0, 1), (1, 0), (0, -1)


def _at(num_states: int, *states: int) -> np.ndarray:
    return np.isin(np.arange(num_states), states)


def _from_steps(num_states: int, num_actions: int, step: Callable, terminal: np.ndarray, start: int) -> MDP:
    """An MDP from `step(state, action) -> [(probability, next state, reward), ...]`, always as many."""
    table = np.array([[step(s, a) for a in range(num_actions)] for s in range(num_states)], float)
    probability, successors, reward = np.moveaxis(table, -1, 0)
    begin = _at(num_states, start).astype(float)
    return checked(MDP(probability, reward, terminal, begin, successors.astype(np.int32)))


def _walk(rows: int, columns: int, state: int, move: tuple[int, int]) -> int:
    """The cell after a move on a grid with closed borders."""
    row, column = divmod(state, columns)
    return int(np.clip(row + move[0], 0, rows - 1) * columns + np.clip(column + move[1], 0, columns - 1))


def jumping_grid() -> MDP:
    """Five by five cells without an end; actions north, east, south, west. Off the grid: -1 and no move.

    Every action in cell (0, 1) gives 10 and leads to (4, 1); in (0, 3) it gives 5 and leads to (2, 3).
    Reference: Sutton & Barto, 2018, example 3.5.
    """
    jumps = {1: (21, 10.0), 3: (13, 5.0)}

    def step(state, action):
        if state in jumps:
            return [(1.0, *jumps[state])]
        following = _walk(5, 5, state, (UP, RIGHT, DOWN, LEFT)[action])
        return [(1.0, following, -1.0 if following == state else 0.0)]

    return _from_steps(25, 4, step, np.zeros(25, bool), 0)._replace(start=None)


def corner_grid() -> MDP:
    """Four by four cells, two corners terminal, -1 a step; actions north, east, south, west.

    Reference: Sutton & Barto, 2018, example 4.1.
    """
    step = lambda state, action: [(1.0, _walk(4, 4, state, (UP, RIGHT, DOWN, LEFT)[action]), -1.0)]
    return _from_steps(16, 4, step, _at(16, 0, 15), 1)._replace(start=None)


LAKES = {
    4: "SFFF FHFH FFFH HFFG",
    8: "SFFFFFFF FFFFFFFF FFFHFFFF FFFFFHFF FFFHFFFF FHHFFFHF FHFFHFHF FFFHFFFG",
}


def frozen_lake(size: int = 4, slippery: bool = True) -> MDP:
    """Gymnasium's FrozenLake: 1 at the goal, holes end it; actions left, down, right, up.

    slippery: the move is the one wanted or one to either side of it, with probability 1/3 each.
    Raises:
      ValueError: for another size than 4 or 8.
    """
    if size not in LAKES:
        raise ValueError(f"frozen_lake: size is {size!r}; it must be one of {', '.join(map(str, LAKES))}")
    cells = np.array(list(LAKES[size].replace(" ", "")))
    moves = (LEFT, DOWN, RIGHT, UP)

    def step(state, action):
        ways = [(action - 1) % 4, action, (action + 1) % 4] if slippery else [action]
        ends = [_walk(size, size, state, moves[way]) for way in ways]
        return [(1 / len(ways), end, float(cells[end] == "G")) for end in ends]

    return _from_steps(size * size, 4, step, np.isin(cells, ["H", "G"]), 0)


def gambler(p: float = 0.4, goal: int = 100) -> MDP:
    """Stakes on a coin that falls well with probability p, until the capital, the state, is 0 or the goal: 1 there.

    Action a stakes a + 1, but at most the capital, and at most the difference to the goal.
    Raises:
      ValueError: if p is no probability, or the goal is below 2.
    Reference: Sutton & Barto, 2018, example 4.3.
    """
    if not 0 <= p <= 1 or goal < 2:
        raise ValueError(f"gambler: p is {p} and goal {goal}; p must lie in [0, 1] and goal be at least 2")

    def step(state, action):
        stake = min(action + 1, state, goal - state)
        return [(p, state + stake, float(state + stake == goal)), (1 - p, state - stake, 0.0)]

    return _from_steps(goal + 1, goal // 2, step, _at(goal + 1, 0, goal), goal // 2)


def cliff() -> MDP:
    """Four by twelve cells; from the lower left corner to the lower right, -1 a step; between them a cliff.

    A step off it costs 100 and leads back to the start. Actions north, east, south, west.
    Reference: Sutton & Barto, 2018, example 6.6.
    """

    def step(state, action):
        following = _walk(4, 12, state, (UP, RIGHT, DOWN, LEFT)[action])
        return [(1.0, 36, -100.0)] if 36 < following < 47 else [(1.0, following, -1.0)]

    return _from_steps(48, 4, step, _at(48, 47), 36)


def windy_grid(kings: bool = False) -> MDP:
    """Seven by ten cells, -1 a step, and a wind that carries upward in the columns of the middle.

    Actions north, east, south, west; kings: the four diagonals as well.
    Reference: Sutton & Barto, 2018, example 6.5 and exercise 6.9.
    """
    wind = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
    moves = [UP, RIGHT, DOWN, LEFT] + [(-1, 1), (1, 1), (1, -1), (-1, -1)] * kings

    def step(state, action):
        down, right = moves[action]
        return [(1.0, _walk(7, 10, state, (down - wind[state % 10], right)), -1.0)]

    return _from_steps(70, len(moves), step, _at(70, 37), 30)


def random_walk(num_states: int = 5, left: float = 0.0, right: float = 1.0) -> MDP:
    """States 1 .. n in a row between two ends; actions left and right; a reward at either end. Starts in the middle.

    Under the uniform policy V(i) = left + (right - left) i / (n + 1).
    Reference: Sutton & Barto, 2018, examples 6.2 (n = 5) and 7.1 (n = 19, left = -1).
    """
    if num_states < 1:
        raise ValueError(f"random_walk: num_states is {num_states}; it must be at least 1")
    last = num_states + 1

    def step(state, action):
        following = min(max(state + (1 if action else -1), 0), last)
        return [(1.0, following, left if following == 0 else right if following == last else 0.0)]

    return _from_steps(last + 1, 2, step, _at(last + 1, 0, last), (num_states + 1) // 2)


def short_corridor() -> MDP:
    """Three cells before an end, -1 a step, actions left and right, which are swapped in the second cell.

    A policy that cannot tell the cells apart is best at p(right) = 2 - √2.
    Reference: Sutton & Barto, 2018, example 13.1.
    """

    def step(state, action):
        way = (1 if action else -1) * (-1 if state == 1 else 1)
        return [(1.0, min(max(state + way, 0), 3), -1.0)]

    return _from_steps(4, 2, step, _at(4, 3), 0)


def river_swim(num_states: int = 6) -> MDP:
    """A chain with a current to the left, without terminal states. Actions left and right.

    Left, downstream, is sure, and in the first state gives 0.005; right succeeds with probability 0.35 (0.6 in the
    first state), and in the last state gives 1.
    Reference: Strehl & Littman, 2008, figure 2, with rewards over 10,000.
    """
    if num_states < 2:
        raise ValueError(f"river_swim: num_states is {num_states}; it must be at least 2")
    last = num_states - 1

    def step(state, action):
        if action == 0:
            return [(1.0, max(state - 1, 0), 0.005 if state == 0 else 0.0), (0.0, state, 0.0), (0.0, state, 0.0)]
        if state == 0:
            return [(0.4, 0, 0.0), (0.6, 1, 0.0), (0.0, 0, 0.0)]
        if state == last:
            return [(0.4, last - 1, 1.0), (0.6, last, 1.0), (0.0, last, 0.0)]
        return [(0.05, state - 1, 0.0), (0.6, state, 0.0), (0.35, state + 1, 0.0)]

    return _from_steps(num_states, 2, step, np.zeros(num_states, bool), 0)


def garnet(key: Key, num_states: int, num_actions: int, branching: int) -> MDP:
    """A random MDP without terminal states: `branching` uniform successors and a standard normal reward per pair.

    Probabilities are the gaps between sorted uniform numbers. A pure function of the key, to be vmapped.
    Raises:
      ValueError: if a count is not positive, or branching exceeds the number of states.
    Reference: Archibald et al., 1995; Bhatnagar et al., 2009.
    """
    counts = {"num_states": num_states, "num_actions": num_actions, "branching": branching}
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1 or (name == "branching" and count > num_states):
            raise ValueError(f"garnet: {name} is {count!r}; it must be a positive int, branching at most num_states")
    where, how, what = jax.random.split(key, 3)
    pairs = (num_states, num_actions)
    order = jax.random.uniform(where, (*pairs, num_states)).argsort(-1)
    cuts = jnp.sort(jax.random.uniform(how, (*pairs, branching - 1)), axis=-1)
    probability = jnp.diff(cuts, axis=-1, prepend=0.0, append=1.0)
    reward = jax.random.normal(what, pairs)
    return MDP(probability, reward, jnp.zeros(num_states, bool), None, order[..., :branching].astype(jnp.int32))
