"""Environments of training control with known optima, against loops in NumPy and recorded numbers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.training_control import leading_ones, luby, noisy_quadratic, quadratic, rewards, sigmoid
from purerl.envs.training_control.leading_ones import LeadingOnes, LeadingOnesState
from purerl.envs.training_control.luby import Luby
from purerl.envs.training_control.noisy_quadratic import NoisyQuadratic
from purerl.envs.training_control.quadratic import Quadratic
from purerl.envs.training_control.sigmoid import Sigmoid
from purerl.testing import check_env

# --- both quadratics --------------------------------------------------------------------------------------------------


def player(env):
    """`(key, log rates [T], params) -> what the environment's own steps give`: (obs, loss, reward, terminated)."""

    def play(key, log_rates, params):
        _, state = env.reset_env(key, params)

        def step(carry, log_rate):
            state, key = carry
            key, own = jax.random.split(key)
            obs, state, reward, terminated, info = env.step_env(own, state, log_rate[None], params)
            return (state, key), (obs, info["loss"], reward, terminated)

        return jax.lax.scan(step, (state, key), log_rates)[1]

    return play


def played(env, schedules, **changed):
    """Obs, losses, rewards and ends of several schedules `[M, T]`, in float64."""
    with jax.enable_x64(True):
        params = env.default_params.replace(**changed)
        play = jax.jit(jax.vmap(player(env), (None, 0, None)))
        return jax.tree.map(np.asarray, play(jax.random.key(0), np.log(schedules), params))


def test_the_quadratic_has_the_optimum_of_conjugate_gradients():
    table = {
        1: (0.554285, (1.34498,), 0.554285, (0.554285, 1.34498)),
        2: (0.230594, (1.077574, 2.595924), 0.281109, (0.287375, 1.4566)),
        3: (0.117865, (1.018245, 1.612102, 4.487363), 0.182399, (0.186212, 1.5295)),
    }
    lam = 10 ** np.linspace(-2, 0, 20)
    for steps, (optimum, rates, greedy, (constant, at)) in table.items():
        found, rate = quadratic.optimal_rates(steps), quadratic.best_constant_rate(steps)
        schedules = np.stack([found, found[::-1], quadratic.steepest_descent_rates(steps), np.full(steps, rate)])
        loss = played(Quadratic(steps), schedules)[1][:, -1]
        # the residual polynomial 1 + λ q(λ) by least squares, without its roots
        powers = np.sqrt(lam)[:, None] * lam[:, None] ** np.arange(1, steps + 1)
        _, squares, *_ = np.linalg.lstsq(powers, -np.sqrt(lam), rcond=None)
        np.testing.assert_allclose(loss[:2], 0.5 * squares[0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(loss[2:], [greedy, constant], rtol=0, atol=6e-7)
        np.testing.assert_allclose([loss[0], *found, rate], [optimum, *rates, at], rtol=0, atol=5e-5)
        np.testing.assert_allclose([loss[0], *found[: steps - 1]], [optimum, *rates[: steps - 1]], rtol=0, atol=6e-7)


def test_the_quadratic_against_a_loop():
    lam, theta = np.array([0.5, 1.0, 4.0]), np.array([1.0, -2.0, 0.3])
    rates = np.array([0.2, 1.5, 0.15, 25.0])
    env = Quadratic(4, rewards.fall_of_loss)
    obs, loss, reward, terminated = (x[0] for x in played(env, rates[None], curvature=lam, start=theta))
    at, seen = [0.5 * sum(lam * theta**2)], []
    for t, rate in enumerate(rates):
        for i in range(3):
            theta[i] -= rate * lam[i] * theta[i]
        at.append(0.5 * sum(x * y * y for x, y in zip(lam, theta, strict=True)))
        unit = [(np.log(r) - np.log(0.1)) / np.log(300) * 2 - 1 for r in rates[: t + 1]]
        seen.append([np.log(at[-1] / at[0]), 1 - (t + 1) / 4, *unit, *[0] * (3 - t)])
    np.testing.assert_allclose(loss, at[1:], rtol=1e-12)
    np.testing.assert_allclose(reward, -np.diff(at), rtol=1e-10)
    np.testing.assert_allclose(obs, seen, atol=1e-5)
    assert terminated.tolist() == [False, False, False, True]
    np.testing.assert_allclose(quadratic.losses(rates, lam, [1.0, -2.0, 0.3]), at, rtol=1e-12)


def test_rewards_of_the_inner_loss_telescope():
    before, after = jnp.array([4.0, 2.0, 3.0]), jnp.array([2.0, 3.0, 0.5])
    last = jnp.array([False, False, True])
    log_fall = rewards.fall_of_log_loss(before, after, last)
    np.testing.assert_allclose(log_fall, np.log([2, 2 / 3, 6]), rtol=1e-6)
    np.testing.assert_allclose(log_fall.sum(), np.log(4 / 0.5), rtol=1e-6)
    np.testing.assert_allclose(rewards.fall_of_loss(before, after, last), [2, -1, 2.5])
    np.testing.assert_allclose(rewards.final_log_loss(before, after, last), [0, 0, np.log(2)], rtol=1e-6)
    assert np.isfinite(rewards.fall_of_log_loss(before, 0 * after, last)).all()


def test_a_run_that_diverges_stays_finite_and_alone(key):
    env = Quadratic(60)
    log_rates = np.log(np.stack([np.full(60, 30.0), np.full(60, 1.0)])).astype(np.float32)
    play = jax.jit(jax.vmap(player(env), (None, 0, None)))
    obs, loss, reward, _ = play(key, log_rates, env.default_params)
    assert loss[0, -1] > 1e20 and all(np.isfinite(x).all() for x in (obs, loss, reward))
    np.testing.assert_allclose(loss[1], quadratic.losses(np.ones(60))[1:], rtol=1e-4, atol=1e-7)
    params = env.default_params
    play(key, 0.1 * log_rates, params.replace(curvature=0.5 * params.curvature, start=2 * params.start))
    assert play._cache_size() == 1


def test_the_noisy_quadratic_has_the_recorded_losses():
    table = {
        10: (1.392297, 1.429831, (1.568783, 0.277), (1.550615, 0.598)),
        50: (0.499536, 0.609219, (0.705926, 0.133), (0.577859, 0.433)),
        100: (0.301099, 0.429317, (0.490300, 0.094), (0.356642, 0.361)),
    }
    for steps, (best, greedy, (constant, at), (cosine, peak)) in table.items():
        shapes = noisy_quadratic.constant, noisy_quadratic.cosine
        rates = [noisy_quadratic.best_of_shape(shape, steps) for shape in shapes]
        schedules = np.stack([
            noisy_quadratic.best_schedule(steps),
            noisy_quadratic.greedy_schedule(steps),
            *(shape(rate, steps) for shape, rate in zip(shapes, rates, strict=True)),
        ])  # fmt: skip
        loss = played(NoisyQuadratic(steps), schedules)[1][:, -1]
        np.testing.assert_allclose(loss[:2], [best, greedy], rtol=0, atol=6e-7)
        # recorded from a grid of rates, so at most that far above the minimum
        recorded = np.array([constant, cosine])
        assert ((loss[2:] <= recorded + 6e-7) & (loss[2:] > recorded - 2e-5)).all()
        np.testing.assert_allclose(rates, [at, peak], rtol=0, atol=2e-3)


def test_the_moments_against_a_loop():
    h, start, rates = np.array([0.25, 1.0]), np.array([3.0, 0.5]), np.array([0.5, 1.9, 0.01])
    env = NoisyQuadratic(3)
    out = played(env, rates[None], curvature=h, start=start)
    obs, loss, reward, terminated = (x[0] for x in out)
    A, at, seen = start.copy(), [0.5 * h @ start], []
    for t, rate in enumerate(rates):
        for i in range(2):
            A[i] = (1 - rate * h[i]) ** 2 * A[i] + rate**2 * h[i] ** 2 / h[i]  # Var c = 1/h
        at.append(0.5 * h @ A)
        powers = [np.log((h**k @ A) / (h**k @ start)) for k in range(4)]
        seen.append([1 - (t + 1) / 3, (np.log(rate) - np.log(0.005)) / np.log(400) * 2 - 1, *powers])
    np.testing.assert_allclose(loss, at[1:], rtol=1e-12)
    np.testing.assert_allclose(reward, -np.diff(np.log(at)), rtol=1e-10)
    np.testing.assert_allclose(obs, seen, atol=1e-5)
    assert terminated.tolist() == [False, False, True]
    np.testing.assert_allclose(noisy_quadratic.losses(rates, h, start), at, rtol=1e-12)


def test_the_sampled_quadratic_has_the_moments_as_its_expectation(key):
    runs, rates = 20_000, np.array([0.5, 1.2, 0.1], np.float32)
    env = NoisyQuadratic(3, sampled=True)
    params = env.default_params.replace(curvature=np.array([0.1, 1.0]), start=np.array([1.0, 2.0]))

    def squares(key):
        keys = jax.random.split(key, 4)
        _, state = env.reset_env(keys[0], params)
        path = [state.value]
        for own, rate in zip(keys[1:], rates, strict=True):
            _, state, *_, info = env.step_env(own, state, jnp.log(rate)[None], params)
            path.append(state.value)
        return jnp.square(jnp.stack(path)), info["loss"]

    squared, loss = jax.tree.map(np.asarray, jax.jit(jax.vmap(squares))(jax.random.split(key, runs)))
    wanted = noisy_quadratic.moments(rates, params.curvature, params.start)
    error = (squared.mean(0) - wanted) / (squared.std(0) / np.sqrt(runs))
    assert np.abs(error).max() < 4.5, error  # of 8 numbers: by chance once in 20,000 keys
    np.testing.assert_allclose(loss, 0.5 * squared[:, -1] @ params.curvature, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_best_schedule_is_stationary_for_its_discount(gamma):
    h, steps = noisy_quadratic.CURVATURE, 10

    def discounted(rates):
        def step(A, rate):
            after = (1 - rate * h) ** 2 * A + rate**2 * h
            return after, 0.5 * h @ (A - after)

        return gamma ** np.arange(steps) @ jax.lax.scan(step, jnp.ones(len(h)), rates)[1]

    rates = noisy_quadratic.best_schedule(steps, gamma)
    with jax.enable_x64(True):
        value, gradient = map(np.asarray, jax.jit(jax.value_and_grad(discounted))(jnp.asarray(rates)))
    falls = -np.diff(noisy_quadratic.losses(noisy_quadratic.greedy_schedule(steps)))
    assert np.abs(gradient).max() < 1e-7 and value > gamma ** np.arange(steps) @ falls
    np.testing.assert_allclose(noisy_quadratic.best_schedule(3, 0.0), noisy_quadratic.greedy_schedule(3), rtol=1e-12)


# --- LeadingOnes ------------------------------------------------------------------------------------------------------


def leading(bits):
    """The leading ones of strings `[..., n]`."""
    return np.cumprod(bits, -1).sum(-1)


def test_the_probability_of_an_improvement_by_enumeration():
    n = 6
    strings = np.array(list(itertools.product([0, 1], repeat=n)))
    found = np.zeros((n, n))
    for k in range(1, n + 1):
        masks = np.array([m for m in strings if m.sum() == k])
        for i in range(n):
            ones = leading(strings[leading(strings) == i][:, None] ^ masks)
            found[i, k - 1] = (ones > i).mean()
    np.testing.assert_allclose(leading_ones.improvement_probability(n, range(1, n + 1)), found, atol=1e-12)


def test_expected_evaluations_are_the_recorded_ones():
    best = leading_ones.best_flips(50, leading_ones.PORTFOLIO)
    found = [leading_ones.expected_evaluations(x) for x in (np.ones(50, int), best, leading_ones.best_flips(50))]
    np.testing.assert_allclose(found, [1250, 974.8847, 969.7452], rtol=0, atol=5e-5)
    assert leading_ones.expected_evaluations([1, 1, 2]) == np.inf


def search(random, flips, runs):
    """Evaluations of randomised local search on strings of bits, `[runs]`."""
    n = len(flips)
    bits, evaluations = random.integers(0, 2, (runs, n)), np.zeros(runs, int)
    while len(going := np.flatnonzero(leading(bits) < n)):
        ones = leading(bits[going])
        order = random.permuted(np.tile(np.arange(n), (len(going), 1)), axis=1)
        changed = bits[going] ^ (order < flips[ones][:, None])
        better = leading(changed) >= ones
        bits[going[better]] = changed[better]
        evaluations[going] += 1
    return evaluations


@pytest.fixture(scope="module")
def evaluations():
    """`(policy: an action for each number of leading ones, params, key, runs) -> evaluations, rewards, ends`."""
    env = LeadingOnes(12, (1, 2, 5))

    def play(policy, key):
        params = env.default_params
        reset_key, key = jax.random.split(key)
        _, state = env.reset_env(reset_key, params)

        def step(state, key):
            ended = state.leading >= 12
            _, stepped, reward, terminated, info = env.step_env(key, state, policy[state.leading], params)
            state = jax.tree.map(lambda old, new: jnp.where(ended, old, new), state, stepped)
            return state, (jnp.where(ended, 0, info["evaluations"]), jnp.where(ended, 0.0, reward), terminated)

        state, (taken, reward, terminated) = jax.lax.scan(step, state, jax.random.split(key, 100))
        return state, taken.sum(), reward.sum(), terminated[-1]

    return jax.jit(jax.vmap(play, (None, 0)))


def test_leading_ones_takes_the_evaluations_of_the_formula(evaluations, key):
    portfolio, runs = np.array([1, 2, 5]), 3_000
    policy = np.array([2, 2, 1, 2, 1, 0, 1, 0, 0, 1, 0, 0])
    wanted = leading_ones.expected_evaluations(portfolio[policy])
    state, taken, reward, terminated = jax.tree.map(
        np.asarray, evaluations(np.append(policy, 0), jax.random.split(key, runs))
    )
    assert terminated.all()
    np.testing.assert_array_equal(state.evaluations, taken)
    np.testing.assert_allclose(reward, -taken / 12, rtol=1e-5)
    simulated = search(np.random.default_rng(0), portfolio[policy], runs)
    for x in (taken, simulated):
        assert abs(x.mean() - wanted) < 4 * x.std() / np.sqrt(runs), (x.mean(), wanted)
    # the same law, not only the same mean: the largest difference of distribution functions
    both = np.sort(np.concatenate([taken, simulated]))
    apart = [np.searchsorted(np.sort(x), both, "right") / runs for x in (taken, simulated)]
    assert np.abs(apart[0] - apart[1]).max() < 2.0 * np.sqrt(2 / runs)  # Kolmogorov-Smirnov: once in 1,500 keys


def test_a_step_of_leading_ones_is_at_most_n_evaluations(key):
    env, params = purerl.make("LeadingOnes-v0")
    step = jax.jit(lambda state, action: env.step_env(key, state, action, params))
    state = LeadingOnesState(jnp.int32(49), jnp.int32(7), jnp.int32(498))
    obs, after, reward, terminated, info = step(state, 4)  # 16 flips can never improve
    assert (after.leading, after.evaluations, info["evaluations"], reward) == (49, 57, 50, -1.0)
    np.testing.assert_allclose(obs, [0.98, 0.0], atol=1e-6)
    assert not terminated and not env.is_truncated(after, params)
    assert env.is_truncated(step(after, 4)[1], params)
    np.testing.assert_allclose(env.see(jnp.int32(4)), [0.08, np.log(10) / np.log(50)], atol=1e-6)


# --- Luby and Sigmoid -------------------------------------------------------------------------------------------------


def of_definition(t):
    k = 1
    while 2**k - 1 < t:
        k += 1
    return 2 ** (k - 1) if t == 2**k - 1 else of_definition(t - 2 ** (k - 1) + 1)


def test_luby(key):
    assert luby.luby(1000).tolist() == [of_definition(t) for t in range(1, 1001)]
    assert luby.luby(1).tolist() == [1]
    env, params = purerl.make("Luby-v0")
    right = luby.luby_actions(64)
    assert env.num_actions == 6 and [2**a for a in right.tolist()] == luby.luby(64).tolist()
    wrong = np.where(np.arange(64) % 7 == 3, (right + 1) % 6, right).astype(np.int32)

    @jax.jit
    def play(actions):
        obs, state = env.reset_env(key, params)
        step = lambda state, action: (lambda o: (o[1], (o[0], o[2], o[3])))(env.step_env(key, state, action, params))
        return obs, *jax.lax.scan(step, state, actions)[1]

    first, obs, reward, terminated = jax.tree.map(np.asarray, play(right))
    assert reward.sum() == 0 and np.flatnonzero(terminated).tolist() == [63]
    np.testing.assert_array_equal(play(wrong)[2], np.where(np.arange(64) % 7 == 3, -1, 0))
    seen = np.concatenate([first[None], obs])
    taken = np.concatenate([np.zeros(5, int), right + 1])
    for t in (0, 3, 20, 64):
        wanted = np.concatenate([np.eye(7)[taken[t : t + 5]].reshape(-1), np.arange(64) == t])
        np.testing.assert_array_equal(seen[t], wanted)


def test_sigmoid_against_all_actions(key):
    levels, instances = (3, 4), 40
    env = Sigmoid(levels)
    params = env.default_params
    every = np.array(list(itertools.product(*map(range, levels))), np.int32)

    def play(key):
        obs, begin = env.reset_env(key, params)

        def step(state, _):
            each = jax.vmap(lambda action: env.step_env(key, state, action, params))(every)
            value = sigmoid.sigmoid(state.time + 1, state.slope, state.shift)
            nearest = env.step_env(key, state, sigmoid.nearest_levels(value, levels), params)
            return nearest[1], (each[2], nearest[0], nearest[2], nearest[3])

        return obs, begin, *jax.lax.scan(step, begin, length=10)[1]

    obs, begin, each, next_obs, best, terminated = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(play))(jax.random.split(key, instances))
    )
    for n in range(instances):
        a, b = begin.slope[n], begin.shift[n]
        np.testing.assert_allclose(obs[n], [1, *a / 2, *(b - 5) / 2.5], rtol=1e-5, atol=1e-6)
        for t in range(1, 11):
            value = 1 / (1 + np.exp(-a * (t - b)))
            for j, (x, y) in enumerate(every):
                wanted = (1 - abs(value[0] - x / 2)) * (1 - abs(value[1] - y / 3))
                assert each[n, t - 1, j] == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(best, each.max(-1), atol=1e-6)
    total = jax.jit(lambda a, b: sigmoid.best_return(a, b, levels))(begin.slope, begin.shift)
    np.testing.assert_allclose(total, each.max(-1).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(terminated, np.tile(np.arange(10) == 9, (instances, 1)))
    np.testing.assert_allclose(next_obs[:, :, 0], 1 - np.arange(1, 11)[None].repeat(instances, 0) / 10, atol=1e-6)


def test_instances_of_sigmoid_have_the_stated_law(key):
    env = Sigmoid((2,) * 20_000)
    state = jax.tree.map(np.asarray, jax.jit(env.reset_env)(key, env.default_params)[1])
    slope, shift = np.sort(state.slope), (state.shift - 5) / 2.5
    assert np.abs(slope - np.linspace(-2, 2, 20_000)).max() < 4 * 2.0 / np.sqrt(20_000)
    for moment, wanted, std in ((1, 0, 1), (2, 1, math.sqrt(2)), (4, 3, math.sqrt(96))):
        assert abs((shift**moment).mean() - wanted) < 4 * std / np.sqrt(20_000)


# --- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id, kwargs",
    [
        ("Quadratic-v0", {}),
        ("NoisyQuadratic-v0", {}),
        ("NoisyQuadratic-v0", {"sampled": True, "num_steps": 7}),
        ("LeadingOnes-v0", {}),
        ("Luby-v0", {}),
        ("Sigmoid-v0", {}),
    ],
)
def test_they_are_environments(env_id, kwargs, key):
    env, params = purerl.make(env_id, **kwargs)
    assert env.name == env_id and getattr(purerl.envs, type(env).__name__) is type(env)
    check_env(env, params, key)


def test_bad_input():
    for make in (Quadratic, NoisyQuadratic, Luby):
        with pytest.raises(ValueError, match=r"num_steps is 0; it must be a positive int"):
            make(0)
    for make in (Quadratic, NoisyQuadratic):
        for rates in ((1.0, 0.5), (0.0, 1.0), (1.0, math.inf)):
            with pytest.raises(ValueError, match=r"Quadratic: rates is \(.*\); it must be \(low, high\)"):
                make(rates=rates)
        with pytest.raises(ValueError, match=r"reward is 'loss'; it must be a function"):
            make(reward="loss")
    with pytest.raises(ValueError, match=r"num_steps is 20; it must be less than 20, the different curvatures"):
        quadratic.optimal_rates(20)
    with pytest.raises(ValueError, match=r"best_schedule: gamma is 1.5; it must lie in \[0.0, 1.0\]"):
        noisy_quadratic.best_schedule(3, 1.5)
    with pytest.raises(ValueError, match=r"size is 1; it must be at least 2"):
        LeadingOnes(1)
    assert (LeadingOnes(5, (1, 2, 5)).num_actions, Sigmoid((3, 4)).num_actions) == (3, 12)
    for portfolio in ((), (0,), (51,), (1.5,)):
        with pytest.raises(ValueError, match=r"portfolio is \(.*\); it must be ints in 1 .. 50, the size"):
            LeadingOnes(50, portfolio)
    for levels in ((), (1, 3)):
        with pytest.raises(ValueError, match=r"levels is \(.*\); it must be ints of at least 2"):
            Sigmoid(levels)
    with pytest.raises(ValueError, match=r"levels\[1\] is 2.5; it must be a positive int"):
        Sigmoid((3, 2.5))
