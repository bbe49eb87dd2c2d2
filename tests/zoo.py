"""The table of agents that the tests share: every algorithm, small, with all of its hyperparameters in use.

What is compiled is kept by the identity of `make`, so each row is compiled once a process, however many tests read it.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import Linear

import purerl
from purerl import bellman, build, exploration, networks, normalize
from purerl.agents.parts import sequences
from purerl.agents.parts.declarations import Body
from purerl.testing import checks
from purerl.testing.probes import Probe, ProbeParams
from purerl.text import objectives

POLICY_GRADIENT, Q_LEARNING, ACTOR_CRITIC = "policy gradient", "Q-learning", "actor-critic"


class Row(NamedTuple):
    """An agent in an environment. `rollout_length` is a function, since a replay of sequences fixes it."""

    family: str
    agent: Callable[[Any], purerl.Agent]  # of hyperparameters
    hp: Any
    env: Any
    env_params: Any
    num_envs: int = 4
    rollout_length: Callable[[Any], int] = lambda hp: 8
    reward: Callable[[Any], Any] = lambda hp: None

    def make(self, hp):
        """The learner, from its hyperparameters."""
        settings = self.num_envs, self.rollout_length(hp), self.reward(hp)
        return purerl.learner(self.env, self.env_params, self.agent(hp), *settings)


def letters():
    """Words of up to four letters: 2 ends one, and the others pay 1 where they alternate; longer ones are cut."""
    move = lambda key, row, action: (jnp.minimum(row + 1, 3), action == row % 2, action == 2)
    return Probe("letters", jnp.eye(4), lambda key: 0, move, num_actions=3, max_steps=4), ProbeParams(4)


make_env = cache(lambda env_id: letters() if env_id == "letters" else purerl.make(env_id))
SMALL = partial(networks.MLP, (8,))
LINEAR = partial(networks.MLP, ())  # no layer: linear in the observation
ON = dict(learning_rate=3e-3, anneal_steps=500.0, max_grad_norm=0.05)
POLICY = dict(**ON, entropy_cost=0.01)
REPLAY = dict(
    **ON, priority=0.5, importance_steps=200.0, n_step=2, capacity=64, batch_size=8, learning_starts=40, train_every=16
)
VALUE = dict(**REPLAY, target_rate=0.7, target_period=16, explore_steps=200.0)
CRITIC = dict(**REPLAY, target_rate=0.3)


class Spec(NamedTuple):
    """A row of the table before its environment is made: `make(env, env_params)` gives the agent of `Row`."""

    family: str
    make: Callable[[Any, Any], Callable[[Any], purerl.Agent]]
    hp: Any
    env_id: str = "CartPole-v1"
    settings: dict[str, Any] = {}  # noqa: RUF012 (never changed)


def by_policy(algorithm, hp, env_id="CartPole-v1", policy="normal", network=networks.actor_critic, **settings):
    def make(env, env_params):
        own = lambda policy, hp: network(policy, SMALL)
        return build.agent(algorithm, env.action_space(env_params), options={"policy": policy}, network=own)

    return Spec(POLICY_GRADIENT, make, hp, env_id, settings)


def by_value(algorithm, hp, network=lambda num_actions, hp: networks.q_network(num_actions, SMALL), **parts):
    """`network` is a function of the hyperparameters, which may fix its number of outputs."""

    def make(env, env_params):
        return build.agent(algorithm, env.action_space(env_params), network=network, **parts)

    sequences = {"rollout_length": lambda hp: hp.sequence_length} if getattr(hp, "sequence_length", 1) > 1 else {}
    return Spec(Q_LEARNING, make, hp, settings=sequences)


def by_critic(algorithm, hp, env_id="Pendulum-v1", **parts):
    def make(env, env_params):
        return agent_of(algorithm, env.action_space(env_params), SMALL, **parts)

    return Spec(ACTOR_CRITIC, make, hp, env_id)


def config_of(algorithm):
    """The class of an algorithm's hyperparameters."""
    return getattr(purerl, algorithm.__name__.upper())


def agent_of(algorithm, space, torso=LINEAR, **parts):
    """`hp -> Agent` of an actor-critic for an action space."""
    return build.agent(algorithm, space, Body(torso, torso), **parts)


def remembering(core, shared=False):
    return lambda policy, torso: networks.actor_critic(policy, torso, shared, core)


