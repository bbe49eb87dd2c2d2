"""Every agent against the same contract, known values, and thresholds of learning."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear import Linear

import purerl
from purerl import bellman, distributions, networks, normalize, training
from purerl.testing import check_agent, probes

AGENTS = {
    "a2c": (purerl.a2c, purerl.A2C(normalize_advantage=True)),
    "reinforce": (purerl.reinforce, purerl.REINFORCE()),
}


linear_torso = partial(networks.MLP, ())


def parts(env, torso=None, box=distributions.normal):
    """(network, policy): linear, or on a torso."""
    policy = distributions.for_space(env.action_space(env.default_params), box)
    return networks.actor_critic(policy, torso) if torso else Linear(policy.num_params), policy


@pytest.mark.parametrize("name", AGENTS)
def test_contract_with_discrete_actions(name, cartpole, key):
    algorithm, hp = AGENTS[name]
    network, policy = parts(cartpole[0])
    check_agent(lambda hp: algorithm(network, policy, hp), hp, *cartpole, key)


def test_contract_of_ppo_with_continuous_actions_and_every_normalizer(key):
    env, env_params = purerl.make("Pendulum-v1")
    network, policy = parts(env, box=distributions.tanh_normal)
    hp = purerl.PPO(num_epochs=2, num_minibatches=2, value_clip=0.2, anneal_steps=1e3, normalize_obs=True)
    reward = lambda hp: normalize.rewards(hp.gamma)
    check_agent(lambda hp: purerl.ppo(network, policy, hp), hp, env, env_params, key, reward=reward)


SMALL = dict(learning_starts=0, batch_size=8, capacity=64, target_period=20)
VALUES = {  # Q from replay: periods that a block of 4 x 8 steps does not divide, and every part in some agent
    "dqn": (
        lambda hp: purerl.dqn(networks.q_network(2, linear_torso), hp, bellman.munchausen_backup()),
        purerl.DQN(**SMALL, train_every=5, num_gradient_steps=2, target_rate=0.5),
    ),
    "rainbow": (
        lambda hp: purerl.rainbow(networks.q_network(2, linear_torso, outputs=5, dueling=True, noise=True), hp),
        purerl.Rainbow(**SMALL, num_atoms=5, train_every=16),
    ),
    "qrdqn": (
        lambda hp: purerl.qrdqn(networks.q_network(2, linear_torso, outputs=5), hp),
        purerl.QRDQN(**SMALL, num_quantiles=5, train_every=32, double=True),
    ),
    "iqn": (
        lambda hp: purerl.iqn(networks.implicit_q_network(2, linear_torso, num_cosines=4), hp),
        purerl.IQN(**SMALL, num_fractions=4, num_target_fractions=3, train_every=32, double=True),
    ),
    "r2d2": (
        lambda hp: purerl.dqn(networks.q_network(2, linear_torso, memory=networks.gru(4)), hp, bellman.double_backup),
        purerl.DQN(**{**SMALL, "capacity": 200}, sequence_length=8, burn_in=4, n_step=2, priority=0.9, train_every=32),
    ),
    "pqn": (
        lambda hp: purerl.pqn(networks.q_network(2, linear_torso, memory=networks.gru(4)), hp),
        purerl.PQN(num_epochs=2, num_minibatches=2, normalize_obs=True, anneal_steps=1e3),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_contract_of_agents_that_learn_values(name, cartpole, key):
    make, hp = VALUES[name]
    check_agent(make, hp, *cartpole, key)


# --- known values ---------------------------------------------------------------------------------------------------

FAST = {
    "ppo": (purerl.ppo, dict(learning_rate=3e-3, gamma=0.9, entropy_cost=0.0, max_grad_norm=10.0)),
    "a2c": (purerl.a2c, dict(learning_rate=1e-2, gamma=0.9, gae_lambda=0.9, max_grad_norm=10.0)),
    "reinforce": (
        purerl.reinforce,
        dict(learning_rate=3e-2, gamma=0.9, max_grad_norm=10.0, entropy_cost=0.0),
    ),
}
CONFIGS = {"ppo": purerl.PPO, "a2c": purerl.A2C, "reinforce": purerl.REINFORCE}


def trained(name, env, num_updates, num_envs=16, rollout_length=10, key=0, **hyperparameters):
    algorithm, fast = FAST[name]
    hp = CONFIGS[name](**{**fast, **hyperparameters})
    network, policy = parts(env)
    learner = purerl.learner(env, env.default_params, algorithm(network, policy, hp), num_envs, rollout_length)
    state, metrics = jax.jit(lambda key: purerl.train(learner, key, num_updates, every=num_updates // 10))(
        jax.random.key(key)
    )
    pi, value = network.apply(state.agent.params, env.rows)
    return policy, pi, np.asarray(value), metrics


@pytest.mark.parametrize("probe", ["constant_reward", "delayed_reward", "random_length"])
@pytest.mark.parametrize("name", FAST)
def test_values_are_the_known_ones(name, probe):
    """constant_reward: taking the clock for an end would give V = 2.95 in place of 10."""
    env, value = getattr(probes, probe)()
    _, _, learned, _ = trained(name, env, num_updates=800)
    np.testing.assert_allclose(learned, value(0.9), rtol=0.06)


@pytest.mark.parametrize("probe", ["contextual_bandit", "action_reward"])
@pytest.mark.parametrize("name", FAST)
def test_policies_find_the_rewarded_action(name, probe):
    env, _ = getattr(probes, probe)()
    policy, pi, _, metrics = trained(name, env, num_updates=300, learning_rate=3e-2)
    best = jnp.array([0, 1]) if probe == "contextual_bandit" else jnp.array([1])
    np.testing.assert_array_equal(policy.mode(pi), best)
    assert metrics["episode_return"][-1] > 0.95


# --- each equation of PPO, A2C and REINFORCE in one update ----------------------------------------------------------


def one_update(algorithm, hp, env, key, num_envs=4, rollout_length=8):
    net, policy = parts(env)
    agent = algorithm(net, policy, hp, optimizer=lambda max_grad_norm: optax.scale(1.0))
    learner = purerl.learner(env, env.default_params, agent, num_envs, rollout_length)
    return jax.jit(lambda key: learner.step(learner.init(key)))(key)


def test_a_first_step_of_ppo_has_ratio_one_and_the_gradient_of_a2c(cartpole, key):
    env = cartpole[0]
    common = dict(learning_rate=1e-3, gae_lambda=0.9, entropy_cost=0.01)
    ppo, sums = one_update(
        purerl.ppo,
        purerl.PPO(num_epochs=1, num_minibatches=1, normalize_advantage="none", **common),
        env,
        key,
    )
    a2c, _ = one_update(purerl.a2c, purerl.A2C(**common), env, key)
    assert abs(sums.metrics["approx_kl"]) < 1e-6 and sums.metrics["clip_fraction"] == 0
    for x, y in zip(jax.tree.leaves(ppo.agent.params), jax.tree.leaves(a2c.agent.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-7)


def test_without_a_learning_rate_the_ratio_stays_one(cartpole, key):
    hp = purerl.PPO(learning_rate=0.0, num_epochs=3, num_minibatches=2)
    _, sums = one_update(purerl.ppo, hp, cartpole[0], key)
    assert abs(sums.metrics["approx_kl"]) < 1e-6 and sums.metrics["clip_fraction"] == 0


def test_ppo_survives_a_policy_far_outside_of_its_bounds(key):
    """What brax's halfcheetah did: large observations, saturated actions, and NaN within the first update."""
    env, env_params = purerl.make("Pendulum-v1")
    quiet, policy = parts(env, networks.MLP, box=distributions.squashed)

    class Loud:
        init = staticmethod(quiet.init)

        @staticmethod
        def apply(params, obs):
            pi, value = quiet.apply(params, obs)
            return 1e3 * pi, value

    unclipped = lambda max_grad_norm: optax.scale_by_adam()
    run = purerl.learner(env, env_params, purerl.ppo(Loud, policy, optimizer=unclipped), 4, 64)
    state, sums = jax.jit(lambda key: run.step(run.step(run.init(key))[0]))(key)
    assert state.nonfinite == 0 and all(np.isfinite(x) for x in sums.metrics.values())


