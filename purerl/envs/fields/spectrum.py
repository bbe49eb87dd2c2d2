"""Opportunistic spectrum access: which of several two-state channels to use, where only the channel used is seen.

A partially observed task with an exact ceiling, hence a test of agents with memory. Time is in slots, the reward is 1
in a slot whose channel was good; p01 and p11 are probabilities per slot, `SpectrumParams`. The optimum is that of
`belief_mdp`, by relative value iteration; `best_memoryless` is the ceiling of deterministic policies of the last
observation alone; `myopic` and `whittle` are policies of beliefs (`next_belief`), `stationary` the mean reward of a
channel that is never left. Mean reward per slot of N equal channels:

| N, p01, p11 | optimum | any fixed channel |
|---|---|---|
| 2, 0.2, 0.8 | 0.65 | 0.5 |
| 3, 0.2, 0.8 | 0.6937874 | 0.5 |
| 3, 0.6, 0.3 | 0.5383548 | 0.4615385 |

References: Zhao, Krishnamachari & Liu, 2008, arXiv:0712.0035; Liu & Zhao, 2010, arXiv:0810.4658.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import check_arrays, check_counts, check_one_problem, check_range, check_whole, is_known
from purerl.core import Array
from purerl.envs.fields.pictures import bars
from purerl.tabular.mdp import MDP


@struct.dataclass
class SpectrumParams:
    """p01, p11: P(good in the next slot) of a channel that is bad, and of one that is good, float `[N]` each."""

    p01: Any
    p11: Any
    max_steps_in_episode: int = 200


class SpectrumState(NamedTuple):
    """Which channels are good, bool `[N]`, the channel used last and the steps taken, int32."""

    good: Array
    used: Array
    time: Array


class Spectrum(Environment):
    """Use one of N independent channels in each slot; each is a Markov chain of two states, good and bad.

        reward = [channel a is good in this slot],   P(good next) = p11 if good, p01 if bad, for every channel

    The action is the channel. Only its state is seen: observations, float32 `[2 N]`, are one-hot in (channel used,
    whether it was bad or good), and all 0 before the first slot. The channels begin in their stationary law. The task
    is endless, truncated at `max_steps_in_episode`. The belief, P(good) of each channel given what was seen, is a
    sufficient statistic: `next_belief`. `belief_mdp` has the optimum; `myopic` and `whittle` are policies of beliefs.
    For equal channels with p11 ≥ p01, `myopic` is optimal: stay after good, otherwise go to the channel that was unseen
    for longest. In a fixed order of channels it needs no memory beyond the last observation; with p11 < p01 and N > 2
    the optimum does.

    Reference: Zhao, Krishnamachari & Liu, 2008, arXiv:0712.0035; Liu & Zhao, 2010, arXiv:0810.4658.
    Args:
      params: the default parameters, which determine N; None: N = 3, p01 = 0.9, p11 = 0.1.
    Raises:
      ValueError: for parameters that are not probabilities `[N]`, also in `reset_env` and `step_env`.
    """

    name: str = "Spectrum-v0"

    def __init__(self, params: SpectrumParams | None = None):
        self._params = equal_channels(3, 0.9, 0.1) if params is None else params
        check_spectrum(self._params)
        self._num_actions = np.shape(self._params.p01)[-1]

    @property
    def num_actions(self) -> int:
        return self._num_actions

    @property
    def default_params(self) -> SpectrumParams:
        return self._params

    def _check(self, params: SpectrumParams) -> None:
        _check_one("Spectrum", params)
        if np.shape(params.p01)[-1] != self._num_actions:
            raise ValueError(
                f"Spectrum: p01 has shape {np.shape(params.p01)}; it must be ({self._num_actions},), one probability "
                "for each channel"
            )

    def reset_env(self, key, params):
        self._check(params)
        good = jax.random.bernoulli(key, jnp.asarray(stationary(params.p01, params.p11), jnp.float32))
        state = SpectrumState(good, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return jnp.zeros(2 * self._num_actions, jnp.float32), state

    def step_env(self, key, state, action, params):
        self._check(params)
        action = jnp.asarray(action, jnp.int32)
        good = state.good[action]
        stays_good = jnp.where(state.good, params.p11, params.p01).astype(jnp.float32)
        state = SpectrumState(jax.random.bernoulli(key, stays_good), action, state.time + 1)
        obs = jax.nn.one_hot(2 * action + good, 2 * self._num_actions, dtype=jnp.float32)
        return obs, state, good.astype(jnp.float32), jnp.zeros((), bool), {"good": good}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (2 * self._num_actions,), jnp.float32)

    def render(self, state, params):
        """The channels, 1 if good, the one used last in another colour."""
        colors = np.where(np.arange(self._num_actions) == int(state.used), "C2", "C7")
        names = [str(n) for n in range(self._num_actions)]
        return bars(state.good, names, (0, 1.1), "good channels", colors)


def equal_channels(num_channels: int, p01: float, p11: float) -> SpectrumParams:
    """Parameters of N channels of the same law."""
    check_counts("equal_channels", num_channels=num_channels)
    params = SpectrumParams(np.full(num_channels, p01), np.full(num_channels, p11))
    check_spectrum(params)
    return params


def check_spectrum(params: SpectrumParams) -> None:
    """Raise a ValueError that names the first parameter out of range; traced values are not checked."""
    check_arrays("Spectrum", p01=params.p01, p11=params.p11)
    shapes = np.shape(params.p01), np.shape(params.p11)
    if shapes[0] != shapes[1] or not shapes[0] or not shapes[0][-1]:
        raise ValueError(
            f"Spectrum: p01 and p11 have shapes {shapes[0]} and {shapes[1]}; both must be (N,), N channels"
        )
    check_range("Spectrum", 0, 1, p01=params.p01, p11=params.p11)
    check_whole("Spectrum", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)
    if is_known(params.p01, params.p11) and ((np.asarray(params.p01) == 0) & (np.asarray(params.p11) == 1)).any():
        raise ValueError("Spectrum: a channel has p01 = 0 and p11 = 1; it never changes and has no stationary law")


def _check_one(function: str, params: SpectrumParams) -> None:
    check_one_problem(function, SpectrumParams, params, p01=1, p11=1)
    check_spectrum(params)


# --- beliefs ----------------------------------------------------------------------------------------------------------


def stationary(p01: Any, p11: Any) -> Any:
    """p01 / (p01 + 1 - p11): the probability of good in the stationary law, and the mean reward of any fixed channel.

    >>> round(stationary(0.2, 0.8), 9)
    0.5
    """
    return p01 / (p01 + 1 - p11)


def next_belief(belief: Any, action: Any, good: Any, params: SpectrumParams) -> Array:
    """P(good in the next slot) of each channel, `[N]`, from that in this slot, the channel used, and if it was good.

        ω'ᵢ = ωᵢ p11 + (1 - ωᵢ) p01,   with ωᵢ = 1 or 0 for the channel that was seen

    >>> [round(x, 3) for x in next_belief(jnp.array([0.5, 0.7]), 1, True, equal_channels(2, 0.2, 0.8)).tolist()]
    [0.5, 0.8]
    """
    belief = jnp.where(jnp.arange(jnp.shape(belief)[-1]) == action, jnp.asarray(good, float), belief)
    return belief * params.p11 + (1 - belief) * params.p01


def myopic(belief: Any) -> Array:
    """The channel most likely to be good, the first if equal, int32 `[...]`, of beliefs `[..., N]`."""
    return jnp.argmax(belief, -1).astype(jnp.int32)


def whittle(belief: Any, params: SpectrumParams) -> Array:
    """The channel of the largest Whittle index, the first if equal, int32 `[...]`, of beliefs `[..., N]`.

    For equal channels this is `myopic`. For others it is nearly optimal, and optimal in the limit of many channels.
    """
    return myopic(whittle_index(belief, params.p01, params.p11))


def whittle_index(belief: Any, p01: Any, p11: Any) -> Array:
    """The reward for not using a channel at which using it and not are equal, on average over time; `[...]`.

        W(ω) = ω                                                      ω ≤ min(p01, p11) or ω ≥ max(p01, p11)
        p11 > p01:  ((ω - ω₁) (L + 1) + ω_L) / (1 - p11 + (ω - ω₁) L + ω_L),   L = min {k: ω_L > ω}   ω < π
                    ω / (1 - p11 + ω)                                                                  ω ≥ π
        p11 < p01:  (ω + p01 - ω₁) / (1 + p01 - p + ω₁ - ω)                                            ω < π
                    p01 / (1 + p01 - max(p, ω))                                                        ω ≥ π

    ω₁ is the belief ω one slot later, ω_L is p01 after L slots, p is p11 after one, π the stationary probability.

    Reference: Liu & Zhao, 2010, arXiv:0810.4658, theorem 2.

    >>> [round(whittle_index(w, 0.2, 0.8).item(), 4) for w in (0.1, 0.35, 0.7)]
    [0.1, 0.4492, 0.7778]
    """
    belief, p01, p11 = jnp.broadcast_arrays(*(jnp.asarray(x, float) for x in (belief, p01, p11)))
    law, r = stationary(p01, p11), p11 - p01
    after = belief * p11 + (1 - belief) * p01
    share = jnp.clip((law - belief) / jnp.where(law > p01, law - p01, 1.0), 1e-30, 1.0)
    slots = jnp.floor(jnp.log(share) / jnp.log(jnp.clip(r, 1e-30, 1 - 1e-7))) + 1
    reached = law - (law - p01) * jnp.clip(r, 0.0, 1.0) ** slots
    waiting = (belief - after) * slots + reached
    positive = jnp.where(belief < law, (waiting + belief - after) / (1 - p11 + waiting), belief / (1 - p11 + belief))
    back = p11 * p11 + (1 - p11) * p01
    below = (belief + p01 - after) / (1 + p01 - back + after - belief)
    negative = jnp.where(belief < law, below, p01 / (1 + p01 - jnp.maximum(back, belief)))
    outside = (belief <= jnp.minimum(p01, p11)) | (belief >= jnp.maximum(p01, p11))
    return jnp.where(outside, belief, jnp.where(r > 0, positive, negative))


def best_memoryless(params: SpectrumParams) -> tuple[float, np.ndarray]:
    """The best average reward of a deterministic policy of the last observation alone, and its actions, int `[2 N]`.

    By enumeration of all N^{2N} policies, each by the stationary law of the channels and the observation; N is at
    most 3. A policy that is a ceiling for greedy agents without memory.

    Raises:
      ValueError: for more than 3 channels, or parameters out of range.

    >>> round(best_memoryless(equal_channels(2, 0.2, 0.8))[0], 6)
    0.65
    """
    _check_one("best_memoryless", params)
    num_channels = np.shape(params.p01)[0]
    if num_channels > 3:
        raise ValueError(f"best_memoryless: params are of {num_channels} channels; policies are enumerated for up to 3")
    good = np.array(list(np.ndindex(*[2] * num_channels)))
    p = np.where(good, params.p11, params.p01)[:, None]
    P = np.where(good, p, 1 - p).prod(-1)  # of the channels' states
    best, policy = -1.0, np.zeros(0, int)
    every, observations = np.arange(len(good)), np.arange(2 * num_channels)
    for actions in np.ndindex(*[num_channels] * len(observations)):
        reward = good[:, actions]  # [channels' states, observation]
        move = np.zeros((len(good), len(observations), len(good), len(observations)))
        for o in observations:
            move[every, o, :, 2 * actions[o] + reward[:, o]] = P
        size = reward.size
        matrix = np.append(np.eye(size) - move.reshape(size, size).T, np.ones((1, size)), 0)
        law = np.linalg.lstsq(matrix, np.append(np.zeros(size), 1.0), rcond=None)[0]
        if (average := law @ reward.reshape(-1)) > best + 1e-12:
            best, policy = float(average), np.array(actions)
    return best, policy


# --- the exact optimum ------------------------------------------------------------------------------------------------


class BeliefMDP(NamedTuple):
    """The beliefs that can be reached, float64 `[S, N]`, and the MDP of which they are the states."""

    belief: np.ndarray
    mdp: MDP


def belief_mdp(params: SpectrumParams, max_age: int) -> BeliefMDP:
    """`Spectrum` as an MDP of beliefs, whose average reward is that of the partially observed task.

    What is known of a channel is what was seen of it last, and how many slots ago: its age. From `max_age` on a channel
    counts as never seen, in its stationary law, an error of |p11 - p01|^max_age in its belief. State 0 is the
    beginning, before anything was seen.

    Returns:
      A `BeliefMDP` of N actions and 2 successors (bad, good), float64.
    Raises:
      ValueError: for parameters out of range, or an age that is no positive int.

    >>> from purerl.tabular import relative_value_iteration
    >>> mdp = belief_mdp(equal_channels(2, 0.2, 0.8), 20).mdp
    >>> round(relative_value_iteration(mdp, tolerance=1e-5).gain.item(), 3)
    0.65
    """
    check_counts("belief_mdp", max_age=max_age)
    _check_one("belief_mdp", params)
    p01, p11 = np.asarray(params.p01, float), np.asarray(params.p11, float)
    channels = np.arange(len(p01))
    # what is known of a channel: 0 nothing, 2 k + o outcome o seen k + 1 slots before, o = 1 bad, 2 good
    begin = (0,) * len(p01)
    index, states, successors = {begin: 0}, [begin], []
    for state in states:  # grows as it goes
        older = [x + 2 if 0 < x <= 2 * (max_age - 2) else 0 for x in state]
        row = []
        for action in channels:
            for seen in (1, 2):
                new = (*older[:action], seen, *older[action + 1 :])
                if new not in index:
                    index[new] = len(states)
                    states.append(new)
                row.append(index[new])
        successors.append(row)
    known = np.array(states)
    age, good = (known + 1) // 2, known % 2 == 0
    law = stationary(p01, p11)
    belief = law + np.where(known > 0, (np.where(good, p11, p01) - law) * (p11 - p01) ** np.maximum(age - 1, 0), 0.0)
    shape = (len(states), len(p01), 2)
    P = np.stack([1 - belief, belief], -1)
    return BeliefMDP(belief, MDP(P, belief, np.zeros(len(states), bool), successors=np.reshape(successors, shape)))
