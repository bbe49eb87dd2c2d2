"""Seeds that break, and seeds that have reached their return: both are left out, and change no other."""

import re
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from commands import StopAfter, command, shas, train_own

import purerl
from purerl.runs import execute, files, plans, record, stream


def test_a_broken_run_is_reported_and_left_out_and_changes_no_other(tmp_path, monkeypatch, capsys):
    good, bad = tmp_path / "good", tmp_path / "bad"
    assert train_own(good, "--explode-at", "1e9,1e8,1e7", seeds=2) == 0
    monkeypatch.setattr(execute, "Interrupts", StopAfter(3))
    assert train_own(bad, "--explode-at", "1e9,7,1e7", seeds=2) == 130
    error = capsys.readouterr().err
    assert re.search(r"seed 1, explode_at 7: not finite at iteration 7 \([^)]*policy_loss[^)]*\); excluded", error)
    monkeypatch.undo()
    assert command("resume", bad) == 0
    out, error = capsys.readouterr()
    assert error.count("not finite from iteration 7 on; excluded from the table and the curve") == 2
    assert "every seed is broken" in out
    assert [x == y for x, y in zip(shas(good), shas(bad), strict=True)] == [True, True, False, False, True, True]
    assert purerl.runs.load(bad).broken == {2: 7, 3: 7}
    assert command("evaluate", bad, "--episodes", 4) == 0
    assert "every seed is broken" in capsys.readouterr().out


def test_without_a_metric_that_shows_it_the_parameters_do():
    leaves = {".agent.params": np.float32([[1.0], [np.nan]]), ".position.obs": np.float32([[np.nan], [0.0]])}
    assert record.not_numbers(leaves, 2).tolist() == [False, True]


def test_a_curve_is_of_the_seeds_that_are_sound(small):
    job, metrics = plans.plan_of_directory(small), files.read_metrics(small / "metrics.csv", 3)
    metrics.columns["episode_return"][:, 1] = 1e6
    (curve,) = record.panel_of(job, metrics, {1: 4}).curves
    assert curve.left_out == 1 and curve.final.shape == (2,) and curve.returns.max() < 1e6
    np.testing.assert_array_equal(curve.returns, metrics.columns["episode_return"][:, [0, 2]])


def test_where_all_are_broken_the_run_ends(tmp_path, capsys):
    a = tmp_path / "a"
    assert train_own(a, "--explode-at", 3) == 0
    assert "every run has ended or is broken" in capsys.readouterr().err
    assert files.read_metrics(a / "metrics.csv", 3).iterations.tolist() == [4]
    assert (a / "curve.png").exists()


def test_runs_that_reached_their_return_end_and_change_no_other(tmp_path, monkeypatch, capsys):
    """The bandit's return is 1 where it is learned; with rate 0 it is about 0."""
    every, some, soon = tmp_path / "every", tmp_path / "some", tmp_path / "soon"
    rates = ["--rate", "0.5,0.4,0.0"]
    assert train_own(every, *rates, seeds=2) == 0
    monkeypatch.setattr(execute, "Interrupts", StopAfter(2))
    assert train_own(some, *rates, "--stop-when", 0.5, seeds=2) == 130
    monkeypatch.undo()
    assert command("resume", some) == 0
    said = capsys.readouterr().err
    assert re.search(r"seed 0, rate 0.5: reached a return of 0.5 at iteration \d+", said)
    assert "4 of 6 runs ended at a return of 0.5" in said
    ended = purerl.runs.load(some).ended
    assert set(ended) == {0, 1, 2, 3} and max(ended.values()) < 20
    full, cut = (files.read_metrics(x / "metrics.csv", 6) for x in (every, some))
    for run in range(6):
        upto = sum(full.iterations <= ended.get(run, 20))
        for name, x in full.columns.items():
            np.testing.assert_array_equal(x[:upto, run], cut.columns[name][:upto, run])
        assert (cut.columns["episodes"][upto:, run] == 0).all()
    assert [x == y for x, y in zip(shas(every), shas(some), strict=True)] == 4 * [False] + 2 * [True]
    state = purerl.runs.load(some).state
    assert state.iteration.tolist() == [*(ended[run] for run in range(4)), 20, 20]  # as they were when they ended
    assert train_own(soon, "--rate", "0.5,0.4,0.3", "--stop-when", 0.5, seeds=2) == 0
    assert files.read_metrics(soon / "metrics.csv", 6).iterations[-1] == max(purerl.runs.load(soon).ended.values()) < 20


class State(NamedTuple):
    nonfinite: np.ndarray
    params: np.ndarray


def test_a_return_counts_after_a_hundred_episodes():
    job = SimpleNamespace(num_runs=3, config={"stop_when": 0.5}, watch=None, name_of="seed {}".format)
    rec = record.Record(job, files.Metrics(np.array([], int), np.array([], int), {}), {})
    state = State(np.zeros(3, np.int32), np.arange(3, dtype=np.float32))

    def ended(iteration, episodes, returns):
        metrics = {"episodes": np.array(episodes), "episode_return": np.array(returns)}
        return list(rec.add(stream.Chunk(iteration, state, metrics)))

    assert ended(1, [99, 99, 99], [1.0, 1.0, 0.4]) == []
    said = ended(2, [1, 0, 1], [1.0, np.nan, 0.4])
    assert said == ["seed 0: reached a return of 0.5 at iteration 2"] and rec.ended == {0: 2}
    later = rec.settled(state._replace(params=state.params + 10))  # of an ended run: as it was when it ended
    np.testing.assert_array_equal(later.params, [0, 11, 12])


def test_the_first_update_that_is_not_finite_is_remembered(cartpole):
    still = purerl.Agent(
        init=lambda key, obs: jnp.zeros(()),
        memory=lambda n: (),
        reset=lambda memory, ended: memory,
        act=lambda key, state, memory, obs: (jnp.zeros(obs.shape[0], int), memory, ()),
        greedy=lambda state, memory, obs: (jnp.zeros(obs.shape[0], int), memory),
        update=lambda key, state, rollout: (state + 1, {"good": state, "policy_loss": 1 / (2 - state)}),
    )
    learner = purerl.learner(*cartpole, still, 2, 4)
    state = learner.init(jax.random.key(0))
    assert int(state.nonfinite) == 0
    state, _ = purerl.training.advance(learner, state, 5)
    assert int(state.nonfinite) == 3 and int(state.iteration) == 5
