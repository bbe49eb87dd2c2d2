"""The command line, as a process: what is printed, the exit code, and what is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import purerl
from purerl.host import cli, jobs, report, work
from purerl.host.progress import Progress

SCRIPT = Path(sys.executable).with_name("purerl")


def purerl_process(*arguments, cwd, blocked=""):
    """Run `purerl`; importing a module of `blocked` is an error."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r})); from purerl.host.cli import main; main()"
    )
    environ = {**os.environ, "COLUMNS": "120", "XDG_CACHE_HOME": str(cwd / "cache")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environ, timeout=300)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--help"], 0, "train"),
        (["--version"], 0, purerl.__version__),
        (["train", "--help"], 0, "reinforce"),
        ([], 2, "Commands"),
        (["nosuch"], 2, "purerl: error: No such command 'nosuch'."),
        (
            ["train", "nosuch", "CartPole-v1"],
            2,
            "no agent 'nosuch'; allowed are a2c, c51, ddpg, dqn, iqn, ppo, pqn, qrdqn, rainbow, reinforce, sac, td3",
        ),
        (["--nosuch"], 2, "purerl: error: No such option '--nosuch'."),
    ],
)
def test_answers_without_jax(arguments, code, said, tmp_path):
    out = purerl_process(*arguments, cwd=tmp_path, blocked="jax numpy flax gymnax matplotlib")
    assert out.returncode == code and said in out.stdout + out.stderr, out.stderr
    assert "Traceback" not in out.stderr


BAD = [
    (["CartPole"], "there is no environment 'CartPole'; did you mean CartPole-v1"),
    (["CartPole-v1", "--foo", "1"], "No such option '--foo'"),
    (["CartPole-v1", "--clip", "-1"], "PPO.clip is -1.0; it must be a number > 0"),
    (["CartPole-v1", "--clip", "many"], "'many' is not a number"),
    (["CartPole-v1", "--num-epochs", "0"], "PPO.num_epochs is 0; it must be an integer >= 1"),
    (["CartPole-v1", "--normalize-advantage", "all"], "'all' is not one of 'minibatch', 'batch', 'none'"),
    (
        ["CartPole-v1", "--num-minibatches", "3"],
        "num_minibatches is 3; it must divide 512: num_envs x rollout_length",
    ),
    (["CartPole-v1", "--num-envs", "0"], "'0' is not a positive whole number"),
    (["CartPole-v1", "--seeds", "-2"], "'-2' is not a positive whole number"),
    (
        ["CartPole-v1", "--steps", "511"],
        "--steps is 511; one iteration is num_envs x rollout_length = 4 x 128 = 512",
    ),
    (["CartPole-v1", "--steps", "1e400"], "'1e400' is not a positive whole number"),
    (["CartPole-v1", "--policy", "cauchy"], "'cauchy' is not one of 'normal', 'tanh-normal', 'beta'"),
    (["jumanj/Snake-v1"], "there is no suite 'jumanj' of environments; allowed are brax, jumanji"),
    (
        ["CartPole-v1", "--network", "big"],
        "--network is 'big'; allowed are mlp, minatar-cnn, or your own FILE.py:name",
    ),
    (
        ["CartPole-v1", "--memory", "elephant"],
        "'elephant' is not one of 'none', 'gru', 'lstm', 'min-gru', 'transformer'",
    ),
    (
        ["CartPole-v1", "--memory", "transformer", "--memory-size", "12"],
        "transformer: width is 12; it must be a multiple",
    ),
    (
        ["CartPole-v1", "--memory", "gru", "--num-minibatches", "8"],
        "num_minibatches is 8; it must divide 4: num_envs, since the network has memory",
    ),
    (["CartPole-v1", "--observe", "0,4"], "keep is (0, 4); it must be entries of 0 .. 3"),
    (["CartPole-v1", "--observe", "-1"], "-1 is not in the range x>=0"),
    (["CartPole-v1", "--network", "minatar-cnn"], "MinAtarCNN: obs has shape (4, 4)"),
    (["CartPole-v1", "--value-clip", "none,0.2"], "--value-clip: none is structure"),
    (["CartPole-v1", "--devices", "99"], "--devices is 99; there are"),
    (["CartPole-v1", "--stop-when", "nan"], "--stop-when is nan; it must be a finite return"),
    (["CartPole-v1", "--chunks", "0"], "'0' is not a positive whole number"),
    (["CartPole-v1", "--save-every", "-1"], "-1.0 is not in the range x>=0"),
    (["CartPole-v1", "--dir", "taken"], "taken exists and is not empty; give another --dir, or remove it first"),
    (["CartPole-v1", "--dir", "own.py"], "own.py exists and is not empty; give another --dir, or remove it first"),
    (["CartPole-v1", "--dir", "/proc/nothing"], "/proc/nothing can not be made: No such file or directory"),
    (["CartPole-v1", "--wandb", "x"], "--wandb needs wandb, which is not installed: pip install 'purerl[wandb]'"),
    (["CartPole-v1", "--seed", "3000000000"], "'3000000000' is not a whole number from 0 to 2147483647"),
    (["CartPole-v1", "--hidden", "64,0"], "'0' is not a positive whole number"),
    (["CartPole-v1", "--learning-rate", "1e-3,"], "'1e-3,' is not a number, nor numbers with commas between"),
    (["CartPole-v1", "--learning-rate", "1e-3,nan"], "PPO.learning_rate is nan; it must be a number >= 0"),
    (["own.py:not_an_agent"], "own.py:not_an_agent must be a function without arguments that returns a gymnax Env"),
    (["CartPole-v1", "--network", "own.py:bandit"], "--network is own.py:bandit; it must be a function without"),
    (["missing.py:f"], "missing.py:f: there is no file missing.py"),
    (["own.py:nothing"], "own.py has no 'nothing'; it has"),
    ([], "Missing argument 'ENV'"),
]


