"""Driving on a highway among vehicles that follow the intelligent driver model and change lanes by MOBIL.

Distances are in m, times in s, speeds in m/s; a step is one second, and the reward is in [0, 1]. Parameters:
`HighwayParams`. No optimum is known; a return is at most the number of seconds of an episode. `Highway-v0` is
highway-v0 of the package highway-env, to which it is held step by step; `Highway(**FAST)` with `fast_params()` is
highway-fast-v0, where the package's documentation gives a DQN's return as 19.7. `car_following` has the part of the
task whose optimum is exact.

References: Treiber, Hennecke & Helbing, 2000, arXiv:cond-mat/0002177; Kesting, Treiber & Helbing, 2007,
doi:10.3141/1999-10; Leurent, 2018, "An environment for autonomous driving decision-making".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.arguments import (
    NOT_NEGATIVE,
    POSITIVE,
    check_counts,
    check_flags,
    check_one_problem,
    check_range,
    check_whole,
)
from purerl.core import Array

LENGTH, WIDTH = 5.0, 2.0  # of a vehicle, m
LANE_WIDTH = 4.0  # m
MAX_SPEED = 40.0  # m/s
MAX_STEERING, MAX_ACCELERATION = np.pi / 3, 6.0  # rad, m/s²
SPEED_GAIN, HEADING_GAIN, LATERAL_GAIN = 1 / 0.6, 1 / 0.2, 1 / 0.6  # 1/s
TARGET_SPEEDS = np.linspace(20.0, 30.0, 3)  # of the agent, m/s
PERCEPTION = 5 * MAX_SPEED  # m
SEEN = 5  # rows of an observation
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
EGO = 0  # the index of the agent's vehicle


@struct.dataclass
class HighwayParams:
    """The traffic and the reward; every field may be an array of many variants under `vmap`.

    density: traffic relative to the default one, > 0.  ego_spacing: the space before the agent, relative to others'.
    speed_limit: m/s.  acceleration: a, deceleration: b, > 0, m/s².  jam_distance: d₀, m, between centres.
    headway: T, s.  politeness: p in [0, 1].  gain: m/s².  max_braking: m/s².  delay: between decisions, s.
    collision_reward, right_lane_reward, speed_reward: weights of the reward.  low_speed, high_speed: m/s, rewarded
    with 0 and 1.  max_steps_in_episode: the time limit, s.
    """

    density: Any = 1.0
    ego_spacing: Any = 2.0
    speed_limit: Any = 30.0
    acceleration: Any = 3.0
    deceleration: Any = 5.0
    jam_distance: Any = 10.0
    headway: Any = 1.5
    politeness: Any = 0.0
    gain: Any = 0.2
    max_braking: Any = 2.0
    delay: Any = 1.0
    collision_reward: Any = -1.0
    right_lane_reward: Any = 0.1
    speed_reward: Any = 0.4
    low_speed: Any = 20.0
    high_speed: Any = 30.0
    max_steps_in_episode: int = 40


class HighwayState(NamedTuple):
    """The vehicles, the agent's first; floats `[V]` but where it says otherwise."""

    x: Array  # along the road, m
    y: Array  # to the right of the leftmost lane's centre, m
    heading: Array  # rad
    speed: Array  # m/s
    target_lane: Array  # int32 [V], from 0 on the left
    target_speed: Array  # m/s
    timer: Array  # since the last decision about the lane, s
    exponent: Array  # δ
    crashed: Array  # bool [V]
    impact: Array  # displacement [V, 2] by a collision, in the next frame, m
    struck: Array  # whether there is one, bool [V]
    time: Array  # int32 scalar, s