def by_sequence(algorithm, hp, rollout_length=lambda hp: 5, **parts):
    """Of a linear network, which compiles faster than any other."""

    def make(env, env_params):
        own = lambda policy, hp: Linear(policy.num_params)
        return build.agent(algorithm, env.action_space(env_params), network=own, **parts)

    return Spec(POLICY_GRADIENT, make, hp, "letters", dict(num_envs=8, rollout_length=rollout_length))


PPO = dict(**POLICY, num_epochs=2, num_minibatches=2, clip=0.01)
WHOLE = dict(**POLICY, kl_cost=0.1)  # sequences
ROWS = {
    "ppo": by_policy(purerl.ppo, purerl.PPO(**PPO, value_clip=0.01)),
    "ppo tanh-normal": by_policy(
        purerl.ppo, purerl.PPO(**PPO, normalize_obs=True, normalize_advantage="batch"), "Pendulum-v1",
        "tanh-normal", reward=lambda hp: normalize.rewards(hp.gamma),
    ),
    "ppo masked": by_policy(purerl.ppo, purerl.PPO(**PPO, normalize_obs=True), "MaskedGrid-v0"),
    "ppo transformer": by_policy(
        purerl.ppo, purerl.PPO(**PPO),
        network=remembering(networks.transformer(8, num_heads=2, context=4), shared=True),
    ),
    "ppo stack": by_policy(
        purerl.ppo, purerl.PPO(**PPO), network=remembering(networks.stack(networks.lstm(5), networks.MLP((6,))))
    ),
    "a2c": by_policy(purerl.a2c, purerl.A2C(**POLICY, gae_lambda=0.9, normalize_advantage=True)),
    "a2c gru": by_policy(purerl.a2c, purerl.A2C(**POLICY), network=remembering(networks.gru(5))),
    "reinforce": by_policy(purerl.reinforce, purerl.REINFORCE(**POLICY)),
    "reinforce min-gru": by_policy(
        purerl.reinforce, purerl.REINFORCE(**POLICY), network=remembering(networks.min_gru(5), shared=True)
    ),
    "rloo": by_sequence(
        purerl.rloo, purerl.RLOO(**WHOLE, group_size=4, num_epochs=2, num_minibatches=2, clip=0.001)
    ),
    "grpo": by_sequence(
        purerl.grpo,
        purerl.GRPO(
            **WHOLE, group_size=4, num_epochs=2, num_minibatches=2, clip_low=0.001, clip_high=0.002,
            mask_truncated=True, dynamic_sampling=True, max_length=5,
        ),
        lambda hp: hp.max_length,
    ),
    "grpo gspo": by_sequence(
        purerl.grpo, purerl.GRPO(**WHOLE, group_size=4, num_epochs=2, kl_target=1e-5), ratio=sequences.of_sequences,
        normaliser=objectives.dapo, scale=objectives.batch_scale,
    ),
    "sequence_reinforce": by_sequence(
        purerl.sequence_reinforce, purerl.SequenceREINFORCE(**WHOLE, kl_in="loss", kl="k2", group_size=2)
    ),
    "sequence_ppo": by_sequence(
        purerl.sequence_ppo,
        purerl.SequencePPO(**WHOLE, gamma=0.95, num_epochs=2, num_minibatches=2, clip=0.001, value_clip=0.01),
    ),
    "dqn": by_value(purerl.dqn, purerl.DQN(**VALUE), backup=bellman.double_backup),
    "dqn munchausen": by_value(
        # a period that a block does not divide, and several gradient steps each time
        purerl.dqn, purerl.DQN(**VALUE | {"train_every": 5, "target_period": 20}, num_gradient_steps=2),
        backup=bellman.munchausen_backup(),
    ),
    "r2d2": by_value(
        purerl.dqn, purerl.DQN(**VALUE | {"capacity": 200}, sequence_length=8, burn_in=4),
        lambda num_actions, hp: networks.q_network(num_actions, SMALL, memory=networks.gru(4)),
        backup=bellman.double_backup,
    ),
    "c51": by_value(
        purerl.c51, purerl.C51(**VALUE, num_atoms=5, low=-3.0, high=20.0, double=True),
        lambda num_actions, hp: networks.q_network(num_actions, SMALL, outputs=hp.num_atoms),
    ),
    "qrdqn": by_value(
        purerl.qrdqn, purerl.QRDQN(**VALUE, num_quantiles=5, double=True),
        lambda num_actions, hp: networks.q_network(num_actions, SMALL, outputs=hp.num_quantiles),
    ),
    "iqn": by_value(
        purerl.iqn,
        purerl.IQN(**VALUE, num_fractions=4, num_target_fractions=3, num_acting_fractions=2, double=True),
        lambda num_actions, hp: networks.implicit_q_network(num_actions, SMALL, num_cosines=4),
    ),
    "rainbow": by_value(
        purerl.rainbow, purerl.Rainbow(**VALUE, num_atoms=5, explore_start=0.2),
        lambda num_actions, hp: networks.q_network(num_actions, SMALL, outputs=hp.num_atoms, dueling=True, noise=True),
    ),
    "pqn": by_value(
        purerl.pqn, purerl.PQN(**ON, num_epochs=2, num_minibatches=2, explore_steps=200.0),
        lambda num_actions, hp: networks.q_network(num_actions, partial(networks.MLP, (8,), layer_norm=True)),
    ),
    "pqn gru": by_value(
        purerl.pqn, purerl.PQN(**ON, num_epochs=2, num_minibatches=2, explore_steps=200.0, normalize_obs=True),
        lambda num_actions, hp: networks.q_network(num_actions, SMALL, memory=networks.gru(4)),
    ),
    "sac": by_critic(purerl.sac, purerl.SAC(**CRITIC, num_gradient_steps=2), "Platform-v0"),
    "td3": by_critic(
        purerl.td3, purerl.TD3(**CRITIC, policy_delay=3, noise_clip=0.1), process=exploration.ornstein_uhlenbeck
    ),
    "ddpg": by_critic(purerl.ddpg, purerl.DDPG(**CRITIC, target_noise=0.1, noise_clip=0.1)),
}  # fmt: skip
FAMILIES = ("ppo", "dqn", "sac")  # one of each, for what every family has
SMALLEST = ("a2c", "dqn", "ddpg", "rloo")  # one of each and of whole sequences, for what is a property of the loop
VARIANTS = (  # put together from parts that other rows and tests of their own check: compiled in `make test-all` alone
    *("ppo transformer", "ppo stack", "a2c gru", "reinforce min-gru", "pqn gru"),
    *("grpo gspo", "dqn munchausen", "rainbow", "ddpg"),
)
NUM_UPDATES = 4
# `conftest` turns these off, where that makes compiling faster: the bits of two programs may differ then
AS_USERS_DO = {"xla_cpu_use_fusion_emitters": True} if jax.__version__.startswith("0.9.") else {}


