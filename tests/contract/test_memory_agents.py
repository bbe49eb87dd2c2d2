"""Agents whose networks have memory: they learn from a block with the memory that they acted with."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import purerl
from purerl import distributions, networks
from purerl.testing import probes

CORES = {
    "gru": networks.gru(5),
    "min_gru": networks.min_gru(5),
    "transformer": networks.transformer(8, num_heads=2, context=4),
}
EACH = pytest.mark.parametrize("core", zoo.params(CORES, wide=("min_gru", "transformer")))
POLICY = distributions.categorical(2)
HP = purerl.PPO(learning_rate=1e-2, gamma=0.9, entropy_cost=0.0, max_grad_norm=10.0)


def network_of(core):
    return networks.actor_critic(POLICY, partial(networks.MLP, hidden=(6,)), True, core)


@cache
def make(name):
    """PPO with a memory where the reward is 1 for ever, cut every 5 steps, and blocks have 12.

    It also reports by how much log-probabilities of a block, from its first memory, differ from those of acting.
    """
    env, _ = probes.constant_reward()
    network = network_of(CORES[name])

    def agent(hp):
        inner = purerl.ppo(network, POLICY, hp)

        def update(key, state, rollout):
            tr = rollout.transitions
            (pi, _), _, _ = network.unroll(state.params, rollout.memory, tr.obs, tr.terminated | tr.truncated)
            apart = jnp.abs(POLICY.log_prob(pi, tr.action) - tr.extras).max()
            state, metrics = inner.update(key, state, rollout)
            return state, metrics | {"apart": apart}

        return inner._replace(update=update)

    return lambda hp: purerl.learner(env, env.default_params, agent(hp), 16, 12)


@pytest.mark.wide
@pytest.mark.parametrize("name", ["ppo transformer", "ppo stack"])
def test_where_nothing_is_learned_every_ratio_is_one(name, key):
    """In every block of a run, whose memory is of episodes that began before it; the step has learning rate 0."""
    hp = dataclasses.replace(zoo.row(name).hp, learning_rate=0.0)
    metrics = zoo.finish(name, hp, key).metrics
    assert np.abs(metrics["approx_kl"]).max() < 1e-9 and metrics["clip_fraction"].max() == 0


@EACH
def test_at_the_first_gradient_step_of_ppo_every_ratio_is_one(core, key):
    hp = dataclasses.replace(HP, learning_rate=0.0)
    for _, _, metrics in purerl.run(make(core), hp, key, 4):
        assert metrics["apart"] < 1e-6 and abs(metrics["approx_kl"]) < 1e-9 and metrics["clip_fraction"] == 0


@EACH
def test_a_time_limit_is_not_an_end_through_a_memory(core, key):
    """V = 1 / (1 - γ) = 10, not what 5 rewards are worth."""
    *_, (_, state, metrics) = purerl.run(make(core), HP, key, 200, every=200)
    assert metrics["apart"] < 1e-4  # while it learns
    network, obs, ended = network_of(CORES[core]), jnp.ones((5, 1, 1)), jnp.zeros((5, 1), bool)
    (_, value), _, _ = jax.jit(network.unroll)(state.agent.params, network.memory(1), obs, ended)
    np.testing.assert_allclose(value, 10.0, rtol=0.1)


def test_minibatches_keep_time_whole(cartpole, key):
    make = lambda n: purerl.learner(
        *cartpole, purerl.ppo(network_of(CORES["gru"]), POLICY, purerl.PPO(num_minibatches=n)), 4, 8
    )
    step = lambda n: jax.eval_shape(lambda key: make(n).step(make(n).init(key)), key)
    with pytest.raises(ValueError, match="num_minibatches is 8; it must divide 4: num_envs, since the network has mem"):
        step(8)
    step(4)