class Highway(Environment):
    """Drive fast and on the right among other vehicles, without a collision.

    A step is one second, of `frequency` frames of length dt. Every vehicle is a bicycle,

        β = arctan(½ tan δ_f),   ẋ = v cos(ψ + β),   ẏ = v sin(ψ + β),   ψ̇ = v sin β / (L/2),   v̇ = a,   L = 5 m

    and steers to the centre of its target lane, at the lateral offset e, with gains K₁ = 1/0.6 and K₂ = 1/0.2 s⁻¹:

        ψ_ref = arcsin(-K₁ e / v) in ±π/4,   δ_f = arctan(2 tan arcsin(L/2 · K₂ (ψ_ref - ψ) / v)) in ±π/3

    The agent's actions are lane left, idle, lane right, faster and slower: they set its target lane and its target
    speed v* of 20, 25 or 30 m/s, and a = (v* - v) / 0.6. The others accelerate by the intelligent driver model,

        a = a₀ (1 - (v / v*)^δ - (d* / d)²),   d* = d₀ + T v + v Δv / (2 √(a₀ b))

    behind a vehicle in front at distance d, which they approach at Δv: in their lane and, during a change, in the
    target lane too, with the lower a of both, in ±6 m/s². Once in a second each may change its lane, by MOBIL: if the
    new follower brakes by at most 2 m/s² and

        ã - a + p (ã_new - a_new + ã_old - a_old) ≥ 0.2 m/s²     (~: after the change; new and old: followers)

    and gives a change up when another vehicle closer than d* ahead moves into the same lane. Vehicles whose rectangles
    intersect have crashed: they brake by a = -v, pushed apart. The reward is

        ((-1) crashed + 0.1 lane / (lanes - 1) + 0.4 clip((v cos ψ - 20) / 10, 0, 1) + 1) / 1.5,   0 off the road

    The episode terminates when the agent's vehicle has crashed, and is truncated after 40 s. Observations, float32
    `[5, 5]`, are (presence, x, y, vx, vy) of the agent's vehicle and, relative to it, of the nearest four from 10 m
    behind to 200 m ahead, divided by 200 m, the width of the road, and 80 m/s, in [-1, 1]; zeros where there is none.

    This is highway-v0 of highway-env 1.12.1, of which one step from the same state is the same to rounding, as long as
    no vehicle comes to the end of its road at 10 km. `Highway(**FAST)` with `fast_params()` is its highway-fast-v0.
    64-bit JAX computes in float64.

    References: Treiber, Hennecke & Helbing, 2000, arXiv:cond-mat/0002177 (IDM); Kesting, Treiber &
    Helbing, 2007, doi:10.3141/1999-10 (MOBIL); Leurent, 2018, "An environment for autonomous driving
    decision-making". A rule to compare agents with: `follow_traffic`.
    Args:
      num_lanes: L.
      num_vehicles: beside the agent's.
      frequency: frames per second.
      others_collide: whether vehicles other than the agent's crash into each other.
    Raises:
      ValueError: for a count that is not positive, and in `reset_env` and `step_env` for parameters out of range.
    """

    name: str = "Highway-v0"
    num_actions: int = 5

    def __init__(self, num_lanes: int = 4, num_vehicles: int = 50, frequency: int = 15, others_collide: bool = True):
        check_counts("Highway", num_lanes=num_lanes, num_vehicles=num_vehicles, frequency=frequency)
        check_flags("Highway", others_collide=others_collide)
        self._num_lanes, self._num_vehicles, self._frequency = num_lanes, num_vehicles + 1, frequency
        self._others_collide = others_collide

    @property
    def default_params(self) -> HighwayParams:
        return HighwayParams()

    def reset_env(self, key, params):
        _check(params)
        lane_key, speed_key, space_key, exponent_key = jax.random.split(key, 4)
        shape, dtype = (self._num_vehicles,), jnp.result_type(float)
        is_ego = jnp.arange(self._num_vehicles) == EGO
        lane = jax.random.randint(lane_key, shape, 0, self._num_lanes, jnp.int32)
        low, high = 0.7 * params.speed_limit, 0.8 * params.speed_limit
        speed = jnp.where(is_ego, 25.0, low + (high - low) * jax.random.uniform(speed_key, shape, dtype))
        spacing = jnp.where(is_ego, params.ego_spacing, 1 / params.density)
        space = spacing * (12 + speed) * np.exp(-self._num_lanes / 8)
        x = 3 * space[EGO] + jnp.cumsum(space * jax.random.uniform(space_key, shape, dtype, 0.9, 1.1))
        y = LANE_WIDTH * lane.astype(dtype)
        zero = jnp.zeros(shape, dtype)
        state = HighwayState(
            x=x,
            y=y,
            heading=zero,
            speed=speed,
            target_lane=lane,
            target_speed=speed,
            timer=((x + y) * np.pi) % params.delay,
            exponent=jax.random.uniform(exponent_key, shape, dtype, 3.5, 4.5),
            crashed=zero > 0,
            impact=jnp.zeros((*shape, 2), dtype),
            struck=zero > 0,
            time=jnp.zeros((), jnp.int32),
        )
        return self._see(state), state

    def step_env(self, key, state, action, params):
        del key
        _check(params)
        frame = partial(_frame, params, self._num_lanes, 1 / self._frequency, self._others_collide)
        state = _command(state, action, self._num_lanes)._replace(time=state.time + 1)
        begin = state, _ordered(state.x)
        state, _ = jax.lax.fori_loop(0, self._frequency, lambda _, carry: frame(*carry), begin)
        crashed = state.crashed[EGO]
        info = {"crashed": crashed, "speed": state.speed[EGO].astype(jnp.float32)}
        return self._see(state), state, self._reward(state, params), crashed, info

    def _reward(self, state, params):
        forward = state.speed[EGO] * jnp.cos(state.heading[EGO])
        fast = jnp.clip((forward - params.low_speed) / (params.high_speed - params.low_speed), 0, 1)
        right = state.target_lane[EGO] / max(self._num_lanes - 1, 1)
        total = params.collision_reward * state.crashed[EGO]
        total = total + params.right_lane_reward * right + params.speed_reward * fast
        best = params.speed_reward + params.right_lane_reward
        total = (total - params.collision_reward) / (best - params.collision_reward)
        y = state.y[EGO]
        on_road = jnp.abs(y - LANE_WIDTH * _closest_lane(y, self._num_lanes)) <= LANE_WIDTH / 2
        return jnp.asarray(jnp.where(on_road, total, 0), jnp.float32)

    def _see(self, state):
        velocity = state.speed * jnp.stack([jnp.cos(state.heading), jnp.sin(state.heading)])
        features = jnp.stack([state.x, state.y, *velocity], -1)
        relative = features - features[EGO]
        ahead, distance = relative[:, 0], jnp.hypot(relative[:, 0], relative[:, 1])
        near = (distance < PERCEPTION) & (ahead > -2 * LENGTH) & (jnp.arange(self._num_vehicles) != EGO)
        missing = SEEN - 1 - min(SEEN - 1, self._num_vehicles)
        _, nearest = jax.lax.top_k(jnp.where(near, -jnp.abs(ahead), -jnp.inf), SEEN - 1 - missing)
        rows = jnp.concatenate([features[EGO][None], relative[nearest]])
        width = LANE_WIDTH * self._num_lanes
        scale = jnp.array([PERCEPTION, width, 2 * MAX_SPEED, 2 * MAX_SPEED])
        present = jnp.append(True, near[nearest])[:, None]
        rows = jnp.concatenate([jnp.ones_like(rows[:, :1]), jnp.clip(rows / scale, -1, 1)], -1)
        return jnp.pad(jnp.where(present, rows, 0), ((0, missing), (0, 0))).astype(jnp.float32)

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Discrete(5)

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (SEEN, 5), jnp.float32)

    def render(self, state, params):
        """A figure of the road around the agent's vehicle, which is green; vehicles that crashed are red."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
        from matplotlib.transforms import Affine2D

        del params
        figure = Figure(figsize=(8, 1.8))
        axis = figure.add_axes((0.02, 0.28, 0.96, 0.7))  # where it is must not depend on its labels
        middle, road = float(state.x[EGO]), LANE_WIDTH * (self._num_lanes - 0.5)
        for i in range(self._num_lanes + 1):
            inner = 0 < i < self._num_lanes
            axis.axhline(LANE_WIDTH * (i - 0.5), color="gray", linestyle="--" if inner else "-", linewidth=1)
        for i in range(self._num_vehicles):
            x, y, heading = (float(z[i]) for z in (state.x, state.y, state.heading))
            color = "tab:red" if state.crashed[i] else "tab:green" if i == EGO else "tab:blue"
            turned = Affine2D().rotate(heading).translate(x, y) + axis.transData
            axis.add_patch(Rectangle((-LENGTH / 2, -WIDTH / 2), LENGTH, WIDTH, color=color, transform=turned))
        axis.set(xlim=(middle - 40, middle + 110), ylim=(road + 1, -LANE_WIDTH / 2 - 1), xlabel="m", yticks=[])
        axis.set_aspect("equal")
        return figure


def follow_traffic(state: HighwayState, params: HighwayParams, num_lanes: int, share: Any = 1.0) -> Array:
    """The agent's action if it drives by the two models of the others: a rule to compare agents with.

    A lane change that MOBIL recommends at the highest target speed, to the right if both are; otherwise one level
    towards the highest target speed v whose desired gap is free before the vehicles in its own and its target lane,

        share · d*(v, v - v_front) ≤ d,   and the lowest if there is none

    Args:
      state: of one environment.  num_lanes: L.  share: of the desired gap that is kept, ≥ 0.
    """
    lane, speeds = _closest_lane(state.y, num_lanes), jnp.asarray(TARGET_SPEEDS, state.x.dtype)
    around, sides = _neighbours(state, _ordered(state.x), num_lanes), jnp.stack([lane - 1, lane + 1])
    free = state._replace(target_speed=state.target_speed.at[EGO].set(speeds[-1]))
    recommended, _ = _mobil(params, free, around, lane, sides)
    keeps = lane[EGO] == state.target_lane[EGO]
    left, right = (recommended & _reachable(state.y, sides, num_lanes))[:, EGO] & keeps
    front = jnp.stack([_in_lane(around.front, lane)[EGO], _in_lane(around.front, state.target_lane)[EGO]])
    gap = _gap(params, speeds[:, None], speeds[:, None] - state.speed[front])
    fits = ((front < 0) | (share * gap <= state.x[front] - state.x[EGO])).all(-1)
    best, level = jnp.max(jnp.where(fits, jnp.arange(len(speeds)), 0)), _level(state)
    change = jnp.where(best > level, FASTER, jnp.where(best < level, SLOWER, IDLE))
    return jnp.where(right, RIGHT, jnp.where(left, LEFT, change)).astype(jnp.int32)


FAST = {"num_lanes": 3, "num_vehicles": 20, "frequency": 5, "others_collide": False}


def fast_params() -> HighwayParams:
    """The parameters of highway-fast-v0: 30 s, and less space before the agent."""
    return HighwayParams(ego_spacing=1.5, max_steps_in_episode=30)


def _check(params: HighwayParams) -> None:
    check_one_problem("Highway", HighwayParams, params)
    check_whole("Highway", 1, 2**31 - 1, max_steps_in_episode=params.max_steps_in_episode)
    positive = ("density", "speed_limit", "acceleration", "deceleration", "delay")
    check_range("Highway", *POSITIVE, **{name: getattr(params, name) for name in positive})
    not_negative = ("ego_spacing", "jam_distance", "headway", "max_braking")
    check_range("Highway", *NOT_NEGATIVE, **{name: getattr(params, name) for name in not_negative})
    check_range("Highway", 0, 1, politeness=params.politeness)
    finite = ("gain", "collision_reward", "right_lane_reward", "speed_reward", "low_speed", "high_speed")
    check_range("Highway", -POSITIVE[1], POSITIVE[1], **{name: getattr(params, name) for name in finite})
    # rewards are divided by their range, and speeds by theirs
    spread = params.speed_reward + params.right_lane_reward - params.collision_reward
    check_range("Highway", *POSITIVE, **{"speed_reward + right_lane_reward - collision_reward": spread})
    check_range("Highway", *POSITIVE, **{"high_speed - low_speed": params.high_speed - params.low_speed})


# --- one frame --------------------------------------------------------------------------------------------------------


def _not_zero(x: Array) -> Array:
    """x, but at least 0.01 away from 0: distances and speeds are divided by."""
    return jnp.asarray(jnp.where(jnp.abs(x) > 0.01, x, jnp.where(x >= 0, 0.01, -0.01)))


def _wrap(angle: Array) -> Array:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _closest_lane(y: Array, num_lanes: int) -> Array:
    """The lane whose centre is the nearest, int32 `[...]`; the left one of two that are as near."""
    return jnp.clip(jnp.ceil(y / LANE_WIDTH - 0.5), 0, num_lanes - 1).astype(jnp.int32)


def _reachable(y: Array, lane: Array, num_lanes: int) -> Array:
    return (lane >= 0) & (lane < num_lanes) & (jnp.abs(y - LANE_WIDTH * lane) <= 2 * LANE_WIDTH)


def _level(state: HighwayState) -> Array:
    """The index of the agent's speed among the target speeds, int32."""
    share = (state.speed[EGO] - TARGET_SPEEDS[0]) / (TARGET_SPEEDS[-1] - TARGET_SPEEDS[0])
    return jnp.clip(jnp.round(share * (len(TARGET_SPEEDS) - 1)), 0, len(TARGET_SPEEDS) - 1).astype(jnp.int32)


