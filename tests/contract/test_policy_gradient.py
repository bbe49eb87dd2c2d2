"""PPO, A2C and REINFORCE: each equation in one update, and derivatives through training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear import Linear

import purerl
from purerl import distributions, networks, training
from purerl.agents.parts import policy_gradient
from purerl.testing import probes
from purerl.testing.checks import assert_close


class Somewhere(Linear):
    """At 0 all actions are as likely as the mode, values say nothing, and the entropy has no slope."""

    def init(self, key, obs):
        return jax.tree.map(lambda x: 0.5 * jax.random.normal(key, x.shape), super().init(key, obs))


def parts(env, torso=None, box=distributions.normal):
    """(network, policy): linear, or on a torso."""
    policy = distributions.for_space(env.action_space(env.default_params), box)
    return networks.actor_critic(policy, torso) if torso else Somewhere(policy.num_params), policy


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


def test_a_block_is_judged_by_lambda_and_gamma_each_in_its_place():
    reward, value, next_value = jnp.array([[[1.0], [2.0]], [[0.5], [0.3]], [[0.3], [0.7]]])
    never = jnp.zeros((2, 1), bool)
    block = purerl.Rollout(purerl.Transition((), (), reward, (), never, never, ~never), ())
    s = policy_gradient.advantages_and_targets(lambda rollout: (value, next_value), block, 0.5, 0.2)
    delta = reward + 0.5 * next_value - value
    np.testing.assert_allclose(s.advantage, [delta[0] + 0.1 * delta[1], delta[1]], rtol=1e-6)
    np.testing.assert_allclose(s.target, s.advantage + value, rtol=1e-6)


def test_without_a_learning_rate_the_ratio_stays_one(cartpole, key):
    hp = purerl.PPO(learning_rate=0.0, num_epochs=3, num_minibatches=2)
    _, sums = one_update(purerl.ppo, hp, cartpole[0], key)
    assert abs(sums.metrics["approx_kl"]) < 1e-6 and sums.metrics["clip_fraction"] == 0


def test_value_clipping_changes_nothing_in_the_first_gradient_step(cartpole, key):
    """V is what it was then, whatever the bound: the two are exchanged if it does."""
    settings = dict(num_epochs=1, num_minibatches=1, entropy_cost=0.0)
    free, _ = one_update(purerl.ppo, purerl.PPO(**settings), cartpole[0], key)
    clipped, _ = one_update(purerl.ppo, purerl.PPO(**settings, value_clip=1e-3), cartpole[0], key)
    assert_close(clipped.agent.params, free.agent.params, "one gradient step with value clipping", 1e-7)


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
    position = jax.jit(lambda keys: training.start(environment, agent, keys))(jax.random.split(key, 6))
    state = agent.init(key, position.obs)
    _, data = training.rollout(environment, agent, state, position, key, 9)
    tr = training.first_episodes(data.transitions)
    new, _ = jax.jit(agent.update)(key, state, data._replace(transitions=tr))

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
        position = jax.jit(lambda keys: training.start(environment, agent, keys))(jax.random.split(key, 6))
        state = agent.init(key, position.obs)
        _, data = training.rollout(environment, agent, state, position, key, 9)
        tr = training.first_episodes(data.transitions)
        poison = lambda x, bad, valid=tr.valid: jnp.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, bad)
        bad = tr._replace(obs=poison(tr.obs, 1e3), reward=poison(tr.reward, jnp.nan), extras=poison(tr.extras, 9.0))
        update = jax.jit(lambda tr: agent.update(key, state, data._replace(transitions=tr))[0])
        a, b = update(tr), update(bad)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


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


@pytest.mark.wide
def test_a_whole_run_can_be_differentiated(cartpole, key):
    network, policy = parts(cartpole[0])

    def objective(hp):
        learner = purerl.learner(*cartpole, purerl.ppo(network, policy, hp), 2, 8)
        state, _ = purerl.train(learner, key, 2)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(state.agent.params))

    slope = jax.jit(jax.grad(objective))(purerl.PPO(num_epochs=2, num_minibatches=2))
    assert all(np.isfinite(x) for x in jax.tree.leaves(slope))
    assert slope.learning_rate != 0 and slope.gamma != 0
