"""The main job, eight seeds of PPO, ends: some versions of jax deadlock in it. In a process that can be given up."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import os
    os.environ["XLA_FLAGS"] = ""
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    import purerl

    env, env_params = purerl.make("CartPole-v1")
    policy = purerl.distributions.for_space(env.action_space(env_params))
    network = purerl.networks.actor_critic(policy)
    one = lambda hp: purerl.learner(env, env_params, purerl.ppo(network, policy, hp), 4, 128)
    make = purerl.batch(one, {devices})
    keys = jax.random.split(jax.random.key(0), 8)
    *_, (iteration, state, metrics) = purerl.run(make, purerl.PPO(), keys, 30, every=10)
    jax.block_until_ready(state.agent)
    print(iteration, metrics["episode_return"].mean() > 30)
"""


@pytest.mark.parametrize(
    "devices",
    [pytest.param("None", id="vmapped", marks=pytest.mark.smoke), pytest.param("jax.devices()", id="sharded")],
)
def test_the_eight_seed_program_ends(devices):
    program = textwrap.dedent(PROGRAM.format(devices=devices))
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert out.stdout.split() == ["30", "True"], out.stderr[-2000:]
