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


ISOLATED = """
    import os
    os.environ["XLA_FLAGS"] = ""  # those of the tests, which compile fast, do not keep the bits
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    import purerl
    from purerl import build
    from purerl.runs import checkpoint, devices, files

    devices.set_up_jax()
    env, env_params = purerl.make("CartPole-v1")
    jobs = (("ppo", purerl.PPO(), (4, 128), 10), ("dqn", purerl.DQN(learning_starts=500, capacity=2000), (1, 10), 200))
    for name, hp, blocks, updates in jobs:
        agent = build.agent(build.agent_function(name), env.action_space(env_params))
        one = lambda hp: purerl.learner(env, env_params, agent(hp), *blocks)
        keys, found = jax.random.split(jax.random.key(0), 8), []
        for count in (1, 2, 8):
            runs = purerl.batch(one, jax.devices()[:2] if count > 1 else None, isolate=True)
            *_, (_, state, _) = purerl.run(runs, hp, keys[:count], updates, every=updates // 2)
            found.append(files.hashes(checkpoint.to_host(state), count)[0])
        print(name, len(set(found)))
"""


def test_an_isolated_seed_is_the_same_among_one_two_and_eight():
    """Alone on a device, on one of two, and among four on each of two."""
    program = textwrap.dedent(ISOLATED)
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert out.stdout.split("\n")[:2] == ["ppo 1", "dqn 1"], out.stderr[-2000:]
