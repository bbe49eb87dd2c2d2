"""What a user writes for the command line: agents, an environment, a network, rewards. Small, to compile fast."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

import purerl
from purerl import gradients, networks, rewards
from purerl.envs.fields import battery, traffic_signal
from purerl.testing import probes


@purerl.config
class Mine:
    rate: float = purerl.option(0.5, "step size", low=0.0)
    anneal_steps: float | None = purerl.option(None, "steps over which the rate falls to 0", low=0.0, share=1.0)
    explode_at: float = purerl.option(1e9, "the update that gives NaN", low=0.0)


@purerl.declare(purerl.POLICY_GRADIENT, Mine(), num_envs=4, rollout_length=8)
def mine(network, policy, hp=Mine()):  # noqa: B008 (frozen)
    """A table of logits for observations that are one-hot, learned by the policy gradient with momentum."""

    def init(key, obs):
        table = 0.1 * jax.random.normal(key, (obs.shape[-1], policy.num_params))
        return gradients.Trained(table, jnp.zeros_like(table), jnp.zeros((), jnp.int32))

    def act(key, state, memory, obs):
        return policy.sample(key, obs @ state.params), memory, ()

    def greedy(state, memory, obs):
        return policy.mode(obs @ state.params), memory

    def update(key, state, rollout):
        tr, count = rollout.transitions, state.updates + 1

        def loss(table):
            return -(policy.log_prob(tr.obs @ table, tr.action) * (tr.reward - tr.reward.mean())).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        rate = gradients.annealed(hp.rate, hp.anneal_steps, state.updates, tr.reward.size)
        velocity = 0.5 * state.opt_state + gradient
        broken = lambda x: jnp.where(count >= hp.explode_at, jnp.nan, x)
        state = gradients.Trained(broken(state.params - rate * velocity), velocity, count)
        return state, {"policy_loss": broken(value), "learning_rate": rate}

    return purerl.Agent(init, lambda n: (), lambda memory, ended: memory, act, greedy, update)


@purerl.config
class Wrapped:
    rate: float = purerl.option(0.05, "a rate", low=0.0)
    num_minibatches: int = purerl.option(2, "parts", low=1)


@purerl.declare(purerl.POLICY_GRADIENT, Wrapped(), num_envs=8, rollout_length=128)
def wrapped(network, policy, hp=Wrapped()):  # noqa: B008 (frozen)
    return purerl.ppo(network, policy, purerl.PPO(learning_rate=hp.rate, num_minibatches=hp.num_minibatches))


@purerl.declare(purerl.POLICY_GRADIENT, Mine(), num_envs=4, rollout_length=8)
def untrained(network, policy, hp=Mine()):  # noqa: B008 (frozen)
    """Acts in any environment, and learns nothing."""
    parameters = lambda obs: jnp.zeros((jax.tree.leaves(obs)[0].shape[0], policy.num_params))
    return purerl.Agent(
        lambda key, obs: (),
        lambda n: (),
        lambda memory, ended: memory,
        lambda key, state, memory, obs: (policy.sample(key, parameters(obs)), memory, ()),
        lambda state, memory, obs: (policy.mode(parameters(obs)), memory),
        lambda key, state, rollout: (state, {"loss": 0.0}),
    )


@purerl.declare(purerl.POLICY_GRADIENT, Wrapped(), num_envs=8, rollout_length=128)
def only_continuous(network, policy, hp=Wrapped()):  # noqa: B008 (frozen)
    if policy.num_free == 0:
        raise ValueError("only_continuous needs a Box action space, this environment has a Discrete one")


def not_an_agent(x):
    return x


def of_transitions(tr):
    return tr.reward


doubled = rewards.scale(2.0)
entropy = rewards.weighted({"entropy": rewards.environment}, {"entropy": 1.0})


def bandit():
    return probes.contextual_bandit()[0]


@struct.dataclass
class Pay(probes.ProbeParams):
    pay: float = 1.0


class Paid(probes.Probe):
    """An environment whose reward is always a parameter."""

    @property
    def default_params(self):
        return Pay(self._max_steps)

    def step_env(self, key, state, action, params):
        obs, state, _, terminated, info = super().step_env(key, state, action, params)
        return obs, state, jnp.float32(params.pay), terminated, info


def paid():
    plain = bandit()
    return Paid("paid", plain.rows, plain._begin, plain._move, num_actions=2, max_steps=10)


def torso():
    return networks.MLP(hidden=(4,), activation=nn.relu)


def of_hyperparameters(hp):
    return rewards.scale(hp.gamma)


def of_hyperparameters_wrongly(hp):
    return 1.0


def of_transitions_with_a_mistake(tr):
    return tr.rewards


def not_a_reward(tr, key):
    return tr.reward


def of_info(tr):
    return tr.info["cost"]


def of_hparams(hparams):
    return rewards.scale(2.0)


@purerl.config
class Clashing:
    steps: int = purerl.option(3, "steps of its own", low=1)


@purerl.declare(purerl.POLICY_GRADIENT, Clashing())
def clashing(network, policy, hp=Clashing()):  # noqa: B008 (frozen)
    return untrained(network, policy)


class Timeless(probes.Probe):
    """An environment with gymnax's `is_truncated`, whose state has no `time` to compare."""

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, {"inner": state}

    def step_env(self, key, state, action, params):
        obs, state, *rest = super().step_env(key, state["inner"], action, params)
        return obs, {"inner": state}, *rest


def timeless():
    plain = bandit()
    return Timeless("timeless", plain.rows, plain._begin, plain._move, num_actions=2, max_steps=10)


def with_a_gap_in_prices():
    prices = battery.daily_prices(24)
    prices[3] = jnp.nan
    return battery.Battery(24, params=battery.BatteryParams(prices))


def with_a_probability_above_1():
    return traffic_signal.TrafficSignal(params=traffic_signal.TrafficSignalParams((0.3, 1.2)))


def broken_env():
    return jnp.nothing_of_this_name()
