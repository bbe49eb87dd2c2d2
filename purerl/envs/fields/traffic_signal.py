"""A traffic signal: which phase of an intersection has green, with slots lost at every switch.

Time is in slots, queues are in cars, probabilities are per slot; the reward is minus the number of cars waiting.
`TrafficSignal-v0` has two approaches, and its optimum is exact, by relative value iteration on `two_approaches_mdp`;
`Intersection-v0` has eight movements in four phases, and no known optimum. Parameters: `TrafficSignalParams`.
Baselines: `exhaustive` switches when its own queue is empty, `max_pressure` follows the longer queues. Mean number of
cars waiting, with one lost slot and room for 15 cars:

| arrivals per slot | optimum | `exhaustive` | best `max_pressure` |
|---|---|---|---|
| 0.3, 0.3 | 1.57500 | 1.57500 | 2.18120 |
| 0.4, 0.3 | 2.23645 | 2.24649 | 3.22720 |

References: Hofri & Ross, 1987, "On the optimal control of two queues with server setup times and its analysis", SIAM
Journal on Computing 16; Varaiya, 2013, doi:10.1016/j.trc.2013.08.014 (max pressure).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import as_numbers, check_one_problem, check_range, check_whole, on_one_line
from purerl.core import Array
from purerl.envs.fields.pictures import bars
from purerl.tabular.mdp import MDP

TWO_APPROACHES = ((1, 0), (0, 1))
# movements: north, south, east, west straight on; north, south, east, west to the left
FOUR_PHASES = (
    (1, 1, 0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 1, 1, 0, 0),
    (0, 0, 1, 1, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 0, 1, 1),
)


@struct.dataclass
class TrafficSignalParams:
    """arrival: P(a car arrives in a slot), of each movement `[M]`.  room: cars that fit into the queue of a movement.

    lost: slots without service at a switch, at least 1.
    """

    arrival: Any = struct.field(default_factory=lambda: np.array([0.3, 0.3]))
    lost: Any = 1
    room: Any = 15
    max_steps_in_episode: int = 200


class TrafficSignalState(NamedTuple):
    """Cars waiting of each movement `[M]`, the phase that has or gets green, slots still lost, steps; all int32."""

    queue: Array
    phase: Array
    lost: Array
    time: Array


class TrafficSignal(Environment):
    """Choose in each slot of time which phase, a set of movements, has green.

    A slot in which the action is another phase than the current one begins a switch: it and the `lost` - 1 slots after
    it serve nothing, whatever the actions there. Otherwise each movement of the phase serves one waiting car. After
    service one car of movement m arrives with probability pₘ; it is lost where there is no room.

        q'ₘ = min(qₘ - [m is served and qₘ > 0] + Bernoulli(pₘ), room),   reward = -Σₘ qₘ, cars at the slot's start

    By Little's law the mean reward is minus the mean waiting time, slots, times the cars that enter per slot.
    Observations, float32 `[M + P + 1]`, are (log(1 + q) / log(1 + room), in which short queues are far apart, the phase
    one-hot, lost slots left / lost). The task is endless, truncated at `max_steps_in_episode`; it begins empty, in
    phase 0. `two_approaches_mdp` has the optimum of the smallest case by relative value iteration; `exhaustive` and
    `max_pressure` are rules for any.

    Args:
      phases: which movements each phase serves, 0 or 1, `[P, M]`.
      params: the default parameters.
    Raises:
      ValueError: for phases that leave a movement out, and in `reset_env` and `step_env` for parameters out of range.
    """

    def __init__(self, phases: Any = TWO_APPROACHES, params: TrafficSignalParams | None = None):
        self.phases = as_numbers("TrafficSignal", "phases", phases)
        shape = self.phases.shape
        if len(shape) != 2 or shape[0] < 2 or not np.isin(self.phases, (0, 1)).all() or not self.phases.any(0).all():
            raise ValueError(
                f"TrafficSignal: phases is {on_one_line(repr(phases))}; it must be zeros and ones [P, M], P at "
                "least 2, with every movement in a phase"
            )
        self._params = TrafficSignalParams() if params is None else params
        self._check(self._params)

    def _check(self, params: TrafficSignalParams) -> None:
        check_one_problem("TrafficSignal", TrafficSignalParams, params, arrival=1)
        check_traffic(params)
        if np.shape(params.arrival) != self.phases.shape[1:]:
            raise ValueError(
                f"TrafficSignal: arrival has shape {np.shape(params.arrival)}; it must be ({self.phases.shape[1]},), "
                "one probability for each movement"
            )

    @property
    def name(self) -> str:
        return "TrafficSignal-v0" if len(self.phases) == 2 else "Intersection-v0"

    @property
    def num_actions(self) -> int:
        return len(self.phases)

    @property
    def default_params(self) -> TrafficSignalParams:
        return self._params

    def reset_env(self, key, params):
        del key
        self._check(params)
        zero = jnp.zeros((), jnp.int32)
        state = TrafficSignalState(jnp.zeros(self.phases.shape[1], jnp.int32), zero, zero, zero)
        return self.see(state, params), state

    def step_env(self, key, state, action, params):
        self._check(params)
        action = jnp.asarray(action, jnp.int32)
        free = state.lost == 0
        switching = free & (action != state.phase)
        served = jnp.asarray(self.phases, bool)[state.phase] & free & ~switching
        arrived = jax.random.bernoulli(key, jnp.asarray(params.arrival, jnp.float32))
        queue = jnp.maximum(state.queue - served, 0) + arrived
        lost = jnp.where(switching, jnp.asarray(params.lost, jnp.int32), state.lost)
        after = TrafficSignalState(
            jnp.minimum(queue, jnp.asarray(params.room, jnp.int32)),
            jnp.where(switching, action, state.phase),
            jnp.maximum(lost - 1, 0),
            state.time + 1,
        )
        reward = -state.queue.sum().astype(jnp.float32)
        return self.see(after, params), after, reward, jnp.zeros((), bool), {"waiting": state.queue.sum()}

    def see(self, state: TrafficSignalState, params: TrafficSignalParams) -> Array:
        """The observation of a state, float32 `[M + P + 1]`."""
        phase = jax.nn.one_hot(state.phase, len(self.phases))
        seen = (jnp.log1p(state.queue) / jnp.log1p(params.room), phase, (state.lost / params.lost)[None])
        return jnp.concatenate([jnp.asarray(x, jnp.float32) for x in seen])

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(len(self.phases))

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (sum(self.phases.shape) + 1,), jnp.float32)

    def render(self, state, params):
        """The cars waiting of each movement, in green or red; in orange while slots are lost."""
        colors = np.where(self.phases[int(state.phase)] == 1, "C1" if state.lost else "C2", "C3")
        names = [str(m) for m in range(len(colors))]
        lost = ", slot lost" if state.lost else ""
        return bars(state.queue, names, (0, int(params.room)), f"cars waiting; phase {int(state.phase)}{lost}", colors)


def intersection(params: TrafficSignalParams | None = None) -> TrafficSignal:
    """Four approaches, each straight on and to the left, in four phases; no exact optimum is known."""
    if params is None:
        params = TrafficSignalParams(np.repeat([0.2, 0.08], 4), lost=2, room=20)
    return TrafficSignal(FOUR_PHASES, params)


def check_traffic(params: TrafficSignalParams) -> None:
    """Raise a ValueError that names the first parameter out of range; traced values are not checked."""
    check_range("TrafficSignal", 0, 1, arrival=params.arrival)
    check_whole("TrafficSignal", 1, 2**30, lost=params.lost, room=params.room)
    check_whole("TrafficSignal", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)


# --- rules ------------------------------------------------------------------------------------------------------------


def exhaustive(state: TrafficSignalState, phases: Any = TWO_APPROACHES) -> Array:
    """Stay until no car of the phase waits, then switch to the phase where most wait, if any does; int32 `[]`.

    phases: `[P, M]`.

    >>> exhaustive(TrafficSignalState(jnp.array([0, 2]), jnp.int32(0), jnp.int32(0), jnp.int32(0))).item()
    1
    """
    pressure = jnp.asarray(phases) @ state.queue
    stays = (pressure[state.phase] > 0) | (pressure.max() == 0)
    return jnp.where(stays, state.phase, pressure.argmax()).astype(jnp.int32)


def max_pressure(state: TrafficSignalState, phases: Any = TWO_APPROACHES, margin: Any = 0) -> Array:
    """Switch to the phase of most waiting cars if they exceed those of the current one by more than a margin; int32.

    phases: `[P, M]`.  margin: cars, at least 0; 0 is the rule of the paper, which knows no lost slots.

    Reference: Varaiya, 2013, doi:10.1016/j.trc.2013.08.014, for one intersection whose exits are free.

    >>> max_pressure(TrafficSignalState(jnp.array([1, 2]), jnp.int32(0), jnp.int32(0), jnp.int32(0))).item()
    1
    """
    pressure = jnp.asarray(phases) @ state.queue
    return jnp.where(pressure.max() > pressure[state.phase] + margin, pressure.argmax(), state.phase).astype(jnp.int32)


# --- two approaches, exactly ------------------------------------------------------------------------------------------


def every_state(params: TrafficSignalParams) -> TrafficSignalState:
    """All states of two approaches, int32 `[S, …]`, in the order of `two_approaches_mdp`; S = 2 (room + 1)² lost."""
    room, lost = int(params.room) + 1, int(params.lost)
    first, second, phase, left = (x.reshape(-1).astype(np.int32) for x in np.indices((room, room, 2, lost)))
    return TrafficSignalState(np.stack([first, second], -1), phase, left, np.zeros_like(phase))


def two_approaches_mdp(params: TrafficSignalParams) -> MDP:
    """`TrafficSignal` with two approaches as a finite MDP, whose average reward is minus the mean number of cars.

    Returns:
      An `MDP` of S = 2 (room + 1)² lost states, 2 actions and 4 successors, float64.
    Raises:
      ValueError: for parameters out of range, or of another number of approaches.

    >>> from purerl.tabular import relative_value_iteration
    >>> round(-relative_value_iteration(two_approaches_mdp(TrafficSignalParams()), tolerance=1e-4).gain.item(), 3)
    1.575
    """
    check_traffic(params)
    check_one_problem("two_approaches_mdp", TrafficSignalParams, params, arrival=1)
    if np.shape(params.arrival) != (2,):
        raise ValueError(
            f"two_approaches_mdp: arrival is {on_one_line(params.arrival)}; it must be two probabilities, of one system"
        )
    state = every_state(params)
    action = np.arange(2)
    switching = (state.lost == 0)[:, None] & (action != state.phase[:, None])
    green = np.arange(2) == state.phase[:, None]
    served = green[:, None] & (state.lost == 0)[:, None, None] & ~switching[..., None]
    queue = np.maximum(state.queue[:, None] - served, 0)
    phase = np.where(switching, action, state.phase[:, None])
    left = np.maximum(np.where(switching, int(params.lost), state.lost[:, None]) - 1, 0)
    successors, probabilities = [], []
    for arrived in np.ndindex(2, 2):
        new = np.minimum(queue + arrived, int(params.room))
        shape = (int(params.room) + 1, int(params.room) + 1, 2, int(params.lost))
        successors.append(np.ravel_multi_index((new[..., 0], new[..., 1], phase, left), shape))
        p = np.where(arrived, params.arrival, 1 - np.asarray(params.arrival, float)).prod()
        probabilities.append(np.full(phase.shape, p))
    reward = np.broadcast_to(-state.queue.sum(-1, dtype=float)[:, None], phase.shape)
    ends = np.zeros(len(reward), bool)
    return MDP(np.stack(probabilities, -1), reward, ends, successors=np.stack(successors, -1))
