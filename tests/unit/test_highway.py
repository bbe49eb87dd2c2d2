"""Driving on a highway, against a loop over vehicles and against highway-env."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import purerl
from purerl.envs.fields import highway
from purerl.envs.fields.highway import Highway, HighwayParams, HighwayState
from purerl.runs.render import painter
from purerl.testing import check_env

FIELDS = [name for name in HighwayState._fields if name != "time"]

# --- a simulation in loops --------------------------------------------------------------------------------------------


def not_zero(x):
    return x if abs(x) > 0.01 else math.copysign(0.01, x) if x else 0.01


class Road:
    """Vehicles one by one, in the order of the list; the first is the agent's."""

    def __init__(self, state, lanes, frequency, all_collide, politeness=0.0):
        self.lanes, self.frequency, self.all_collide, self.p = lanes, frequency, all_collide, politeness
        rows = zip(*(np.asarray(getattr(state, name)).tolist() for name in FIELDS), strict=True)
        self.cars = [SimpleNamespace(**dict(zip(FIELDS, row, strict=True))) for row in rows]
        self.aborted = 0

    def lane_of(self, car):
        return min(range(self.lanes), key=lambda lane: abs(car.y - 4 * lane))

    def around(self, car, lane):
        front = rear = None
        for other in self.cars:
            if other is car or abs(other.y - 4 * lane) > 3:
                continue
            if other.x >= car.x and (front is None or other.x <= front.x):
                front = other
            if other.x < car.x and (rear is None or other.x > rear.x):
                rear = other
        return front, rear

    def gap(self, car, front):
        closing = car.speed - front.speed * math.cos(front.heading - car.heading)
        return 10 + 1.5 * car.speed + car.speed * closing / (2 * math.sqrt(15))

    def idm(self, exponent, car, front):
        if car is None:
            return 0.0
        wanted = abs(not_zero(min(max(car.target_speed, 0), 30)))
        a = 3 * (1 - (max(car.speed, 0) / wanted) ** exponent)
        return a if front is None else a - 3 * (self.gap(car, front) / not_zero(front.x - car.x)) ** 2

    def recommended(self, car, lane):
        front, rear = self.around(car, lane)
        old_front, old_rear = self.around(car, self.lane_of(car))
        a = lambda vehicle, ahead: self.idm(car.exponent, vehicle, ahead)
        if a(rear, car) < -2:
            return False
        others = a(rear, car) - a(rear, front) + a(old_rear, old_front) - a(old_rear, car)
        return a(car, front) - a(car, old_front) + self.p * others >= 0.2

    def choose_lane(self, car):
        lane = self.lane_of(car)
        if lane != car.target_lane:
            for other in self.cars:
                rival = other is not car and other.target_lane == car.target_lane != self.lane_of(other)
                if rival and 0 < other.x - car.x < self.gap(car, other):
                    car.target_lane = lane
                    self.aborted += 1
                    return
        elif car.timer > 1:
            car.timer = 0
            for side in (lane - 1, lane + 1):
                near = 0 <= side < self.lanes and abs(car.y - 4 * side) <= 8
                if near and abs(car.speed) >= 1 and self.recommended(car, side):
                    car.target_lane = side

    def steering(self, car):
        clip = lambda x, most: min(max(x, -most), most)
        across = clip(-(car.y - 4 * car.target_lane) / 0.6 / not_zero(car.speed), 1)
        wanted = clip(math.asin(across), math.pi / 4)
        turn = (wanted - car.heading + math.pi) % (2 * math.pi) - math.pi
        slip = math.asin(clip(2.5 * turn / 0.2 / not_zero(car.speed), 1))
        return clip(math.atan(2 * math.tan(slip)), math.pi / 3)

    def decide(self, car, is_ego):
        if is_ego:
            return self.steering(car), (car.target_speed - car.speed) / 0.6
        if car.crashed:
            return 0.0, 0.0
        self.choose_lane(car)
        lane = self.lane_of(car)
        a = self.idm(car.exponent, car, self.around(car, lane)[0])
        if lane != car.target_lane:
            a = min(a, self.idm(car.exponent, car, self.around(car, car.target_lane)[0]))
        return self.steering(car), min(max(a, -6), 6)

    def corners(self, car):
        c, s = math.cos(car.heading), math.sin(car.heading)
        points = [(-2.5, -1), (-2.5, 1), (2.5, 1), (2.5, -1)]
        return np.array([(car.x + c * u - s * w, car.y + s * u + c * w) for u, w in points])

    def collide(self, a, b, dt):
        """Whether they intersect, and the shortest way out of where they will, or None."""
        if math.hypot(a.x - b.x, a.y - b.y) > math.sqrt(29) + a.speed * dt:
            return False, None
        pa, pb = self.corners(a), self.corners(b)
        velocity = lambda car: car.speed * np.array([math.cos(car.heading), math.sin(car.heading)])
        shift = (velocity(a) - velocity(b)) * dt
        now = soon = True
        ways = []
        for polygon in (pa, pb):
            for i in range(4):
                edge = polygon[(i + 1) % 4] - polygon[i]
                normal = np.array([-edge[1], edge[0]]) / np.hypot(*edge)
                low_a, high_a, low_b, high_b = (f(p @ normal) for p in (pa, pb) for f in (min, max))
                now &= high_a >= low_b and high_b >= low_a
                low_a, high_a = low_a + min(shift @ normal, 0), high_a + max(shift @ normal, 0)
                soon &= high_a >= low_b and high_b >= low_a
                distance = low_b - high_a if low_a < low_b else low_a - high_b
                side = 1 if (pa.mean(0) - pb.mean(0)) @ normal > 0 else -1
                ways.append((abs(distance), side * normal))
        length, way = min(ways, key=lambda x: x[0])
        return now, length * way if soon else None

    def frame(self):
        dt = 1 / self.frequency
        commands = [self.decide(car, car is self.cars[0]) for car in self.cars]
        for car, (steering, a) in zip(self.cars, commands, strict=True):
            if car.crashed:
                steering, a = 0.0, -car.speed
            if car.speed > 40:
                a = min(a, 40 - car.speed)
            elif car.speed < -40:
                a = max(a, -40 - car.speed)
            slip = math.atan(math.tan(steering) / 2)
            car.x += car.speed * math.cos(car.heading + slip) * dt + car.impact[0]
            car.y += car.speed * math.sin(car.heading + slip) * dt + car.impact[1]
            car.heading += car.speed * math.sin(slip) / 2.5 * dt
            car.speed += a * dt
            car.crashed |= car.struck
            car.impact, car.struck = [0.0, 0.0], False
            car.timer += dt if car is not self.cars[0] else 0
        self.crash(dt)

    def crash(self, dt):
        for i, a in enumerate(self.cars if self.all_collide else self.cars[:1]):
            for b in self.cars[i + 1 :]:
                now, way = self.collide(a, b, dt)
                a.crashed, b.crashed = a.crashed or now, b.crashed or now
                if way is not None:
                    a.impact, b.impact, a.struck, b.struck = list(way / 2), list(-way / 2), True, True

    def step(self, action):
        ego = self.cars[0]
        moved = min(max(ego.target_lane + {0: -1, 2: 1}.get(action, 0), 0), self.lanes - 1)
        if abs(ego.y - 4 * moved) <= 8:
            ego.target_lane = moved
        if action in (3, 4):
            level = min(max(round((ego.speed - 20) / 5), 0), 2) + {3: 1, 4: -1}[action]
            ego.target_speed = 20.0 + 5 * min(max(level, 0), 2)
        for _ in range(self.frequency):
            self.frame()

    def follow(self, share):
        ego = self.cars[0]
        lane, commanded = self.lane_of(ego), ego.target_speed
        ego.target_speed = 30.0
        may = lambda side: 0 <= side < self.lanes and abs(ego.y - 4 * side) <= 8 and self.recommended(ego, side)
        sides = [action for action, side in ((2, lane + 1), (0, lane - 1)) if may(side) and lane == ego.target_lane]
        ego.target_speed = commanded
        if sides:
            return sides[0]
        level, best = min(max(round((ego.speed - 20) / 5), 0), 2), 0
        fronts = [self.around(ego, side)[0] for side in (lane, ego.target_lane)]
        for i, v in enumerate((20, 25, 30)):
            gap = lambda front: 10 + 1.5 * v + v * (v - front.speed) / (2 * math.sqrt(15))
            if all(front is None or share * gap(front) <= front.x - ego.x for front in fronts):
                best = i
        return 1 if best == level else 3 if best > level else 4

    def state(self):
        return {name: np.array([getattr(car, name) for car in self.cars], float) for name in FIELDS}

    def reward(self):
        ego = self.cars[0]
        if abs(ego.y - 4 * self.lane_of(ego)) > 2:
            return 0.0
        fast = min(max((ego.speed * math.cos(ego.heading) - 20) / 10, 0), 1)
        return (0.1 * ego.target_lane / (self.lanes - 1) + 0.4 * fast + (not ego.crashed)) / 1.5

    def observation(self):
        ego, rows = self.cars[0], []
        row = lambda c: np.array([c.x, c.y, c.speed * math.cos(c.heading), c.speed * math.sin(c.heading)])
        near = [c for c in self.cars[1:] if math.hypot(c.x - ego.x, c.y - ego.y) < 200 and c.x - ego.x > -10]
        near = sorted(near, key=lambda c: abs(c.x - ego.x))[:4]
        for values in [row(ego), *(row(c) - row(ego) for c in near)]:
            rows.append([1, *np.clip(values / [200, 4 * self.lanes, 80, 80], -1, 1)])
        return np.array(rows + [[0] * 5] * (5 - len(rows)))