def _command(state: HighwayState, action: Array, num_lanes: int) -> HighwayState:
    """The agent's new target lane and target speed."""
    lane, count = state.target_lane[EGO], len(TARGET_SPEEDS)
    moved = jnp.clip(lane + (action == RIGHT) - (action == LEFT), 0, num_lanes - 1)
    lane = jnp.where(_reachable(state.y[EGO], moved, num_lanes), moved, lane)
    level = _level(state) + (action == FASTER) - (action == SLOWER)
    asked = jnp.asarray(TARGET_SPEEDS)[jnp.clip(level, 0, count - 1)].astype(state.speed.dtype)
    speed = jnp.where((action == FASTER) | (action == SLOWER), asked, state.target_speed[EGO])
    return state._replace(
        target_lane=state.target_lane.at[EGO].set(lane.astype(jnp.int32)),
        target_speed=state.target_speed.at[EGO].set(speed),
    )


class _Order(NamedTuple):
    """The vehicles from the rearmost on, of those at one place the last one first; int32 `[V]` each."""

    vehicle: Array  # at each position
    position: Array  # of each vehicle
    behind: Array  # how many are behind each vehicle


def _ordered(x: Array) -> _Order:
    index = jnp.arange(len(x), dtype=jnp.int32)
    behind = (x[:, None] < x).sum(0, dtype=jnp.int32)  # for so few, comparisons are faster than sorting
    position = behind + ((x[:, None] == x) & (index[:, None] > index)).sum(0, dtype=jnp.int32)
    vehicle = jnp.where(position[:, None] == index, index[:, None], 0).sum(0, dtype=jnp.int32)
    return _Order(vehicle, position, behind)