def params(names, wide, smoke=()):
    """`names` for `parametrize`: those of `wide` run only in `make test-all`, those of `smoke` also in `make smoke`."""
    marks = lambda name: [pytest.mark.wide] * (name in wide) + [pytest.mark.smoke] * (name in smoke)
    return [pytest.param(name, marks=marks(name)) for name in names]


@cache
def row(name, env_id=None) -> Row:
    """A row of the table, in its own environment or in another."""
    spec = ROWS[name]
    env, env_params = make_env(env_id or spec.env_id)
    return Row(spec.family, spec.make(env, env_params), spec.hp, env, env_params, **spec.settings)


@cache
def make(name):
    """`hp -> Learner`, the same function each time: programs are kept by its identity."""
    return row(name).make


@cache
def traced(name) -> checks.Traced:
    """Raises where a key is used twice."""
    return checks.trace(make(name), row(name).hp, jax.random.key(0))


def to_host(tree):
    """A copy that outlives the state's donation; keys as their words."""
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: np.array(jax.random.key_data(x) if is_key(x) else x), tree)


class Finished(NamedTuple):
    """A run of NUM_UPDATES updates, on the host."""

    state: Any
    metrics: dict[str, np.ndarray]  # of every update


def finish(name, hp, key, **settings) -> Finished:
    """Run an agent; all runs of a name are one compiled program."""
    settings = {"num_updates": NUM_UPDATES, **settings}
    chunks = [(state, to_host(metrics)) for _, state, metrics in purerl.run(make(name), hp, key, **settings)]
    return Finished(to_host(chunks[-1][0]), jax.tree.map(lambda *x: np.stack(x), *[m for _, m in chunks]))


@cache
def finished(name) -> Finished:
    """The run of seed 0 with the row's own hyperparameters."""
    return finish(name, row(name).hp, jax.random.key(0))


@cache
def begun(name) -> tuple[Row, purerl.Agent, Any]:
    """A row, its agent, and an initial state whose normaliser, if it has one, has seen observations."""
    own = row(name)
    agent = own.agent(own.hp)
    return own, agent, checks.initial_state(agent, own.env, own.env_params, jax.random.key(0))
