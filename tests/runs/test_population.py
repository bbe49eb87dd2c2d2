"""Population-based training on disk: members alone, exchanged and broken, stopped anywhere; the winner's schedule."""

import csv
import json
import shlex
import shutil
import types

import jax
import moments
import numpy as np
import pytest
from commands import OWN, StopAfter, command, files, newest, same_bits, shas, train_own

import purerl
from purerl import training
from purerl.runs import changes, checkpoint, execute, plans, populations, progress, record, sweeps
from purerl.runs.plan import used_of_schedules

MINE, BANDIT = f"{OWN}:mine", f"{OWN}:bandit"
RATE = ["--rate", "log_uniform:0.01:10"]
N, BLOCK = 6, 32
GIVEN = [*RATE, "--interval", 5 * BLOCK, "--fraction", 0.34, "--seed", 2]


def evolve(directory, *arguments, agent=MINE, env=BANDIT, steps=768, trials=N):
    """24 iterations, in chunks of two; exchanges after 5, 10 and 15 of them."""
    given = ["--num-envs", 4, "--rollout-length", 8, "--hidden", 4, "--steps", steps, "--chunks", 12]
    own = ["--schedule", "pbt", "--trials", trials, "--final-seeds", 3, "--dir", directory]
    return command("tune", agent, env, *given, *own, *(arguments or GIVEN))


def rows_of(directory):
    """The columns of population.csv, `[G, n]`."""
    with (directory / "population.csv").open() as file:
        rows = list(csv.DictReader(file))
    members = len({row["member"] for row in rows})
    return {name: np.array([float(row[name]) for row in rows]).reshape(-1, members) for name in rows[0]}


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """Of so many runs, all tests here share a program: it is compiled once."""
    compile_run, kept = training.compile_run, {}

    def once(make, hp, key=None, state=None, num_updates=1):
        state = training.loop._init(make, hp, key) if state is None else state
        given = hp, state, num_updates
        at = len(state.iteration), jax.tree.structure(given), str(jax.tree.map(np.shape, given))
        if at not in kept:
            kept[at] = compile_run(make, hp, None, state, num_updates).advance
        return training.Program(state, kept[at])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "compile_run", once)
        yield


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    """A population of six, saved after every chunk, and its moments."""
    directory = tmp_path_factory.mktemp("population") / "a"
    with moments.recorded(directory) as found:
        assert evolve(directory, *GIVEN, "--save-every", 0) == 0
    return directory, found


def test_the_lineage(evolved):
    """The lowest two of each generation copy one of the highest two; their values change by a factor, those of others
    do not."""
    found = rows_of(evolved[0])
    assert found["iteration"][:, 0].tolist() == [5, 10, 15, 24] and found["rate"].shape == (4, N)
    for g in range(3):
        scores, parent = found["score"][g], found["parent"][g].astype(int)
        order = np.lexsort((np.arange(N), scores))
        children = np.flatnonzero(parent != np.arange(N))
        assert set(children) == set(order[:2]) and set(parent[children]) <= set(order[-2:])
        factor = found["rate"][g + 1] / found["rate"][g][parent]
        for member in range(N):
            at_end = found["rate"][g + 1][member] in (0.01, 10)
            allowed = (0.8, 1.2) if member in children else (1.0,)
            assert at_end or np.isclose(factor[member], allowed, rtol=1e-5).any()
    assert (found["parent"][-1] == np.arange(N)).all()  # at the end nobody copies


def test_scores_are_those_of_the_generations_own_episodes(evolved):
    found, metrics = rows_of(evolved[0]), files.read_metrics(evolved[0] / "population" / "metrics.csv", N)
    counts, returns = metrics.columns["episodes"], metrics.columns["episode_return"]
    begin = 0
    for g, end in enumerate((5, 10, 15, 24)):
        for member in range(N):
            total = count = 0
            for k in reversed(np.flatnonzero((metrics.iterations > begin) & (metrics.iterations <= end))):
                if count < 100:
                    total, count = total + counts[k, member] * returns[k, member], count + counts[k, member]
            assert np.isclose(found["score"][g, member], total / count)
        begin = end


