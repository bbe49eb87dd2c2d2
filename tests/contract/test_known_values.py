"""Every agent but those of DISTRIBUTIONAL in MDPs whose values are known; each MDP is a test."""

from functools import partial

import jax
import jax.numpy as jnp
import known_values
import numpy as np
import pytest
import zoo
from known_values import BANDITS
from probes_together import NAMES

from purerl.testing import probes

AGENTS = zoo.params(
    [agent for agent in known_values.AGENTS if agent not in known_values.DISTRIBUTIONAL],
    wide=("a2c", "reinforce", "dqn n-step"),
)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_known_ones(agent, name):
    """constant_reward: taking the time limit for an end of the MDP would give V = 2.95 in place of 10."""
    known_values.check_values(agent, name)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name", BANDITS)
def test_the_rewarded_action_is_found(agent, name):
    known_values.check_actions(agent, name)


def test_what_is_trained_together_are_the_probes():
    """Each padded probe against its own, by random play from the same keys."""
    from probes_together import Together, params_of

    env = Together()
    keys = jax.vmap(jax.random.key)(jnp.arange(8))

    @partial(jax.jit, static_argnums=0)
    @partial(jax.vmap, in_axes=(None, None, 0, 0))
    def play(env, params, key, action):
        obs, state = env.reset_env(key, params)
        next_obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return (obs, next_obs), (reward, terminated, env.is_truncated(state, params))

    for name in NAMES:
        alone = getattr(probes, name)()[0]
        actions = jnp.arange(8) % alone.num_actions
        seen, flags = play(env, params_of(name), keys, actions)
        seen_alone, flags_alone = play(alone, alone.default_params, keys, actions)
        for got, wanted in zip(seen, seen_alone, strict=True):
            np.testing.assert_array_equal(got[:, : wanted.shape[1]], wanted)
        jax.tree.map(np.testing.assert_array_equal, flags, flags_alone)