BAD_VALUES = [
    (["dqn", "Pendulum-v1"], "dqn is for discrete actions; Pendulum-v1 has Box"),
    (["iqn", "CartPole-v1", "--memory", "gru"], "--memory is gru; iqn takes no network with memory"),
    (["pqn", "CartPole-v1", "--noise"], "--noise: pqn has no part that draws it"),
    (
        ["dqn", "CartPole-v1", "--backup", "mean"],
        "'mean' is not one of 'max', 'double', 'munchausen', 'soft', 'rescaled'",
    ),
    (["dqn", "CartPole-v1", "--capacity", "1000000000000"], "replay: capacity is 1000000000000, which needs"),
    (
        ["dqn", "CartPole-v1", "--burn-in", "4"],
        "sequence_length or burn_in is given; they are for a network with memory",
    ),
    (["c51", "CartPole-v1", "--low", "5", "--high", "1"], "c51: low is 5.0 and high is 1.0; low must be below high"),
]


@pytest.mark.parametrize("arguments, said", BAD_VALUES, ids=[" ".join(a) for a, _ in BAD_VALUES])
def test_bad_input_to_agents_that_learn_values(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and said in err and err.count("\n") == 1, err


@pytest.mark.parametrize("arguments, said", BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    monkeypatch.setattr(jobs, "stream", lambda *_: pytest.fail("it began to run"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "ppo", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1 and error.startswith("purerl: error: ") and said in error, error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.py", "taken"]


OWN = """
import functools
import flax.linen as nn
import purerl
from purerl import networks, rewards
from purerl.testing import probes

@purerl.config
class Mine:
    rate: float = purerl.option(0.05, "a rate", low=0.0)
    num_minibatches: int = purerl.option(2, "parts", low=1)

def mine(network, policy, hp=Mine()):
    return purerl.ppo(network, policy, purerl.PPO(learning_rate=hp.rate, num_minibatches=hp.num_minibatches))

def only_continuous(network, policy, hp=Mine()):
    if policy.num_free == 0:
        raise ValueError("only_continuous needs a Box action space, this environment has a Discrete one")

def not_an_agent(x):
    return x

def of_transitions(tr):
    return tr.reward

doubled = rewards.scale(2.0)
entropy = rewards.weighted({"entropy": rewards.environment}, {"entropy": 1.0})

def bandit():
    return probes.contextual_bandit()[0]

def torso():
    return networks.MLP(hidden=(4,), activation=nn.relu)
"""


def test_own_files_train_and_the_picture_is_written(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    arguments = [
        "own.py:mine",
        "own.py:bandit",
        "--network",
        "own.py:torso",
        "--steps",
        "2e4",
        "--seeds",
        "3",
    ]
    out = purerl_process("train", *arguments, "--rate", "0.0,0.05", "--num-envs", "8", cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    rows = [line for line in out.stdout.split("\n") if line.startswith("│ 0")]
    assert len(rows) == 2 and " rate " in out.stdout
    returns = [float(row.split("│")[2]) for row in rows]
    assert abs(returns[0]) < 0.2 and returns[1] > 0.9  # one does not learn, the other does
    assert "2 configurations x 3 seeds" in out.stderr and "compiling" in out.stderr and "iteration" in out.stderr
    directory = tmp_path / "runs" / "own-own"
    assert (directory / "curve.png").stat().st_size > 10_000
    assert [p.read_text() for p in (directory / "code").iterdir()] == [OWN]


@pytest.mark.parametrize(
    "agent, said",
    [
        ("own.py:only_continuous", "only_continuous needs a Box action space"),
        ("own.py:not_an_agent", "must be a function (network, policy, hp=Config())"),
        ("own.py:absent", "own.py has no 'absent'; it has"),
        ("own.py:mine --normalize-reward", "--normalize-reward needs a discount; Mine has no gamma"),
        (
            "ppo --reward own.py:not_an_agent",
            "--reward is own.py:not_an_agent; it must be FILE.py:name of a purerl Reward, or of a",
        ),
        (
            "ppo --reward own.py:of_transitions",
            "'PPO' object has no attribute 'reward'. If it is a function of transitions",
        ),
        (
            "ppo --reward own.py:absent",
            "own.py has no 'absent'; it has Mine, mine, only_continuous, not_an_agent, of_transitions, doubled,",
        ),
        ("ppo --reward own.py:entropy", "reward reports entropy, which the learner reports itself"),
    ],
)
def test_own_agents_that_do_not_fit(agent, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *agent.split(), "CartPole-v1"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and said in error


@pytest.mark.parametrize("agent", ["ppo", "a2c", "reinforce"])
def test_every_field_of_a_config_is_a_documented_option(agent):
    import dataclasses

    config = {"ppo": purerl.PPO, "a2c": purerl.A2C, "reinforce": purerl.REINFORCE}[agent]
    page = CliRunner().invoke(cli.purerl_command, ["train", agent, "--help"], terminal_width=200).output
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in page and field.metadata["doc"].split(";")[0][:30] in page


def test_a_run_is_never_written_over_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, "go", lambda *_: None)
    for _ in range(2):
        with pytest.raises(SystemExit):
            cli.main(["train", "ppo", "CartPole-v1"])
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["ppo-CartPole-v1", "ppo-CartPole-v1-2"]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:  # a name that was asked for is not changed in silence
        cli.main(["train", "ppo", "CartPole-v1", "--dir", "runs/ppo-CartPole-v1"])
    assert stop.value.code == 2 and "runs/ppo-CartPole-v1 holds another run; give another" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*.json")}


def test_a_path_that_is_taken_gets_a_number(tmp_path):
    path = tmp_path / "a.png"
    assert report.unused(path) == path
    path.touch()
    (tmp_path / "a-2.png").touch()
    assert report.unused(path) == tmp_path / "a-3.png"


def test_progress_on_a_terminal_and_off_it():
    from rich.console import Console

    for terminal in (True, False):
        console = Console(record=True, force_terminal=terminal, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
        with Progress(10, 100, console) as progress:
            with progress.compiling():
                pass
            for iteration in range(1, 11):
                progress.update(iteration, 7.0)
        text = console.export_text()
        assert "compiling" in text if not terminal else True
        assert "10/10" in text and "steps/s" in text and "return 7.0" in text