def test_a_score_is_of_its_own_generation_however_few_its_episodes():
    """Member 0 finished none and has the score of its parent, the next two have a mean, the last is broken."""
    started = {"iteration": 0, "exchange": {"parent": [0, 1, 2, 3], "scores": ["-inf"] * 4}}
    exchanged = {"iteration": 2, "exchange": {"parent": [1, 1, 2, 3], "scores": [5.0, 7.0, 3.0, 4.0]}}
    episodes = np.array([[1, 1, 1, 1], [2, 1, 1, 1], [0, 1, 0, 1], [0, 3, 1, 1]])
    returns = np.array([[9.0] * 4, [8.0] * 4, [np.nan, 2.0, np.nan, 1.0], [np.nan, 6.0, 4.0, 1.0]])
    rows = [{"episodes": n, "episode_return": x} for n, x in zip(episodes, returns, strict=True)]
    broken = np.array([False, False, False, True])
    plan = types.SimpleNamespace(config={"horizons": [started, exchanged]})
    found = populations._scores(plan, [1, 2, 3, 4], rows, broken)
    np.testing.assert_array_equal(found, [7.0, (2.0 + 3 * 6.0) / 4, 4.0, np.nan])
    first = populations._scores(plan, [1, 2], rows[:2], broken)
    np.testing.assert_array_equal(first, [(9.0 + 2 * 8.0) / 3, 8.5, 8.5, np.nan])


def test_members_before_their_exchange_are_runs_alone(tmp_path, monkeypatch):
    """Bit for bit, in their whole state: member i is seed i of a run with its values."""
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(3))
        assert evolve(tmp_path / "a") == 130
    rates = rows_of(tmp_path / "a")["rate"][0]
    apart = ["--rate", ",".join(map(str, rates)), "--isolate-seeds", "--hidden", 4, "--anneal-steps", 768]
    apart += ["--seed", 2]
    assert train_own(tmp_path / "b", *apart, steps=5 * BLOCK, seeds=N) == 0
    found, alone = newest(tmp_path / "a" / "population"), newest(tmp_path / "b")
    assert set(found[".iteration"]) == {5} and found.keys() == alone.keys()
    for name, x in found.items():
        assert x.tobytes() == alone[name][[N * i + i for i in range(N)]].tobytes(), name


def test_a_member_that_never_copies_is_a_run_alone_to_the_end(evolved, tmp_path):
    found = rows_of(evolved[0])
    stayed = np.flatnonzero((found["parent"] == np.arange(N)).all(0))
    assert 0 < len(stayed) < N
    (first, *_) = stayed
    own = ["--rate", found["rate"][0, first], "--isolate-seeds", "--hidden", 4, "--seed", 2]
    assert train_own(tmp_path / "a", *own, steps=768, seeds=N) == 0
    assert shas(tmp_path / "a")[first] == shas(evolved[0] / "population")[first]


def at_an_exchange(evolved, directory):
    """The plan, the record and the state of the population when its first generation is saved."""
    moments.restore(evolved[1]["moved population/checkpoints/000000005.safetensors"].killed, directory)
    folder = directory / "population"
    job = plans.plan_of_directory(folder)
    _, state, notes = execute.newest(job, folder)
    return job, folder, record.Record(job, files.read_metrics(folder / "metrics.csv", N), notes), state


def test_a_child_has_the_state_of_its_parent_but_for_its_key(evolved, tmp_path):
    """And its parent's values, changed, from then on."""
    job, folder, so_far, state = at_an_exchange(evolved, tmp_path / "a")
    after = checkpoint.to_host(execute._exchanged(job, folder, so_far, 5, state))
    before, found = newest(folder), rows_of(evolved[0])
    parent = found["parent"][0].astype(int)
    assert (parent != np.arange(N)).sum() == 2
    for name, x in after.items():
        assert x.tobytes() == before[name][np.arange(N) if ".key#" in name else parent].tobytes(), name
    rates = [np.asarray(job.hp(at).rate) for at in (4, 5)]
    assert (np.float32(rates) == np.float32(found["rate"][:2])).all()


