"""Searches for hyperparameters: runs on disk, resumed and reported; no trial depends on the others."""

import csv
import itertools
import json
import shlex
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import OWN, StopAfter, command, copy_of_own, files, newest, same_bits, shas, train_own

from purerl.runs import execute, generations, search, search_report, stream, studies, sweeps
from purerl.search import halving
from purerl.search.spaces import choice, log_uniform

MINE, BANDIT = f"{OWN}:mine", f"{OWN}:bandit"
BLOCK = ["--num-envs", "4", "--rollout-length", "8", "--hidden", "4"]
RETURNS = ("episodes", "episode_return")
RATE = ["--rate", "log_uniform:0.01:10"]


def tune(directory, *arguments, steps=960):
    given = [*BLOCK, "--steps", steps, "--chunks", 10, "--final-seeds", 3, "--dir", directory]
    return command("tune", MINE, BANDIT, *given, *arguments)


def rows_of(directory):
    with (directory / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def points(directory):
    return json.loads((directory / "generation-000" / "trials.json").read_text())["points"]


def runs_of(directory):
    return files.read_metrics(directory / "metrics.csv", len(shas(directory)))


PROGRAMS = []


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Nine trials with two seeds each, of which three and then one go on."""
    directory = tmp_path_factory.mktemp("search") / "a"

    def hear(event, seconds, **about):
        if event.endswith("/jaxpr_to_mlir_module_duration"):
            PROGRAMS.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        assert tune(directory, *RATE, "--trials", 9, "--seeds", 2) == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    return directory


def test_all_rungs_share_one_program(tuned):
    assert [name for name in PROGRAMS if "_advance" in name] == 2 * [
        "jit(_advance)"
    ]  # of the search, and of the winner


def test_the_best_third_goes_on_at_every_rung(tuned):
    rows = rows_of(tuned)
    rungs = halving.halving(9, 960, 3, 32)
    assert [r.steps for r in rungs] == [106, 320, 960]
    assert sorted(int(row["steps"]) for row in rows) == 6 * [96] + 2 * [320] + [960]  # whole iterations, of 32 steps
    runs = tuned / "generation-000" / "runs"
    metrics, reached = runs_of(runs), newest(runs)[".iteration"]
    for trial, row in enumerate(rows):
        own = slice(2 * trial, 2 * trial + 2)
        assert (reached[own] == int(row["steps"]) // 32).all()  # an ended trial stays as it was
        assert (metrics.columns["episodes"][metrics.iterations > int(row["steps"]) // 32, own] == 0).all()
    assert {float(row["first_score"]) for row in rows[:1]} != {0.0}
    ranked = sorted(rows, key=lambda row: -float(row["first_score"]))
    assert {row["trial"] for row in ranked[:3]} == {row["trial"] for row in rows if int(row["steps"]) > 106}


def test_a_trial_is_the_run_of_its_values_alone(tuned, tmp_path):
    """Bit for bit, whether it ended early or not: neither its place nor the other trials have an effect."""
    rows, runs = rows_of(tuned), tuned / "generation-000" / "runs"
    ordered = sorted(rows, key=lambda row: int(row["steps"]))
    for row, steps in ((ordered[-1], 960), (ordered[0], 106)):
        alone, trial = tmp_path / f"{steps}", int(row["trial"])
        given = ["--rate", row["rate"], "--anneal-steps", 960, "--isolate-seeds", "--hidden", 4]
        assert train_own(alone, *given, steps=steps, seeds=2) == 0
        assert shas(alone) == shas(runs)[2 * trial : 2 * trial + 2]


def test_the_winner_is_trained_on_fresh_seeds_and_is_a_command(tuned, monkeypatch):
    winner, rows = json.loads((tuned / "winner.json").read_text()), rows_of(tuned)
    best = max(rows, key=lambda row: (int(row["steps"]), float(row["score"])))
    assert winner["values"] == {"rate": float(best["rate"])} and winner["score"] == float(best["score"])
    final = files.read_config(tuned / "final")
    assert final["seed"] == 1 and final["seeds"] == 3 and final["hyperparameters"]["rate"] == [float(best["rate"])]
    assert len(winner["final_scores"]) == 3 and np.isclose(np.mean(winner["final_scores"]), winner["final_mean"])
    assert winner["final_scores"] == sweeps.panel(tuned / "final").curves[0].final.tolist()
    planned = []
    monkeypatch.setattr(execute, "train", lambda plan, **_: planned.append(plan))
    assert command(*shlex.split(winner["command"])[1:]) == 0
    assert json.loads(json.dumps({"format": 1, **planned[0].config})) == final
    assert all((tuned / name).is_file() for name in ("parallel.png", "importance.png"))


@pytest.mark.parametrize("chunks", (pytest.param(2, marks=pytest.mark.wide), 5))
def test_an_interrupted_search_goes_on_to_the_same_bits(tuned, chunks, tmp_path, monkeypatch, capsys):
    other = tmp_path / "b"
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(chunks))
        assert tune(other, *RATE, "--trials", 9, "--seeds", 2) == 130
    assert f"purerl resume {other}" in capsys.readouterr().err
    (other / "generation-000" / "runs" / "checkpoints" / "000000002.safetensors").unlink(missing_ok=True)
    trained, run = [], stream.stream

    def spy(*given, **more):
        for chunk in run(*given, **more):
            trained.append(np.asarray(chunk.state.iteration).tolist())
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(execute, "stream", spy)
        assert command("resume", other) == 0
    iterations = [int(row["steps"]) // 32 for row in rows_of(other) for _ in range(2)]
    assert [x for x in trained if len(x) == 18][-1] == iterations  # the program itself skips trials that have ended
    for name in ("generation-000/runs", "final"):
        same_bits(tuned / name, other / name)
    assert (other / "trials.csv").read_text() == (tuned / "trials.csv").read_text()
    assert command("resume", other) == 0  # nothing is left to train
    assert command("resume", other, "--steps", 2000) == 2
    assert f"{other} is a search, whose steps are fixed" in capsys.readouterr().err


@pytest.mark.wide
def test_a_changed_file_of_the_user_is_not_executed_unasked(tmp_path, monkeypatch, capsys):
    own, directory = copy_of_own(tmp_path), tmp_path / "a"
    words = ["tune", f"{own}:mine", f"{own}:bandit", *BLOCK, *RATE, "--trials", 3, "--steps", 320, "--chunks", 10]
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(3))
        assert command(*words, "--dir", directory) == 130
    own.write_text(own.read_text() + "\n# changed\n")
    capsys.readouterr()
    assert command("resume", directory) == 2
    error = capsys.readouterr().err
    assert "own.py has changed since the run was made" in error and "--code run" in error
    assert command("resume", directory, "--code", "run") == 0
    assert (directory / "final" / "code" / "own.py").read_text() == OWN.read_text()
    assert command("tune", *words[1:], "--dir", tmp_path / "b") == 0
    same_bits(directory / "generation-000" / "runs", tmp_path / "b" / "generation-000" / "runs")


def test_structures_have_a_program_each_and_are_ranked_together(tmp_path, capsys):
    """And a trial that breaks is the worst, and changes no other; the brackets of Hyperband share the programs."""
    given = [*RATE, "--num-envs", "4,8", "--explode-at", "6,1e9", "--schedule", "hyperband", "--eta", 2, "--trials", 4]
    assert tune(tmp_path / "a", *given, steps=640) == 0
    out, error = capsys.readouterr()
    assert (
        "10 trials x 1 seed, sobol, hyperband: 4 x 128 or 160, 2 x 320, 1 x 640; 3 x 320, 1 x 640; 3 x 640"
        in error.replace("\n", " ")
    )
    assert "2 programs" in error and "winner's curse" in out
    rows = rows_of(tmp_path / "a")
    assert {row["run"] for row in rows} == {"generation-000/num_envs=4", "generation-000/num_envs=8"}
    assert sum(int(row["steps"]) == 640 for row in rows) == 5
    for row in rows:
        broken = row["explode_at"] == "6.0" and int(row["steps"]) // (8 * int(row["num_envs"])) >= 6
        assert (row["broken"] == "1") == broken == (row["score"] == "nan")
    assert json.loads((tmp_path / "a" / "winner.json").read_text())["values"]["explode_at"] == 1e9


def test_runs_that_are_not_isolated_shrink_the_batch(tuned, tmp_path, monkeypatch):
    sizes, run = [], stream.stream
    spy = lambda make, hp, count, *rest, **more: (sizes.append(count), run(make, hp, count, *rest, **more))[1]
    monkeypatch.setattr(stream, "stream", spy)
    monkeypatch.setattr(execute, "stream", spy)
    assert tune(tmp_path / "a", *RATE, "--trials", 9, "--seeds", 2, "--no-isolate-seeds") == 0
    assert sizes == [18, 6, 2, 3]
    of = lambda directory: newest(directory / "generation-000" / "runs")
    one, other = of(tmp_path / "a"), of(tuned)
    for name in (".iteration", ".agent.params"):  # up to rounding the same, those that ended included
        assert np.allclose(one[name], other[name], atol=1e-4), name
    steps = lambda directory: [row["steps"] for row in rows_of(directory)]
    assert steps(tmp_path / "a") == steps(tuned)


class Sampler:
    """Stands in for Optuna: a study in memory, whose n-th trial has the n-th value of every choice."""

    def __init__(self):
        self.user_attrs, self.told, self.numbers = {}, {}, []
        values = SimpleNamespace(COMPLETE=1, FAIL=2)
        self.trial = SimpleNamespace(TrialState=values)
        self.distributions = SimpleNamespace(
            CategoricalDistribution=lambda values: lambda n: list(values)[n % len(values)],
            FloatDistribution=lambda low, high, log: lambda n: (low * high) ** 0.5 * 1.5**n if log else low,
        )
        self.samplers = SimpleNamespace(TPESampler=lambda **_: None)
        self.storages = SimpleNamespace(RDBStorage=lambda url, **_: url)
        self.logging = SimpleNamespace(WARNING=0, set_verbosity=lambda level: None)

    def create_study(self, **_):
        return self

    def set_user_attr(self, name, value):
        self.user_attrs[name] = value

    def get_trials(self, deepcopy, states):
        return [number for number, (_, state) in self.told.items() if state in states]

    def ask(self, distributions):
        self.numbers.append(len(self.numbers))
        params = {name: draw(self.numbers[-1]) for name, draw in distributions.items()}
        return SimpleNamespace(number=self.numbers[-1], params=params)

    def tell(self, number, values=None, state=1, skip_if_finished=False):
        if number not in self.told or not skip_if_finished:
            self.told[number] = values, state


def test_a_sampler_that_learns_is_asked_and_told_by_generation(tmp_path, monkeypatch, capsys):
    sampler, directory = Sampler(), tmp_path / "a"
    monkeypatch.setitem(sys.modules, "optuna", sampler)
    given = [*RATE, "--explode-at", "1e9,2", "--sampler", "tpe", "--trials", 5, "--batch", 3, "--study", "memory://"]
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(14))
        assert tune(directory, *given, steps=320) == 130
    assert sampler.numbers == [0, 1, 2, 3, 4] and [*sampler.told] == [0, 1, 2]
    assert command("resume", directory) == 0
    rows = rows_of(directory)
    assert [row["run"] for row in rows] == 3 * ["generation-000/runs"] + 2 * ["generation-001/runs"]
    assert [float(row["explode_at"]) for row in rows] == [1e9, 2, 1e9, 2, 1e9]  # the n-th value of the choice
    assert [row["broken"] for row in rows] == [*"01010"] and sampler.numbers == [0, 1, 2, 3, 4]
    for number, row in enumerate(rows):
        expected = (None, 2) if row["broken"] == "1" else (float(row["score"]), 1)
        assert sampler.told[number] == expected
    capsys.readouterr()
    assert tune(tmp_path / "b", *given, "--num-envs", 8, steps=320) == 2
    assert "--study is memory://; its num_envs is 4, here it is 8" in capsys.readouterr().err
    assert tune(tmp_path / "c", *given, steps=320) == 2
    assert "the study has 5 trials already, so none was left; give more --trials" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url, shown, instead",
    [
        ("postgresql://me:se:cr@t@host/x", "postgresql://me:***@host/x", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://me@host/x?password=se", "postgresql://me@host/x?password=***", "PGPASSWORD or ~/.pgpass"),
        ("postgresql://host/x?a=1&sslpassword=se&b=2", "postgresql://host/x?a=1&sslpassword=***&b=2", "PGPASSWORD or"),
        ("mysql+pymysql://me:se@host/x", "mysql+pymysql://me:***@host/x", "a file of the driver's"),
    ],
)
def test_a_password_in_a_url_is_refused_since_it_would_be_on_disk(tmp_path, capsys, url, shown, instead):
    assert tune(tmp_path / "a", *RATE, "--sampler", "tpe", "--study", url) == 2
    error = capsys.readouterr().err
    assert f"--study is {shown}; its password would be written into config.json: leave it out" in error
    assert instead in error and error.count("\n") == 1 and url not in error
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("url", ["postgresql://me@host:5432/x", "postgresql://me@/x?host=/a:b", "sqlite:///C:/x.db"])
def test_a_url_without_a_password_is_allowed(url):
    studies.check_location(url)


class Refused(Exception):
    """A driver's error."""


@pytest.mark.parametrize(
    "cause, said",
    [
        (Refused("no server\n\tis there"), "no server is there"),
        (ModuleNotFoundError(name="psycopg"), "PostgreSQL needs a driver: pip install 'purerl[postgresql]'"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(monkeypatch, cause, said):
    sampler, opened = Sampler(), []

    def storage(url, engine_kwargs):
        opened.append((url, engine_kwargs))
        raise ValueError("of a library that wraps it,\n in many lines") from cause

    sampler.storages.RDBStorage = storage
    monkeypatch.setitem(sys.modules, "optuna", sampler)
    url = "postgresql://me:se:cr@t@host/x"
    with pytest.raises(ValueError) as caught:
        studies.opened(url, "tpe", 0, {"rate": log_uniform(0.01, 1)}, {}, 2)
    error = " ".join(str(caught.value).split())  # as the command line prints it
    assert error == f"--study is postgresql://me:***@host/x; it cannot be opened: {said}"
    ((given, how),) = opened  # with a driver that is named, and bounds on waiting
    assert given == url.replace("postgresql:", "postgresql+psycopg:") and how["pool_pre_ping"]
    assert 0 < how["connect_args"]["connect_timeout"] <= 30 and how["connect_args"]["tcp_user_timeout"] <= 60_000


def test_a_later_fault_leaves_earlier_scores(tuned):
    (member,) = generations.planned(search.read(tuned), points(tuned), tuned / "generation-000", None, None)
    scores = generations._scores(member, 320, {0: 11, 1: 11, 2: 10, 17: 3})  # runs, and iterations: two runs a trial
    assert np.isnan(scores).tolist() == [False, True, *6 * [False], True]
    metrics = runs_of(member.directory)
    found = []
    for run in (0, 1):  # the last rows with 100 episodes, or all
        counts, returns = (metrics.columns[name][:, run] for name in RETURNS)
        total = count = 0
        for k in reversed(range(len(counts))):
            if metrics.iterations[k] <= 10 and counts[k] > 0 and count < 100:
                total, count = total + counts[k] * returns[k], count + counts[k]
        found.append(total / count)
    assert np.isclose(scores[0], np.mean(found))


def test_trials_are_ordered_by_level_first():
    of = lambda level, score: search_report.Trial({}, "", False, level, level + score, score, score)
    trials = [of(10, 9.0), of(30, 2.0), of(30, np.nan), of(30, 3.0), of(10, np.nan), of(30, 3.0)]
    assert search_report.ordered(trials) == [3, 5, 1, 0, 2, 4]


def test_points_of_designs():
    base = {"seed": 0, "steps": 960, "num_envs": 4, "rollout_length": 8}
    space = {"rate": log_uniform(0.01, 10), "num_envs": choice(4, 8)}
    of = lambda sampler, schedule, trials, space=space: search.points_of(
        search.Search(base, space, sampler, schedule, trials, 3, 10, 3, None)
    )
    assert of("grid", "full", 9) == [
        {"rate": r, "num_envs": n} for r, n in itertools.product((0.01, 0.1, 1, 10), (4, 8))
    ]
    assert of("random", "full", 9, {"num_envs": choice(4, 8)}) != of("random", "full", 2, {"rate": log_uniform(1, 2)})
    assert len(of("sobol", "halving", 9, {"num_envs": choice(4, 8)})) == 2  # the same trial is not run twice
    assert len(of("sobol", "hyperband", 9)) == 17 == len(of("grid", "hyperband", 9))
    with pytest.raises(ValueError, match="--trials is 1; the choices alone have 2 combinations"):
        of("grid", "full", 1)


@pytest.mark.parametrize(
    "given, said",
    [
        ([], "no option has a space: give one such as --learning-rate log_uniform:1e-4:1e-2"),
        (["--rat", "uniform:0:1"], "No such option '--rat'. (Did you mean one of"),
        (["--rate", "uniform:-1:1"], "Mine.rate is -1.0; it must be a number >= 0"),
        (["--rate", "log_uniform:0:1"], "log_uniform is [0, 1]; it must be finite numbers, the first positive"),
        (["--rate", "uniform:1"], "'uniform:1' is not uniform:LOW:HIGH"),
        (["--rate", "0.1,0.1"], "choice is 0.1, 0.1; it must be values that differ"),
        (["--anneal-steps", "none,100"], "none is structure"),
        (["--num-envs", "uniform:1:4"], "'uniform:1:4' is not a positive whole number"),
        ([*RATE, "--trials", "0"], "'0' is not a positive whole number"),
        ([*RATE, "--trials", "100000000"], "--trials is 100,000,000; at most 1,048,576 are allowed"),
        ([*RATE, "--steps", "8"], "--steps is 8; one iteration is num_envs x rollout_length"),
        ([*RATE, "--study", "x"], "--study is x; it needs a sampler of Optuna's: tpe"),
        ([*RATE, "--sampler", "tpe", "--schedule", "halving"], "--schedule is halving; with --sampler tpe it must be"),
        ([*RATE, "--sampler", "tpe"], "this sampler needs Optuna: pip install 'purerl[tune]'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(given, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune(tmp_path / "a", *given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "a").exists()
    assert set(studies.SAMPLERS) < set(search.SAMPLERS)


def test_directories_that_are_no_search(tuned, tmp_path, capsys):
    assert tune(tuned, *RATE) == 2 and "holds another run; give another --dir" in capsys.readouterr().err
    assert command("evaluate", tuned) == 2 and f"name one of its runs, such as {tuned}/final" in capsys.readouterr().err
    stored = files.read_json(tuned / "config.json")
    (tmp_path / "c").mkdir()
    files.write_json(tmp_path / "c" / "config.json", {**stored, "eta": None, "more": 1})
    assert command("resume", tmp_path / "c") == 2 and "holds no search of this version" in capsys.readouterr().err
