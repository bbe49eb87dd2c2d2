"""Spectrum access against recorded averages, a loop in NumPy, and the exact values of single channels."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.envs.fields import spectrum
from purerl.envs.fields.spectrum import Spectrum, SpectrumParams, equal_channels
from purerl.tabular import relative_value_iteration
from purerl.testing import check_env


@jax.jit
def solved(mdp):
    found = relative_value_iteration(mdp._replace(terminal=np.zeros(mdp.R.shape[0], bool)), tolerance=1e-10)
    return found.gain, found.policy.argmax(-1)


def optimum(params, max_age):
    """The average reward of the optimum, the beliefs, and the optimal actions there."""
    belief, mdp = spectrum.belief_mdp(params, max_age)
    with jax.enable_x64(True):
        gain, policy = solved(jax.tree.map(jnp.asarray, mdp))
        return float(gain), belief, np.asarray(policy), mdp


def average(mdp, action):
    """The average reward of actions `[S]` on an MDP of beliefs, from its first state, by powers of its matrix."""
    every = np.arange(len(action))
    P = np.zeros((len(action), len(action)))
    np.add.at(P, (every[:, None], mdp.successors[every, action]), mdp.P[every, action])
    law = np.linalg.matrix_power(0.5 * (P + np.eye(len(P))), 2**14)[0]  # lazy, so that cycles do not matter
    return law @ mdp.R[every, action]


@pytest.mark.parametrize("p01, p11", [(0.2, 0.8), (0.8, 0.2)])
def test_two_channels_have_the_recorded_average(p01, p11):
    params = equal_channels(2, p01, p11)
    gain, belief, _, mdp = optimum(params, 40)
    assert spectrum.best_memoryless(params)[0] == pytest.approx(gain, abs=1e-8)  # of two no memory is needed
    assert gain == pytest.approx(0.65, abs=1e-8)
    assert average(mdp, np.asarray(spectrum.myopic(belief))) == pytest.approx(gain, abs=1e-8)
    fixed = average(mdp, np.zeros(len(belief), int))
    assert fixed == pytest.approx(spectrum.stationary(p01, p11), abs=1e-9) and fixed == pytest.approx(0.5)


# the best policy of the last observation is optimal where p11 ≥ p01, and its average is exact
@pytest.mark.parametrize("p01, p11, wanted", [(0.2, 0.8, 0.6937874), (0.6, 0.3, 0.5383548)])
def test_three_channels_have_the_recorded_average(p01, p11, wanted):
    params = equal_channels(3, p01, p11)
    gain, belief, policy, mdp = optimum(params, 26)
    assert gain == pytest.approx(wanted, abs=6e-8 if p11 < p01 else 1e-7)
    without_memory, _ = spectrum.best_memoryless(params)
    if p11 > p01:
        assert without_memory == pytest.approx(gain, abs=1e-7)
    else:
        assert without_memory == pytest.approx(0.5360947, abs=1e-7)
    # myopic where its choice is unique
    best = np.sort(belief, -1)
    clear = best[:, -1] > best[:, -2] + 1e-9
    reached = np.abs(mdp.R.max(-1) - best[:, -1]) < 1e-12
    assert reached.all() and (policy[clear] == belief[clear].argmax(-1)).mean() > 0.9


def test_unequal_channels_have_an_optimum_that_rules_approach():
    params = SpectrumParams(np.array([0.1, 0.5]), np.array([0.9, 0.6]))
    gain, belief, policy, mdp = optimum(params, 40)
    assert average(mdp, policy) == pytest.approx(gain, abs=1e-7)
    with jax.enable_x64(True):
        by_index = average(mdp, np.asarray(jax.jit(spectrum.whittle)(belief, params)))
    by_belief = average(mdp, belief.argmax(-1))
    assert gain >= by_index > by_belief + 1e-3 and gain - by_index < 5e-3


@pytest.mark.parametrize("p01, p11", [(0.2, 0.8), (0.3, 0.6), (0.8, 0.2), (0.6, 0.3), (0.4, 0.4)])
def test_whittle_indices_make_using_and_resting_equal(p01, p11):
    """A single channel with a reward for resting: relative values by iteration, beliefs by (outcome, age)."""
    law, ages = p01 / (p01 + 1 - p11), 60
    later = lambda x: law + (x - law) * (p11 - p01) ** np.arange(ages)
    known = np.stack([later(p01), later(p11)])
    beliefs = np.array([0.1, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.9])
    with jax.enable_x64(True):
        index = np.asarray(jax.jit(spectrum.whittle_index)(beliefs, p01, p11))
    assert (np.diff(index) >= -1e-12).all()
    for start, subsidy in zip(beliefs, index, strict=True):
        values = np.zeros_like(known)
        for _ in range(2_000):
            rest = subsidy + 0.5 * np.concatenate([values[:, 1:], values[:, -1:]], 1) + 0.5 * values
            use = known + 0.5 * (known * values[1, 0] + (1 - known) * values[0, 0]) + 0.5 * values
            change = np.maximum(rest, use) - values
            values = np.maximum(rest, use) - np.maximum(rest, use)[0, 0]
            if np.ptp(change) < 1e-12:
                break
        gain, values = change.mean(), values / 2
        if p11 < p01 and law <= start < known[1, 1]:  # at rest a belief here stays here: rest for ever, or use for ever
            assert gain == pytest.approx(subsidy, abs=1e-9)
            continue
        path = later(start)
        use = path - gain + path * values[1, 0] + (1 - path) * values[0, 0]
        after = values[0, -1]
        for t in range(ages - 1, 0, -1):
            after = max(subsidy - gain + after, use[t])
        assert subsidy - gain + after == pytest.approx(use[0], abs=1e-6), (start, subsidy)


@pytest.fixture(scope="module")
def played():
    """Beliefs, actions and rewards `[E, T]` of a policy of (belief, observation) in the environment."""

    def play(policy, params, key, num_envs, num_steps):
        env = Spectrum(params)

        def step(carry, key):
            obs, belief, state = carry
            action = policy(belief, obs)
            obs, after, reward, _, info = env.step_env(key, state, action, params)
            new = spectrum.next_belief(belief, action, info["good"], params)
            return (obs, new, after), (belief, action, reward, state.good, obs)

        def one(key):
            obs, state = env.reset_env(key, params)
            belief = jnp.asarray(spectrum.stationary(params.p01, params.p11), jnp.float32)
            return jax.lax.scan(step, (obs, belief, state), jax.random.split(key, num_steps))[1]

        return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(key, num_envs)))

    return play


def test_rollouts_have_the_averages_of_their_policies(played, key):
    params = equal_channels(3, 0.9, 0.1)
    belief, action, reward, good, obs = played(lambda belief, obs: spectrum.myopic(belief), params, key, 150, 400)
    means = reward[:, 50:].mean(1)
    assert abs(means.mean() - 0.7579635) < 4 * means.std() / math.sqrt(150)
    # beliefs are the probabilities of what is seen
    chosen = np.take_along_axis(belief, action[..., None], -1)[..., 0]
    for low in np.arange(0, 1, 0.1):
        inside = (chosen >= low) & (chosen < low + 0.1)
        if (count := inside.sum()) > 100:
            assert abs(reward[inside].mean() - chosen[inside].mean()) < 4 * math.sqrt(0.25 / count)
    np.testing.assert_array_equal(reward, np.take_along_axis(good, action[..., None], -1)[..., 0])
    np.testing.assert_array_equal(obs.argmax(-1), 2 * action + reward.astype(int))
    best, actions = spectrum.best_memoryless(params)
    assert best == pytest.approx(0.7, abs=1e-9)
    of_obs = jnp.asarray(actions, jnp.int32)
    _, _, reward, *_ = played(lambda belief, obs: of_obs[obs.argmax()], params, key, 150, 400)
    means = reward[:, 50:].mean(1)
    assert abs(means.mean() - best) < 4 * means.std() / math.sqrt(150)


def test_staying_after_good_in_a_simulation():
    random, params = np.random.default_rng(0), (0.2, 0.8)
    good, unseen, channel, rewards = random.random((400, 3)) < 0.5, np.zeros((400, 3)), np.zeros(400, int), []
    every = np.arange(400)
    for _ in range(400):
        reward = good[every, channel]
        rewards.append(reward)
        unseen += 1
        unseen[every, channel] = 0
        channel = np.where(reward, channel, unseen.argmax(-1))
        good = random.random((400, 3)) < np.where(good, params[1], params[0])
    means = np.mean(rewards[30:], 0)
    assert abs(means.mean() - 0.6937874) < 4 * means.std() / math.sqrt(400)


def test_channels_have_their_laws(played, key):
    params = SpectrumParams(np.array([0.2, 0.5, 0.9]), np.array([0.7, 0.5, 0.3]))
    *_, good, _ = played(lambda belief, obs: jnp.int32(0), params, key, 100, 300)
    for n in range(3):
        before, after = good[:, :-1, n], good[:, 1:, n]
        for state, p in ((False, params.p01[n]), (True, params.p11[n])):
            count = (before == state).sum()
            assert abs(after[before == state].mean() - p) < 4 * math.sqrt(0.25 / count)
        assert abs(good[:, 0, n].mean() - spectrum.stationary(params.p01[n], params.p11[n])) < 4 * math.sqrt(0.25 / 100)


def test_it_is_an_environment(key):
    env, params = purerl.make("Spectrum-v0")
    assert env.name == "Spectrum-v0" and purerl.envs.Spectrum is type(env) and env.num_actions == 3
    check_env(env, params, key)
    obs, state = env.reset_env(key, params)
    assert not obs.any()
    drawn = env.render(state._replace(good=np.array([True, False, True])), params)
    assert [bar.get_height() for bar in drawn.axes[0].patches] == [1, 0, 1]


def test_bad_input(key):
    env = Spectrum()
    begin = env.reset_env(key, env.default_params)[1]
    for changed, said in (
        ({"p01": np.array([0.1, 0.1, 1.1])}, r"Spectrum: p01 is \[0.1 0.1 1.1\]; it must lie in \[0, 1\]"),
        ({"p11": np.array([0.1, math.nan, 0.1])}, r"Spectrum: p11 is .*; it must lie in \[0, 1\]"),
        ({"p01": [0.1, 0.1, 0.1]}, r"Spectrum: p01 is \[0.1, 0.1, 0.1\]; it must be an array"),
        ({"max_steps_in_episode": 2.5}, r"Spectrum: max_steps_in_episode is 2.5; it must be a whole number"),
        ({"p11": np.array([0.1, 0.1])}, r"Spectrum: p01 and p11 have shapes \(3,\) and \(2,\); both must be \(N,\)"),
        ({"p01": np.zeros(3), "p11": np.ones(3)}, r"a channel has p01 = 0 and p11 = 1; it never changes"),
    ):
        params = replace(env.default_params, **changed)
        for call in (
            lambda: Spectrum(params),
            lambda: env.reset_env(key, params),
            lambda: env.step_env(key, begin, 0, params),
            lambda: spectrum.belief_mdp(params, 10),
            lambda: spectrum.best_memoryless(params),
        ):
            with pytest.raises(ValueError, match=said):
                call()
    several = replace(env.default_params, p01=np.full((2, 3), 0.9), p11=np.full((2, 3), 0.1))
    for call in (lambda: spectrum.belief_mdp(several, 10), lambda: spectrum.best_memoryless(several)):
        with pytest.raises(ValueError, match=r"p01 has shape \(2, 3\); it must be an array of 1 axis, of one problem"):
            call()
    for num_channels in (2, 4):
        others = equal_channels(num_channels, 0.9, 0.1)
        for call in (lambda: env.reset_env(key, others), lambda: env.step_env(key, begin, 0, others)):
            with pytest.raises(ValueError, match=rf"Spectrum: p01 has shape \({num_channels},\); it must be \(3,\)"):
                call()
    with pytest.raises(ValueError, match=r"max_age is 0; it must be a positive int"):
        spectrum.belief_mdp(env.default_params, 0)
    with pytest.raises(ValueError, match=r"num_channels is 0; it must be a positive int"):
        equal_channels(0, 0.2, 0.8)
    with pytest.raises(ValueError, match=r"Spectrum: p01 is \[nan nan\]; it must lie in \[0, 1\]"):
        equal_channels(2, math.nan, 0.8)
    with pytest.raises(ValueError, match=r"best_memoryless: params are of 4 channels"):
        spectrum.best_memoryless(equal_channels(4, 0.2, 0.8))
