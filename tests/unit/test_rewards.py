"""Rewards against loops in NumPy; shaping against exact solutions of random MDPs; what learns, learns."""

from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import Linear

import purerl
from purerl import networks, rewards, schedules, tabular
from purerl.testing import check_reward, probes

T, N = 12, 3


@pytest.fixture
def block():
    """Random steps whose successors are the next observations, with ends of both kinds, and some steps not valid."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(T + 1, N, 2)).astype(np.float32)
    ends, valid = rng.random((2, T, N)) < 0.2, np.ones((T, N), bool)
    valid[-2:, 0] = False
    action, reward = rng.integers(0, 2, (T, N)).astype(np.int32), rng.normal(size=(T, N)).astype(np.float32)
    cost = {"cost": rng.random((T, N)).astype(np.float32)}
    return jax.tree.map(jnp.asarray, purerl.Transition(obs[:-1], action, reward, obs[1:], *ends, valid, (), cost))


def paid(reward, tr, times=1):
    """What a reward gives for the same block again and again: the last, with its state and metrics."""
    reward = rewards.term(reward)
    state, apply = jax.jit(reward.init)(jax.random.key(0), jax.tree.map(lambda x: x[0], tr)), jax.jit(reward.apply)
    for _ in range(times):
        state, given, metrics = apply(jax.random.key(0), state, tr)
    return np.asarray(given), state, jax.tree.map(np.asarray, metrics)


phi = lambda obs: 3.0 * obs[..., 0]
index = lambda obs: (obs[..., 0] > 0).astype(jnp.int32)
torso = partial(networks.MLP, (8,), nn.relu)
ALL = {
    "term": lambda tr: 2 * tr.reward,
    "weighted": rewards.weighted(
        {"task": rewards.environment, "new": rewards.count_bonus(index, 2)}, {"task": 2.0, "new": -1.0}
    ),
    "chain": rewards.chain(rewards.scale(3.0), rewards.normalize(0.9), rewards.clip(-1.0, 1.0)),
    "sign": rewards.sign(),
    "symlog": rewards.symlog(),
    "when": rewards.when(lambda tr: tr.obs[..., 0] > 0, rewards.scale(2.0)),
    "anneal": rewards.anneal(lambda steps: schedules.linear(steps, 1.0, 0.0, 100.0)),
    "terminal_bonus": rewards.terminal_bonus(5.0),
    "potential": rewards.potential(phi, 0.9),
    "count_bonus": rewards.count_bonus(index, 2, 0.5),
    "rnd": rewards.rnd(torso()),
    "lagrangian": rewards.lagrangian(lambda tr: tr.info["cost"], 0.1),
    "modelled": rewards.modelled(nn.Dense(1), {"params": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}),
}


@pytest.mark.parametrize("name", ALL)
def test_contract(name, block, key):
    check_reward(rewards.term(ALL[name]), block, key)


def test_changes_of_the_reward_that_is_there(block):
    r, ended = np.asarray(block.reward), np.asarray(block.terminated)
    here = np.asarray(block.next_obs)[..., 0] > 0
    expected = {
        rewards.scale(3.0): 3 * r,
        rewards.clip(-0.5, 0.2): np.clip(r, -0.5, 0.2),
        rewards.sign(): np.sign(r),
        rewards.symlog(): np.sign(r) * np.log1p(np.abs(r)),
        ALL["when"]: np.where(np.asarray(block.obs)[..., 0] > 0, 2 * r, r),
        rewards.terminal_bonus(5.0): r + 5.0 * ended,
        rewards.terminal_bonus(5.0, lambda tr: tr.next_obs[..., 0] > 0): r + 5.0 * (ended & here),
        rewards.chain(rewards.scale(3.0), rewards.clip(-1.0, 1.0)): np.clip(3 * r, -1, 1),
        rewards.chain(): r,
    }

    @jax.jit
    def given(key, tr):
        one = jax.tree.map(lambda x: x[0], tr)
        return [reward.apply(key, reward.init(key, one), tr)[1] for reward in map(rewards.term, expected)]

    for got, wanted in zip(given(jax.random.key(0), block), expected.values(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_terms_are_weighted_and_logged_raw_and_weighted(block):
    terms = {"task": rewards.environment, "cost": lambda tr: tr.info["cost"]}
    given, _, metrics = paid(rewards.weighted(terms, {"task": 2.0, "cost": -0.5}), block)
    r, c, valid = (np.asarray(x) for x in (block.reward, block.info["cost"], block.valid))
    np.testing.assert_allclose(given, 2 * r - 0.5 * c, rtol=1e-5)
    means = {"task": r[valid].mean(), "cost": c[valid].mean()}
    for name, weight in {"task": 2.0, "cost": -0.5}.items():
        np.testing.assert_allclose(metrics[name], means[name], rtol=1e-5)
        np.testing.assert_allclose(metrics[f"weighted/{name}"], weight * means[name], rtol=1e-5)


def test_weights_are_swept_in_one_program(cartpole, key):
    """The environment's own return is reported whatever is paid."""
    agent = purerl.a2c(Linear(2), purerl.distributions.categorical(2))
    terms = {"task": rewards.environment, "centre": lambda tr: -jnp.abs(tr.next_obs[..., 0])}

    def run(weight):
        reward = rewards.weighted(terms, {"task": weight, "centre": 1.0})
        return purerl.train(purerl.learner(*cartpole, agent, 4, 32, reward), key, 4, 4)[1]

    metrics = jax.jit(jax.vmap(run))(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(metrics["weighted/task"][:, 0], [0.0, 1.0])
    np.testing.assert_allclose(metrics["episode_return"], metrics["episode_length"])
    paid = metrics["weighted/task"] + metrics["weighted/centre"]
    np.testing.assert_allclose(metrics["reward"], paid, rtol=1e-5)


@pytest.mark.parametrize("name", ["reward", "entropy", "episode_return"])
def test_terms_do_not_hide_what_the_learner_reports(name, cartpole, key):
    agent = purerl.a2c(Linear(2), purerl.distributions.categorical(2))
    reward = rewards.weighted({name: rewards.environment}, {name: 1.0})
    with pytest.raises(ValueError, match=f"reward reports {name}, which the learner reports itself"):
        jax.eval_shape(lambda key: purerl.train(purerl.learner(*cartpole, agent, 4, 4, reward), key, 1), key)


def test_annealing_counts_environment_steps(block):
    for times, factor in ((1, 1.0), (2, 1 - T * N / 100), (4, 0.0)):
        given, _, metrics = paid(ALL["anneal"], block, times)
        np.testing.assert_allclose(given, factor * np.asarray(block.reward), atol=1e-6)
        np.testing.assert_allclose(metrics["anneal"], factor, atol=1e-6)


def test_potential_is_0_at_an_end_and_not_at_the_clock(block):
    given, _, _ = paid(rewards.potential(phi, 0.9), block)
    for t in range(T):
        for n in range(N):
            after = 0.0 if block.terminated[t, n] else 3 * float(block.next_obs[t, n, 0])
            expected = float(block.reward[t, n]) + 0.9 * after - 3 * float(block.obs[t, n, 0])
            assert abs(given[t, n] - expected) < 1e-4


def test_counts_are_those_of_the_visits(block):
    given, counts, _ = paid(rewards.count_bonus(index, 2, 0.5), block, times=2)
    at, valid = np.asarray(index(block.next_obs)), np.asarray(block.valid)
    expected = 2 * np.array([(at[valid] == i).sum() for i in (0, 1)])
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_allclose(given, np.asarray(block.reward) + 0.5 / np.sqrt(expected[at]), rtol=1e-5)


def test_the_multiplier_rises_while_the_cost_is_above_its_limit(block):
    mean = float(np.asarray(block.info["cost"])[np.asarray(block.valid)].mean())
    reward = rewards.lagrangian(lambda tr: tr.info["cost"], mean - 0.2, learning_rate=0.5, initial=1.0)
    given, after, metrics = paid(reward, block)
    r, c = np.asarray(block.reward), np.asarray(block.info["cost"])
    np.testing.assert_allclose(given, (r - c) / 2, rtol=1e-5)
    np.testing.assert_allclose([after, metrics["multiplier"], metrics["cost"]], [1.1, 1.0, mean], rtol=1e-5)
    _, after, _ = paid(rewards.lagrangian(lambda tr: tr.info["cost"], mean + 0.2, 0.5, 0.05), block)
    assert after == 0.0


def test_what_was_often_seen_is_no_longer_new(block):
    network = nn.Sequential([networks.MLP((32,), nn.relu), nn.Dense(8)])
    reward = rewards.rnd(network, weight=1.0, learning_rate=1e-2, num_steps=8)
    _, first, begun = paid(reward, block)
    _, last, ended = paid(reward, block, times=60)
    assert ended["rnd_loss"] < 0.1 * begun["rnd_loss"]
    jax.tree.map(np.testing.assert_array_equal, first.target, last.target)
    far = block._replace(next_obs=block.next_obs.at[3, 1].add(4.0))
    bonus = np.asarray(jax.jit(lambda tr: reward.apply(None, last, tr)[1] - tr.reward)(far))
    assert bonus[3, 1] == bonus.max() and bonus[3, 1] > 5 * np.median(bonus)


# --- exact ------------------------------------------------------------------------------------------------------------


def test_shaping_keeps_the_optimal_policies_of_1000_random_mdps(key):
    """Sound shaping changes Q by -Φ(s) and no policy; with Φ at the end, or without γ, policies change."""
    gamma, num_states, num_actions = 0.9, 6, 3

    def one(key):
        keys = jax.random.split(key, 4)
        P = jax.random.dirichlet(keys[0], 0.3 * jnp.ones(num_states), (num_states, num_actions))
        R = jax.random.normal(keys[1], (num_states, num_actions, num_states))
        terminal = jnp.arange(num_states) == num_states - 1
        potential = 3 * jax.random.normal(keys[2], (num_states,))
        after = lambda sound: jnp.where(terminal, 0.0, potential) if sound else potential
        bonuses = gamma * after(True), gamma * after(False), after(True)
        shaped = [R, *(R + bonus[None, None] - potential[:, None, None] for bonus in bonuses)]
        solve = jax.vmap(lambda R: tabular.value_iteration(tabular.MDP(P, R, terminal), gamma).q)
        plain, shaped, at_end, no_gamma = solve(jnp.stack(shaped))
        best = lambda q: q[:-1].argmax(-1)
        shift = jnp.abs(shaped + potential[:, None] - plain)[:-1].max()
        same = lambda q: (best(q) == best(plain)).all()
        return shift, same(shaped), same(at_end), same(no_gamma)

    shift, sound, at_end, no_gamma = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(key, 1000)))
    assert shift.max() < 1e-3 and sound.mean() == 1.0
    assert at_end.mean() < 0.8 and no_gamma.mean() < 0.9