def test_reinforce_is_the_score_times_the_return(key):
    """One update against the estimator written out over episodes."""
    env, _ = probes.random_length(0.4)
    hp = purerl.REINFORCE(
        learning_rate=1.0,
        gamma=0.9,
        baseline=False,
        normalize_advantage=False,
        value_cost=0.0,
        max_grad_norm=1e9,
    )
    net, policy = parts(env)
    agent = purerl.reinforce(net, policy, hp, optimizer=lambda max_grad_norm: optax.scale(1.0))
    environment = training.vectorized(env, env.default_params)
    position = training.start(environment, agent, jax.random.split(key, 6))
    state = agent.init(key, position.obs)
    _, data = training.rollout(environment, agent, state, position, key, 9)
    tr = training.first_episodes(data.transitions)
    new, _ = agent.update(key, state, data._replace(transitions=tr))

    def objective(params):
        total, count = 0.0, 0
        for n in range(6):
            length = int(tr.valid[:, n].sum())
            for t in range(length):
                g = sum(0.9 ** (k - t) * float(tr.reward[k, n]) for k in range(t, length))
                pi, _ = net.apply(params, tr.obs[t, n][None])
                total, count = total + policy.log_prob(pi, tr.action[t, n][None])[0] * g, count + 1
        return total / count

    gradient = jax.grad(objective)(state.params)
    for x, y, g in zip(*map(jax.tree.leaves, (new.params, state.params, gradient)), strict=True):
        np.testing.assert_allclose(x - y, g, atol=1e-5)


