"""purerl export: the policy of a run as a folder."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import OWN, command, newest, train, train_own

import purerl
from purerl.export import folder
from purerl.runs import checkpoint, evaluation, export, learned, loading

FEW = ("--episodes", 3, "--max-steps", 5)


def test_a_runs_policy_is_exported(whole, tmp_path, capsys):
    out = tmp_path / "policy"
    assert command("export", whole, "--out", out, *FEW) == 0
    said = capsys.readouterr().out
    assert (
        f"{out}/policy.stablehlo" in "".join(said.split("\n"))
        and "the outputs for 1000 observations are the agent's, up to 0.0e+00" in said
    )
    cut = re.search(r"in 3 episodes(?:, (\d) of them cut short)?", " ".join(said.split()))[1]
    loaded = loading.load(whole)
    number = export.best(loaded)
    about = json.loads((out / "policy.json").read_text())
    assert (
        about["agent"] == "ppo"
        and about["environment"] == "CartPole-v1"
        and about["unfinished_episodes"] == int(cut or 0)
    )
    assert about["run"]["number"] == number and about["run"]["name"] == loaded.plan.name_of(number)
    assert about["run"]["sha256"] == loaded.manifest["parameters"][number]["sha256"] and about["run"]["steps"] == 640
    assert about["return"]["episodes"] == 3 and about["return"]["low"] <= about["return"]["mean"]
    one = loaded.one(number)
    obs = np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4)
    agent = one.agent(jax.tree.map(jnp.float32, one.hp))
    np.testing.assert_array_equal(purerl.export.load(out)(obs), agent.greedy(one.state.agent, (), obs)[0])
    there = checkpoint.read(out / folder.AGENT)[0]
    assert there and all((x == newest(whole)[name][number]).all() for name, x in there.items())
    assert command("export", whole, "--out", out) == 2
    assert f"{out} exists and is not empty; give another --out" in capsys.readouterr().err.replace("\n", " ")


def test_the_best_run_is_that_of_the_largest_return_that_is_not_broken(whole):
    loaded = loading.load(whole)
    runs, returns = loaded.plan.num_runs, loaded.metrics.columns["episode_return"].copy()
    returns[:] = np.arange(runs)
    columns = {**loaded.metrics.columns, "episode_return": returns, "episodes": np.full_like(returns, 9)}
    loaded = loaded._replace(metrics=loaded.metrics._replace(columns=columns))
    assert export.best(loaded) == runs - 1
    returns[0] = -returns[0]
    first = np.full(runs, loaded.metrics.iterations[0])
    assert export.best(loaded._replace(state=loaded.state._replace(iteration=first))) == 0
    assert export.best(loaded._replace(broken={runs - 1: 3, 2: 4})) == runs - 2
    assert export._runs(loaded._replace(broken={1: 3}), "all") == [0, *range(2, runs)]
    with pytest.raises(ValueError, match="every run is broken"):
        export.best(loaded._replace(broken=dict.fromkeys(range(runs), 1)))


BAD = [
    (["--seed", "last"], "--seed is 'last'; it must be best, all, or the number of a run, from 0"),
    (["--seed", "9"], "--seed is 9; there are 9 runs, from 0"),
    (["--sampled", "--q-values"], "--sampled and --q-values exclude each other"),
    (["--page"], "--to is stablehlo; a page plays an ONNX model: give --to onnx or both"),
    (["--runtime", "x"], "--runtime is for --page, and there is none"),
    (["--q-values", *FEW], "Q-values are of agents that choose by them"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_of_an_export_is_one_line(arguments, message, whole, tmp_path, capsys):
    assert command("export", whole, "--out", tmp_path / "new", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "new").exists()


def test_episodes_without_a_limit_need_one():
    assert evaluation.cap_of((), None, 7) == 7 and evaluation.cap_of((), 50, None) == 50
    with pytest.raises(ValueError, match="have no limit of steps: give one, --max-steps"):
        evaluation.cap_of((), None, None)


def test_a_missing_package_is_named_before_episodes_are_played(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export.onnx, "find_spec", lambda name: None)
    monkeypatch.setattr(export, "_policy", lambda *_: pytest.fail("episodes are played"))
    assert command("export", whole, "--out", tmp_path / "new", "--to", "onnx") == 2
    assert "ONNX needs the package jax2onnx: pip install 'purerl[onnx]'" in capsys.readouterr().err


def test_a_directory_without_a_run_is_named(tmp_path, capsys):
    assert command("export", tmp_path) == 2
    assert "is not the directory of a run" in capsys.readouterr().err


# --- training that starts from a policy -------------------------------------------------------------------------------


JOB = {"seeds": 2, "steps": 96, "chunks": 3, "agent": f"{OWN}:mine", "env": f"{OWN}:paid"}


def of_best(run, optimizer):
    """What the best seed of a run has learned."""
    number = export.best(loading.load(run))
    return {name: x[number] for name, x in learned.learned(newest(run), optimizer).items()}


def test_training_starts_from_a_policy(small, tmp_path, capsys):
    """A rate of 0 leaves the parameters as they are, and equal rewards an optimiser that is fresh."""
    changed = "--init-from", small, "--save-every", 0, "--rate", 0, "--env-param", "pay=7,3"
    assert train(tmp_path / "new", *changed, **JOB) == 0
    said, first, found = capsys.readouterr(), of_best(small, True), newest(tmp_path / "new")
    assert "optimiser fresh" in said.err and "after - before" in said.out
    assert re.search(r"before\W+5\.0\W+", said.out), said.out  # each in its own environment
    np.testing.assert_array_equal(found[".agent.params"], np.stack([first[".agent.params"]] * 4))
    assert np.any(first[".agent.opt_state"]) and not np.any(found[".agent.opt_state"])


@pytest.mark.wide
def test_training_that_starts_from_a_policy_and_its_optimiser_is_repeatable(small, tmp_path):
    given = "--init-from", small, "--save-every", 0, "--init-optimizer", "kept"
    assert train(tmp_path / "new", *given, **JOB) == 0
    first, begun = of_best(small, True), checkpoint.read(tmp_path / "new" / learned.FILE)[0]
    np.testing.assert_array_equal(begun[".agent.opt_state"], first[".agent.opt_state"])
    assert (newest(tmp_path / "new")[".agent.params"] != first[".agent.params"]).any()
    assert command("repeat", tmp_path / "new") == 0


def test_a_policy_of_another_shape_is_refused(small, whole, tmp_path, capsys):
    assert train_own(tmp_path / "new", "--init-from", whole) == 2
    error = capsys.readouterr().err
    assert (
        "there and" in error
        and "agent, network, --normalize-obs, observations and" in error
        and "is absent there" in error
    )
    assert train_own(tmp_path / "new", "--init-optimizer", "kept") == 2
    assert "--init-optimizer is kept, and there is no --init-from" in capsys.readouterr().err
    assert train_own(tmp_path / "new", "--init-from", tmp_path) == 2 and not (tmp_path / "new").exists()
    assert "is not the directory of a run" in capsys.readouterr().err