def states(num, lanes, cars, seed=0):
    """States in which many change lanes and some crash."""
    draw = np.random.default_rng(seed)
    shape = (num, cars)
    lane = draw.integers(0, lanes, shape)
    target = np.clip(lane + draw.choice([-1, 0, 0, 0, 1], shape), 0, lanes - 1)
    turns = (lane != target) * np.sign(target - lane)
    speed = draw.uniform(12, 32, shape)
    speed[0, :4] = [0.0, 42.0, -41.0, 0.5][:cars]
    return HighwayState(
        x=100 + np.cumsum(draw.uniform(1, 18, shape), 1),
        y=4.0 * lane + turns * draw.uniform(0, 1.9, shape) + draw.normal(0, 0.1, shape),
        heading=0.1 * turns + draw.normal(0, 0.02, shape),
        speed=speed,
        target_lane=target.astype(np.int32),
        target_speed=draw.choice([20.0, 25.0, 30.0], shape),
        timer=draw.uniform(0, 1.3, shape),
        exponent=draw.uniform(3.5, 4.5, shape),
        crashed=draw.random(shape) < 0.05,
        impact=np.zeros((*shape, 2)),
        struck=np.zeros(shape, bool),
        time=np.zeros(num, np.int32),
    )


@pytest.mark.parametrize(("all_collide", "politeness"), [(True, 0.7), pytest.param(False, 0.0, marks=pytest.mark.wide)])
def test_a_step_against_loops_over_vehicles(all_collide, politeness, key):
    env = Highway(num_lanes=4, num_vehicles=8, frequency=5, others_collide=all_collide)
    params = HighwayParams(politeness=politeness)
    begin, actions = states(60, 4, 9), np.arange(60) % 5
    with jax.enable_x64(True):
        step = jax.jit(jax.vmap(env.step_env, (None, 0, 0, None)))
        obs, end, reward, terminated, _ = step(key, begin, actions, params)
        end = jax.tree.map(np.asarray, end)
    changed = aborted = 0
    for i, action in enumerate(actions):
        road = Road(jax.tree.map(lambda x: x[i], begin), 4, 5, all_collide, politeness)
        road.step(int(action))
        wanted = road.state()
        changed += (wanted["target_lane"] != begin.target_lane[i]).sum()
        aborted += road.aborted
        for name in FIELDS:
            np.testing.assert_allclose(getattr(end, name)[i], wanted[name], atol=1e-5, err_msg=f"{i} {name}")
        np.testing.assert_allclose(obs[i], road.observation(), atol=1e-6)
        assert reward[i] == pytest.approx(road.reward(), abs=1e-6)
        assert terminated[i] == road.cars[0].crashed
    crashes = int(end.crashed.sum() - begin.crashed.sum())
    assert changed > 10 and aborted > 5 and crashes > 10 and 5 < terminated.sum() < 55


