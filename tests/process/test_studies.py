"""Searches with a sampler of Optuna's: one study for several processes, whose storage is used once for each batch."""

import csv

import numpy as np
import pytest
from commands import OWN, StopAfter, command, numbers_of, searched_together

from purerl.runs import execute, studies
from purerl.search.spaces import choice, log_uniform

optuna = pytest.importorskip("optuna")
COMPLETE = optuna.trial.TrialState.COMPLETE
BLOCK = ["--num-envs", 4, "--rollout-length", 8, "--hidden", 4, "--steps", 320, "--final-seeds", 1]
SPACE = ["--rate", "log_uniform:0.01:10", "--rollout-length", "8,16"]


def words(directory, *arguments, agent="mine"):
    own = ["tune", f"{OWN}:{agent}", f"{OWN}:bandit", *BLOCK, *SPACE, "--sampler", "tpe", "--batch", 2]
    return [*own, "--dir", directory, *arguments]


def trials_of(path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name=studies.NAME, storage=storage).trials


def rows_of(directory):
    with (directory / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_share_a_study(tmp_path, capsys):
    journal, directories = tmp_path / "study.journal", [tmp_path / "a", tmp_path / "b"]
    assert all("winner's curse" in out for out in searched_together(words, journal, directories))
    numbers = [numbers_of(directory) for directory in directories]
    trials = trials_of(journal)
    assert sorted([*numbers[0], *numbers[1]]) == [t.number for t in trials] and 6 <= len(trials) <= 8
    assert min(map(len, numbers)) > 0 and {t.state for t in trials} == {COMPLETE}
    for mine, directory in zip(numbers, directories, strict=True):
        for number, row in zip(mine, rows_of(directory), strict=True):
            assert trials[number].value == float(row["score"])
            assert np.isclose(trials[number].params["rate"], float(row["rate"]), rtol=1e-6)
            assert (8, 16)[trials[number].params["rollout_length"]] == int(row["rollout_length"])
    given = words(tmp_path / "c", "--study", journal, "--trials", 9, agent="wrapped")
    assert command(*given) == 2
    error = capsys.readouterr().err
    assert f"--study is {journal}; its agent is " in error and error.count("\n") == 1


def test_an_interrupted_search_goes_on_with_its_trials(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(8))
        assert command(*words(tmp_path / "a", "--trials", 4, "--chunks", 10)) == 130
    before = numbers_of(tmp_path / "a")
    assert command("resume", tmp_path / "a") == 0
    trials = trials_of(tmp_path / "a" / "study.journal")
    assert numbers_of(tmp_path / "a")[: len(before)] == before and len(trials) == 4
    assert [t.value for t in trials] == [float(row["score"]) for row in rows_of(tmp_path / "a")]


@pytest.mark.parametrize("sampler", ["tpe", "nsga-ii"])
def test_trials_after_a_resume_are_what_they_would_have_been(tmp_path, sampler):
    """A study that is opened anew has a new sampler, which must not begin with the first trials again."""
    space = {"rate": log_uniform(1e-4, 1)}
    open_ = lambda path: studies.opened(str(path), sampler, 0, space, {"agent": "a"}, 100)

    def rates(path, again):
        study, found = open_(path), []
        for generation in range(5):
            study = open_(path) if again else study
            numbers, points = study.ask(generation, 3)
            found += [point["rate"] for point in points]
            study.tell(numbers, np.abs(np.log(found[-3:]) + 4))
        return found

    undisturbed = rates(tmp_path / "a", again=False)
    assert rates(tmp_path / "b", again=True) == undisturbed and len({*undisturbed}) == 15


def asked_in_turn(path, turns, sampler="tpe", count=3, seed=0):
    """The rates of batches that processes ask for in these turns, each told before its process's next one."""
    space, mine, found = {"rate": log_uniform(1e-4, 1)}, {}, []
    for turn in turns:
        study, generation, told = mine.get(turn) or (
            studies.opened(str(path), sampler, seed, space, {"agent": "a"}, 100), 0, None
        )  # fmt: skip
        if told:
            study.tell(told[0], np.abs(np.log(told[1]) + 4))
        numbers, points = study.ask(generation, count)
        found.append([point["rate"] for point in points])
        mine[turn] = study, generation + 1, (numbers, found[-1])
    return found


@pytest.mark.parametrize("sampler", ["tpe", "nsga-ii"])
def test_processes_of_one_seed_try_different_values(tmp_path, sampler):
    """Whoever asks first, and whatever the others have told meanwhile; in the same order they ask for the same."""
    turns = "abcabbca"
    found = asked_in_turn(tmp_path / "a", turns, sampler)
    assert len({rate for batch in found for rate in batch}) == 3 * len(turns)
    assert asked_in_turn(tmp_path / "b", turns, sampler) == found
    assert asked_in_turn(tmp_path / "c", turns, sampler, seed=1)[:2] != found[:2]


@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler])
def test_a_process_alone_asks_as_optuna_does(tmp_path, sampler):
    """One sampler for each generation, seeded by it."""
    name, how = ("tpe", {"constant_liar": True}) if sampler is optuna.samplers.TPESampler else ("nsga-ii", {})
    study, expected = optuna.create_study(direction="maximize"), []
    for generation in range(5):
        state = np.random.SeedSequence([7, generation]).generate_state(1)
        study.sampler = sampler(seed=int(state[0]), **how)
        trials = [study.ask({"rate": optuna.distributions.FloatDistribution(1e-4, 1, log=True)}) for _ in range(3)]
        expected.append([trial.params["rate"] for trial in trials])
        for trial in trials:
            study.tell(trial, abs(np.log(trial.params["rate"]) + 4))
    assert asked_in_turn(tmp_path / "a", "aaaaa", name, seed=7) == expected


def test_the_storage_is_asked_and_told_by_batch(tmp_path, monkeypatch):
    backend, calls = optuna.storages.journal.JournalFileBackend, []
    append = backend.append_logs
    monkeypatch.setattr(backend, "append_logs", lambda *given: calls.append(given) or append(*given))
    space = {"rate": log_uniform(0.01, 1), "hidden": choice((4,), (8, 8))}
    study = studies.opened(str(tmp_path / "j"), "tpe", 0, space, {"agent": "a"}, 5)
    numbers, points = study.ask(0, 3)
    assert len(points) == 3 and all(p["hidden"] in ((4,), (8, 8)) and 0.01 <= p["rate"] <= 1 for p in points)
    study.tell(numbers, np.array([1.0, np.nan, 2.0]))
    few = len(calls)
    study.tell(numbers, np.array([9.0, 9.0, 9.0]))  # told again, such as after a resume: without effect
    assert [t.value for t in trials_of(tmp_path / "j")] == [1.0, None, 2.0]
    assert len(study.ask(1, 3)[0]) == 2 and few < 3 * 8  # to create a trial, its two values, and its end
    with pytest.raises(ValueError, match="its agent is a, here it is b"):
        studies.opened(str(tmp_path / "j"), "tpe", 0, space, {"agent": "b"}, 5)
    with pytest.raises(ValueError, match=r"its space is .*, here it is "):
        studies.opened(str(tmp_path / "j"), "tpe", 0, {"rate": log_uniform(0.01, 2)}, {"agent": "a"}, 5)
    with pytest.raises(ValueError, match="cannot be opened: there is no directory"):
        studies.opened(str(tmp_path / "no" / "j"), "tpe", 0, space, {"agent": "a"}, 5)
    with pytest.raises(ValueError, match="cannot be opened"):
        studies.opened("nosuch://host/database", "tpe", 0, space, {"agent": "a"}, 5)
