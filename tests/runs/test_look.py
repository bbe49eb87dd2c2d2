"""Looking at what was trained: evaluate, plot, list, render."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from commands import OWN, command, snapshot, train

import purerl
from purerl import training
from purerl.envs import registry
from purerl.runs import checkpoint, evaluation, execute, loading, plan, plans, plotting, render, report


def test_evaluate_prints_a_row_a_configuration_and_mode(whole, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    before = snapshot(whole)
    assert command("evaluate", whole, "--episodes", 8) == 0
    out = capsys.readouterr().out
    rows = table_of(out)
    assert len(rows) == 2 * 3 and "IQM" in out and "95 % interval" in out
    assert [row[1] for row in rows] == [rate for rate in ("0.001", "0.01", "0.0001") for _ in range(2)]
    assert all(8 <= float(row[3]) <= 500 and row[3] == row[-2] for row in rows)  # a reward of 1 a step
    assert before == snapshot(whole)


def table_of(out):
    """The cells of the table that `purerl evaluate` prints, without its head."""
    lines = [line for line in out.split("\n") if re.search("│ (greedy|stochastic)", line)]
    return [[cell.strip() for cell in line.split("│")] for line in lines]


def test_evaluate_shows_each_configuration_its_own_runs(whole, monkeypatch, capsys):
    """With a number of the parameters in the place of the return."""
    monkeypatch.setenv("COLUMNS", "140")
    number = lambda state: 1000 * sum(jnp.abs(x).sum() for x in jax.tree.leaves(state.params))

    def fake(env, env_params, agent, state, key, episodes, max_steps, greedy, **_):
        returns = jnp.full(episodes, number(state) if greedy else -number(state))
        return training.evaluation.Evaluation(returns, jnp.full(episodes, 7), jnp.full(episodes, True))

    monkeypatch.setattr(training, "evaluate", fake)
    assert command("evaluate", whole, "--episodes", 2) == 0
    of_runs = np.asarray(jax.vmap(number)(purerl.runs.load(whole).state.agent)).reshape(3, 3).mean(1)
    wanted = [sign * mean for mean in of_runs for sign in (1, -1)]
    rows = table_of(capsys.readouterr().out)
    np.testing.assert_allclose([float(row[3]) for row in rows], wanted, rtol=1e-5)
    assert [row[-2] for row in rows] == ["7.0"] * 6 and np.diff(np.sort(of_runs)).min() > 10


def test_no_run_is_trained_with_the_key_of_an_evaluation():
    keys = [evaluation.evaluation_key(3), *plan.keys_of(3, 100)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 101


def test_plot_draws_a_metric_of_one_run_or_more(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = snapshot(small)
    for arguments, said in (
        (
            ["--metric", "nothing"],
            "--metric is nothing; .* has episodes, .*, learning_rate, policy_loss",
        ),
        (["--out", "plot.doc"], "its ending must be one of .png, .pdf, .svg"),
        (["--out", "no/plot.png"], "there is no directory no"),
    ):
        assert command("plot", small, *arguments) == 2 and re.search(said, capsys.readouterr().err)
    assert command("plot", small) == 0
    assert command("plot", small, small, "--metric", "policy_loss") == 0
    assert [p.name for p in sorted(tmp_path.glob("*.png"))] == ["plot-2.png", "plot.png"]
    assert command("plot", small, "--out", "plot.png") == 2
    assert "--out is plot.png, which exists" in capsys.readouterr().err
    assert before == snapshot(small)


def test_curves_of_runs_of_the_same_name_have_their_paths_as_labels(small, tmp_path, monkeypatch):
    other = shutil.copytree(small, tmp_path / small.name)
    drawn = []
    monkeypatch.setattr(report, "picture", lambda path, panels, *_: drawn.extend(panels))
    plotting.plot((small, other), "episode_return", tmp_path / "plot.png")
    assert [curve.label for curve in drawn[0].curves] == [str(small), str(other)]


def test_greedy_episodes_take_the_best_action_and_stochastic_ones_sample(small, monkeypatch, capsys):
    """After 20 updates the bandit's best actions are known, and the others still likely."""
    monkeypatch.setenv("COLUMNS", "120")
    assert command("evaluate", small, "--episodes", 200) == 0
    greedy, stochastic = table_of(capsys.readouterr().out)
    assert float(greedy[2]) == 1 and 0.3 < float(stochastic[2]) < 0.95
    assert greedy[-2] == stochastic[-2] == "1.0"  # steps of an episode