def test_a_good_potential_saves_sweeps():
    """Value iteration from 0 on a chain: Φ = V* solves it at once, a rough Φ sooner than none."""
    num, gamma = 30, 0.99
    at = np.arange(num)
    P = np.zeros((num, 2, num))
    P[at, 0, np.maximum(at - 1, 0)] = P[at, 1, np.minimum(at + 1, num - 1)] = 1.0
    P = 0.7 * P + 0.3 * np.eye(num)[:, None]  # a move may fail, so that no sweep is exact
    R, terminal = np.zeros(P.shape, np.float32), at == num - 1
    R[num - 2, 1, num - 1] = 1.0
    solve = jax.jit(lambda R, tolerance: tabular.value_iteration(tabular.MDP(P, R, terminal), gamma, tolerance))
    plain, value = solve(R, 1e-4), np.where(terminal, 0.0, solve(R, 1e-6).value)

    def under(potential):
        after = np.where(terminal, 0.0, potential)
        return solve(np.float32(R + gamma * after[None, None] - potential[:, None, None]), 1e-4).sweeps

    assert under(value) <= 2 < under(0.9 * value) < plain.sweeps


# --- preferences ------------------------------------------------------------------------------------------------------


def test_the_loss_of_preferences_is_bradley_and_terrys():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 4))
    loss = jax.jit(rewards.preference_loss)
    for preferred in (0.0, 0.5, 1.0):
        probability = 1 / (1 + np.exp(a.sum(-1) - b.sum(-1)))
        expected = -preferred * np.log(probability) - (1 - preferred) * np.log(1 - probability)
        np.testing.assert_allclose(loss(a, b, np.full(5, preferred)), expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"segments have rewards of shapes \(5, 4\) and \(5, 3\)"):
        rewards.preference_loss(a, b[:, :3], np.ones(5))