class _Neighbours(NamedTuple):
    """The vehicles in front and behind in each lane, int32 `[L, V]`, -1 where there is none."""

    front: Array
    rear: Array


def _neighbours(state: HighwayState, order: _Order, num_lanes: int) -> _Neighbours:
    """A vehicle is in every lane whose edge is at most 1 m away from its centre.

    Of several at one place, the front is the last and the rear the first; at a vehicle's own place others are in front.
    """
    count = len(state.x)
    lanes = LANE_WIDTH * jnp.arange(num_lanes, dtype=state.y.dtype)
    within = jnp.abs(state.y[order.vehicle] - lanes[:, None]) <= LANE_WIDTH / 2 + 1  # [L, V], by position
    place = jnp.arange(count, dtype=jnp.int32)
    # the nearest position in the lane from each one on, and up to the one before it; count and -1 for none
    up = _cumulative(jnp.where(within, place, count)[:, ::-1], count, jnp.minimum)[:, ::-1]
    up = jnp.pad(up, ((0, 0), (0, 1)), constant_values=count)
    down = _cumulative(jnp.where(within, place, -1), -1, jnp.maximum)
    down = jnp.pad(down, ((0, 0), (1, 0)), constant_values=-1)
    beside, ahead = up[:, order.behind], up[:, order.position + 1]
    front, rear = jnp.where(beside < order.position, beside, ahead), down[:, order.behind]
    vehicle = lambda place: jnp.where((place >= 0) & (place < count), order.vehicle[place], -1)
    return _Neighbours(vehicle(front), vehicle(rear))


