"""A finite Markov decision process as arrays, dense or as lists of successors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl.arguments import is_known
from purerl.core import Array


class MDP(NamedTuple):
    """An MDP with S states and A actions. The value of a terminal state is 0, for any P and R of that state.

    Dense: P `[S, A, S]`. Sparse: P `[S, A, K]`, the probabilities of the K `successors` of each pair, which may repeat.
    The arrays may be NumPy's; in float64 they stay so inside `jax.enable_x64()`.
    """

    P: Any  # float: probabilities of the next state
    R: Any  # float: rewards [S, A], or of each successor, shaped as P
    terminal: Any  # bool [S]
    start: Any = None  # float [S]: where episodes begin; None: in any state that is not terminal, alike
    successors: Any = None  # int [S, A, K]; None: dense
    legal: Any = None  # bool [S, A]: what can be done; None: all. P and R of the rest do not matter


def as_array(x: Any) -> Array:
    """`jnp.asarray`, of a copy where it is NumPy's in 64 bits: such an array may be captured in either precision.

    JAX caches captured arrays of a program by their identity, in the precision of that time. The same array
    given to a program of the other precision would be that buffer still, and end in an error (E0102).
    """
    if isinstance(x, np.ndarray) and x.dtype.itemsize == 8:
        x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype))
    return jnp.asarray(x)


def checked(mdp: MDP) -> MDP:
    """The same MDP.

    Raises:
      ValueError: if shapes disagree, or, where the arrays are not traced, if probabilities are not, or if nothing is
        legal in a state that is not terminal.

    >>> import numpy as np
    >>> checked(MDP(np.ones((2, 1, 1)), np.zeros((2, 1)), np.zeros(2, bool)))
    Traceback (most recent call last):
    ...
    ValueError: MDP: P has shape (2, 1, 1); without successors it must be (S, A, S)
    """
    shape = jnp.shape(mdp.P)
    if len(shape) != 3 or jnp.shape(mdp.terminal) != shape[:1]:
        raise ValueError(f"MDP: P has shape {shape} and terminal {jnp.shape(mdp.terminal)}, not (S, A, ·) and (S,)")
    if mdp.successors is None and shape[2] != shape[0]:
        raise ValueError(f"MDP: P has shape {shape}; without successors it must be (S, A, S)")
    wanted = {"R": (shape[:2], shape), "start": (shape[:1],), "successors": (shape,), "legal": (shape[:2],)}
    for name, shapes in wanted.items():
        x = getattr(mdp, name)
        if x is not None and jnp.shape(x) not in shapes:
            allowed = " or ".join(map(str, shapes))
            raise ValueError(f"MDP: {name} has shape {jnp.shape(x)}; it must be {allowed}, P being {shape}")
    if not is_known(mdp):
        return mdp
    on, sums = ~np.asarray(mdp.terminal), np.asarray(mdp.P).sum(-1)
    if mdp.legal is not None and not np.asarray(mdp.legal).any(-1)[on].all():
        state = int(np.flatnonzero(on & ~np.asarray(mdp.legal).any(-1))[0])
        raise ValueError(f"MDP: legal has no action in state {state}, which is not terminal; there must be one")
    there = np.broadcast_to(on[:, None] if mdp.legal is None else on[:, None] & np.asarray(mdp.legal, bool), shape[:2])
    if (np.asarray(mdp.P)[there] < 0).any() or not np.allclose(sums[there], 1, atol=1e-5):
        worst = np.unravel_index(np.argmax(np.abs(np.where(there, sums, 1) - 1)), sums.shape)
        at = tuple(int(i) for i in worst)
        raise ValueError(f"MDP: P must be probabilities; those of (state, action) {at} add up to {sums[worst]:g}")
    start = None if mdp.start is None else np.asarray(mdp.start)
    if start is not None and ((start < 0).any() or not np.isclose(start.sum(), 1, atol=1e-5)):
        raise ValueError(f"MDP: start has entries from {start.min():g} that add up to {start.sum():g}; "
                         "it must be probabilities")  # fmt: skip
    reward = np.asarray(mdp.R)
    bad = np.isnan(reward) & (there if reward.ndim == 2 else there[..., None] & (np.asarray(mdp.P) > 0))
    if bad.any():
        at = tuple(np.argwhere(bad)[0][:2].tolist())
        raise ValueError(f"MDP: R is NaN for (state, action) {at}; rewards of possible transitions must be numbers")
    if mdp.successors is not None:
        low, high = int(np.asarray(mdp.successors).min()), int(np.asarray(mdp.successors).max())
        if low < 0 or high >= shape[0]:
            raise ValueError(f"MDP: successors lie in {low} .. {high}; there are {shape[0]} states, from 0")
    return mdp


def start_of(mdp: MDP) -> Array:
    """The distribution of initial states, `[S]`."""
    if mdp.start is not None:
        return as_array(mdp.start)
    on = ~as_array(mdp.terminal)
    return on / on.sum()


def legal_of(mdp: MDP) -> Array | None:
    """The legal actions, bool `[S, A]`, or None if all are legal; in terminal states all are legal."""
    if mdp.legal is None:
        return None
    return as_array(mdp.legal).astype(bool) | as_array(mdp.terminal)[:, None]


def uniform(mdp: MDP) -> Array:
    """The uniform policy over legal actions, `[S, A]`."""
    num_states, num_actions, _ = jnp.shape(mdp.P)
    legal = legal_of(mdp)
    if legal is None:
        return jnp.full((num_states, num_actions), 1 / num_actions, as_array(mdp.P).dtype)
    return legal.astype(as_array(mdp.P).dtype) / legal.sum(-1, keepdims=True)


def expected_reward(mdp: MDP) -> Array:
    """E[r] of every pair, `[S, A]`; 0 in terminal states, -inf for illegal actions."""
    reward = as_array(mdp.R)
    reward = (as_array(mdp.P) * reward).sum(-1) if reward.ndim == 3 else reward
    reward = jnp.where(as_array(mdp.terminal)[:, None], 0.0, reward)
    legal = legal_of(mdp)
    return reward if legal is None else jnp.where(legal, reward, -jnp.inf)


def expectation_of_next(mdp: MDP) -> Callable[[Array], Array]:
    """The function from values `[S]`, 0 in terminal states, to E[V(s')] of every pair, `[S, A]`.

    Its data is prepared once: create it outside of a loop.
    """
    ends = as_array(mdp.terminal)
    probability = as_array(mdp.P)
    if mdp.successors is None:
        mean = lambda value: probability @ value
    else:
        # one array for the first successors, one for the second, …: XLA's sums over a short last axis are slow
        probability = jnp.moveaxis(probability, -1, 0)
        successors = jnp.moveaxis(as_array(mdp.successors), -1, 0)

        def mean(value):
            branches = zip(probability, successors, strict=True)
            return sum(p * jnp.take(value, s, mode="clip") for p, s in branches)

    return lambda value: jnp.where(ends[:, None], 0.0, mean(value))


def look_ahead(mdp: MDP, value: Array, gamma) -> Array:
    """Q(s,a) = E[r] + γ E[V(s')], `[S] -> [S, A]`; 0 in terminal states, -inf for illegal actions.

    >>> from purerl.tabular import worlds
    >>> look_ahead(worlds.random_walk(3), jnp.zeros(5), 1.0)[3].tolist()
    [0.0, 1.0]
    """
    return backup(mdp, gamma)(jnp.where(as_array(mdp.terminal), 0.0, value))


def backup(mdp: MDP, gamma) -> Callable[[Array], Array]:
    """`look_ahead` as a function of the values alone, 0 in terminal states, prepared once for many sweeps."""
    reward, expectation = expected_reward(mdp), expectation_of_next(mdp)
    return lambda value: reward + gamma * expectation(value)


def transition_matrix(mdp: MDP, policy: Array) -> Array:
    """P(s'|s) under a policy `[S, A]`, `[S, S]`; the rows of terminal states are 0."""
    weight = jnp.where(as_array(mdp.terminal)[:, None], 0.0, as_array(policy))[..., None] * as_array(mdp.P)
    if mdp.successors is None:
        return weight.sum(1)
    num_states = weight.shape[0]
    rows = jnp.broadcast_to(jnp.arange(num_states)[:, None, None], weight.shape)
    return jnp.zeros((num_states, num_states), weight.dtype).at[rows, as_array(mdp.successors)].add(weight)


def epsilon_soft(mdp: MDP, epsilon) -> MDP:
    """The dense MDP in which every action is a random legal one with probability ε: its optimum is the best ε-soft
    policy's.

    Reference: Sutton & Barto, 2018, section 5.4.
    """
    num_states, num_actions, _ = jnp.shape(mdp.P)
    each = jax.nn.one_hot(jnp.arange(num_actions), num_actions, dtype=as_array(mdp.P).dtype)
    matrix = jax.vmap(lambda a: transition_matrix(mdp, jnp.broadcast_to(a, (num_states, num_actions))), out_axes=1)
    legal, reward = legal_of(mdp), expected_reward(mdp)
    if legal is None:
        mean = lambda x: x.mean(1, keepdims=True)
    else:
        reward = jnp.where(legal, reward, 0.0)
        share = legal / legal.sum(1, keepdims=True)
        mean = lambda x: (share.reshape(*share.shape, *[1] * (x.ndim - 2)) * x).sum(1, keepdims=True)
    mix = lambda x: (1 - epsilon) * x + epsilon * mean(x)
    return mdp._replace(P=mix(matrix(each)), R=mix(reward), successors=None)