def test_a_member_whose_parameters_are_nan_is_broken_before_its_metrics_say_so(evolved, tmp_path):
    job, folder, so_far, state = at_an_exchange(evolved, tmp_path / "a")
    best = int(rows_of(evolved[0])["score"][0].argmax())
    table = state.agent.params.at[best].set(np.nan)
    state = state._replace(agent=state.agent._replace(params=table))
    after = execute._exchanged(job, folder, so_far, 5, state)
    exchange = job.config["horizons"][-1]["exchange"]
    assert exchange["scores"][best] == "nan" and exchange["parent"][best] != best
    assert np.isfinite(after.agent.params).all()


MOMENTS = [  # of the search, of its population, of an exchange, between two, and of the winner
    "moved config.json",
    "moved population/config.json",
    "moved population/checkpoints/000000005.safetensors",
    "half population/config.json.part (2)",
    "moved population/config.json (2)",
    "half population/metrics.csv (5)",
    "written population/checkpoints/000000012.safetensors.part",
    "moved population/config.json (4)",
    "moved population/manifest.json (2)",
    "half population.csv.part",
    "moved schedule.csv",
    "made final/checkpoints",
    "moved final/config.json",
    "half winner.json.part",
]
SHORT = ("moved population/config.json (2)", "half population/metrics.csv (5)", "moved schedule.csv")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in SHORT else pytest.mark.wide) for x in MOMENTS])
def test_killed_and_resumed_is_undisturbed(name, evolved, tmp_path):
    whole, other = evolved[0], tmp_path / "a"
    moments.restore(evolved[1][name].killed, other)
    assert command("resume", other, "--save-every", 0) == 0
    for run in ("population", "final"):
        same_bits(whole / run, other / run)
        assert files.read_json(whole / run / "config.json") == files.read_json(other / run / "config.json")
    for file in ("population.csv", "schedule.csv"):
        assert (whole / file).read_text() == (other / file).read_text()
    of = lambda directory: {n: x for n, x in files.read_json(directory / "winner.json").items() if n != "command"}
    assert of(whole) == of(other)


def test_stopped_in_the_middle_of_a_generation_and_resumed(evolved, tmp_path, monkeypatch, capsys):
    other = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(5))
        assert evolve(other) == 130
    assert f"stopped and saved at iteration 9 of 24: purerl resume {other}" in capsys.readouterr().err
    assert rows_of(other)["iteration"][:, 0].tolist() == [5, 9] and (other / "population.png").is_file()
    assert command("resume", other) == 0
    same_bits(evolved[0] / "population", other / "population")
    same_bits(evolved[0] / "final", other / "final")
    assert command("resume", other) == 0  # nothing is left to train


def test_a_population_is_repeated_by_its_record(evolved, tmp_path, capsys):
    assert command("repeat", evolved[0] / "population", "--dir", tmp_path / "b") == 0
    assert "identical" in capsys.readouterr().out


