"""The probe environments as one, padded to one shape, so that an agent's training in all of them is one program."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

import purerl
from purerl.testing import probes

NAMES = ("constant_reward", "delayed_reward", "random_length", "contextual_bandit", "action_reward")
ROWS = 2  # the most observations, and the most numbers in one, of any probe
NUM_ACTIONS = 3


@cache
def probe(name):
    return getattr(probes, name)()


@struct.dataclass
class Params:
    index: jax.Array  # which probe of NAMES
    max_steps_in_episode: jax.Array


@struct.dataclass
class State:
    row: jax.Array
    time: jax.Array


class Together(Environment):
    """`Params.index` says which probe is played: under vmap, all of them at once."""

    name = "probes"

    @property
    def default_params(self):
        return params_of("constant_reward")

    def _of_probe(self, params, call, *args):
        return jax.lax.switch(params.index, [partial(call, probe(name)[0]) for name in NAMES], *args)

    def reset_env(self, key, params):
        begin = lambda env, key: jnp.asarray(env.reset_env(key, env.default_params)[1].row, jnp.int32)
        row = self._of_probe(params, begin, key)
        return rows(params.index)[row], State(row, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        def step(env, key, state, action):
            inner = probes.ProbeState(state.row, state.time)
            _, new, reward, terminated, _ = env.step_env(key, inner, action, env.default_params)
            return new.row, reward, jnp.asarray(terminated, bool)

        row, reward, terminated = self._of_probe(params, step, key, state, action)
        return rows(params.index)[row], State(row, state.time + 1), reward, terminated, {}

    def action_space(self, params=None):
        return spaces.Discrete(NUM_ACTIONS)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (ROWS,), jnp.float32)


def padded(name):
    """A probe's observations `[ROWS, ROWS]`, with zeros."""
    known = np.asarray(probe(name)[0].rows)
    return np.pad(known, [(0, ROWS - n) for n in known.shape]).astype(np.float32)


def rows(index):
    return jnp.asarray(np.stack([padded(name) for name in NAMES]))[index]


def params_of(*names):
    """Parameters of one probe, or of several as leaves `[P]`."""
    params = [
        Params(jnp.int32(NAMES.index(n)), jnp.int32(probe(n)[0].default_params.max_steps_in_episode)) for n in names
    ]
    return params[0] if len(names) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *params)


def train_in_all(agent, hps, num_updates, num_envs, rollout_length, names=NAMES):
    """Final states and metrics of a training in every probe, leaves `[P, ...]`, as one program.

    Args:
      agent: `hp -> Agent`.
      hps: hyperparameters, one for each probe.
    """

    def one(hp, params, key):
        learner = purerl.learner(Together(), params, agent(hp), num_envs, rollout_length)
        return purerl.train(learner, key, num_updates, num_updates // 4)

    hps = jax.tree.map(lambda *x: jnp.stack([jnp.float32(y) for y in x]), *hps)
    keys = jax.random.split(jax.random.key(0), len(names))
    return jax.jit(jax.vmap(one))(hps, params_of(*names), keys)
