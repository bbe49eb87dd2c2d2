"""Agents trained in MDPs whose values are known: all probes of an agent are one program."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from probes_together import NAMES, NUM_ACTIONS, padded, probe, train_in_all

import purerl
from purerl import bellman, distributions, networks
from purerl.agents.parts import actor_critic
from purerl.agents.qrdqn import midpoints

GAMMA = 0.9
LINEAR = partial(networks.MLP, ())  # no layer: linear in the observation
ACTIONS = distributions.categorical(NUM_ACTIONS)
BANDITS = ("contextual_bandit", "action_reward")
ATOMS = jnp.linspace(-2.0, 20.0, 12)


def by_policy(algorithm, config, values, bandits, updates, memory=None, length=10, **shared):
    """Values want a small step size, bandits a large one: floats are data, so both are one program."""
    network = networks.actor_critic(ACTIONS, LINEAR, memory is not None, memory)
    base = dict(gamma=GAMMA, max_grad_norm=10.0, **shared)
    hps = [config(**base, **(bandits if name in BANDITS else values)) for name in NAMES]

    def value(params, obs):
        if memory is None:
            return network.apply(params, obs)[1]
        never = jnp.zeros((5, len(obs)), bool)
        inputs = jnp.broadcast_to(obs, (5, *obs.shape))
        return network.unroll(params, network.memory(len(obs)), inputs, never)[0][1].mean(0)

    agent = lambda hp: algorithm(network, ACTIONS, hp)
    return lambda: (*train_in_all(agent, hps, updates, 16, length), agent(hps[0]), value)


REPLAY = dict(learning_starts=0, train_every=8, capacity=200, target_period=16)
FEW = dict(**REPLAY, gamma=GAMMA, batch_size=32, learning_rate=3e-2, anneal_steps=24_000.0, explore_steps=24_000.0)


def by_value(algorithm, hp, network, q_of, updates=3000, length=1):
    def value(params, obs):
        return q_of(params, obs).max(-1)

    agent = lambda hp: algorithm(network, hp)
    return lambda: (*train_in_all(agent, [hp] * len(NAMES), updates, 8, length), agent(hp), value)


def q_network(outputs=None):
    return networks.q_network(NUM_ACTIONS, LINEAR, outputs=outputs)


def atoms_mean(params, obs):
    return bellman.expectation(jax.nn.softmax(q_network(12).apply(params, obs)), ATOMS)


def implicit_mean(params, obs):
    fractions = jnp.broadcast_to(midpoints(64), (len(obs), 64))
    return networks.implicit_q_network(NUM_ACTIONS, LINEAR).apply(params, (obs, fractions)).mean(-1)


def by_critic():
    from gymnax.environments import spaces

    policy = distributions.hybrid(spaces.Discrete(NUM_ACTIONS))
    actor, critic = networks.actor(policy, LINEAR), networks.critic(policy, LINEAR)
    hp = purerl.SAC(
        learning_rate=1e-2, learning_starts=64, batch_size=64, capacity=4096, train_every=8, temperature=0.0,
        gamma=GAMMA, target_rate=0.05,
    )  # fmt: skip
    q = actor_critic.ensemble(critic, policy)
    value = lambda params, obs: q(params["critic"], obs, jnp.zeros((len(obs), 0))).min(0).max(-1)
    agent = lambda hp: purerl.sac(actor, critic, policy, hp)
    return *train_in_all(agent, [hp] * len(NAMES), 1500, 8, 1), agent(hp), value


ONES = dict(entropy_cost=0.0)
AGENTS = {
    "ppo": by_policy(purerl.ppo, purerl.PPO, dict(learning_rate=3e-3), dict(learning_rate=3e-2), 800, **ONES),
    "a2c": by_policy(
        purerl.a2c, purerl.A2C, dict(learning_rate=1e-2), dict(learning_rate=3e-2), 800, gae_lambda=0.9
    ),
    "reinforce": by_policy(
        purerl.reinforce, purerl.REINFORCE, dict(learning_rate=3e-2), dict(learning_rate=3e-2), 800, **ONES
    ),
    "dqn": by_value(purerl.dqn, purerl.DQN(**FEW), q_network(), q_network().apply),
    "dqn n-step": by_value(purerl.dqn, purerl.DQN(**FEW, n_step=3), q_network(), q_network().apply),
    "c51": by_value(purerl.c51, purerl.C51(**FEW, num_atoms=12, low=-2.0, high=20.0), q_network(12), atoms_mean),
    "qrdqn": by_value(
        purerl.qrdqn, purerl.QRDQN(**FEW, num_quantiles=11, kappa=0.0), q_network(11),
        lambda params, obs: q_network(11).apply(params, obs).mean(-1),
    ),
    "iqn": by_value(
        purerl.iqn,
        purerl.IQN(**FEW, num_fractions=4, num_target_fractions=4, num_acting_fractions=4, kappa=0.0),
        networks.implicit_q_network(NUM_ACTIONS, LINEAR), implicit_mean,
    ),
    "pqn": by_value(
        purerl.pqn,
        purerl.PQN(gamma=GAMMA, learning_rate=1e-2, anneal_steps=64_000.0, explore_steps=24_000.0, num_epochs=1),
        q_network(), q_network().apply, updates=1000, length=8,
    ),
    "sac": by_critic,
}  # fmt: skip
DISTRIBUTIONAL = ("c51", "qrdqn", "iqn")  # the slowest: tested in the tier `learning`
TOLERANCE = {  # relative, 0.02 for the others
    **{(agent, "random_length"): 0.05 for agent in AGENTS},
    **dict.fromkeys([("reinforce", "random_length"), ("qrdqn", "random_length")], 0.1),  # of few episodes; a median
    **{("a2c", name): 0.04 for name in BANDITS},
    ("iqn", "delayed_reward"): 0.03,
}


@cache
def trained(agent):
    return AGENTS[agent]()


def check_values(agent, name):
    """The learned values are the exact ones."""
    states, _, _, value = trained(agent)
    params = jax.tree.map(lambda x: x[NAMES.index(name)], states.agent.params)
    exact = probe(name)[1](GAMMA)
    learned = np.asarray(value(params, jnp.asarray(padded(name))))[: len(exact)]
    np.testing.assert_allclose(learned, exact, rtol=TOLERANCE.get((agent, name), 0.02))


def check_actions(agent, name):
    """In a bandit, the rewarded action is the greedy one."""
    states, metrics, made, _ = trained(agent)
    state = jax.tree.map(lambda x: x[NAMES.index(name)], states.agent)
    best = [0, 1] if name == "contextual_bandit" else [1]
    action, _ = made.greedy(state, made.memory(2), jnp.asarray(padded(name)))
    np.testing.assert_array_equal(action[: len(best)], best)
    if agent in ("ppo", "a2c", "reinforce"):  # the others go on exploring
        assert metrics["episode_return"][NAMES.index(name), -1] > 0.9