def test_the_winner_and_its_schedule(evolved, monkeypatch):
    """It is trained again on fresh seeds, by a command that says the same."""
    directory, found = evolved[0], rows_of(evolved[0])
    winner = json.loads((directory / "winner.json").read_text())
    best = int(found["score"][-1].argmax())
    assert winner["member"] == best and winner["values"] == {"rate": found["rate"][-1, best]}
    member, line = best, []
    for g in (3, 2, 1, 0):
        line.insert(0, found["rate"][g, member])
        member = int(found["parent"][g - 1, member])
    with (directory / "schedule.csv").open() as file:
        rows = [(int(row["steps"]), float(row["rate"])) for row in csv.DictReader(file)]
    dense = [next(rate for at, rate in rows[::-1] if at <= BLOCK * begin) for begin in (0, 5, 10, 15)]
    assert dense == line and rows[0] == (0, line[0])
    final = files.read_config(directory / "final")
    assert final["seed"] == 3 and final["seeds"] == 3 and "population" not in final
    assert len(rows) > 1 and final["horizons"] == [{"iteration": at // BLOCK, "rate": x} for at, x in rows]
    metrics = files.read_metrics(directory / "population" / "metrics.csv", N)
    counts, returns = metrics.columns["episodes"], metrics.columns["episode_return"]
    total, count, member, g = 0.0, 0, best, 3
    for k in reversed(range(len(metrics.iterations))):  # back through the ancestors
        if g and metrics.iterations[k] <= (5, 10, 15)[g - 1]:
            g, member = g - 1, int(found["parent"][g - 1, member])
        if count < 100:
            total, count = total + counts[k, member] * returns[k, member], count + counts[k, member]
    assert np.isclose(winner["score"], total / count)
    assert winner["final_scores"] == sweeps.panel(directory / "final").curves[0].final.tolist()
    planned = []
    monkeypatch.setattr(execute, "train", lambda plan, **_: planned.append(plan))
    assert command(*shlex.split(winner["command"])[1:]) == 0
    assert json.loads(json.dumps({"format": 1, **planned[0].config})) == final
    assert command(*shlex.split(winner["constant_command"])[1:]) == 0
    assert planned[1].config["hyperparameters"]["rate"] == (found["rate"][-1, best],)
    assert planned[1].config["horizons"] == []


def test_a_member_that_breaks_is_replaced_and_no_other_changes(tmp_path, capsys):
    """Beside members that break before the first exchange, the others are as without them."""
    given = ["--rate", "0.5", "--explode-at", "log_uniform:2:1e4", "--interval", 5 * BLOCK, "--fraction", 0.17]
    assert evolve(tmp_path / "a", *given) == 0
    out, error = capsys.readouterr()
    found = rows_of(tmp_path / "a")
    broken = np.isnan(found["score"][0])
    assert broken.any() and not broken.all() and "winner's curse" in out and "not finite at iteration" in error
    assert (found["parent"][0][broken] != np.flatnonzero(broken)).all()
    for g in range(3):
        gone = np.isnan(found["score"][g])
        assert not gone[found["parent"][g].astype(int)].any()
    stayed = np.flatnonzero((found["parent"] == np.arange(N)).all(0) & np.isfinite(found["score"]).all(0))
    own = ["--rate", 0.5, "--isolate-seeds", "--hidden", 4]
    assert train_own(tmp_path / "b", *own, steps=768, seeds=N) == 0
    assert len(stayed) and [shas(tmp_path / "a" / "population")[i] for i in stayed] == [
        shas(tmp_path / "b")[i] for i in stayed
    ]
    left = newest(tmp_path / "a" / "population")[".nonfinite"]
    assert (left > 0).tolist() == np.isnan(found["score"][-1]).tolist()
    assert set(purerl.runs.load(tmp_path / "a" / "population").broken) == set(np.flatnonzero(left))


def test_a_replay_is_copied_whole_and_its_memory_is_printed(tmp_path, capsys, monkeypatch):
    own = ["--learning-rate", "log_uniform:1e-4:1e-2", "--interval", 5 * BLOCK, "--learning-starts", 64]
    own += ["--train-every", 32, "--capacity", 400, "--batch-size", 8, "--priority", 0.6]
    with monkeypatch.context() as patch:
        patch.setattr(execute, "Interrupts", StopAfter(5))
        assert evolve(tmp_path / "a", *own, agent="dqn", trials=4) == 130
    error = capsys.readouterr().err
    leaves = newest(tmp_path / "a" / "population")
    size = sum(x.nbytes for name, x in leaves.items() if "#" not in name)
    said = f"a copy is of the whole state, replay included: {progress.short(size / 4)}B of {progress.short(size)}B"
    assert f"{said}, and {progress.short(2 * size)}B more during an exchange" in error.replace("\n", " ")
    parent = rows_of(tmp_path / "a")["parent"][0].astype(int)
    assert (parent != np.arange(4)).sum() == 1
    child = int(np.flatnonzero(parent != np.arange(4))[0])
    replay = next(x for name, x in leaves.items() if name.endswith(".reward") and name.startswith(".agent"))
    one, other = (replay[i].reshape(-1)[: 5 * BLOCK] for i in (child, parent[child]))
    assert (one == other).mean() > 0.99  # the steps up to the copy


# --- values that change, from a file ----------------------------------------------------------------------------------


def test_values_of_a_file_change_along_training(tmp_path, capsys):
    table = tmp_path / "s.csv"
    table.write_text("steps,rate\n0,0.5\n100,0.25\n320,0.125\n")
    assert train_own(tmp_path / "a", "--schedules", table, "--anneal-steps", "none", steps=640) == 0
    assert "--schedules: 3 of 3 rows hold, the last one from 320 to 640 steps\n" in capsys.readouterr().err
    metrics = files.read_metrics(tmp_path / "a" / "metrics.csv", 3)
    assert metrics.iterations.tolist() == [4, 8, 10, 14, 18, 20]
    assert metrics.columns["learning_rate"][:, 0].tolist() == [0.5, 0.25, 0.25, 0.125, 0.125, 0.125]
    run = purerl.runs.load(tmp_path / "a")
    assert run.hp.rate == 0.125 and run.plan.hp(3).rate == 0.5 and run.plan.hp(4).rate == 0.25
    assert command("repeat", tmp_path / "a", "--dir", tmp_path / "b") == 0 and "identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    "at, said",
    [
        ([], None),
        ([64], "2 of 2 rows hold, the last one from 64 to 128 steps"),
        ([65, 96], "2 of 3 rows hold, the last one from 96 to 128 steps; 1 would end within the iteration (32 steps)"),
        ([64, 97, 500], "2 of 4 rows hold, the last one from 64 to 128 steps; 2 would begin after the last iteration"),
        ([128], "1 of 2 rows hold, the last one from 0 to 128 steps; 1 would begin after the last iteration has begun"),
    ],
)
def test_rows_of_a_file_that_do_not_hold_are_counted(at, said, tmp_path, monkeypatch):
    """Against a loop over the steps at which iterations begin."""
    given = []
    monkeypatch.setattr(execute, "train", lambda plan, **_: given.append(plan))
    (tmp_path / "s.csv").write_text("".join(f"{row}\n" for row in ["steps,rate", "0,1", *(f"{x},{x}" for x in at)]))
    assert train_own(tmp_path / "a", "--schedules", tmp_path / "s.csv", steps=128) == 0
    rates = [max((x for x in at if x <= begin), default=1) for begin in range(0, 128, 32)]
    assert [given[0].hp(i).rate for i in range(4)] == rates
    text = used_of_schedules(given[0])
    assert text is said is None or (
        f"--schedules: {said}" in text and text.startswith(f"--schedules: {len({*rates})} ")
    )


@pytest.mark.parametrize(
    "text, given, said",
    [
        (None, [], "it cannot be read as a table of numbers"),
        ("steps,rate\n0,half\n", [], "it cannot be read as a table of numbers: could not convert string"),
        ("rate\n0.5\n", [], "it must have a column steps, one for each hyperparameter"),
        ("steps,rate\n", [], "and rows"),
        ("steps,rate\n0,0.5\n10\n", [], "and rows"),
        ("steps,rate\n8,0.5\n", [], "its steps must begin with 0 and increase"),
        ("steps,rate\n0,0.5\n0,0.2\n", [], "its steps must begin with 0 and increase"),
        ("steps,hidden\n0,4\n", [], "it has hidden: allowed are rate, anneal_steps, explode_at"),
        ("steps,rate\n0,-1\n", [], "Mine.rate is -1.0; it must be a number >= 0"),
        ("steps,rate\n0,0.5\n", ["--rate", "0.1,0.2"], "it has rate, of which one number must be given"),
        ("steps,anneal_steps\n0,9\n", ["--anneal-steps", "none"], "it has anneal_steps, of which one number must be"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(text, given, said, tmp_path, capsys):
    if text is not None:
        (tmp_path / "s.csv").write_text(text)
    assert train_own(tmp_path / "a", "--schedules", tmp_path / "s.csv", *given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "a").exists()


def test_a_table_has_the_rows_at_which_a_value_changes(tmp_path):
    changes.write(tmp_path / "s.csv", [0, 32, 64], {"rate": [0.5, 0.5, 0.1], "explode_at": [9.0, 9.0, 9.0]})
    assert (tmp_path / "s.csv").read_text() == "steps,rate,explode_at\n0,0.5,9.0\n64,0.1,9.0\n"


# --- invalid input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, said",
    [
        (["--interval", 16], "--interval is 16; one iteration has 32 steps"),
        (["--interval", 500], "--steps is 768 and --interval 500; a population has at least two generations, each of"),
        (["--interval", 0], "'0' is not a positive whole number"),
        (["--fraction", 0.6], "0.6 is not in the range 0<x<=0.5"),
        (["--fraction", 0], "0.0 is not in the range 0<x<=0.5"),
        (["--resample", 1.5], "1.5 is not in the range 0<=x<=1"),
        (["--perturb", "0.8,-1"], "perturb: factors are 0.8, -1.0; they must be positive and finite"),
        (["--trials", 1], "--trials is 1; a population has at least 2 members"),
        (["--trials", 0], "'0' is not a positive whole number"),
        (
            ["--trials", 3, "--sampler", "grid", "--explode-at", "uniform:1:2"],
            "--trials is 3, of which the grid has one",
        ),
        (["--seeds", 2], "--seeds is 2; with --schedule pbt each trial is one run: raise --trials"),
        (["--stop-when", 1], "--stop-when is 1; no member of a population ends before the others"),
        (["--num-envs", "4,8"], "--num-envs has several values; a population changes floats in an interval"),
        (["--rate", "0.1,0.2"], "--rate has several values; a population changes floats in an interval"),
        (["--rate", "uniform:-1:1"], "Mine.rate is -1.0; it must be a number >= 0"),
        (["--steps", 40], "--steps is 40; a population has at least two generations, each of at least 32 steps"),
        (["--sampler", "tpe"], "--schedule is pbt; with --sampler tpe it must be full"),
        (
            ["--schedule", "halving", "--fraction", 0.2],
            "--fraction is for --schedule pbt; here the schedule is halving",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(given, said, tmp_path, capsys):
    assert evolve(tmp_path / "a", *RATE, *given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_an_agent_with_an_option_of_the_search_is_one_line(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN.read_text() + CLASH)
    assert evolve(tmp_path / "a", agent=f"{tmp_path}/own.py:clash") == 2
    assert "interval is an option of every search and of the agent" in capsys.readouterr().err


CLASH = """

@purerl.config
class Clash:
    interval: float = purerl.option(0.5, "a float")


@purerl.declare(purerl.POLICY_GRADIENT, Clash(), num_envs=4, rollout_length=8)
def clash(network, policy, hp=Clash()):
    return mine(network, policy)
"""


def test_a_config_that_is_no_population_is_one_line(evolved, tmp_path, capsys):
    shutil.copytree(evolved[0], tmp_path / "a")
    file = tmp_path / "a" / "population" / "config.json"
    whole = json.loads(file.read_text())
    for change in (
        {"horizons": [{**whole["horizons"][0], "rate": [1.0]}]},
        {"horizons": [{**whole["horizons"][0], "exchange": {"parent": [N] * N, "scores": [0] * N}}]},
    ):
        file.write_text(json.dumps({**whole, **change}))
        assert command("resume", tmp_path / "a") == 2
        assert "horizons or updates_per_chunk is missing or malformed" in capsys.readouterr().err
    file.write_text(json.dumps({**whole, "population": {"interval": 1}}))
    assert command("resume", tmp_path / "a") == 2 and "is no population" in capsys.readouterr().err