def test_list_names_agents_and_environments(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert command("list") == 0
    out = capsys.readouterr().out
    assert "reinforce" in out
    assert re.search(r"Pendulum-v1 +│ Box\[3\] in \[-8, 8\] +│ Box\[1\] in \[-2, 2\] +│ +200", out)
    assert re.search(r"MNISTBandit-bsuite +│ downloads its data", out)
    assert re.search(r"Sigmoid-v0 +│ Box\[5\] +│ MultiDiscrete\[5, +│ +10", out)


@pytest.mark.parametrize(
    "env",
    zoo.params(
        ["CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "FourRooms-misc"], wide=("Pendulum-v1", "FourRooms-misc")
    ),
)
def test_an_episode_as_a_gif(env, whole, tmp_path, monkeypatch, capsys):
    from PIL import Image

    if env in render.CLASSIC:
        pytest.importorskip("pygame")
    a = whole
    if env != "CartPole-v1":
        a = tmp_path / "a"
        monkeypatch.setattr(execute, "execute", lambda *_, **how: None)  # an untrained agent will do
        train(a, agent=f"{OWN}:untrained", env=env, seeds=1)
        job = plans.plan_of_directory(a)
        state = jax.jit(lambda keys: purerl.batch(job.make)(job.hp()).init(keys))(job.run_keys())
        checkpoint.add(a / "checkpoints", 0, checkpoint.to_host(state), {})
    assert command("render", a, "--out", tmp_path / "e.gif", "--max-steps", 15, "--stochastic") == 0
    steps = int(re.search(r"episode of (\d+) steps", capsys.readouterr().err)[1])
    image = Image.open(tmp_path / "e.gif")
    frames = []
    for k in range(image.n_frames):
        image.seek(k)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert 1 < image.n_frames <= steps + 1 and min(frames[0].shape[:2]) >= 300
    assert (frames[0][:-28] != frames[-1][:-28]).any()  # something moves, besides the caption
    assert command("render", a, "--out", tmp_path / "e.gif") == 2
    assert command("render", a, "--number", 9, "--out", tmp_path / "f.gif") == 2


FIELDS = [name for name, maker in registry.OWN.items() if maker.__module__.startswith("purerl.envs.fields")]


@pytest.mark.wide
@pytest.mark.parametrize("env", FIELDS)
def test_environments_of_the_fields_are_trained_evaluated_and_drawn(env, tmp_path, capsys):
    from PIL import Image

    try:
        purerl.make(env)
    except ValueError as error:
        pytest.skip(str(error))
    run = tmp_path / "run"
    assert train(run, agent=f"{OWN}:untrained", env=env, seeds=1, steps=64, chunks=1) == 0
    assert command("evaluate", run, "--episodes", 4) == 0
    assert command("render", run, "--stochastic", "--max-steps", 12) == 0
    steps = int(re.search(r"episode of (\d+) step", capsys.readouterr().err)[1])
    image = Image.open(run / "episode.gif")
    assert 1 < image.n_frames <= steps + 1 and min(image.size) >= 200
    first = np.asarray(image.convert("RGB")).astype(int)
    image.seek(image.n_frames - 1)
    assert (np.asarray(image.convert("RGB"))[:-28] != first[:-28]).any()  # not the caption alone


def test_the_last_state_of_an_episode_is_drawn(small):
    """In an environment of one step it is all that there is to see."""
    run = loading.load(small).one(0)
    states, rewards, count = render.episode(run, jax.random.key(0), 20, greedy=True)
    assert count == len(rewards) == 1 and [int(state.time) for state in states] == [0, 1]
    assert states[0].row == states[1].row


def test_what_can_not_be_drawn_says_so():
    env, env_params = purerl.make("UmbrellaChain-bsuite")
    with pytest.raises(ValueError, match="UmbrellaChain-bsuite cannot be drawn"):
        render.painter(env, env_params)