def _cumulative(x: Array, fill: int, combine: Callable[[Array, Array], Array]) -> Array:
    """The cumulative minimum or maximum along the last axis."""
    step = 1
    while step < x.shape[-1]:
        x = combine(x, jnp.pad(x[..., :-step], ((0, 0), (step, 0)), constant_values=fill))
        step *= 2
    return x


def _gap(params: HighwayParams, speed: Array, closing: Array) -> Array:
    """d*, of a vehicle's speed and the speed at which it comes closer."""
    braking = 2 * jnp.sqrt(params.acceleration * params.deceleration)
    return params.jam_distance + speed * params.headway + speed * closing / braking


class _Driver(NamedTuple):
    """What the intelligent driver model knows of vehicles, `[...]` each."""

    x: Array
    speed: Array
    cos: Array  # of the heading
    sin: Array
    target_speed: Array


def _closing(vehicle: Any, front: Any) -> Array:
    """Δv, the speed at which vehicles come closer to those in front, along their own heading."""
    return vehicle.speed - front.speed * (front.cos * vehicle.cos + front.sin * vehicle.sin)


def _idm(params: HighwayParams, exponent: Array, vehicle: _Driver, front: _Driver, led: Array) -> Array:
    """The acceleration of vehicles `[...]` behind those in front, where `led`; elsewhere that of a free road."""
    free = jnp.maximum(vehicle.speed, 0) / jnp.abs(_not_zero(jnp.clip(vehicle.target_speed, 0, params.speed_limit)))
    gap = _gap(params, vehicle.speed, _closing(vehicle, front))
    near = jnp.where(led, (gap / _not_zero(front.x - vehicle.x)) ** 2, 0)
    return params.acceleration * (1 - free**exponent - near)


