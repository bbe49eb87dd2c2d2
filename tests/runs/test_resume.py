"""Stopped and resumed, trained longer, repeated, loaded: a run goes on from its directory as if nothing had been."""

import re
import shutil

import jax
import numpy as np
import pytest
from commands import StopAfter, command, newest, same_bits, shas, snapshot, train_own

import purerl
from purerl.runs import checkpoint, execute, files


@pytest.mark.parametrize("run", ["whole", "replayed"])
def test_resumed_from_its_first_checkpoint_is_uninterrupted(run, request, tmp_path):
    """The same bits on disk, and in the table of metrics: PPO and DQN, sweeps over learning rates and seeds."""
    a, b = request.getfixturevalue(run), tmp_path / "b"
    shutil.copytree(a.with_name("first-save"), b)
    assert set(newest(b)[".iteration"]) == {4} and len(set(shas(a))) == len(shas(a)) in (4, 9)
    assert command("resume", b, "--save-every", 0) == 0
    same_bits(a, b)


def test_stopped_twice_and_resumed_is_uninterrupted(small, tmp_path, monkeypatch, capsys):
    b = tmp_path / "b"
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(1))
        assert train_own(b) == 130
        assert f"stopped and saved at iteration 4 of 20: purerl resume {b}" in capsys.readouterr().err
        assert set(newest(b)[".iteration"]) == {4} and shas(b) != shas(small)
        patch.setattr(execute, "Interrupts", StopAfter(2))
        assert command("resume", b) == 130
        assert set(newest(b)[".iteration"]) == {12}
    assert command("resume", b) == 0
    same_bits(small, b)
    assert files.read_json(small / "config.json") == files.read_json(b / "config.json")
    assert command("resume", b) == 0  # nothing is left: it says so by doing nothing
    same_bits(small, b)


def test_on_another_number_of_devices_it_is_equal_to_rounding(small, tmp_path, monkeypatch):
    b = tmp_path / "b"
    monkeypatch.setattr(execute, "Interrupts", StopAfter(2))
    assert train_own(b, "--devices", 1) == 130
    monkeypatch.undo()
    assert command("resume", b, "--devices", 2) == 0
    one, two = newest(small), newest(b)
    for name, x in one.items():
        if name.startswith(".agent"):
            np.testing.assert_allclose(x, two[name], atol=1e-4, err_msg=name)
    (change,) = files.read_json(b / "manifest.json")["resumed"]
    assert change["iteration"] == 8 and change["differs"]["num_devices"] == [1, 2]


def test_going_on_for_longer(small, tmp_path, capsys):
    """More steps keep the horizon and say so; a horizon that is moved is remembered, and repeated."""
    a, b = tmp_path / "a", tmp_path / "b"
    for directory in (a, b):
        shutil.copytree(small, directory)
    assert command("resume", a, "--steps", 768) == 0
    assert "anneal_steps stays at 640; from there on the learning rate is 0 (--anneal" in capsys.readouterr().err
    assert files.read_json(a / "config.json")["steps"] == 768
    assert files.read_metrics(a / "metrics.csv", 3).steps.tolist()[-2:] == [640, 768]
    assert command("resume", a, "--steps", 700) == 2
    assert "--steps is 700; it is the total, and the run has 768 steps already" in capsys.readouterr().err
    assert command("resume", b, "--steps", 768, "--anneal-steps", 1000) == 0
    assert files.read_json(b / "config.json")["horizons"] == [{"iteration": 20, "anneal_steps": 1000.0}]
    rate = lambda x: files.read_metrics(x / "metrics.csv", 3).columns["learning_rate"][-1, 0]
    assert rate(a) == 0 < rate(b)
    assert command("repeat", b) == 0
    assert "identical: the parameters of 3 runs" in capsys.readouterr().out
    assert shas(b) == shas(tmp_path / "b-repeat") != shas(a)


def test_going_on_with_another_number_of_environments(small, replayed, tmp_path, capsys):
    """New episodes begin, the steps of an iteration stay; where the state depends on that number, a line says why."""
    a, b = shutil.copytree(small, tmp_path / "a"), shutil.copytree(replayed, tmp_path / "b")
    assert command("resume", a, "--num-envs", 8, "--steps", 768) == 0
    assert "new episodes begin in 8 environments; blocks of 4 steps" in capsys.readouterr().err
    run = purerl.runs.load(a)
    assert run.iteration == 24 and run.state.position.obs.shape[:2] == (3, 8) and not run.broken
    (change,) = files.read_json(a / "manifest.json")["resumed"]
    assert change == {"iteration": 20, "differs": {"num_envs": [4, 8], "rollout_length": [8, 4]}}
    assert len(checkpoint.paths(a / "checkpoints")) == 2
    c = shutil.copytree(a, tmp_path / "c")
    assert command("resume", c, "--num-envs", 8) == 0 and "new episodes" not in capsys.readouterr().err
    same_bits(a, c)
    for arguments, said in (
        ([a, "--num-envs", 5], "--num-envs is 5; it must divide 32, the steps of an iteration, which stay"),
        ([b, "--num-envs", 8], r"--num-envs: the state of this agent depends on the number of environments: \.agent"),
    ):
        before = snapshot(tmp_path)
        assert command("resume", *arguments) == 2 and re.search(said, capsys.readouterr().err)
        assert before == snapshot(tmp_path)


