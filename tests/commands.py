"""Commands of the command line, in this process and in others, and what their runs leave on disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

import purerl
from purerl.cli import main as cli
from purerl.runs import checkpoint, devices, files

OWN = Path(__file__).with_name("own.py")
BLOCK = ["--num-envs", "4", "--rollout-length", "8"]
REPLAY = ["--learning-starts", "64", "--train-every", "32", "--capacity", "200", "--batch-size", "8"]
SMALL = {
    "ppo": [*BLOCK, "--num-minibatches", "2", "--num-epochs", "1", "--hidden", "4"],
    "dqn": [*BLOCK, *REPLAY, "--priority", "0.6", "--hidden", "4"],
}

ANSWERS = [  # arguments, exit code, what is said
    (["--help"], 0, "train"),
    (["--version"], 0, purerl.__version__),
    (["train", "--help"], 0, "reinforce"),
    ([], 2, "Commands"),
    (["nosuch"], 2, "purerl: error: No such command 'nosuch'."),
    (
        ["train", "nosuch", "CartPole-v1"],
        2,
        "no agent 'nosuch'; allowed are a2c, c51, ddpg, dqn, grpo, iqn, ppo, pqn, qrdqn, rainbow, reinforce, rloo, sac",
    ),
    (["--nosuch"], 2, "purerl: error: No such option '--nosuch'."),
]


def command(*arguments):
    """A command in this process; its exit code. What it sets up for a process of its own does not outlast it."""
    cache = jax.config.jax_enable_compilation_cache
    try:
        with mock.patch.object(devices, "FLAGS", ()), pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in arguments])
    finally:
        if jax.config.jax_enable_compilation_cache != cache:
            jax.config.update("jax_enable_compilation_cache", cache)
            reset_cache()
    return stop.value.code


def words(agent, directory, *arguments, env="CartPole-v1", steps=640, seeds=3, chunks=5):
    """The command that trains a small agent for 20 updates."""
    job = ["--dir", directory, "--steps", steps, "--seeds", seeds, "--chunks", chunks]
    return ["train", agent, env, *job, *SMALL.get(agent, []), *arguments]


def train(directory, *arguments, agent="ppo", **job):
    """See `words` and `command`."""
    return command(*words(agent, directory, *arguments, **job))


def train_own(directory, *arguments, own=OWN, **job):
    """The same for an agent and an environment of the user's own, which compile faster."""
    return train(directory, *arguments, agent=f"{own}:mine", env=f"{own}:bandit", **job)


def copy_of_own(directory):
    """The user's file in a directory."""
    return Path(shutil.copy(OWN, directory))


def environ(**changes):
    """Of another process: it shares this one's compiled programs, and writes nothing into the user's home."""
    folder = jax.config.jax_compilation_cache_dir
    cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return {**os.environ, **cache, **changes}


def process(*arguments, code="from purerl.cli.main import main; main()", **changes):
    """A command in a process of its own, started."""
    start = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(start, env=environ(**changes), stdout=pipe, stderr=pipe, text=True)


def finished(*arguments, **how):
    """The exit code of `process`, and what it printed."""
    with process(*arguments, **how) as started:
        out, error = started.communicate(timeout=240)
    return started.returncode, out, error


def shas(directory):
    """The hash of every run's parameters."""
    return [row["sha256"] for row in files.read_json(directory / "manifest.json")["parameters"]]


def newest(directory):
    """The leaves of the newest checkpoint."""
    return checkpoint.read(checkpoint.paths(directory / "checkpoints")[0])[0]


def table(directory):
    """metrics.csv as text."""
    return (directory / "metrics.csv").read_text()


def snapshot(directory):
    """The contents of every file."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def same_bits(one, other):
    """Whether two directories hold the same run: parameters, the whole state with environments and keys, metrics."""
    x, y = newest(one), newest(other)
    assert x.keys() == y.keys() and shas(one) == shas(other)
    assert [name for name in x if x[name].tobytes() != y[name].tobytes()] == []
    assert table(one) == table(other)


class StopAfter:
    """Stands in for Ctrl-C: asks to stop after so many chunks."""

    def __init__(self, chunks):
        self.left = chunks

    def __call__(self, say):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self.left -= 1
        return self.left <= 0


def searched_together(words, study, directories):
    """What searches print that share a study, each in a process of its own; `words(directory, *options)` is one's."""
    started = [
        process(*words(directory, "--study", study, "--trials", 6, "--seed", seed, "--devices", 1))
        for seed, directory in enumerate(directories)
    ]
    printed = []
    for one in started:
        out, error = one.communicate(timeout=400)
        assert one.returncode == 0, error
        printed.append(out)
    return printed


def numbers_of(directory):
    """The numbers that the trials of a search have in its study."""
    stored = [files.read_json(path) for path in sorted(directory.glob("generation-*/trials.json"))]
    return [number for one in stored for number in one["numbers"]]