def piles(num, cars, width):
    """States in which vehicles lie across each other on some metres, many at one place along the road."""
    draw, shape = np.random.default_rng(2), (num, cars)
    x = draw.uniform(0, width, shape)
    return states(num, 4, cars)._replace(
        x=np.where(draw.random(shape) < 0.5, np.round(x), x),
        y=draw.uniform(-2, 14, shape),
        heading=draw.uniform(-3, 3, shape),
        speed=draw.choice([0.0, 5.0, 20.0, 35.0, -10.0], shape),
        crashed=draw.random(shape) < 0.7,
    )


@pytest.mark.parametrize(("frequency", "all_collide"), [(15, True), (5, False)])
def test_piles_of_vehicles_against_all_pairs(frequency, all_collide):
    """Who intersects, is pushed and is beside whom, however many vehicles are within reach of each other."""
    for width in (4, 25, 300):
        begin = piles(5, 18, width)._replace(crashed=np.zeros((5, 18), bool))
        with jax.enable_x64(True):
            order = jax.vmap(highway._ordered)(begin.x)
            collide = lambda state, order: highway._collisions(state, order, 1 / frequency, all_collide)
            crashed, impact, struck = jax.jit(jax.vmap(collide))(begin, order)
        for i in range(5):
            road = Road(jax.tree.map(lambda x: x[i], begin), 4, frequency, all_collide)
            road.crash(1 / frequency)
            np.testing.assert_array_equal(crashed[i], [car.crashed for car in road.cars])
            np.testing.assert_array_equal(struck[i], [car.struck for car in road.cars])
            np.testing.assert_allclose(impact[i], [car.impact for car in road.cars], atol=1e-9)
        assert width > 4 or struck[:, 0].all()


