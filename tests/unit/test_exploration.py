"""Choices, bandits, noise and sampling against their probabilities, counted or computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl import exploration as ex
from purerl import schedules
from purerl.tabular import bandits

Q = jnp.array([[1.0, 3.0, 3.0, -jnp.inf], [0.0, 0.0, 0.0, 0.0]])


def frequencies(actions, num_actions):
    return np.stack([np.bincount(row, minlength=num_actions) / len(actions) for row in np.asarray(actions).T])


def close(got, wanted, draws=4000):
    np.testing.assert_array_less(np.abs(got - wanted), 4.5 * np.sqrt(wanted * (1 - wanted) / draws) + 1e-9)


def test_choices_have_their_probabilities():
    greedy = np.array([[0, 0.5, 0.5, 0], [0.25] * 4])
    choices = (
        lambda key: ex.greedy(key, Q),
        lambda key: ex.epsilon_greedy(key, Q, 0.3),
        lambda key: ex.boltzmann(key, Q, 2.0),
        lambda key: ex.boltzmann(key, Q, 0.0),
    )

    @jax.jit
    def of(keys):
        probs = (
            ex.greedy_probs(Q),
            ex.epsilon_greedy_probs(Q, 0.3),
            ex.epsilon_greedy_probs(Q, jnp.array([0.0, 1.0])),
        )
        return probs, [jax.vmap(choose)(keys) for choose in choices]

    probs, actions = of(jax.random.split(jax.random.key(0), 4000))
    explores = np.array([[0.1, 0.45, 0.45, 0], [0.25] * 4])  # -inf is not there, so three actions share ε
    for got, wanted in zip(probs, (greedy, explores, greedy), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    weights = np.exp(np.array([[1, 3, 3, -np.inf], [0] * 4]) / 2)
    wanted = greedy, explores, weights / weights.sum(-1, keepdims=True), greedy
    for drawn, expected in zip(actions, wanted, strict=True):
        close(frequencies(drawn, 4), expected)


def test_a_schedule_is_a_number_at_a_step():
    act = jax.jit(lambda step: ex.epsilon_greedy_probs(Q[0, :2], schedules.linear(step, 1.0, 0.0, 100)))
    np.testing.assert_allclose(act(0), [0.5, 0.5])
    np.testing.assert_allclose(act(100), [0.0, 1.0])


def test_ucb1():
    value, count = np.float32([0.5, 0.2, 9.0]), np.array([10, 5, 0])
    ucb1 = jax.jit(lambda value, count: ex.ucb1(value, count, 2.0))
    wanted = [0.5 + 2 * np.sqrt(np.log(15) / 10), 0.2 + 2 * np.sqrt(np.log(15) / 5), np.inf]
    np.testing.assert_allclose(ucb1(value, count), wanted, rtol=1e-6)
    assert np.isposinf(ucb1(value, 0 * count)).all()


# --- bandits ------------------------------------------------------------------------------------------------------


def play(bandit, pulls, num_arms=3):
    arms, rewards = np.array(pulls).T
    update = lambda state, pull: (bandit.update(state, *pull), None)
    pulls = arms.astype(np.int32), rewards.astype(np.float32)
    return jax.jit(lambda pulls: jax.lax.scan(update, bandit.init(num_arms), pulls)[0])(pulls)


PULLS = [(0, 1.0), (2, -1.0), (0, 3.0), (1, 0.5), (0, 2.0)]


def test_bandits_estimate_what_they_say():
    mean = play(bandits.epsilon_greedy(), PULLS)
    np.testing.assert_allclose(mean.value, [2.0, 0.5, -1.0])
    assert mean.count.tolist() == [3, 1, 1] and mean.mean_reward == pytest.approx(1.1)
    constant = play(bandits.epsilon_greedy(step_size=0.5, initial=5.0), PULLS)
    np.testing.assert_allclose(constant.value, [((5 + 1) / 2 + 3) / 4 + 1, 2.75, 2.0])
    np.testing.assert_allclose(play(bandits.ucb(), PULLS).value, mean.value)
    preference, mean_reward = np.zeros(3), 0.0
    for n, (arm, reward) in enumerate(PULLS):
        mean_reward += (reward - mean_reward) / (n + 1)
        pi = np.exp(preference) / np.exp(preference).sum()
        preference += 0.1 * (reward - mean_reward) * (np.eye(3)[arm] - pi)
    np.testing.assert_allclose(play(bandits.gradient(0.1), PULLS).value, preference, atol=1e-6)
    plain = play(bandits.gradient(0.1, baseline=False), PULLS[:1])
    np.testing.assert_allclose(plain.value, 0.1 * (np.eye(3)[0] - 1 / 3), atol=1e-6)


def test_bandits_act_by_what_they_estimate():
    falling = bandits.epsilon_greedy(lambda t: schedules.linear(t, 1.0, 0.0, 5.0))
    for bandit in (bandits.epsilon_greedy(0.0), falling, bandits.ucb(0.0)):
        state = play(bandit, PULLS)
        assert jax.jit(bandit.act)(jax.random.key(0), state) == 0
    assert jax.jit(bandits.ucb().act)(jax.random.key(0), play(bandits.ucb(), PULLS[:2])) == 1  # never tried
    gradient = bandits.gradient()
    state = gradient.init(3)._replace(value=jnp.array([0.0, 99.0, 0.0]))
    assert jax.jit(gradient.act)(jax.random.key(0), state) == 1
    # an optimist tries every arm before it repeats one
    bandit = bandits.epsilon_greedy(0.0, 0.1, 5.0)

    def pull(state, key):
        arm = bandit.act(key, state)
        return bandit.update(state, arm, jnp.float32(0.0)), arm

    _, tried = jax.jit(lambda keys: jax.lax.scan(pull, bandit.init(4), keys))(jax.random.split(jax.random.key(0), 4))
    assert sorted(tried.tolist()) == [0, 1, 2, 3]


# --- noise --------------------------------------------------------------------------------------------------------


def test_gaussian_noise():
    noise = ex.gaussian_noise((2,), sigma=0.5)
    x, state = jax.jit(lambda key: noise.apply(key, noise.init(3000), 2.0))(jax.random.key(0))
    x = np.asarray(x)
    assert x.shape == (3000, 2) and x.std() == pytest.approx(1.0, rel=0.05) and abs(x.mean()) < 0.05
    assert noise.reset(state, jnp.ones(3000, bool)) is state


def test_ornstein_uhlenbeck():
    noise = ex.ornstein_uhlenbeck((2,), sigma=0.3, theta=0.15, dt=0.5)
    ended = np.arange(500) % 2 == 0

    @jax.jit
    def of(keys):
        state, xs = jax.lax.scan(lambda state, key: noise.apply(key, state)[::-1], noise.init(500), keys)
        return state, xs, noise.reset(state, ended), noise.apply(keys[0], state, 2.0)

    state, xs, after, (double, same) = jax.tree.map(np.asarray, of(jax.random.split(jax.random.key(0), 300)))
    keeps = 1 - 0.15 * 0.5
    assert xs[-50:].std() == pytest.approx(0.3 * np.sqrt(0.5 / (1 - keeps**2)), rel=0.05)
    correlation = (xs[-100:-1] * xs[-99:]).mean() / np.square(xs[-100:]).mean()
    assert correlation == pytest.approx(keeps, abs=0.02)
    assert not after[ended].any() and (after[~ended] == state[~ended]).all()
    np.testing.assert_allclose(double, 2 * same)


def test_parameter_noise():
    params = {"w": np.zeros((200, 50), np.float32), "b": np.ones(1000, np.float32)}
    noisy = jax.tree.map(np.asarray, jax.jit(lambda key: ex.perturbed(key, params, 0.3))(jax.random.key(0)))
    for name in params:
        assert (noisy[name] - params[name]).std() == pytest.approx(0.3, rel=0.1)
    assert not np.allclose(noisy["w"].reshape(-1)[:1000], noisy["b"] - 1)
    # it settles where the distance, here 3σ, is the target
    adapt = lambda _, sigma: ex.adapt_sigma(sigma, 3 * sigma, 0.6)
    assert jax.jit(lambda: jax.lax.fori_loop(0, 2000, adapt, 1.0))() == pytest.approx(0.2, rel=0.03)


# --- sampling -----------------------------------------------------------------------------------------------------


def top_p_set(probs, p):
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    kept, total = [], 0.0
    for i in order:
        if kept and total >= p:
            break
        kept.append(i)
        total += probs[i]
    return kept


top_k, top_p, min_p = map(jax.jit, (ex.top_k, ex.top_p, ex.min_p))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.05, 0.95))
def test_filters_keep_what_they_say(seed, k, p):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 6)) * 2
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for row, got in enumerate(np.asarray(top_k(logits, k))):
        assert set(np.flatnonzero(np.isfinite(got))) == set(np.argsort(-logits[row])[:k])
    for row, got in enumerate(np.asarray(top_p(logits, p))):
        assert set(np.flatnonzero(np.isfinite(got))) == set(top_p_set(probs[row], p))
    for row, got in enumerate(np.asarray(min_p(logits, p))):
        assert set(np.flatnonzero(np.isfinite(got))) == set(np.flatnonzero(probs[row] >= p * probs[row].max()))


def test_filters_at_their_edges():
    same = np.zeros((2, 5), np.float32)
    # of equals the first: never more than was asked for
    np.testing.assert_array_equal(np.isfinite(top_k(same, 2)), [[1, 1, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(np.isfinite(top_p(same, 0.5)), [[1, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(np.isfinite(top_k(same, np.array([1, 9]))), [[1, 0, 0, 0, 0], [1] * 5])
    assert np.isfinite(top_p(same, 0.0)).sum() == 2 and np.isfinite(top_p(same, 1.0)).all()
    assert np.isfinite(min_p(same, 1.0)).all() and np.isfinite(min_p(same, 0.0)).all()
    logits = np.float32([1.0, 5.0, 5.0])
    softmax_at = jax.jit(lambda temperature: jax.nn.softmax(ex.with_temperature(logits, temperature)))
    np.testing.assert_allclose(softmax_at(0.0), [0, 0.5, 0.5])
    np.testing.assert_allclose(softmax_at(2.0), np.exp(logits / 2) / np.exp(logits / 2).sum(), rtol=1e-6)
    for bad in (lambda: ex.top_k(same, 0), lambda: ex.top_p(same, 1.5), lambda: ex.min_p(same, -0.1)):
        with pytest.raises(ValueError, match="it must"):
            bad()


def test_log_probabilities_are_those_of_what_was_sampled_from():
    logits = np.float32([2.0, 1.0, 0.0, -1.0])
    filters = (lambda x: ex.with_temperature(x, 1.5), lambda x: ex.top_k(x, 3), lambda x: ex.min_p(x, 0.2))
    draw = jax.jit(jax.vmap(lambda key: ex.sample(key, logits, *filters)))
    tokens, log_probs = map(np.asarray, draw(jax.random.split(jax.random.key(0), 4000)))
    counts = np.bincount(tokens, minlength=4) / 4000
    weights = np.exp(np.array([2.0, 1.0, 0.0, -np.inf]) / 1.5)
    close(counts, weights / weights.sum())
    np.testing.assert_allclose(np.exp(log_probs), (weights / weights.sum())[tokens], rtol=1e-5)
    # they integrate to one over what can be drawn
    assert np.exp([float(log_probs[tokens == t][0]) for t in range(3)]).sum() == pytest.approx(1.0, rel=1e-5)


def test_dirichlet_noise_has_its_moments(key):
    probs, alpha, legal = np.float32([0.1, 0.2, 0.3, 0.4]), 0.5, np.array([True, True, False, True])

    @jax.jit
    def of(keys, alphas, fractions):
        mix = lambda key, a, fraction: ex.dirichlet_noise(key, probs, a, fraction, legal)
        return jax.vmap(jax.vmap(mix, (0, None, None)), (None, 0, 0))(keys, alphas, fractions)

    alphas, fractions = np.float32([alpha, alpha, 1e-4, 1e4]), np.float32([0.25, 1, 1, 1])
    mixed, noise, sparse, even = np.asarray(of(jax.random.split(key, 5_000), alphas, fractions))
    np.testing.assert_allclose(mixed, 0.75 * probs + 0.25 * noise, rtol=1e-5, atol=1e-7)
    for x in (noise, sparse, even):
        np.testing.assert_allclose(x.sum(1), 1, rtol=1e-5)
        assert not x[:, 2].any() and (x >= 0).all()
    np.testing.assert_allclose(noise.mean(0)[legal], 1 / 3, atol=0.02)
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1)
    np.testing.assert_allclose(noise.var(0)[legal], variance, rtol=0.1)
    assert (sparse.max(1) > 0.99).mean() > 0.99
    np.testing.assert_allclose(even[:, legal], 1 / 3, atol=0.03)
    none = ex.dirichlet_noise(key, jnp.array(probs), alpha, 0.5, np.zeros(4, bool))
    np.testing.assert_allclose(none, probs / 2)
    for wrong in ({"alpha": 0.0}, {"fraction": 1.5}, {"legal": np.ones(3, bool)}):
        with pytest.raises(ValueError, match="dirichlet_noise"):
            ex.dirichlet_noise(key, jnp.array(probs), **wrong)


def test_schedules_of_no_steps_are_at_their_end():
    """And those of some steps are as without that case."""
    for of in (schedules.linear, schedules.cosine, schedules.exponential):
        assert of(0, 1.0, 0.25, 0) == of(7, 1.0, 0.25, 0.0) == jnp.float32(0.25)
        several = jax.vmap(of, (None, None, None, 0))(0, 1.0, 0.25, jnp.array([0.0, 4.0]))
        assert several.tolist() == [0.25, 1.0]
    steps = np.arange(-3, 20)
    np.testing.assert_allclose(schedules.linear(steps, 0.0, 1.0, 7), np.clip(steps / 7, 0.0, 1.0), rtol=2e-7)
    slope = jax.grad(lambda n: schedules.linear(3.0, 0.0, 1.0, n))
    np.testing.assert_allclose([slope(6.0), slope(2.0), slope(0.0)], [-3 / 36, 0, 0], atol=1e-7)
