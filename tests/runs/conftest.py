"""Finished runs, which the tests read or copy and never change."""

import commands
import moments
import pytest

FIRST_SAVE = "moved checkpoints/000000004.safetensors"


def trained(directory, *arguments, **job):
    """A run that is saved after every chunk, and beside it what was on the disk after the first of them."""
    with moments.recorded(directory) as found:
        assert commands.train(directory, *arguments, "--normalize-reward", "--save-every", 0, **job) == 0
    moments.restore(found[FIRST_SAVE].killed, directory.with_name("first-save"))
    return directory


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """PPO on CartPole: three learning rates of three seeds each, on two devices."""
    return trained(tmp_path_factory.mktemp("runs") / "whole", "--learning-rate", "1e-3,1e-2,1e-4")


@pytest.fixture(scope="session")
def replayed(tmp_path_factory):
    """DQN with a prioritised replay: two learning rates of two seeds each."""
    job = {"agent": "dqn", "env": f"{commands.OWN}:bandit", "seeds": 2}
    return trained(tmp_path_factory.mktemp("runs") / "replayed", "--learning-rate", "1e-3,1e-2", **job)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """An agent of the user's own: three seeds on two devices."""
    directory = tmp_path_factory.mktemp("runs") / "small"
    assert commands.train_own(directory) == 0
    return directory
