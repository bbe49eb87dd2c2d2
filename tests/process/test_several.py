"""Runs in several processes: the same results as in one, and an end in one line if a process is lost."""

import re
import signal
import socket
import time

import numpy as np
import pytest
from commands import OWN, finished, process, same_bits, words

JOB = words(f"{OWN}:mine", "DIR", env=f"{OWN}:bandit", seeds=4)


def port():
    """A free one."""
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


def together(*arguments, others=None, count=2, **changes):
    """A command in several processes of one device each, started; `others`: the arguments of all but the first."""
    at = port()
    place = lambda number: ["--distributed", f"localhost:{at},{number}/{count}"]
    given = [arguments, *[others or arguments] * (count - 1)]
    return [process(*words, *place(i), JAX_NUM_CPU_DEVICES="1", **changes) for i, words in enumerate(given)]


def ended(*started):
    """Exit code, stdout and stderr of each, which are killed if they do not end."""
    try:
        found = [(*one.communicate(timeout=400), one.returncode) for one in started]
    finally:
        for one in started:
            one.kill()
    return [(code, out, error) for out, error, code in found]


def named(directory, job=JOB):
    return [directory if word == "DIR" else word for word in job]


def test_seeds_over_processes_of_which_one_is_killed(tmp_path):
    """Resumed they reach, bit for bit, the run of one process with as many devices: state, metrics, hashes."""
    whole, a = tmp_path / "whole", tmp_path / "a"
    long = words(f"{OWN}:mine", "DIR", "--save-every", 0, env=f"{OWN}:bandit", seeds=4, steps=6400, chunks=50)
    first, second = together(*named(a, long))
    while not list((a / "checkpoints").glob("*")) and first.poll() is None:
        time.sleep(0.02)
    second.kill()
    begin = time.monotonic()
    (code, out, error), (killed, *_) = ended(first, second)
    assert time.monotonic() - begin < 10 and killed == -signal.SIGKILL
    assert code == 1 and out == "", error
    assert error.endswith("purerl: error: process 1 of 2 has ended; start all of them again to go on\n")
    assert all(re.match("own.py:mine on|compiling$|iteration|purerl: error: ", line) for line in error.splitlines())
    assert 0 < max(int(path.stem) for path in (a / "checkpoints").glob("*")) < 200
    for number, (code, out, error) in enumerate(ended(*together("resume", a))):
        assert code == 0, error
        assert number == 0 or out == error == ""  # the first one alone prints
    code, _, error = finished(*named(whole, long), JAX_NUM_CPU_DEVICES="2")
    assert code == 0, error
    same_bits(a, whole)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_others_end_if_the_first_is_lost(how, tmp_path):
    """At once if it is killed, and after the timeout if it does not answer."""
    first, second = together(*named(tmp_path / "a"), "--steps", "2e9", "--chunks", "500000", "--peer-timeout", 4)
    while not (tmp_path / "a" / "metrics.csv").exists() and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    begin = time.monotonic()
    ((code, _, error),) = ended(second)
    assert time.monotonic() - begin < 12 and code == 1
    why = "has ended" if how == "killed" else "has not answered for 4 s"
    assert error == f"purerl: error: process 0 of 2 {why}; start all of them again to go on\n"
    first.kill()
    ended(first)


AGENT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from purerl import training

where, path = sys.argv[1:]
if where:
    training.distributed(where, timeout=60)
import purerl
from purerl.testing import probes

WIDTH = 600_000