def _in_lane(table: Array, lane: Array) -> Array:
    """Entries `[..., V]` of a table `[L, V]`; lanes outside of the road are taken for its outermost."""
    return table[jnp.clip(lane, 0, len(table) - 1), jnp.arange(table.shape[1])]


def _mobil(
    params: HighwayParams, state: HighwayState, around: _Neighbours, lane: Array, sides: Array
) -> tuple[Array, Array]:
    """Whether MOBIL recommends a change to the lanes of the sides, bool `[2, V]`; accelerations in lanes, `[L, V]`."""
    own = _Driver(state.x, state.speed, jnp.cos(state.heading), jnp.sin(state.heading), state.target_speed)
    front, rear = (_Driver(*jnp.stack(own)[:, who]) for who in around)
    led, followed = around.front >= 0, around.rear >= 0
    ahead = _idm(params, state.exponent, own, front, led)
    # of the vehicle behind, if this one is before it and if it is not
    imposed = jnp.where(followed, _idm(params, state.exponent, rear, own, followed), 0)
    before = jnp.where(followed, _idm(params, state.exponent, rear, front, led), 0)
    harm = before - imposed
    gain = _in_lane(ahead, sides) - _in_lane(ahead, lane)
    gain = gain + params.politeness * (_in_lane(harm, lane) - _in_lane(harm, sides))
    return (_in_lane(imposed, sides) >= -params.max_braking) & (gain >= params.gain), ahead


def _target_lanes(
    params: HighwayParams, state: HighwayState, recommended: Array, lane: Array, drives: Array, num_lanes: int
) -> tuple[Array, Array]:
    """The new target lanes and timers, `[V]` each. Vehicles decide in their order, and see earlier decisions."""
    index, old = jnp.arange(len(lane)), state.target_lane
    decides = drives & (lane == old) & (state.timer > params.delay)
    sides = jnp.stack([lane - 1, lane + 1])
    moves = recommended & decides & _reachable(state.y, sides, num_lanes) & (jnp.abs(state.speed) >= 1)
    chosen = jnp.where(moves[1], sides[1], jnp.where(moves[0], sides[0], old))
    changes = drives & (lane != old)
    velocity = state.speed * jnp.stack([jnp.cos(state.heading), jnp.sin(state.heading)])  # [2, V]
    along = (velocity[0] * jnp.cos(state.heading)[:, None]) + (velocity[1] * jnp.sin(state.heading)[:, None])
    speed = state.speed[:, None]
    ahead = state.x - state.x[:, None]
    close = (ahead > 0) & (ahead < _gap(params, speed, speed - along)) & (index[:, None] != index)
    earlier = index < index[:, None]
    goal = jnp.where(earlier, chosen, old)  # of each column's vehicle, for a row's, unless it gives it up
    rivals = close & changes[:, None] & (lane != old[:, None]) & (goal == old[:, None])

    def taken(gives_up):
        """Who has a rival, if those before it that `gives_up` names are none."""
        return (rivals & ~(earlier & gives_up)).any(-1)

    # a decision depends on earlier ones alone, so that repetition ends at the decisions in their order
    def repeat(pair):
        return pair[1], taken(pair[1])

    first = rivals.any(-1)
    _, gives_up = jax.lax.while_loop(lambda pair: (pair[0] != pair[1]).any(), repeat, (first, taken(first)))
    target = jnp.where(gives_up, lane, chosen)
    return target, jnp.where(decides, 0, state.timer)


