"""Masks of legal actions and hybrid actions, in every agent that takes them; environments of other packages."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import zoo

import purerl
from purerl import distributions, networks, training
from purerl.envs import MaskedGrid, Platform, masked_grid, platform
from purerl.envs.adapters.common import Adapted
from purerl.testing import check_env

linear = partial(networks.MLP, ())
GRID = MaskedGrid(), MaskedGrid().default_params
KEEP = dict(learning_starts=0, batch_size=16, capacity=256, target_period=32)


MASKED = ["ppo masked", "reinforce", "dqn", "dqn munchausen", "c51", "qrdqn", "iqn", "pqn", "sac"]


@pytest.mark.parametrize("name", zoo.params(MASKED, wide=("reinforce", "dqn munchausen", "qrdqn", "iqn", "pqn")))
def test_no_agent_plays_or_believes_in_a_move_that_is_not_legal(name, key):
    """A move that is not legal pays 1: where one was played, the return is not minus the length of the episode."""
    row = zoo.row(name, "MaskedGrid-v0")
    agent, whole = row.agent(row.hp), name == "reinforce"
    learner = row._replace(rollout_length=lambda hp: 100 if whole else 8).make(row.hp)

    cells = np.repeat(masked_grid.STARTS, 50)

    @jax.jit
    def play(key):
        state, metrics = purerl.train(learner, key, 2 if whole else 16)
        obs, memory = jax.vmap(GRID[0].see)(cells), agent.memory(len(cells))
        actions = agent.act(key, state.agent, memory, obs)[0], agent.greedy(state.agent, memory, obs)[0]
        return state, metrics, actions

    state, metrics, actions = play(key)
    played = np.asarray(metrics["episodes"]) > 0
    assert played.any()
    returns, lengths = (np.asarray(metrics[name])[played] for name in ("episode_return", "episode_length"))
    # an episode that ends at the goal has paid -1 for its last step as well
    np.testing.assert_allclose(returns, -lengths, rtol=1e-6)
    finite = [np.isfinite(x).all() for x in jax.tree.leaves(state.agent) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(finite) and all(np.isfinite(x).all() for n, x in metrics.items() if "episode_" not in n)
    for action in actions:
        assert masked_grid.LEGAL[cells, action].all()


def test_the_first_actions_of_an_actor_critic_are_uniform_over_what_is_legal(key):
    obs = jax.vmap(GRID[0].see)(jnp.zeros(4000, int))
    agent = zoo.agent_of(purerl.sac, GRID[0].action_space())(purerl.SAC(capacity=8, learning_starts=8))
    begin = lambda key, obs: agent.init(key, jax.tree.map(lambda x: x[:1], obs))
    first = lambda key, obs: agent.act(key, begin(key, obs), agent.memory(4000), obs)[0]
    share = np.bincount(jax.jit(first)(key, obs), minlength=4) / 4000
    legal = masked_grid.LEGAL[0]
    assert 1 < legal.sum() < 4 and share[~legal].sum() == 0
    np.testing.assert_allclose(share, legal / legal.sum(), atol=0.04)


def test_a_mask_passes_through_a_memory(key):
    policy = distributions.for_space(GRID[0].action_space())
    agent = purerl.ppo(networks.actor_critic(policy, linear, memory=networks.gru(8)), policy)
    network = networks.q_network(4, linear, memory=networks.gru(8), outputs=3)
    cells = jnp.tile(jnp.array([0, 4]), 200)
    obs, legal = jax.vmap(GRID[0].see)(cells), masked_grid.LEGAL[cells]
    action, _, log_prob = jax.jit(lambda key, obs: agent.act(key, agent.init(key, obs), agent.memory(400), obs))(
        key, obs
    )
    assert np.isfinite(log_prob).all() and legal[np.arange(400), action].all()
    for cell in range(2):  # every legal one is played, and none is certain
        assert set(np.flatnonzero(legal[cell])) == set(action[cell::2].tolist())
    obs = jax.tree.map(lambda x: x[:2], obs)
    q, _ = jax.jit(lambda key, obs: network.step(network.init(key, obs), network.memory(2), obs))(key, obs)
    np.testing.assert_array_equal(np.isfinite(q[..., 1]), masked_grid.LEGAL[[0, 4]])
    np.testing.assert_array_equal(np.isfinite(q[..., 0]), True)


def test_the_platform_pays_what_it_says(key):
    mean, _ = scipy.integrate.quad(lambda gap: float(platform.best_reward(jnp.array(gap))), 0, 1, points=[0.4, 0.8])
    assert abs(mean - 0.8369) < 1e-3
    env = Platform()
    params = env.default_params
    check_env(env, params, key)
    _, state = env.reset_env(key, params)
    jump = lambda k, x: {"choice": jnp.int32(k), "parameters": tuple(jnp.array([x]) for _ in range(3))}
    state = state._replace(gap=jnp.array(0.35))
    step_env = jax.jit(env.step_env)
    _, _, reward, ended, _ = step_env(key, state, jump(0, 0.35), params)
    assert reward == 1 and not ended
    _, _, reward, ended, _ = step_env(key, state, jump(1, 0.40), params)
    np.testing.assert_allclose(reward, 0.8 - 0.25, rtol=1e-5)
    _, _, reward, ended, _ = step_env(key, state, jump(2, 0.60), params)
    assert reward == 0 and ended
    last = state._replace(crossed=jnp.int32(9))
    assert step_env(key, last, jump(0, 0.35), params)[3]


def test_a_state_without_legal_actions_is_named(key, monkeypatch):
    check_env(*GRID, key)
    stuck = masked_grid.LEGAL.copy()
    stuck[0] = False
    monkeypatch.setattr(masked_grid, "LEGAL", stuck)
    with pytest.raises(AssertionError, match=r"MaskedGrid-v0: action_mask it allows no action in \d+ of the states"):
        check_env(*GRID, key)


def test_a_mask_for_a_box_is_refused(key):
    policy = distributions.normal(-1.0, 1.0)
    network = networks.actor_critic(policy, linear)
    with pytest.raises(ValueError, match=r"the observation has an action_mask, but the policy is of a space"):
        network.init(key, jax.vmap(GRID[0].see)(jnp.array([0])))


# --- other packages -------------------------------------------------------------------------------------------------

OTHERS = ["brax/fast", "jumanji/Snake-v1", "jumanji/Minesweeper-v0", "xminigrid/MiniGrid-Empty-5x5", "pgx/tic_tac_toe"]


@pytest.mark.parametrize("env_id", OTHERS)
def test_environments_of_other_packages(env_id, key):
    pytest.importorskip(env_id.split("/")[0])
    check_env(*purerl.make(env_id), key)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx", None)  # an import of it fails
    with pytest.raises(ValueError, match=r"pgx/2048 needs the package pgx: pip install 'purerl\[pgx\]'"):
        purerl.make("pgx/2048")
    with pytest.raises(ValueError, match=r"there is no package 'atari' of environments; allowed are brax, jumanji"):
        purerl.make("atari/pong")


def counter(ends_at, clock_at):
    """Counts its steps; it ends, or its own clock cuts it, at given ones."""
    reset = lambda key: (jnp.zeros(1), jnp.int32(0))

    def step(key, state, action):
        state = state + 1
        return jnp.full(1, state, jnp.float32), state, 1.0, state == ends_at, state == clock_at

    return Adapted("counter", reset, step, GRID[0].action_space(), max_steps=5)


@pytest.mark.parametrize(
    "ends_at, clock_at, terminated, truncated", [(3, 9, [3], []), (9, 2, [], [2, 4, 6]), (9, 9, [], [5])]
)
def test_ends_of_other_packages_are_told_apart_and_the_last_observation_is_kept(
    ends_at, clock_at, terminated, truncated, key
):
    env = counter(ends_at, clock_at)
    environment = training.vectorized(env, env.default_params)

    def step(carry, key):
        keys = jax.random.split(key, (2, 1))
        out = environment.step(*keys, carry[1], jnp.zeros(1, jnp.int32), environment.reset)
        return (out.obs, out.state), out

    begin = environment.reset(jax.random.split(key, 1))
    _, out = jax.lax.scan(step, begin, jax.random.split(key, 6))
    at = lambda flags: (np.flatnonzero(np.asarray(flags)[:, 0]) + 1).tolist()
    period = terminated or truncated
    every = [t for t in range(1, 7) if t % period[0] == 0]
    assert at(out.terminated) == (every if terminated else []) and at(out.truncated) == (every if truncated else [])
    for t in every:
        assert out.next_obs[t - 1, 0, 0] == period[0] and out.obs[t - 1, 0, 0] == 0
    check_env(env, env.default_params, key)
