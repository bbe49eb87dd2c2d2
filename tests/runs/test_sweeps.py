"""Sweeps over structure: several programs in one directory."""

import csv
import json

import jax.numpy as jnp
import pytest
from commands import StopAfter, command, files, shas, train_own

import purerl
from purerl import training
from purerl.runs import execute, sweeps
from purerl.runs.arguments import Sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two numbers of environments, interrupted in the first of them and resumed."""
    directory = tmp_path_factory.mktemp("runs") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(2))
        assert train_own(directory, "--num-envs", "4,8") == 130
    assert files.read_metrics(directory / "num_envs=4" / "metrics.csv", 3).iterations.tolist() == [4, 8]
    assert not (directory / "num_envs=8" / "metrics.csv").exists()
    assert command("resume", directory) == 0
    return directory


def test_members_are_runs_and_what_was_interrupted_goes_on(sweep, small, capsys):
    assert sorted(path.name for path in sweep.iterdir()) == ["config.json", "curve.png", "num_envs=4", "num_envs=8"]
    assert shas(sweep / "num_envs=4") == shas(small)
    assert purerl.runs.load(sweep / "num_envs=8").plan.config["num_envs"] == 8
    assert command("resume", sweep) == 0  # nothing is left to train
    out, error = capsys.readouterr()
    rows = [line.split("│")[1].strip() for line in out.split("\n") if line.startswith("│")]
    assert rows == ["4", "8"] and "num_envs" in out and "iteration" not in error


def test_one_member_has_to_be_named_where_one_run_is_meant(sweep, tmp_path, capsys):
    assert command("render", sweep) == 2
    assert f"{sweep} is a sweep of several programs; name one of them: {sweep}/num_envs=4, " in capsys.readouterr().err
    assert command("resume", sweep, "--num-envs", 2) == 2
    assert "--num-envs is 2; this sweep is over num_envs: name one run" in capsys.readouterr().err
    assert command("plot", sweep, "--out", tmp_path / "all.png") == 0
    assert [curve.label for curve in sweeps.panel(sweep).curves] == ["4", "8"]


def test_an_evaluation_is_a_table_of_80_columns_and_files(sweep, tmp_path, monkeypatch, capsys):
    def fake(env, env_params, agent, state, key, episodes, *_, **__):
        long = jnp.full(episodes, -1234.5)
        return training.evaluation.Evaluation(long, jnp.full(episodes, 500), jnp.full(episodes, True))

    monkeypatch.setattr(training, "evaluate", fake)
    monkeypatch.setenv("COLUMNS", "80")
    written = [tmp_path / "e.csv", tmp_path / "e.json"]
    asked = ["evaluate", sweep, "--episodes", 3, "--csv", written[0], "--json", written[1]]
    assert command(*asked) == 0
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.split("\n"))) <= 80
    assert out.count("-1234.5 .. -1234.5") == 4 and "│ 8        │ stochastic │ -1234.5 │" in out
    with written[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["num_envs"], row["run"], row["actions"]) for row in rows] == [
        (num_envs, run, actions) for num_envs in "48" for run in "012" for actions in ("greedy", "stochastic")
    ]
    found = json.loads(written[1].read_text())
    assert found["episodes"] == 3 and len(found["rows"]) == 12
    assert found["rows"][0]["mean_return"] == -1234.5 == float(rows[0]["mean_return"])
    assert command(*asked) == 2 and "which exists" in capsys.readouterr().err


def test_combinations_and_what_is_refused(tmp_path, capsys):
    config = {"a": Sweep((1, 2)), "b": 0, "hyperparameters": {"c": Sweep(((4, 4), (8,))), "d": (0.1, 0.2)}}
    points = sweeps.points_of(config)
    assert [point.values for point in points] == [{"a": a, "c": c} for a in (1, 2) for c in ((4, 4), (8,))]
    assert points[1].config == {"a": 1, "b": 0, "hyperparameters": {"c": (8,), "d": (0.1, 0.2)}}
    assert config["a"] == Sweep((1, 2))
    for flags, said in (
        (["--num-envs", "4,4"], "num_envs=4 is given twice"),
        (["--num-envs", "4,x"], "'x' is not a positive whole number"),
        (["--hidden", "4,4/4;4"], "'4;4' is not a positive whole number"),
        (["--activation", "relu,none"], "'none' is not one of"),
    ):
        assert train_own(tmp_path / "run", *flags) == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    files.create_sweep(tmp_path / "bad", {"../run": {"a": "1"}})
    assert command("resume", tmp_path / "bad") == 2 and "members is missing or malformed" in capsys.readouterr().err
