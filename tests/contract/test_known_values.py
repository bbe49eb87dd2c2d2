"""Every agent but those of DISTRIBUTIONAL in MDPs whose values are known; each MDP is a test."""

import jax
import jax.numpy as jnp
import known_values
import numpy as np
import pytest
from known_values import BANDITS
from probes_together import NAMES

from purerl.testing import probes

AGENTS = [agent for agent in known_values.AGENTS if agent not in known_values.DISTRIBUTIONAL]


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
    for name in NAMES:
        alone, params = getattr(probes, name)()[0], params_of(name)
        for seed in range(8):
            key = jax.random.key(seed)
            (obs, state), (obs_alone, state_alone) = env.reset_env(key, params), alone.reset_env(key, None)
            action = jnp.int32(seed % alone.num_actions)
            step, step_alone = env.step_env(key, state, action, params), alone.step_env(key, state_alone, action, None)
            for got, wanted in ((obs, obs_alone), (step[0], step_alone[0])):
                np.testing.assert_array_equal(got[: wanted.shape[0]], wanted)
            assert step[2] == step_alone[2] and step[3] == step_alone[3]
            assert env.is_truncated(step[1], params) == alone.is_truncated(step_alone[1], alone.default_params)