def test_steps_that_are_not_valid_have_no_effect(key):
    env, _ = probes.random_length(0.4)
    for algorithm, hp in (
        (purerl.ppo, purerl.PPO(num_minibatches=1)),
        (purerl.reinforce, purerl.REINFORCE()),
    ):
        agent = algorithm(*parts(env), hp)
        environment = training.vectorized(env, env.default_params)
        position = training.start(environment, agent, jax.random.split(key, 6))
        state = agent.init(key, position.obs)
        _, data = training.rollout(environment, agent, state, position, key, 9)
        tr = training.first_episodes(data.transitions)
        poison = lambda x, bad, valid=tr.valid: jnp.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, bad)
        bad = tr._replace(obs=poison(tr.obs, 1e3), reward=poison(tr.reward, jnp.nan), extras=poison(tr.extras, 9.0))
        update = jax.jit(lambda tr: agent.update(key, state, data._replace(transitions=tr))[0])
        a, b = update(tr), update(bad)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_hyperparameter_changes_the_result(name, key):
    env, _ = probes.random_length(0.2)
    algorithm, config = FAST[name][0], CONFIGS[name]
    base = config(anneal_steps=500.0, learning_rate=0.03, max_grad_norm=0.05)
    if name == "ppo":
        base = dataclasses.replace(base, value_clip=0.2)
    other = {
        bool: lambda x: not x,
        float: lambda x: 0.7 * x + 0.01,
        int: lambda x: 2 * x if x < 4 else x // 2,
    }
    other[str] = lambda x: "batch"
    network, policy = parts(env)
    make = lambda hp: purerl.learner(env, env.default_params, algorithm(network, policy, hp), 4, 8)
    compiled = jax.jit(lambda hp, key: purerl.train(make(hp), key, 3)[0])
    outcome = lambda hp: compiled(hp, key)

    plain = [np.asarray(x) for x in jax.tree.leaves(outcome(base).agent)]
    for field in dataclasses.fields(config):
        value = getattr(base, field.name)
        changed = outcome(dataclasses.replace(base, **{field.name: other[type(value)](value)}))
        leaves = [np.asarray(x) for x in jax.tree.leaves(changed.agent)]
        same = len(leaves) == len(plain) and all(np.array_equal(x, y) for x, y in zip(leaves, plain, strict=True))
        assert not same, f"{field.name} has no effect"


# --- differentiating through training -------------------------------------------------------------------------------