def test_a_hidden_reward_is_recovered_from_preferences(key):
    """200 noisy comparisons of segments of 5 steps: the order of states is that of the hidden reward."""
    hidden = lambda obs: 2 * obs[..., 0] - obs[..., 1]
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200, 5, 2)).astype(np.float32)
    gap = hidden(b).sum(-1) - hidden(a).sum(-1)
    preferred = (rng.random(200) < 1 / (1 + np.exp(-gap))).astype(np.float32)
    network = nn.Sequential([torso(), nn.Dense(1)])
    params, values = jax.jit(lambda key: rewards.learn_preferences(key, network, a, b, preferred, 400, 1e-2))(key)
    values = np.asarray(values)
    assert values[-1] < 0.5 * values[0]
    obs = rng.normal(size=(100, 1, 2)).astype(np.float32)
    tr = purerl.Transition(obs, *[np.zeros((100, 1))] * 2, obs, *[np.zeros((100, 1), bool)] * 3)
    learned = paid(rewards.modelled(network, params), tr)[0]
    assert np.corrcoef(learned[:, 0], hidden(obs)[:, 0])[0, 1] > 0.9


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_terms_are_named(block, key):
    with pytest.raises(ValueError, match=r"weighted: terms are \['a'\] and weights \['b'\]; the names must agree"):
        rewards.weighted({"a": rewards.environment}, {"b": 1.0})
    with pytest.raises(ValueError, match=r"weighted: term 'wide' gives a reward of shape \(12, 3, 2\); .* \(12, 3\)"):
        paid(rewards.weighted({"wide": lambda tr: tr.obs}, {"wide": 1.0}), block)
    with pytest.raises(ValueError, match=r"potential: gamma is None; it must be the learner's"):
        rewards.potential(phi)
    with pytest.raises(ValueError, match=r"potential: phi gives a reward of shape \(12, 3, 2\)"):
        paid(rewards.potential(lambda obs: obs, 0.9), block)
    with pytest.raises(ValueError, match=r"chain: two of its rewards report anneal"):
        paid(rewards.chain(ALL["anneal"], ALL["anneal"]), block)
    with pytest.raises(ValueError, match=r"when: the condition has shape \(\)"):
        paid(rewards.when(lambda tr: jnp.array(True), rewards.scale(2.0)), block)
    with pytest.raises(ValueError, match=r"count_bonus: num is 0; it must be a positive int"):
        rewards.count_bonus(index, 0)
    for make, said in (
        (lambda: rewards.potential(phi, 1.5), r"potential: gamma is 1.5; it must lie in \[0, 1\]"),
        (lambda: rewards.potential(3, 0.9), r"potential: phi is 3; it must be a function"),
        (lambda: rewards.clip(1.0, -1.0), r"clip: high is -1.0; it must lie in \[1.0, inf\]"),
        (lambda: rewards.lagrangian(rewards.environment, 0.1, -0.1), r"lagrangian: learning_rate is -0.1; it must lie"),
        (lambda: rewards.rnd(torso(), gamma=2.0), r"rnd: gamma is 2.0; it must lie in \[0, 1\]"),
        (lambda: rewards.normalize(jnp.array([0.9, -1.0])), r"normalize.rewards: gamma is \[ 0.9 -1. \]; it must lie"),
        (lambda: rewards.anneal(3.0), r"anneal: schedule is 3.0; it must be a function"),
        (lambda: rewards.term(3), r"term is 3; it must be a function of transitions, or a Reward"),
        (
            lambda: paid(rewards.term(lambda tr: rewards.scale(2.0)), block),
            "<lambda>.* a function of hyperparameters must call its parameter hp",
        ),
        (lambda: paid(rewards.term(lambda tr: 1.5), block), r"<lambda> gives a reward of shape \(\)"),
        (
            lambda: paid(rewards.modelled(SimpleNamespace(apply=lambda params, obs: obs[:5]), None), block),
            r"modelled: network gives a reward of shape",
        ),
        (
            lambda: rewards.weighted({"a": "x"}, {"a": 1.0}),
            r"term 'a' is 'x'; it must be a function of transitions, or",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            make()
    jax.eval_shape(lambda x: rewards.clip(x, -x).init(key, block), 1.0)  # what is traced is not looked at
    bad = rewards.weighted({"good": rewards.environment, "bad": lambda tr: jnp.log(-jnp.abs(tr.reward))},
                           {"good": 1.0, "bad": 1.0})  # fmt: skip
    with pytest.raises(AssertionError, match=r"the reward is not finite; nor are bad, weighted/bad"):
        check_reward(bad, block, key)


def test_a_learner_counts_novelty_apart_from_the_return(key):
    env, _ = probes.constant_reward(5)
    agent = purerl.a2c(Linear(2), purerl.distributions.categorical(2))
    reward = rewards.chain(rewards.scale(0.0), rewards.rnd(torso(), weight=0.5))
    learner = purerl.learner(env, env.default_params, agent, 2, 5, reward)
    _, metrics = jax.jit(lambda key: purerl.train(learner, key, 3))(key)
    np.testing.assert_allclose(metrics["episode_return"], 5.0)
    assert np.isfinite(metrics["rnd"]).all() and np.isfinite(metrics["value_loss"]).all()