def agent(hp, policy):
    def init(key, obs):
        first, second = jax.random.split(key)
        shapes = (obs.shape[-1], WIDTH), (WIDTH, policy.num_params)
        return [0.1 * jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in zip((first, second), shapes)]

    parameters = lambda state, obs: jnp.tanh(obs @ state[0]) @ state[1]

    def update(key, state, rollout):
        tr = rollout.transitions

        def loss(state):
            log_prob = policy.log_prob(parameters(state, tr.obs), tr.action)
            return -(log_prob * (tr.reward - tr.reward.mean())).mean()

        value, gradient = jax.value_and_grad(loss)(state)
        return jax.tree.map(lambda x, g: x - hp * g, state, gradient), {"loss": value}

    act = lambda key, state, memory, obs: (policy.sample(key, parameters(state, obs)), memory, ())
    greedy = lambda state, memory, obs: (policy.mode(parameters(state, obs)), memory)
    return purerl.Agent(init, lambda n: (), lambda memory, ended: memory, act, greedy, update)

env = probes.contextual_bandit()[0]
env_params = env.default_params
policy = purerl.distributions.for_space(env.action_space(env_params))
make = lambda hp: purerl.learner(env, env_params, agent(hp, policy), num_envs=4, rollout_length=2)

def trained(devices):
    split = {"devices": devices, "devices_per_run": len(devices)} if len(devices) > 1 else {}
    keys, rows = jax.random.split(jax.random.key(0), 1), []
    for iteration, state, metrics in purerl.run(purerl.batch(make, **split), jnp.float32(0.5), keys, 20, every=10):
        rows.append(training.to_host(metrics))
    assert len(devices) == 1 or len(state.position.obs.sharding.device_set) == 2
    params = training.to_host(state.agent)
    assert params[0].nbytes > 2**22  # the sum of such gradients is of more than one message
    if training.is_first():
        named = {f"{name} {i}": x for i, row in enumerate(rows) for name, x in row.items()}
        np.savez(f"{path}-{jax.process_count()}x{len(devices)}", *params, **named)

for size in {2, jax.process_count()}:
    trained(jax.devices()[:size])
"""


def test_environments_of_one_agent_over_processes(tmp_path):
    """Two processes of one device, one of two devices, and one device learn the same from the same global batch."""
    at, path = port(), tmp_path / "found"
    both = [process(f"localhost:{at},{i}/2", path, code=AGENT, JAX_NUM_CPU_DEVICES="1") for i in (0, 1)]
    alone = process("", path, code=AGENT, JAX_NUM_CPU_DEVICES="2")
    for code, _, error in ended(*both, alone):
        assert code == 0, error
    processes, devices, one = (dict(np.load(f"{path}-{layout}.npz")) for layout in ("2x2", "1x2", "1x1"))
    assert abs(processes["arr_1"]).max() > 0.01
    for other in (devices, one):
        assert processes.keys() == other.keys()
        for name, x in processes.items():
            assert x.shape == other[name].shape and x.dtype == other[name].dtype
            np.testing.assert_allclose(x, other[name], rtol=0, atol=1e-6, err_msg=name)


def test_no_first_process_is_one_line_within_the_timeout(tmp_path):
    begin = time.monotonic()
    code, out, error = finished(*named(tmp_path / "a"), "--distributed", f"localhost:{port()},1/2", "--peer-timeout", 1)
    assert code == 2 and out == "" and time.monotonic() - begin < 30
    assert re.fullmatch(r"purerl: error: distributed: no process 0 at localhost:\d+ within 1 s: .*refused\n", error)


def test_different_commands_are_one_line_in_every_process(tmp_path):
    job = named(tmp_path / "a")
    for code, out, error in ended(*together(*job, others=[*job, "--seed", 1])):
        assert code == 2 and out == ""
        text = "processes have different commands: --seed is 0 in process 0 and 1 in process 1"
        assert error == f"purerl: error: {text}\n"
    assert not (tmp_path / "a").exists()


def test_a_directory_that_cannot_be_used_is_one_line_in_every_process(tmp_path):
    (tmp_path / "a").write_text("a file")
    for code, out, error in ended(*together(*named(tmp_path / "a"))):
        assert code == 2 and out == ""
        assert error.startswith(f"purerl: error: {tmp_path / 'a'}") and error.count("\n") == 1