def _slip(state: HighwayState, target_lane: Array) -> Array:
    """β = arctan(½ tan δ_f) of the steering that follows the centre of a lane, rad `[V]`."""
    speed = _not_zero(state.speed)
    offset = state.y - LANE_WIDTH * target_lane
    reference = jnp.clip(jnp.arcsin(jnp.clip(-LATERAL_GAIN * offset / speed, -1, 1)), -np.pi / 4, np.pi / 4)
    rate = HEADING_GAIN * _wrap(reference - state.heading)
    most = np.sin(np.arctan(np.tan(MAX_STEERING) / 2))
    return jnp.arcsin(jnp.clip(LENGTH / 2 / speed * rate, -most, most))


def _frame(
    params: HighwayParams, num_lanes: int, dt: float, others_collide: bool, state: HighwayState, order: _Order
) -> tuple[HighwayState, _Order]:
    """One frame: all decide on the same positions, then all move, then collisions are found."""
    lane, is_ego = _closest_lane(state.y, num_lanes), jnp.arange(len(state.x)) == EGO
    around = _neighbours(state, order, num_lanes)
    drives = ~is_ego & ~state.crashed
    recommended, ahead = _mobil(params, state, around, lane, jnp.stack([lane - 1, lane + 1]))
    target, timer = _target_lanes(params, state, recommended, lane, drives, num_lanes)
    # of a vehicle that stays both accelerations are the same
    acceleration, there = _in_lane(ahead, lane), _in_lane(ahead, target)
    acceleration = jnp.minimum(acceleration, there)
    acceleration = jnp.clip(acceleration, -MAX_ACCELERATION, MAX_ACCELERATION)
    acceleration = jnp.where(is_ego, SPEED_GAIN * (state.target_speed - state.speed), acceleration)
    slip = jnp.where(state.crashed, 0, _slip(state, target))
    acceleration = jnp.where(state.crashed, -state.speed, acceleration)
    fastest = jnp.minimum(acceleration, MAX_SPEED - state.speed)
    slowest = jnp.maximum(acceleration, -MAX_SPEED - state.speed)
    acceleration = jnp.where(
        state.speed > MAX_SPEED, fastest, jnp.where(state.speed < -MAX_SPEED, slowest, acceleration)
    )
    moved = state._replace(
        x=state.x + state.speed * jnp.cos(state.heading + slip) * dt + state.impact[:, 0],
        y=state.y + state.speed * jnp.sin(state.heading + slip) * dt + state.impact[:, 1],
        heading=state.heading + state.speed * jnp.sin(slip) / (LENGTH / 2) * dt,
        speed=state.speed + acceleration * dt,
        target_lane=target,
        timer=jnp.where(is_ego, timer, timer + dt),
    )
    order = _ordered(moved.x)
    intersecting, impact, struck = _collisions(moved, order, dt, others_collide)
    crashed = state.crashed | state.struck | intersecting
    return moved._replace(crashed=crashed, impact=impact, struck=struck), order


class _Body(NamedTuple):
    """A vehicle's rectangle, its speed and its index, `[...]` each."""

    x: Array
    y: Array
    cos: Array
    sin: Array
    speed: Array
    index: Array


