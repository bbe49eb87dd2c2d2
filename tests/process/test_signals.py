"""Ctrl-C and kill -9: what is on the disk afterwards, and that it goes on to the same bits."""

import re
import signal
import time

import pytest
from commands import OWN, finished, process, same_bits, words

from purerl.runs import checkpoint

LONG = 2e9  # environment steps, of hours


def own(directory, *arguments, **job):
    """Trains an agent of the user's own on one device."""
    return words(f"{OWN}:mine", directory, "--devices", 1, *arguments, env=f"{OWN}:bandit", **job)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times, tmp_path):
    """Once: the chunk is finished and saved. Twice: it stops at once, in the middle of a long chunk."""
    a = tmp_path / "a"
    with process(*own(a, steps=LONG, chunks=500_000 if times == 1 else 1)) as started:
        next(line for line in started.stderr if line.startswith("compiling"))
        while times == 1 and not (a / "metrics.csv").exists() and started.poll() is None:
            time.sleep(0.05)
        for _ in range(times):
            time.sleep(0.3)
            started.send_signal(signal.SIGINT)
        _, error = started.communicate(timeout=120)
    assert started.returncode == 130 and "Traceback" not in error, error
    assert "finishing this chunk, then saving; Ctrl-C again stops at once" in error
    if times == 1:
        assert re.search(r"stopped and saved at iteration \d+ of 62500000: purerl resume", error)
        assert len(checkpoint.paths(a / "checkpoints")) == 1
    else:
        assert "stopped at once; iteration 0 is on disk" in error and checkpoint.paths(a / "checkpoints") == []


HALF_A_SAVE = """
import os, pathlib, signal
import safetensors.numpy
from purerl.cli.main import main

save, saves = safetensors.numpy.save_file, []

def half(leaves, path, metadata):
    save(leaves, path, metadata)
    saves.append(path)
    if len(saves) == 3:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        os.kill(os.getpid(), signal.SIGKILL)

safetensors.numpy.save_file = half
main()
"""


def test_killed_in_the_middle_of_a_save_and_resumed_is_uninterrupted(tmp_path):
    a, whole = tmp_path / "a", tmp_path / "whole"
    code, _, error = finished(*own(a, "--save-every", 0), code=HALF_A_SAVE)
    assert code == -signal.SIGKILL, error
    assert [int(path.stem) for path in checkpoint.paths(a / "checkpoints")] == [8, 4]
    assert [path.stem for path in (a / "checkpoints").glob("*.part")] == ["000000012.safetensors"]
    for arguments in (own(whole), ["resume", a]):
        code, _, error = finished(*arguments)
        assert code == 0, error
    same_bits(a, whole)


def test_killed_at_any_time_and_resumed_is_uninterrupted(tmp_path):
    """When a tenth of it is reported as done."""
    a, whole, job = tmp_path / "a", tmp_path / "whole", {"steps": 640_000, "chunks": 100}
    with process(*own(a, "--save-every", 0.01, **job)) as started:
        next(line for line in started.stderr if line.startswith("iteration"))
        started.kill()
    assert started.wait() == -signal.SIGKILL
    assert 0 < max(int(path.stem) for path in checkpoint.paths(a / "checkpoints")) < 20_000
    for arguments in (own(whole, **job), ["resume", a]):
        code, _, error = finished(*arguments)
        assert code == 0, error
    same_bits(a, whole)