def test_milestones(tmp_path, monkeypatch, capsys):
    """Kept checkpoints, evaluations and the best state, the same after an interruption; all can be named."""
    a, b = tmp_path / "a", tmp_path / "b"
    asked = ["--evaluate-every", 128, "--keep-every", 256, "--devices", 1]
    assert train_own(a, *asked, seeds=2, chunks=10) == 0
    table = files.read_metrics(a / "metrics.csv", 2)
    returns = table.columns["evaluation_return"]
    assert table.steps[~np.isnan(returns[:, 0])].tolist() == [128, 256, 384, 512, 640]
    assert "best greedy return of each run: 1.0, 1.0 (--checkpoint best)" in capsys.readouterr().err
    assert sorted(p.name for p in (a / "checkpoints" / "kept").iterdir()) == [
        "000000008.safetensors",
        "000000016.safetensors",
    ]
    first = np.nanargmax(np.where(np.isnan(returns), -np.inf, returns), axis=0)
    best = purerl.runs.load(a, checkpoint="best")
    assert best.state.iteration.tolist() == table.iterations[first].tolist()
    assert purerl.runs.load(a, checkpoint=8).iteration == 8
    assert command("evaluate", a, "--checkpoint", "kept") == 2
    assert "checkpoint is kept; " in (error := capsys.readouterr().err) and "has 8, 16, 20, best" in error
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(5))
        assert train_own(b, *asked, seeds=2, chunks=10) == 130
    assert command("resume", b, "--devices", 1) == 0
    same_bits(a, b)
    for name in ("best.safetensors", "kept/000000016.safetensors"):
        (one, notes), (two, again) = (checkpoint.read(run / "checkpoints" / name) for run in (a, b))
        assert notes == again and {n: x.tobytes() for n, x in one.items()} == {n: x.tobytes() for n, x in two.items()}


@pytest.mark.parametrize("flags", [[], ["--isolate-seeds"]], ids=["together", "isolated"])
def test_seeds_are_isolated_if_asked_for(flags, tmp_path, monkeypatch, capsys):
    def refuse(*given, live, **_):
        raise ValueError(f"isolate is {given[-1]}")

    monkeypatch.setattr(execute, "stream", refuse)
    assert train_own(tmp_path / "a", *flags) == 2
    assert f"isolate is {bool(flags)}" in capsys.readouterr().err


def test_a_repeat_that_differs_says_where(small, tmp_path, capsys):
    a = tmp_path / "a"
    shutil.copytree(small, a)
    manifest = files.read_json(a / "manifest.json")
    manifest["parameters"][1]["sha256"] = "0" * 64
    manifest["made_with"]["jax"] = "0.1.2"
    files.write_json(a / "manifest.json", manifest)
    assert command("repeat", a, "--dir", tmp_path / "again") == 1
    out = capsys.readouterr().out
    assert "different: 1 of 3 runs, seed 1" in out and re.search(rf"jax +│ 0\.1\.2 +│ {jax.__version__}", out)
    assert shas(tmp_path / "again") == shas(small)


def test_load_for_a_notebook(small):
    run = purerl.runs.load(small)
    assert run.iteration == 20 and run.state.iteration.tolist() == [20] * 3
    assert run.plan.config["env"].endswith("own.py:bandit")
    one = run.one(1)
    np.testing.assert_array_equal(one.state.agent.params, run.state.agent.params[1])
    out = purerl.evaluate(one.env, one.env_params, one.agent(one.hp), one.state.agent, jax.random.key(0), 4)
    assert out.returns.shape == (4,) and (out.returns == 1).all()
    *_, (iteration, state, _) = purerl.run(purerl.batch(run.make), run.hp, None, 2, state=run.state)
    assert iteration == 22 and state.iteration.tolist() == [22] * 3
    with pytest.raises(ValueError, match="run is 3; there are 3, from 0"):
        run.one(3)
