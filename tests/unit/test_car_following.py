"""Car following against a solution by least squares, simulation and a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.fields import car_following
from purerl.envs.fields.car_following import CarFollowing, CarFollowingParams, CarFollowingState
from purerl.runs.render import painter
from purerl.testing import check_env

ENV = CarFollowing()


def play(gains, params, key, start=None):
    """Rewards, states and actions of a policy a = -Kₜ x of gains `[T, 2]`."""
    reset_key, key = jax.random.split(key)
    _, state = ENV.reset_env(reset_key, params)
    state = state if start is None else state._replace(errors=start)

    def step(state, x):
        gain, key = x
        action = -(gain @ state.errors)[None]
        _, state, reward, terminated, _ = ENV.step_env(key, state, action, params)
        return state, (reward, state.errors, action[0], terminated)

    return jax.lax.scan(step, state, (gains, jax.random.split(key, len(gains))))[1]


def test_the_best_gains_solve_the_least_squares_problem():
    """Without noise all actions of an episode minimise one sum of squares."""
    params = CarFollowingParams(leader_noise=0.0, max_steps_in_episode=12, headway=0.7)
    start, steps, tau = np.array([4.0, -3.0]), 12, 0.5
    costs = lambda a: np.concatenate([np.sqrt([0.02, 0.1]) * x for x in simulate(a)] + [np.sqrt(0.2) * a])

    def simulate(actions):
        (e, w), out = start, []
        for a in actions:
            e, w = e + w * tau - a * tau**2 / 2 - 0.7 * a * tau, w - a * tau
            out.append(np.array([e, w]))
        return out

    constant = costs(np.zeros(steps))
    matrix = np.stack([costs(unit) - constant for unit in np.eye(steps)], 1)
    best = np.linalg.lstsq(matrix, -constant, rcond=None)[0]
    x, actions = start, []
    for gain, _ in zip(car_following.optimal_gains(params), range(steps), strict=True):
        actions.append(-gain @ x)
        x = simulate(actions)[-1]
    np.testing.assert_allclose(actions, best, atol=1e-9)


def test_a_step_against_a_loop(key):
    params = CarFollowingParams(leader_noise=0.0, max_steps_in_episode=4, interval=0.3, headway=1.1)
    gains = np.random.default_rng(0).normal(0, 0.5, (4, 2))
    with jax.enable_x64(True):
        reward, errors, action, terminated = jax.jit(play)(gains, params, key, jnp.array([3.0, 1.0]))
    e, w = 3.0, 1.0
    for t, gain in enumerate(gains):
        a = -(gain[0] * e + gain[1] * w)
        e, w = e + w * 0.3 - a * 0.3**2 / 2 - 1.1 * a * 0.3, w - 0.3 * a
        np.testing.assert_allclose([*errors[t], action[t]], [e, w, a], atol=1e-12)
        assert reward[t] == pytest.approx(-(0.02 * e * e + 0.1 * w * w + 0.2 * a * a), rel=1e-6)
    assert terminated.tolist() == [False] * 3 + [True]


def test_variants_in_one_program_have_the_returns_of_the_formula(key):
    """Each plays with its own noise: their mean is that of the formulas, and no action comes near the bound."""
    draw = np.random.default_rng(0)
    noise, cost = draw.uniform(0, 1, 100), draw.uniform(0.1, 1, 100)
    variants = [CarFollowingParams(leader_noise=x, acceleration_cost=y) for x, y in zip(noise, cost, strict=True)]
    gains = np.stack([car_following.optimal_gains(x) for x in variants])
    many = CarFollowingParams(leader_noise=noise, acceleration_cost=cost)
    axes = jax.tree.map(lambda x: 0 if np.ndim(x) else None, many)
    run = jax.jit(jax.vmap(jax.vmap(play, (None, None, 0)), (0, axes, 0)))
    keys = jax.random.split(key, (100, 200))
    reward, _, action, _ = run(gains.astype(np.float32), many, keys)
    returns = np.asarray(reward).sum(-1)
    exact = np.array([car_following.optimal_return(x) for x in variants])
    error = np.sqrt((returns.var(1) / 200).sum()) / 100
    assert abs(returns.mean() - exact.mean()) < 4 * error and error < 0.04
    assert np.abs(action).max() < 0.9 * car_following.MAX_ACCELERATION
    assert run._cache_size() == 1
    worse = [
        car_following.linear_return(g * (1 + 0.1 * draw.normal(size=2)), x)
        for g, x in zip(gains, variants, strict=True)
    ]
    assert (worse <= exact).all()


def test_the_contract_and_the_picture(key):
    env, params = purerl.make("CarFollowing-v0")
    check_env(env, params, key)
    draw, _ = painter(env, params)
    assert draw(CarFollowingState(jnp.array([1.0, 2.0]), jnp.int32(3))).shape[-1] == 3


@pytest.mark.parametrize("name", ["interval", "acceleration_cost", "gap_cost", "leader_noise", "initial_gap"])
def test_bad_parameters(name, key):
    params = CarFollowingParams(**{name: -1.0})
    _, state = ENV.reset_env(key, ENV.default_params)
    step = lambda: ENV.step_env(key, state, jnp.zeros(1), params)
    for call in (step, lambda: ENV.reset_env(key, params), lambda: car_following.optimal_gains(params)):
        with pytest.raises(ValueError, match=f"{name} is -1.0"):
            call()
    with pytest.raises(ValueError, match="max_steps_in_episode is 0"):
        ENV.reset_env(key, CarFollowingParams(max_steps_in_episode=0))
    with pytest.raises(ValueError, match=r"gains has shape \(3,\)"):
        car_following.linear_return([1.0, 2.0, 3.0], CarFollowingParams())