def test_neighbours_in_piles_against_a_loop():
    """Also of several vehicles at one place, and in lanes without any."""
    for cars, width in ((1, 4), (2, 1), (18, 4), (18, 60)):
        begin = piles(30, cars, width)
        find = lambda state: highway._neighbours(state, highway._ordered(state.x), 4)
        with jax.enable_x64(True):
            front, rear = map(np.asarray, jax.jit(jax.vmap(find))(begin))
        for i in range(30):
            road = Road(jax.tree.map(lambda x: x[i], begin), 4, 5, True)
            index = {id(car): j for j, car in enumerate(road.cars)} | {id(None): -1}
            found = [[[index[id(x)] for x in road.around(car, lane)] for car in road.cars] for lane in range(4)]
            np.testing.assert_array_equal(np.stack([front[i], rear[i]], -1), found)


@pytest.mark.parametrize("x64", [True, False])
def test_the_slip_angle_against_the_steering_angle(x64):
    """At the limits too, where the tangent of a right angle in float32 has the wrong sign."""
    begin = states(20, 4, 9)
    begin = begin._replace(speed=begin.speed / 8)
    with jax.enable_x64(x64):
        slip = jax.jit(jax.vmap(highway._slip))(begin, begin.target_lane)
    roads = [Road(jax.tree.map(lambda x: x[i], begin), 4, 5, True) for i in range(20)]
    steering = np.array([[road.steering(car) for car in road.cars] for road in roads])
    np.testing.assert_allclose(slip, np.arctan(np.tan(steering) / 2), atol=1e-9 if x64 else 1e-4)
    assert (np.abs(steering) > 1.047).sum() > 10


