"""Traffic signals against recorded numbers, a loop in NumPy, and exact averages."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import purerl
from purerl.envs.fields import traffic_signal
from purerl.envs.fields.traffic_signal import TrafficSignal, TrafficSignalParams, exhaustive, max_pressure
from purerl.tabular import relative_value_iteration
from purerl.testing import check_env


def averages(params, rules):
    """The mean queue of the optimum, and of each rule by its stationary equations, and the optimal actions `[S]`."""
    mdp, states = traffic_signal.two_approaches_mdp(params), traffic_signal.every_state(params)
    with jax.enable_x64(True):
        optimum = relative_value_iteration(mdp, tolerance=1e-8)
        gain, policy = float(optimum.gain), np.asarray(optimum.policy)
    means, every = [], np.arange(len(mdp.R))
    for rule in rules:
        action = np.asarray(jax.jit(jax.vmap(rule))(states))
        matrix = np.eye(len(every))
        np.add.at(matrix, (every[:, None], mdp.successors[every, action]), -mdp.P[every, action])
        matrix[:, 0] = 1  # of the gain, since h(0) = 0
        means.append(-np.linalg.solve(matrix, mdp.R[every, action])[0])
    return -gain, means, policy.argmax(-1)


@pytest.mark.parametrize(
    "arrival, wanted", [((0.3, 0.3), (1.57500, 1.57500, 2.18120)), ((0.4, 0.3), (2.23645, 2.24649, 3.22720))]
)
def test_two_approaches_have_the_recorded_averages(arrival, wanted):
    margins = range(4)
    rules = [exhaustive, *(partial(max_pressure, margin=k) for k in margins)]
    optimum, (own, *pressure), policy = averages(TrafficSignalParams(arrival), rules)
    np.testing.assert_allclose([optimum, own, min(pressure)], wanted, rtol=0, atol=5e-6)
    assert np.argmin(pressure) == 1 and policy.shape == (512,)


def simulate(random, phases, arrival, lost, room, rule, num_steps):
    """The mean number of cars, one car at a time."""
    queue, phase, left, total = [0] * len(arrival), 0, 0, 0
    for _ in range(num_steps):
        total += sum(queue)
        wanted = rule(queue, phase)
        if left > 0:
            left -= 1
        elif wanted != phase:
            phase, left = wanted, lost - 1
        else:
            for m in range(len(queue)):
                if phases[phase][m] and queue[m] > 0:
                    queue[m] -= 1
        for m in range(len(queue)):
            if random.random() < arrival[m] and queue[m] < room:
                queue[m] += 1
    return total / num_steps


def rollout(env, rule, params, key, num_envs, num_steps):
    """States before each of the steps and rewards, `[E, T, …]`; the rule gets a key too."""

    def step(state, key):
        act_key, step_key = jax.random.split(key)
        action = rule(act_key, state)
        _, after, reward, _, info = env.step_env(step_key, state, action, params)
        return after, (state, action, reward, info["waiting"])

    def one(key):
        return jax.lax.scan(step, env.reset_env(key, params)[1], jax.random.split(key, num_steps))[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(key, num_envs)))


def test_rollouts_of_the_optimum_have_its_average(key):
    params = TrafficSignalParams((0.4, 0.3), lost=2, room=10)
    optimum, (own,), policy = averages(params, [exhaustive])
    best = jnp.asarray(policy, jnp.int32).reshape(11, 11, 2, 2)
    rule = lambda key, x: best[x.queue[0], x.queue[1], x.phase, x.lost]
    _, _, reward, waiting = rollout(TrafficSignal(), rule, params, key, 96, 800)
    np.testing.assert_array_equal(reward, -waiting)
    means = -reward[:, 100:].mean(1)
    assert abs(means.mean() - optimum) < 4 * means.std() / math.sqrt(96)

    def by_hand(queue, phase):
        return 1 - phase if queue[phase] == 0 and queue[1 - phase] > 0 else phase

    slow = simulate(np.random.default_rng(0), np.eye(2), (0.4, 0.3), 2, 10, by_hand, 60_000)
    assert own > optimum - 1e-6 and abs(slow - own) < 0.1


@pytest.mark.parametrize("env_id", ["TrafficSignal-v0", "Intersection-v0"])
def test_every_step_is_that_of_the_rules(env_id, key):
    env, params = purerl.make(env_id)
    params = replace(params, lost=3, room=4)
    rule = lambda key, x: jax.random.choice(key, jnp.append(jnp.arange(env.num_actions), jnp.full(6, x.phase)))
    states, action, reward, _ = rollout(env, rule, params, key, 1, 400)
    queue, phase, lost = (np.asarray(x[0]) for x in (states.queue, states.phase, states.lost))
    full = blocked = 0
    for t in range(399):
        served = np.zeros(queue.shape[1], int)
        if lost[t] > 0:
            assert lost[t + 1] == lost[t] - 1 and phase[t + 1] == phase[t]
            blocked += action[0, t] != phase[t]
        elif action[0, t] != phase[t]:
            assert lost[t + 1] == 2 and phase[t + 1] == action[0, t]
        else:
            assert lost[t + 1] == 0 and phase[t + 1] == phase[t]
            served = env.phases[phase[t]] * (queue[t] > 0)
        arrived = queue[t + 1] - (queue[t] - served)
        assert np.isin(arrived, (0, 1)).all() and queue[t + 1].max() <= 4
        full += (queue[t] - served == 4).sum()
        assert reward[0, t] == -queue[t].sum()
    assert full and blocked
    obs = env.see(jax.tree.map(lambda x: jnp.asarray(x[0, 100]), states), params)
    np.testing.assert_allclose(
        obs, [*np.log(1 + queue[100]) / np.log(5), *np.eye(env.num_actions)[phase[100]], lost[100] / 3], rtol=1e-6
    )


def test_arrivals_have_their_probabilities(key):
    env, params = purerl.make("Intersection-v0")
    states, *_ = rollout(env, lambda key, x: x.phase, replace(params, room=10**6), key, 20, 1_000)
    arrived = np.diff(states.queue, axis=1)[..., [2, 3, 4, 7]].mean((0, 1))  # never served
    np.testing.assert_allclose(arrived, [0.2, 0.2, 0.08, 0.08], atol=4 * math.sqrt(0.16 / 20_000))


def test_rules_of_an_intersection():
    phases = np.array(traffic_signal.FOUR_PHASES)
    random = np.random.default_rng(0)
    queue, phase = random.integers(0, 3, (300, 8)) * random.integers(0, 2, (300, 8)), random.integers(0, 4, 300)
    queue[:20] = 0
    state = traffic_signal.TrafficSignalState(queue, phase, np.zeros(300, int), np.zeros(300, int))
    own = jax.jit(jax.vmap(partial(exhaustive, phases=phases)))(state)
    pressure = jax.jit(jax.vmap(partial(max_pressure, phases=phases, margin=2)))(state)
    for q, now, by_own, by_pressure in zip(queue, phase, own, pressure, strict=True):
        waiting = [sum(q[m] for m in range(8) if phases[k, m]) for k in range(4)]
        longest = waiting.index(max(waiting))
        assert by_own == (now if waiting[now] or not q.any() else longest)
        assert by_pressure == (longest if waiting[longest] > waiting[now] + 2 else now)


@pytest.mark.parametrize("env_id", zoo.params(("TrafficSignal-v0", "Intersection-v0"), wide={"TrafficSignal-v0"}))
def test_they_are_environments(env_id, key):
    env, params = purerl.make(env_id)
    assert env.name == env_id and getattr(purerl.envs, type(env).__name__) is type(env)
    check_env(env, params, key)
    _, state = env.reset_env(key, params)
    queue = np.arange(env.phases.shape[1])
    patches = env.render(state._replace(queue=queue, phase=1), params).axes[0].patches
    assert [bar.get_height() for bar in patches] == queue.tolist()
    assert {bar.get_facecolor() for bar, green in zip(patches, env.phases[1], strict=True) if green} != {
        bar.get_facecolor() for bar, green in zip(patches, env.phases[1], strict=True) if not green
    }


def test_bad_input(key):
    env = TrafficSignal()
    for changed, said in (
        ({"room": 0}, r"TrafficSignal: room is 0; it must lie in \[1, "),
        ({"lost": 0}, r"TrafficSignal: lost is 0; it must lie in \[1, "),
        ({"room": 2.5}, r"TrafficSignal: room is 2.5; it must be a whole number"),
        ({"lost": 1.5}, r"TrafficSignal: lost is 1.5; it must be a whole number"),
        ({"max_steps_in_episode": 2.5}, r"TrafficSignal: max_steps_in_episode is 2.5; it must be a whole number"),
        ({"arrival": (0.3, 1.2)}, r"TrafficSignal: arrival is \(0.3, 1.2\); it must lie in \[0, 1\]"),
        ({"arrival": (0.3, math.nan)}, r"TrafficSignal: arrival is \(0.3, nan\); it must lie in \[0, 1\]"),
    ):
        params = replace(TrafficSignalParams(), **changed)
        step = lambda: env.step_env(key, env.reset_env(key, TrafficSignalParams())[1], 0, params)
        for call in (step, lambda: env.reset_env(key, params), lambda: traffic_signal.two_approaches_mdp(params)):
            with pytest.raises(ValueError, match=said):
                call()
    with pytest.raises(ValueError, match=r"arrival has shape \(3,\); it must be \(2,\), one probability for each"):
        env.reset_env(key, TrafficSignalParams((0.1, 0.1, 0.1)))
    with pytest.raises(ValueError, match=r"two_approaches_mdp: arrival is .*; it must be two probabilities"):
        traffic_signal.two_approaches_mdp(TrafficSignalParams((0.1, 0.1, 0.1)))
    for phases in (((1, 0), (1, 0)), ((1, 1),), ((2, 0), (0, 1)), (1, 0)):
        with pytest.raises(ValueError, match=r"TrafficSignal: phases is .*; it must be zeros and ones \[P, M\]"):
            TrafficSignal(phases)
    for phases in (((1, 0), (1,)), "x"):
        with pytest.raises(ValueError, match=r"TrafficSignal: phases is .*; it must be a real number or an array"):
            TrafficSignal(phases)