def _collisions(state: HighwayState, order: _Order, dt: float, others_collide: bool) -> tuple[Array, Array, Array]:
    """Whether each vehicle intersects another, how it is pushed `[V, 2]`, and whether it is, in the next frame."""
    index = jnp.arange(len(state.x), dtype=jnp.int32)
    # a push has no derivative by positions: one through a loop of unknown length does not exist in reverse
    x, y, heading, speed = jax.lax.stop_gradient((state.x, state.y, state.heading, state.speed))
    all_ = _Body(x, y, jnp.cos(heading), jnp.sin(heading), speed, index)
    if not others_collide:
        ego = jax.tree.map(lambda x: x[EGO], all_)
        hit, will, push = _separation(ego, all_, dt)
        last = jnp.max(jnp.where(will, index, 0))  # the pair that is looked at last
        impact = jnp.where(will, -push / 2, 0).at[:, EGO].set(jnp.where(will.any(), push[:, last] / 2, 0))
        return hit.at[EGO].set(hit.any()), impact.T, will.at[EGO].set(will.any())
    # sorted along the road, vehicles and those k positions behind and before them, for k = 1, 2, ...
    own = jax.tree.map(lambda x: jnp.stack([x[order.vehicle]] * 2), all_)
    reach = np.hypot(LENGTH, WIDTH) + jnp.max(speed) * dt + 1  # of two that can meet; 1 m for rounding

    def meet(carry):
        other, hit, last, impact = carry
        intersect, will, push = _separation(other, own, dt)
        for i in range(2):
            later = will[i] & (other.index[i] > last)  # the pair that is looked at last
            last = jnp.where(later, other.index[i], last)
            impact = jnp.asarray(jnp.where(later, -push[:, i] / 2, impact))
        return further(other), hit | intersect.any(0), last, impact

    further = lambda other: jax.tree.map(_shifted, other, _Body(np.inf, 0, 0, 0, 0, 0))
    near = lambda carry: (jnp.abs(carry[0].x - own.x) <= reach).any()
    none = jnp.full_like(index, -1)
    carry = further(own), none > 0, none, jnp.zeros((2, len(index)), state.x.dtype)
    _, hit, last, impact = jax.lax.while_loop(near, meet, carry)
    return hit[order.position], impact[:, order.position].T, last[order.position] >= 0


def _shifted(x: Array, fill: float) -> Array:
    """Of two rows, the first by one to the left, the second by one to the right."""
    return jnp.stack([jnp.append(x[0, 1:], fill), jnp.append(fill, x[1, :-1])]).astype(x.dtype)


def _separation(a: _Body, b: _Body, dt: float) -> tuple[Array, Array, Array]:
    """Rectangles that intersect, those that will within dt, `[V]`, and the least push of a out of b, `[2, V]`.

    By the theorem of separating axes: two rectangles are apart if their projections on one of four axes are.
    """
    ca, sa, cb, sb = a.cos, a.sin, b.cos, b.sin
    dx, dy = a.x - b.x, a.y - b.y
    wx, wy = (a.speed * ca - b.speed * cb) * dt, (a.speed * sa - b.speed * sb) * dt
    cos, sin = jnp.abs(ca * cb + sa * sb), jnp.abs(sa * cb - ca * sb)
    half, side = LENGTH / 2, WIDTH / 2
    long, wide = half * cos + side * sin, half * sin + side * cos  # one rectangle along the other's axes
    first = jnp.where(a.index < b.index, a.speed, b.speed)
    pair = (jnp.sqrt(dx**2 + dy**2) <= np.hypot(LENGTH, WIDTH) + first * dt) & (a.index != b.index)
    axes = ((ca, sa, half, long), (-sa, ca, side, wide), (cb, sb, long, half), (-sb, cb, wide, side))
    intersect = will = jnp.ones(dx.shape, bool)
    least = jnp.full(dx.shape, jnp.inf, dx.dtype)
    push_x = push_y = jnp.zeros_like(dx)
    for ux, uy, from_a, from_b in axes:
        offset, shift = ux * dx + uy * dy, ux * wx + uy * wy
        apart = lambda low, high: jnp.where(low < -from_b, -from_b - high, low - from_b)
        intersect = intersect & (apart(offset - from_a, offset + from_a) <= 0)
        low, high = offset - from_a + jnp.minimum(shift, 0), offset + from_a + jnp.maximum(shift, 0)
        will = will & (apart(low, high) <= 0)
        # of an interval inside the other, the distance depends on the direction of the axis
        distance = jnp.minimum(jnp.abs(apart(low, high)), jnp.abs(apart(-high, -low)))
        sign = jnp.where(offset > 0, 1.0, -1.0)
        nearer = distance < least
        push_x, push_y = jnp.where(nearer, sign * ux, push_x), jnp.where(nearer, sign * uy, push_y)
        least = jnp.where(nearer, distance, least)
    return intersect & pair, will & pair, jnp.stack([least * push_x, least * push_y])