def test_a_step_is_the_one_of_highway_env(key):
    """From the same states of its own episodes, with dense traffic too, in which vehicles crash."""
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("highway_env")

    def state_of(env):
        cars = env.road.vehicles
        column = lambda get: np.array([get(car) for car in cars])
        impact = column(lambda car: np.zeros(2) if car.impact is None else car.impact)
        return HighwayState(
            *column(lambda car: (*car.position, car.heading, car.speed)).T,
            column(lambda car: car.target_lane_index[2]).astype(np.int32),
            column(lambda car: car.target_speed).astype(float),
            column(lambda car: getattr(car, "timer", 0.0)),
            column(lambda car: getattr(car, "DELTA", 4.0)),
            column(lambda car: car.crashed),
            impact,
            column(lambda car: car.impact is not None),
            np.int32(env.time),
        )

    draw, ends = np.random.default_rng(0), 0
    for name, options, density, steps in (("highway-v0", {}, 3.0, 8), ("highway-fast-v0", highway.FAST, 2.0, 40)):
        ours = Highway(**options)
        theirs = gymnasium.make(name, config={"vehicles_density": density}).unwrapped
        theirs.reset(seed=1)
        with jax.enable_x64(True):
            step = jax.jit(ours.step_env)
            for _ in range(steps):
                begin, action = state_of(theirs), int(draw.choice(5, p=[0.15, 0.1, 0.15, 0.5, 0.1]))
                obs, end, reward, terminated, _ = step(key, begin, action, ours.default_params)
                obs_wanted, reward_wanted, terminated_wanted, truncated, _ = theirs.step(action)
                for part in HighwayState._fields:
                    wanted = getattr(state_of(theirs), part)
                    np.testing.assert_allclose(getattr(end, part), wanted, atol=1e-5, err_msg=part)
                np.testing.assert_allclose(obs, obs_wanted, atol=1e-6)
                assert float(reward) == pytest.approx(reward_wanted, abs=1e-6)
                assert terminated == terminated_wanted
                if terminated_wanted or truncated:
                    ends += 1
                    theirs.reset()
    assert ends > 0


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_rule_against_loops_over_vehicles(share):
    begin = states(200, 4, 9, seed=1)
    spread = begin.x[:, :1] + (1 + 4 * (np.arange(200) % 3))[:, None] * (begin.x - begin.x[:, :1])
    begin = begin._replace(x=spread, crashed=begin.crashed & (np.arange(9) > 0))
    params = HighwayParams(politeness=0.3)
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(lambda state: highway.follow_traffic(state, params, 4, share)))(begin).tolist()
    roads = [Road(jax.tree.map(lambda x: x[i], begin), 4, 5, True, 0.3) for i in range(200)]
    assert found == [road.follow(share) for road in roads]
    assert (np.bincount(found, minlength=5) >= 5).all()


# --- the environment --------------------------------------------------------------------------------------------------


def test_the_contract_and_the_picture(key):
    env, params = purerl.make("Highway-v0", num_vehicles=6, frequency=5)
    check_env(env, params.replace(max_steps_in_episode=15), key)
    draw, _ = painter(env, params)
    _, state = env.reset(key, params)
    assert draw(state).shape[-1] == 3


def test_the_default_is_highway_v0():
    env, params = purerl.make("Highway-v0")
    obs, state = jax.eval_shape(env.reset_env, jax.random.key(0), params)
    assert obs.shape == (5, 5) and state.x.shape == (51,) and params.max_steps_in_episode == 40
    assert (env._num_lanes, env._frequency, env._others_collide) == (4, 15, True)
    assert highway.fast_params().max_steps_in_episode == 30