def test_the_meta_gradient_on_a_bandit_is_the_analytic_one(key):
    """d E[reward of the trained policy] / d learning rate, with the sampled actions held fixed.

    One state, one step, three actions, reward 1 for action 1; the policy is softmax(θ), trained by plain ascent, so
    that θ after one step is θ₀ + α g and the derivative is ∇J(θ₁)·g, with g = mean (Gₙ)(e_{aₙ} - softmax(θ₀)).
    """
    env, _ = probes.action_reward()
    policy = distributions.categorical(3)

    class Table:
        init = staticmethod(lambda key, obs: jnp.array([0.3, -0.2, 0.1]))
        apply = staticmethod(lambda params, obs: (jnp.broadcast_to(params, (obs.shape[0], 3)), jnp.zeros(obs.shape[0])))

    def agent(hp):
        return purerl.reinforce(Table, policy, hp, optimizer=lambda max_grad_norm: optax.scale(1.0))

    base = purerl.REINFORCE(baseline=False, normalize_advantage=False)

    def final(rate, num_updates):
        hp = dataclasses.replace(base, learning_rate=rate)
        return purerl.train(purerl.learner(env, env.default_params, agent(hp), 16, 1), key, num_updates)[0].agent.params

    final = jax.jit(final, static_argnums=1)
    reward = lambda rate, n: jax.nn.softmax(final(rate, n))[1]
    theta = jnp.array([0.3, -0.2, 0.1])
    slope = jax.grad(reward)(0.5, 1)
    direction = (final(0.5, 1) - theta) / 0.5
    analytic = jax.grad(lambda theta: jax.nn.softmax(theta)[1])(final(0.5, 1)) @ direction
    assert abs(analytic) > 1e-3
    np.testing.assert_allclose(slope, analytic, rtol=1e-4)
    # ten updates, against a difference small enough to leave every sampled action as it was
    slope, h = jax.jit(jax.grad(lambda rate: reward(rate, 10)))(0.5), 1e-3
    f = jax.jit(lambda rate: reward(rate, 10))
    np.testing.assert_allclose(slope, (f(0.5 + h) - f(0.5 - h)) / (2 * h), rtol=2e-2)
    assert abs(slope) > 1e-3


def test_a_whole_run_can_be_differentiated(cartpole, key):
    network, policy = parts(cartpole[0])

    def objective(hp):
        learner = purerl.learner(*cartpole, purerl.ppo(network, policy, hp), 2, 8)
        state, _ = purerl.train(learner, key, 2)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(state.agent.params))

    slope = jax.jit(jax.grad(objective))(purerl.PPO(num_epochs=2, num_minibatches=2))
    assert all(np.isfinite(x) for x in jax.tree.leaves(slope))
    assert slope.learning_rate != 0 and slope.gamma != 0


# --- learning -------------------------------------------------------------------------------------------------------

LEARNING = {  # agent: (learner settings, hyperparameters, updates, what the lower end of the interval must pass)
    "ppo": (dict(num_envs=8, rollout_length=128), dict(learning_rate=1e-3), 60, 150),
    "a2c": (dict(num_envs=16, rollout_length=16), dict(learning_rate=3e-3), 250, 90),
    "reinforce": (dict(num_envs=16, rollout_length=200), dict(learning_rate=1e-2), 60, 110),
}


@pytest.mark.parametrize("name", LEARNING)
def test_learns_cartpole(name, cartpole):
    settings, hyperparameters, num_updates, threshold = LEARNING[name]
    network, policy = parts(cartpole[0], partial(networks.MLP, hidden=(32,)))
    hp = CONFIGS[name](**hyperparameters)
    make = purerl.batch(lambda hp: purerl.learner(*cartpole, FAST[name][0](network, policy, hp), **settings))
    keys = jax.random.split(jax.random.key(1), 5)
    *_, (_, _, metrics) = purerl.run(make, hp, keys, num_updates, every=num_updates - num_updates // 6)
    low, _ = purerl.statistics.interval(metrics["episode_return"], purerl.statistics.mean)
    assert low > threshold, np.asarray(metrics["episode_return"])


VALUE_LEARNING = {  # agent: (its maker, hyperparameters, learner settings, updates, threshold)
    "dqn": (
        lambda hp: purerl.dqn(networks.q_network(2, partial(networks.MLP, (64,), jax.nn.relu)), hp),
        purerl.DQN(learning_starts=1000, train_every=4, explore_steps=1e4, learning_rate=1e-3),
        dict(num_envs=4, rollout_length=4), 1600, 120,
    ),
    "pqn": (
        lambda hp: purerl.pqn(networks.q_network(2, partial(networks.MLP, (64,), jax.nn.relu, layer_norm=True)), hp),
        purerl.PQN(explore_steps=2e4, learning_rate=1e-3),
        dict(num_envs=8, rollout_length=32), 240, 120,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUE_LEARNING)
def test_learns_cartpole_by_value(name, cartpole):
    agent, hp, settings, num_updates, threshold = VALUE_LEARNING[name]
    make = purerl.batch(lambda hp: purerl.learner(*cartpole, agent(hp), **settings))
    keys = jax.random.split(jax.random.key(1), 5)
    *_, (_, _, metrics) = purerl.run(make, hp, keys, num_updates, every=num_updates - num_updates // 6)
    low, _ = purerl.statistics.interval(metrics["episode_return"], purerl.statistics.mean)
    assert low > threshold, np.asarray(metrics["episode_return"])
