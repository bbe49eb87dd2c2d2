"""purerl export: the policy of a run as a folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import command

import purerl
from purerl.runs import export, loading

FEW = ("--episodes", 3, "--max-steps", 5)


def test_a_runs_policy_is_exported(whole, tmp_path, capsys):
    out = tmp_path / "policy"
    assert command("export", whole, "--out", out, *FEW) == 0
    said = capsys.readouterr().out
    assert f"{out}/policy.stablehlo" in "".join(said.split("\n")) and "of 1000 observations no action differs" in said
    loaded = loading.load(whole)
    number = export.best(loaded)
    about = json.loads((out / "policy.json").read_text())
    assert about["agent"] == "ppo" and about["environment"] == "CartPole-v1" and about["unfinished_episodes"] <= 3
    assert about["run"]["number"] == number and about["run"]["name"] == loaded.plan.name_of(number)
    assert about["run"]["sha256"] == loaded.manifest["parameters"][number]["sha256"] and about["run"]["steps"] == 640
    assert about["return"]["episodes"] == 3 and about["return"]["low"] <= about["return"]["mean"]
    one = loaded.one(number)
    obs = np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4)
    agent = one.agent(jax.tree.map(jnp.float32, one.hp))
    np.testing.assert_array_equal(purerl.export.load(out)(obs), agent.greedy(one.state.agent, (), obs)[0])
    assert command("export", whole, "--out", out) == 2
    assert f"{out} exists and is not empty; give another --out" in capsys.readouterr().err.replace("\n", " ")


def test_the_best_run_is_that_of_the_largest_return_that_is_not_broken(whole):
    loaded = loading.load(whole)
    runs, returns = loaded.plan.num_runs, loaded.metrics.columns["episode_return"].copy()
    returns[:] = np.arange(runs)
    columns = {**loaded.metrics.columns, "episode_return": returns, "episodes": np.full_like(returns, 9)}
    loaded = loaded._replace(metrics=loaded.metrics._replace(columns=columns))
    assert export.best(loaded) == runs - 1
    assert export.best(loaded._replace(broken={runs - 1: 3, 2: 4})) == runs - 2
    assert export._runs(loaded._replace(broken={1: 3}), "all") == [0, *range(2, runs)]
    with pytest.raises(ValueError, match="every run is broken"):
        export.best(loaded._replace(broken=dict.fromkeys(range(runs), 1)))


BAD = [
    (["--seed", "last"], "--seed is 'last'; it must be best, all, or the number of a run, from 0"),
    (["--seed", "9"], "run is 9; there are 9, from 0"),
    (["--sampled", "--q-values"], "--sampled and --q-values exclude each other"),
    (["--q-values", *FEW], "Q-values are of agents that choose by them"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_of_an_export_is_one_line(arguments, message, whole, tmp_path, capsys):
    assert command("export", whole, "--out", tmp_path / "new", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "new").exists()


def test_a_directory_without_a_run_is_named(tmp_path, capsys):
    assert command("export", tmp_path) == 2
    assert "is not the directory of a run" in capsys.readouterr().err