def test_initial_traffic(key):
    """Vehicles are placed one behind the other, at (12 + v) e^(-L/8) ± 10 %, twice that before the agent's."""
    env = Highway(num_vehicles=20)
    _, state = jax.jit(jax.vmap(env.reset_env, (0, None)))(jax.random.split(key, 200), HighwayParams(density=2.0))
    space = (12 + np.asarray(state.speed)) * np.exp(-0.5)
    ratio = np.diff(state.x, axis=1) / space[:, 1:]
    assert 0.449 < ratio.min() < 0.46 and 0.54 < ratio.max() < 0.551
    first = np.asarray(state.x)[:, 0] / (37 * np.exp(-0.5))
    assert 7.79 < first.min() < 7.85 and 8.15 < first.max() < 8.21
    np.testing.assert_array_equal(state.speed[:, 0], 25)
    assert 21 <= state.speed[:, 1:].min() < 21.05 and 23.95 < state.speed[:, 1:].max() <= 24
    np.testing.assert_array_equal(state.y, 4 * state.target_lane)
    assert np.allclose(np.bincount(np.ravel(state.target_lane)) / 4200, 0.25, atol=0.03)
    assert 3.5 <= state.exponent.min() < 3.51 and 4.49 < state.exponent.max() <= 4.5


@pytest.mark.wide
def test_a_thousand_variants_are_one_program(key):
    """In denser traffic that keeps a larger headway, faster driving ends in more crashes."""
    env = Highway(num_lanes=2, num_vehicles=6, frequency=5)
    density = np.repeat([0.5, 4.0], 500)
    params = HighwayParams(density=density)
    axes = jax.tree.map(lambda x: 0 if np.ndim(x) else None, params)

    @jax.jit
    def crashes(keys, params):
        def one(key, params):
            _, state = env.reset_env(key, params)
            step = lambda state, _: env.step_env(key, state, highway.FASTER, params)[1:4:2]
            return jax.lax.scan(step, state, None, 20)[1].any()

        return jax.vmap(one, (0, axes))(keys, params)

    crashed = np.asarray(crashes(jax.random.split(key, 1000), params))
    assert crashed[:500].mean() + 0.1 < crashed[500:].mean()
    assert crashes._cache_size() == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"density": 0.0}, "density is 0.0"),
        ({"density": np.nan}, "density is nan"),
        ({"delay": -1.0}, "delay is -1.0"),
        ({"headway": -1.0}, "headway is -1.0"),
        ({"politeness": 1.5}, "politeness is 1.5"),
        ({"high_speed": 10.0}, "high_speed - low_speed is -10.0"),
        ({"high_speed": 20.0}, "high_speed - low_speed is 0.0"),
        ({"low_speed": np.nan}, "low_speed is nan"),
        ({"gain": np.nan}, "gain is nan"),
        ({"speed_reward": np.inf}, "speed_reward is inf"),
        ({"collision_reward": 0.5}, r"speed_reward \+ right_lane_reward - collision_reward is 0.0"),
        ({"max_steps_in_episode": 0}, "max_steps_in_episode is 0"),
        ({"max_steps_in_episode": 2.5}, "max_steps_in_episode is 2.5; it must be a whole number"),
    ],
)
def test_bad_parameters(changed, message, key):
    params = HighwayParams(**changed)
    for call in (lambda: Highway().reset_env(key, params), lambda: Highway().step_env(key, None, 0, params)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("changed", [{"num_lanes": 0}, {"num_vehicles": -50}, {"frequency": 0}, {"num_vehicles": 2.5}])
def test_bad_counts(changed):
    ((name, value),) = changed.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be a positive int"):
        Highway(**changed)


def test_gradients_pass_through_a_step_with_collisions_looked_for():
    env = Highway(num_vehicles=8)
    params = env.default_params
    _, state = env.reset_env(jax.random.key(0), params)

    def travelled(headway):
        after = env.step_env(jax.random.key(1), state, highway.FASTER, params.replace(headway=headway))[1]
        return after.x.sum()

    found, step = jax.jit(jax.grad(travelled))(1.5), 1e-2
    expected = (travelled(1.5 + step) - travelled(1.5 - step)) / (2 * step)
    assert found == pytest.approx(float(expected), rel=0.02) and found < 0
