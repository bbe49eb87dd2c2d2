"""Whole trainings: CartPole above recorded thresholds, learned values and policies against exact ones."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

import purerl
from purerl import bellman, distributions, networks, tabular
from purerl.envs import MaskedGrid, Table, masked_grid
from purerl.testing.probes import ProbeParams, ProbeState

# --- CartPole ---------------------------------------------------------------------------------------------------------

CARTPOLE = {  # agent: (algorithm, hyperparameters, learner settings, updates, what the interval's lower end must pass)
    "ppo": (purerl.ppo, purerl.PPO(learning_rate=1e-3), dict(num_envs=8, rollout_length=128), 60, 150),
    "a2c": (purerl.a2c, purerl.A2C(learning_rate=3e-3), dict(num_envs=16, rollout_length=16), 250, 90),
    "reinforce": (
        purerl.reinforce, purerl.REINFORCE(learning_rate=1e-2), dict(num_envs=16, rollout_length=200), 60, 110,
    ),
    "dqn": (
        purerl.dqn, purerl.DQN(learning_starts=1000, train_every=4, explore_steps=1e4, learning_rate=1e-3),
        dict(num_envs=4, rollout_length=4), 1600, 120,
    ),
    "pqn": (
        purerl.pqn, purerl.PQN(explore_steps=2e4, learning_rate=1e-3), dict(num_envs=8, rollout_length=32), 240, 120,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CARTPOLE)
def test_learns_cartpole(name, cartpole):
    algorithm, hp, settings, num_updates, threshold = CARTPOLE[name]
    if name in ("dqn", "pqn"):
        torso = partial(networks.MLP, (64,), nn.relu, layer_norm=name == "pqn")
        agent = partial(algorithm, networks.q_network(2, torso))
    else:
        policy = distributions.categorical(2)
        agent = partial(algorithm, networks.actor_critic(policy, partial(networks.MLP, (32,))), policy)
    make = purerl.batch(lambda hp: purerl.learner(*cartpole, agent(hp), **settings))
    keys = jax.random.split(jax.random.key(1), 5)
    *_, (_, _, metrics) = purerl.run(make, hp, keys, num_updates, every=num_updates - num_updates // 6)
    low, _ = purerl.statistics.interval(metrics["episode_return"], purerl.statistics.mean)
    assert low > threshold, np.asarray(metrics["episode_return"])


# --- exact values -----------------------------------------------------------------------------------------------------

FEW = dict(learning_starts=0, train_every=8, batch_size=16, capacity=200, target_period=16)
GRID = MaskedGrid(), MaskedGrid().default_params
linear = partial(networks.MLP, ())


class OneHot(nn.Module):
    num: int

    def __call__(self, obs):
        return jax.nn.one_hot(obs, self.num)


@pytest.mark.parametrize("kind", ["max", "double", "munchausen", "prioritised", "rescaled"])
def test_exact_values_of_a_chain(kind):
    """Q of every state and action of a random walk, against the exact answer of `tabular`."""
    mdp = tabular.worlds.random_walk(6)
    env, network = Table(mdp), networks.q_network(2, lambda: OneHot(8))
    scale = bellman.signed_hyperbolic, bellman.signed_parabolic
    backup = {
        "double": bellman.double_backup,
        "munchausen": bellman.munchausen_backup(0.1, 0.5),
        "rescaled": bellman.transformed_backup(bellman.double_backup, *scale),
    }
    extra = dict(priority=0.6, importance=1.0) if kind == "prioritised" else {}
    hp = purerl.DQN(
        **{**FEW, "capacity": 4000, "batch_size": 64, "target_period": 100}, **extra,
        learning_rate=3e-2, anneal_steps=48_000, gamma=0.9, explore_start=1.0, explore_end=1.0,
    )  # fmt: skip
    agent = purerl.dqn(network, hp, backup.get(kind, bellman.max_backup))
    learner = purerl.learner(env, env.default_params, agent, 8, 1)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 6000, 6000))(jax.random.key(0))
    q_of, ends = tabular.backup(mdp, 0.9), np.asarray(mdp.terminal)
    if kind == "munchausen":
        bonus = lambda q: jnp.clip(0.1 * jax.nn.log_softmax(q / 0.1), -1.0, 0.0)
        exact = jnp.zeros((8, 2))
        for _ in range(300):
            follows = q_of(jnp.where(ends, 0.0, bellman.soft_value(exact, 0.1)))
            exact = follows + jnp.where(ends[:, None], 0.0, 0.5 * bonus(exact))
    else:
        exact = tabular.value_iteration(mdp, 0.9).q
    learned = network.apply(state.agent.params, jnp.arange(8))
    learned = scale[1](learned) if kind == "rescaled" else learned
    np.testing.assert_allclose(learned[~ends], exact[~ends], atol=0.01)


@pytest.mark.parametrize("lam", [0.0, 0.65])
def test_pqn_reaches_its_own_fixed_point(lam):
    mdp = tabular.worlds.random_walk(6)
    env, network = Table(mdp), networks.q_network(2, lambda: OneHot(8))
    hp = purerl.PQN(
        learning_rate=2e-2, anneal_steps=256_000, gamma=0.9, q_lambda=lam, explore_start=1.0, explore_end=1.0,
        max_grad_norm=None, num_epochs=1, num_minibatches=1,
    )  # fmt: skip
    learner = purerl.learner(env, env.default_params, purerl.pqn(network, hp), 32, 8)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 1000, 1000))(jax.random.key(0))
    ends = np.asarray(mdp.terminal)
    exact = tabular.q_lambda_values(mdp, 0.9, lam, lambda q: jnp.full(q.shape, 0.5), 8).q
    best = tabular.value_iteration(mdp, 0.9).q
    if lam:
        assert np.abs(exact - best).max() > 0.05  # another answer than Q*
    learned = network.apply(state.agent.params, jnp.arange(8))
    np.testing.assert_allclose(learned[~ends], exact[~ends], atol=0.03 if lam else 0.01)


def exact():
    """Q* of the grid, by value iteration over legal moves only."""
    cells, moves = masked_grid.LEGAL.shape
    P = np.zeros((cells, moves, cells))
    P[np.arange(cells)[:, None], np.arange(moves), masked_grid.NEXT] = 1
    R = np.where(masked_grid.LEGAL, -1.0, -1e6)
    terminal = np.arange(cells) == masked_grid._GOAL
    return np.asarray(tabular.value_iteration(tabular.MDP(P, R, terminal), 0.9).q)


def test_learned_values_with_masks_are_the_exact_ones(key):
    hp = purerl.DQN(
        learning_rate=3e-2, anneal_steps=32_000.0, gamma=0.9, capacity=8_000, learning_starts=500, train_every=16,
        target_period=320, explore_start=1.0, explore_end=1.0,
    )  # fmt: skip
    network = networks.q_network(4, linear)
    learner = purerl.learner(*GRID, purerl.dqn(network, hp), num_envs=16, rollout_length=1)
    state, _ = jax.jit(lambda key: purerl.train(learner, key, 2000, 2000))(key)
    obs = jax.vmap(GRID[0].see)(jnp.asarray(masked_grid.STARTS))
    learned, legal = network.apply(state.agent.params, obs), masked_grid.LEGAL[masked_grid.STARTS]
    assert (np.isneginf(learned) == ~legal).all()
    np.testing.assert_allclose(np.where(legal, learned, 0), np.where(legal, exact()[masked_grid.STARTS], 0), atol=0.02)


# --- optima that are known ------------------------------------------------------------------------------------------


class Target(Environment):
    """One step: observe s in {-1, 1}, pay (x - s/2 · half - centre)² for an action in [0, 4]; the best is 2 + s."""

    name = "target"

    @property
    def default_params(self):
        return ProbeParams(1)

    def reset_env(self, key, params):
        row = jax.random.bernoulli(key).astype(jnp.int32)
        return jnp.array([2.0 * row - 1]), ProbeState(row, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        best = 2 + 2.0 * state.row - 1
        cost = jnp.square(jnp.reshape(action, ()) - best)
        return jnp.array([2.0 * state.row - 1]), state._replace(time=state.time + 1), -cost, jnp.ones((), bool), {}

    def is_truncated(self, state, params):
        return jnp.zeros((), bool)

    def action_space(self, params=None):
        return spaces.Box(0.0, 4.0, (1,))

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,))


hidden = partial(networks.MLP, (32,), nn.relu)


def trained(algorithm, hp, env, num_updates, torso=hidden, num_envs=8, seeds=3):
    make = zoo.agent_of(algorithm, env.action_space(env.default_params), torso)
    learner = purerl.learner(env, env.default_params, make(hp), num_envs, 1)
    run = lambda key: purerl.train(learner, key, num_updates, num_updates)[0].agent
    return make(hp), jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))


ONCE = dict(learning_rate=3e-3, learning_starts=64, batch_size=64, capacity=4096, train_every=8)


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg"])
def test_the_best_of_continuous_actions_is_found(name):
    algorithm = getattr(purerl, name)
    hp = zoo.config_of(algorithm)(**ONCE)
    agent, states = trained(algorithm, hp, Target(), 1500)
    obs = jnp.array([[-1.0], [1.0]])
    found = jax.vmap(lambda state: agent.greedy(state, agent.memory(2), obs)[0])(states)
    np.testing.assert_allclose(found[..., 0], [[1.0, 3.0]] * 3, atol=0.15)


def test_the_temperature_reaches_the_entropy_aimed_at():
    """log 2 - 1 nats where the range is 4 and half of it 2: densities are in the action's own units."""
    _, states = trained(purerl.sac, purerl.SAC(**ONCE, target_entropy=-1.0), Target(), 2000)
    np.testing.assert_allclose(states.metrics["entropy"].mean(), np.log(2) - 1, atol=0.15)
