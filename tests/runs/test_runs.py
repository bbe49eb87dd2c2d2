"""Run directories: what is in them, resuming, repeating, bad days. Commands run here, unless they must die."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl.host import checkpoint, cli, drawing, jobs, loggers, runs, work

OWN = """
import flax.linen as nn
import jax
import jax.numpy as jnp
import purerl
from purerl import networks, updates
from purerl.testing import probes

@purerl.config
class Mine:
    rate: float = purerl.option(0.05, "a rate", low=0.0)
    explode_at: float = purerl.option(1e9, "the update that gives NaN", low=0.0)

def mine(network, policy, hp=Mine()):
    agent = purerl.ppo(network, policy, purerl.PPO(learning_rate=hp.rate, num_minibatches=2, num_epochs=1))

    def init(key, obs):
        return agent.init(key, obs), jnp.zeros((), jnp.int32)

    def update(key, state, rollout):
        inner, metrics = agent.update(key, state[0], rollout)
        count = state[1] + 1
        bad = count >= hp.explode_at
        inner = inner._replace(params=jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), inner.params))
        metrics["policy_loss"] = jnp.where(bad, jnp.nan, metrics["policy_loss"])
        return (inner, count), metrics

    inside = lambda act: lambda *args: act(*[a[0] if isinstance(a, tuple) and len(a) == 2 else a for a in args])
    return agent._replace(init=init, act=inside(agent.act), greedy=inside(agent.greedy), update=update)

def bandit():
    return probes.contextual_bandit()[0]

def torso():
    return networks.MLP(hidden=(4,), activation=nn.relu)
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """The command line's cache of compiled programs, in a place of its own: it is what most of the time goes to."""
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


SMALL = {
    "ppo": ["--num-envs", "4", "--rollout-length", "8", "--num-minibatches", "2", "--num-epochs", "1"],
    "a2c": ["--num-envs", "4", "--rollout-length", "8"],
    "reinforce": ["--num-envs", "4", "--rollout-length", "8"],
    "dqn": ["--num-envs", "4", "--rollout-length", "8", "--learning-starts", "64", "--train-every", "32",
            "--capacity", "200", "--batch-size", "8", "--priority", "0.6"],
    "sac": ["--num-envs", "4", "--rollout-length", "8", "--learning-starts", "64", "--train-every", "32",
            "--capacity", "200", "--batch-size", "8", "--hidden", "8"],
}  # fmt: skip


def purerl_main(*arguments):
    """A command in this process; its exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code


def train(directory, *arguments, agent="ppo", env="CartPole-v1", steps=640, seeds=3):
    small = [*SMALL[agent], "--hidden", "4"] if agent in SMALL else []
    what = ["train", agent, env, "--dir", directory, "--steps", steps, "--seeds", seeds, "--chunks", "5"]
    return purerl_main(*what, *small, *arguments)


def shas(directory):
    return [row["sha256"] for row in runs.read_json(directory / "manifest.json")["parameters"]]


class StopAfter:
    """Stands in for Ctrl-C: asks to stop after so many chunks."""

    def __init__(self, chunks):
        self.left = chunks

    def __call__(self, say):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self.left -= 1
        return self.left <= 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert train(directory) == 0
    return directory


# --- what is in a directory -----------------------------------------------------------------------------------------


def test_a_directory_holds_everything(whole):
    names = sorted(p.name for p in whole.iterdir())
    assert names == ["checkpoints", "config.json", "curve.png", "manifest.json", "metrics.csv"]
    config, manifest = runs.read_json(whole / "config.json"), runs.read_json(whole / "manifest.json")
    asked = {p.name for p in cli.purerl_command.commands["train"].get_command(None, "ppo").params}
    how = {"directory", "devices", "save_every", "compilation_cache"}
    stored = set(config) - {"format", "agent", "hyperparameters", "horizons", "updates_per_chunk"}
    assert stored | set(config["hyperparameters"]) == asked - how  # nothing that was asked for is missing
    assert config["hyperparameters"]["anneal_steps"] == [640.0] and config["network"] == "mlp"
    made = manifest["made_with"]
    assert made["jax"] == jax.__version__ and made["python"].startswith("3.") and made["device"] == "cpu"
    assert (made["num_devices"], made["runs_per_device"]) == (2, 2) and "eigen=false" in made["xla_flags"]
    assert made["prng"] == "threefry2x32" and len(made["commit"] or "0" * 40) >= 40
    assert [(row["run"], row["seed"], row["iteration"]) for row in manifest["parameters"]] == [
        (0, 0, 20), (1, 1, 20), (2, 2, 20),
    ]  # fmt: skip
    assert len(set(shas(whole))) == 3
    lines = (whole / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("run,seed,iteration,steps,episodes,episode_length,episode_return,")
    assert len(lines) == 1 + 5 * 3 and lines[-1].startswith("2,2,20,640,")


def test_metrics_come_back_as_they_were(whole, tmp_path):
    about, live = {"seed": [0, 1], "rate": [0.1, 0.2]}, np.array([True, False])
    metrics = {"episodes": np.array([3, 4], np.int32), "loss": np.float32([1 / 3, np.nan])}
    runs.append_metrics(tmp_path / "m.csv", 5, 50, about, metrics, np.array([True, True]))
    runs.append_metrics(tmp_path / "m.csv", 7, 70, about, metrics, live)
    with (tmp_path / "m.csv").open("a") as file:
        file.write("0,0,0.1,9,90,3,0.33")  # still being written
    out = runs.read_metrics(tmp_path / "m.csv", 2)
    assert out.iterations.tolist() == [5, 7] and out.steps.tolist() == [50, 70]
    np.testing.assert_array_equal(out.columns["loss"], np.float32([[1 / 3, np.nan], [1 / 3, np.nan]]))
    assert out.columns["episodes"].tolist() == [[3, 4], [3, 0]]
    runs.cut_metrics(tmp_path / "m.csv", 5)
    assert runs.read_metrics(tmp_path / "m.csv", 2).iterations.tolist() == [5]
    runs.cut_metrics(tmp_path / "m.csv", 4)
    assert not (tmp_path / "m.csv").exists()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def tree():
    return {
        "key": jax.random.split(jax.random.key(0), 3),
        "rbg": jax.random.key(1, impl="rbg"),
        "scalar": jnp.float32(1.5),
        "flags": jnp.array([True, False]),
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
        "pixels": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "empty": (jnp.zeros((0, 4)), ()),
    }


def same(a, b):
    a, b = checkpoint.to_host(a), checkpoint.to_host(b)
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert x.dtype == b[name].dtype and x.shape == b[name].shape and x.tobytes() == b[name].tobytes(), name


@pytest.mark.smoke
def test_any_tree_comes_back_from_a_checkpoint(tmp_path):
    path = tmp_path / "1.safetensors"
    checkpoint.save(path, checkpoint.to_host(tree()), {"note": "here"})
    back, notes = checkpoint.load(path, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree())))
    same(back, tree())
    assert notes["note"] == "here" and [p.name for p in tmp_path.iterdir()] == ["1.safetensors"]


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    for iteration in (10, 9, 100):
        checkpoint.add(tmp_path, iteration, checkpoint.to_host({"x": jnp.float32(iteration)}), {})
    assert [p.stem for p in checkpoint.paths(tmp_path)] == ["000000100", "000000010"]  # two are kept
    newest = checkpoint.paths(tmp_path)[0]
    (tmp_path / "000000200.safetensors.part").write_bytes(b"cut off")  # beside its place: never looked at
    whole = newest.read_bytes()
    for broken in (whole[:-1], whole[:3], b"", b"\x80\x04cos\nsystem\n.", whole[:-1] + b"\xff"):
        newest.write_bytes(broken)
        tree, _, damaged = checkpoint.newest(tmp_path, {"x": jnp.float32(0)})
        assert float(tree["x"]) == 10 and damaged[0][0] == newest and re.search("cut off|damaged", damaged[0][1])
    checkpoint.paths(tmp_path)[1].unlink()
    with pytest.raises(ValueError, match=r"000000100.safetensors is damaged: its check sum"):
        checkpoint.newest(tmp_path, {"x": jnp.float32(0)})
    assert checkpoint.newest(tmp_path / "none", {}) is None


@pytest.mark.parametrize(
    "like, said",
    [
        ({"x": jnp.zeros(3)}, r"has \['x'\] as float32\[2\], where this run has float32\[3\]"),
        ({"x": jnp.zeros(2, int)}, r"has \['x'\] as float32\[2\], where this run has int32\[2\]"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(2)}, r"has no \['y'\]: it belongs to another configuration or version"),
        ({}, r"has \['x'\], which is not a part of this run"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(like, said, tmp_path):
    checkpoint.add(tmp_path, 1, checkpoint.to_host({"x": jnp.zeros(2)}), {})
    with pytest.raises(ValueError, match=said):
        checkpoint.newest(tmp_path, like)


def test_a_checkpoint_of_another_format_or_program_is_refused(tmp_path):
    import safetensors.numpy

    path = tmp_path / "1.safetensors"
    for notes, said in ((None, "is not a checkpoint of purerl"), ({"purerl": "99"}, "has format 99; this version")):
        safetensors.numpy.save_file({"x": np.zeros(2)}, path, metadata=notes)
        with pytest.raises(ValueError, match=said):
            checkpoint.newest(tmp_path, {"x": jnp.zeros(2)})


def test_loading_executes_nothing(tmp_path, monkeypatch):
    """A pickle that would run a command, in the place of a checkpoint."""
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    (tmp_path / "1.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="cut off or not a checkpoint"):
        checkpoint.newest(tmp_path, {})
    assert not (tmp_path / "owned").exists()


# --- stopped and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["ppo", "reinforce", "dqn", "sac"])
def test_stopped_and_resumed_is_uninterrupted(agent, tmp_path, monkeypatch, capsys):
    """A sweep over seeds, stopped twice: the same bits on disk, and in the table of metrics."""
    sweep = ["--learning-rate", "1e-3,1e-2", "--normalize-reward"]
    a, b = tmp_path / "a", tmp_path / "b"
    assert train(a, *sweep, agent=agent, seeds=2) == 0
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "Interrupts", StopAfter(1))
        assert train(b, *sweep, agent=agent, seeds=2) == 130
        assert f"stopped and saved at iteration 4 of 20: purerl resume {b}" in capsys.readouterr().err
        patch.setattr(jobs, "Interrupts", StopAfter(2))
        assert purerl_main("resume", b) == 130
    assert purerl_main("resume", b) == 0
    assert shas(a) == shas(b) and len(set(shas(a))) == 4
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
    assert runs.read_json(a / "config.json") == runs.read_json(b / "config.json")
    state, again = (checkpoint.read(checkpoint.paths(x / "checkpoints")[0])[0] for x in (a, b))
    assert all(x.tobytes() == again[name].tobytes() for name, x in state.items())  # environments and keys, too
    assert purerl_main("resume", b) == 0  # nothing is left: it says so by doing nothing
    assert shas(a) == shas(b)


def test_on_another_number_of_devices_it_is_equal_to_rounding(whole, tmp_path, monkeypatch):
    b = tmp_path / "b"
    monkeypatch.setattr(jobs, "Interrupts", StopAfter(2))
    assert train(b, "--devices", 1) == 130
    monkeypatch.undo()
    assert purerl_main("resume", b, "--devices", 2) == 0
    one, two = (checkpoint.read(checkpoint.paths(x / "checkpoints")[0])[0] for x in (whole, b))
    for name, x in one.items():
        if name.startswith(".agent"):
            np.testing.assert_allclose(x, two[name], atol=1e-4, err_msg=name)
    (change,) = runs.read_json(b / "manifest.json")["resumed"]
    assert change["iteration"] == 8 and change["differs"]["num_devices"] == [1, 2]


def test_going_on_for_longer(whole, tmp_path, capsys):
    """More steps keep the horizon and say so; a horizon that is moved is remembered, and repeated."""
    a, b = tmp_path / "a", tmp_path / "b"
    for directory in (a, b):
        shutil.copytree(whole, directory)
    assert purerl_main("resume", a, "--steps", 768) == 0
    assert "anneal_steps stays at 640; from there on the learning rate is 0 (--anneal" in capsys.readouterr().err
    assert runs.read_json(a / "config.json")["steps"] == 768
    assert runs.read_metrics(a / "metrics.csv", 3).steps.tolist()[-2:] == [640, 768]
    assert purerl_main("resume", a, "--steps", 700) == 2
    assert "--steps is 700; it is the total, and the run has 768 steps already" in capsys.readouterr().err
    assert purerl_main("resume", b, "--steps", 768, "--anneal-steps", 1000) == 0
    assert runs.read_json(b / "config.json")["horizons"] == [{"iteration": 20, "anneal_steps": 1000.0}]
    rate = lambda x: runs.read_metrics(x / "metrics.csv", 3).columns["learning_rate"][-1, 0]
    assert rate(a) == 0 < rate(b)
    assert purerl_main("repeat", b) == 0
    assert "identical: the parameters of all 3 runs" in capsys.readouterr().out
    assert shas(b) == shas(tmp_path / "b-repeat") != shas(a)


def test_a_repeat_that_differs_says_where(whole, tmp_path, capsys):
    a = tmp_path / "a"
    shutil.copytree(whole, a)
    manifest = runs.read_json(a / "manifest.json")
    manifest["parameters"][1]["sha256"] = "0" * 64
    manifest["made_with"]["jax"] = "0.1.2"
    runs.write_json(a / "manifest.json", manifest)
    assert purerl_main("repeat", a, "--dir", tmp_path / "again") == 1
    out = capsys.readouterr().out
    assert "different: 1 of 3 runs, seed 1" in out and re.search(rf"jax +│ 0\.1\.2 +│ {jax.__version__}", out)
    assert shas(tmp_path / "again") == shas(whole)


def test_load_for_a_notebook(whole):
    run = purerl.host.load(whole)
    assert run.iteration == 20 and run.state.iteration.tolist() == [20] * 3 and run.plan.config["env"] == "CartPole-v1"
    one = run.one(1)
    out = purerl.evaluate(one.env, one.env_params, one.agent(one.hp), one.state.agent, jax.random.key(0), 4)
    assert out.returns.shape == (4,) and (out.returns >= 8).all()
    *_, (iteration, state, _) = purerl.run(purerl.batch(run.make), run.hp, None, 2, state=run.state)
    assert iteration == 22 and state.iteration.tolist() == [22] * 3
    with pytest.raises(ValueError, match="run is 3; there are 3, from 0"):
        run.one(3)


# --- seeds that break, seeds that are through -----------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


MINE = ["--network", "own.py:torso", "--num-envs", "4", "--rollout-length", "8"]


def test_a_broken_run_is_reported_and_left_out_and_changes_no_other(own, monkeypatch, capsys):
    bandit = {"agent": "own.py:mine", "env": "own.py:bandit", "seeds": 2}
    assert train("good", *MINE, "--explode-at", "1e9,1e8,1e7", **bandit) == 0
    monkeypatch.setattr(jobs, "Interrupts", StopAfter(3))
    assert train("bad", *MINE, "--explode-at", "1e9,7,1e7", **bandit) == 130
    error = capsys.readouterr().err
    assert re.search(r"seed 1, explode_at 7: not finite at iteration 7 \([^)]*policy_loss[^)]*\); left out", error)
    monkeypatch.undo()
    monkeypatch.chdir(own)
    assert purerl_main("resume", "bad") == 0
    out, error = capsys.readouterr()
    assert error.count("not finite from iteration 7 on; left out of the table and the curve") == 2
    assert "every seed is broken" in out
    good, bad = shas(Path("good")), shas(Path("bad"))
    assert [x == y for x, y in zip(good, bad, strict=True)] == [True, True, False, False, True, True]
    assert purerl.host.load("bad").broken == {2: 7, 3: 7}
    assert purerl_main("evaluate", "bad", "--episodes", 4) == 0
    assert "every seed is broken" in capsys.readouterr().out
    # without a metric that shows it, the parameters do
    leaves = {".agent.params": np.float32([[1.0], [np.nan]]), ".position.obs": np.float32([[np.nan], [0.0]])}
    assert work.not_numbers(leaves, 2).tolist() == [False, True]


def test_where_all_are_broken_the_run_ends(own, capsys):
    assert train("a", *MINE, "--explode-at", 3, agent="own.py:mine", env="own.py:bandit", seeds=2) == 0
    assert "every run has ended or is broken" in capsys.readouterr().err
    assert runs.read_metrics(Path("a/metrics.csv"), 2).iterations.tolist() == [4]
    assert Path("a/curve.png").exists()


def test_runs_that_reached_their_return_end_and_change_no_other(own, monkeypatch, capsys):
    """The bandit's return is 1 where it is learned; with rate 0 it is about 0."""
    job = {"agent": "own.py:mine", "env": "own.py:bandit", "seeds": 2, "steps": 3200}
    assert train("all", *MINE, "--rate", "0.05,0.0", **job) == 0
    monkeypatch.setattr(jobs, "Interrupts", StopAfter(3))
    assert train("some", *MINE, "--rate", "0.05,0.0", "--stop-when", 0.5, **job) == 130
    monkeypatch.undo()
    monkeypatch.chdir(own)
    assert purerl_main("resume", "some") == 0
    said = capsys.readouterr().err
    assert re.search(r"seed 0, rate 0.05: reached a return of 0.5 at iteration \d+", said)
    assert "2 of 4 runs ended at a return of 0.5" in said
    every, some = (runs.read_metrics(Path(x) / "metrics.csv", 4) for x in ("all", "some"))
    ended = purerl.host.load("some").ended
    assert set(ended) == {0, 1} and max(ended.values()) < 100
    for run in range(4):
        upto = sum(every.iterations <= ended.get(run, 100))
        for name, x in every.columns.items():
            np.testing.assert_array_equal(x[:upto, run], some.columns[name][:upto, run])
        assert (some.columns["episodes"][upto:, run] == 0).all()
    assert shas(Path("all"))[2:] == shas(Path("some"))[2:] and shas(Path("all"))[0] != shas(Path("some"))[0]
    state = purerl.host.load("some").state
    assert state.iteration.tolist() == [ended[0], ended[1], 100, 100]  # as they were when they ended
    assert train("soon", *MINE, "--stop-when", 0.5, **job) == 0
    assert runs.read_metrics(Path("soon/metrics.csv"), 2).iterations[-1] == max(ended.values())


def test_the_first_update_that_is_not_finite_is_remembered(cartpole):
    env, env_params = cartpole
    policy = purerl.distributions.for_space(env.action_space(env_params))
    ppo = purerl.ppo(purerl.networks.actor_critic(policy), policy, purerl.PPO(num_minibatches=1))

    def update(key, state, rollout):
        state, metrics = ppo.update(key, state, rollout)
        return state, {**metrics, "policy_loss": jnp.inf}

    learner = purerl.learner(env, env_params, ppo._replace(update=update), 2, 4)
    state = learner.init(jax.random.key(0))
    assert int(state.nonfinite) == 0
    state, _ = purerl.training.advance(learner, state, 3)
    assert int(state.nonfinite) == 1 and int(state.iteration) == 3


# --- bad days -------------------------------------------------------------------------------------------------------

DYING = """
    import os, signal, sys, types
    from pathlib import Path
    sys.modules["seaborn"] = types.ModuleType("seaborn")  # gymnax imports it, for pictures; it takes a second
    import safetensors.numpy
    from purerl.host import checkpoint, cli

    when, arguments = sys.argv[1], sys.argv[2:]
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    calls = 0

    def counted(function, before):
        def call(*args, **kwargs):
            global calls
            calls += 1
            if calls == int(when) and before == "before":
                die()
            out = function(*args, **kwargs)
            if calls == int(when) and before == "half":
                path = Path(args[1])
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                die()
            if calls == int(when):
                die()
            return out
        return call

    step, when = when.split(":") if ":" in when else ("none", "0")
    if step == "half":
        safetensors.numpy.save_file = counted(safetensors.numpy.save_file, "half")
    elif step == "replace":
        os.replace = counted(os.replace, "before")
    elif step == "replaced":
        os.replace = counted(os.replace, "after")
    elif step == "fsync":
        os.fsync = counted(os.fsync, "after")
    elif step == "unlink":
        Path.unlink = counted(Path.unlink, "before")
    cli.main(arguments)
"""


def dying(tmp_path, when, *arguments, after=None):
    """A command in a process that is killed (-9): at a call inside a save, or after so many seconds."""
    script = tmp_path / "dying.py"
    script.write_text(textwrap.dedent(DYING))
    command = [sys.executable, str(script), when, *map(str, arguments)]
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "MPLBACKEND": "Agg"}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if after is not None:
        for line in process.stderr:
            if line.startswith("iteration"):
                time.sleep(after)
                process.kill()
    out, error = process.communicate(timeout=120)
    return process.returncode, out + error


# the calls of a run: fsync of metrics, save_file, fsync, replace, fsync of the directory, unlink, for each checkpoint
MOMENTS = ["replace:3", "half:1", "fsync:7", "replaced:4", "fsync:3", "half:2", "unlink:2", "replace:2", "0.01", "0.03"]


def test_killed_at_ten_moments_and_resumed_is_uninterrupted(tmp_path):
    what = ["train", "a2c", "CartPole-v1", *SMALL["a2c"], "--hidden", "4", "--seeds", "2", "--chunks", "40"]
    what += ["--steps", 2560, "--save-every", 0]
    code, said = dying(tmp_path, "none", *what, "--dir", tmp_path / "whole")
    assert code == 0, said
    b = tmp_path / "b"
    command, reached = [*what, "--dir", b], []
    for moment in MOMENTS:
        after = None if ":" in moment else float(moment)
        code, said = dying(tmp_path, "none" if after else moment, *command, after=after)
        assert code == -signal.SIGKILL, f"{moment}: {said}"
        command = ["resume", b, "--save-every", 0]
        reached.append(max([int(path.stem) for path in checkpoint.paths(b / "checkpoints")], default=0))
    assert reached == sorted(reached) and reached[-1] < 80, reached
    code, said = dying(tmp_path, "none", *command)
    assert code == 0, said
    assert shas(b) == shas(tmp_path / "whole")
    assert (b / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    leftovers = [p.name for p in b.rglob("*") if p.suffix in (".part", ".damaged")]
    assert leftovers == []


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(tmp_path, monkeypatch, capsys):
    """A file-size limit would be the process's own; so the writes fail as they do on a full disk."""
    a = tmp_path / "a"
    save, saves = checkpoint.safetensors.numpy.save_file, []

    def full(leaves, path, metadata):
        saves.append(path)
        if len(saves) == 3:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(leaves, path, metadata)

    monkeypatch.setattr(checkpoint.safetensors.numpy, "save_file", full)
    assert train(a, "--save-every", 0) == 2
    error = capsys.readouterr().err.strip().split("\n")[-1]
    assert error.startswith("purerl: error: ") and "No space left on device" in error
    assert f"iteration 8 is on disk: purerl resume {a}" in error
    monkeypatch.undo()
    assert [p.name for p in (a / "checkpoints").iterdir() if p.suffix == ".part"] == []
    assert purerl_main("resume", a) == 0


def test_a_full_disk_while_metrics_are_written(tmp_path, monkeypatch, capsys):
    a = tmp_path / "a"
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    append = runs.append_metrics
    monkeypatch.setattr(runs, "append_metrics", lambda path, *rest: append(full, *rest))
    assert train(a) == 2
    assert "/dev/full can not be written: No space left on device; iteration 0 is on disk" in capsys.readouterr().err
    monkeypatch.undo()
    assert purerl_main("resume", a) == 0


def snapshot(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_directories_that_can_not_be_used(whole, tmp_path, capsys):
    def refused(said, *arguments):
        before = snapshot(tmp_path)
        assert purerl_main(*arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("purerl: error: ") and re.search(said, error), error
        assert before == snapshot(tmp_path)

    a = tmp_path / "a"
    for command in ("resume", "evaluate", "render", "repeat", "plot"):
        refused("a is not the directory of a run: it has no config.json", command, a)
    shutil.copytree(whole, a)
    config = (a / "config.json").read_text()
    changes = [
        ("{", "config.json can not be read: Expecting"),
        ("[]", "config.json holds a list, not an object"),
        (config.replace('"format": 1', '"format": 2'), "has format 2; this version reads format 1"),
        (config.replace('"agent": "ppo"', '"agent": "os"'), "there is no agent 'os'; allowed are"),
        (config.replace('"seeds": 3', '"seeds": -3'), "-3 is not a positive whole number"),
        (config.replace('"seeds": 3,', ""), "seeds is missing or unknown; the run is of another version of purerl"),
        (config.replace('"num_epochs": 1', '"num_epochs": "x"'), "'x' is not a valid integer"),
        (config.replace('"horizons": []', '"horizons": [3]'), "horizons or updates_per_chunk is missing or not"),
        (
            config.replace('"env": "CartPole-v1"', '"env": "Acrobot-v1"'),
            "safetensors has no .position.env.joint_angle1: it belongs to another",
        ),
        (config.replace('"ppo"', f'"{a}/evil.py:f"'), "names code of its own, .*evil.py; it is not run"),
    ]
    (a / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    for text, said in changes:
        (a / "config.json").write_text(text)
        refused(said, "resume", a)
    assert not (tmp_path / "owned").exists()
    (a / "config.json").write_text(config)
    manifest = (a / "manifest.json").read_text()
    for text in ("{}", '{"made_with": {}, "resumed": [], "parameters": []}'):
        (a / "manifest.json").write_text(text)
        for command in ("resume", "evaluate", "repeat"):
            refused("manifest.json is not a manifest", command, a)
    (a / "manifest.json").write_text(manifest)
    newest = checkpoint.paths(a / "checkpoints")[0]
    leaves, notes = checkpoint.read(newest)
    checkpoint.save(newest, leaves, {**notes, "ended": '{"7": 1}'})
    refused(r"a checkpoint notes runs \[7\]; there are 3", "evaluate", a)
    for path in checkpoint.paths(a / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-10])
    refused(r"\d+.safetensors is cut off", "resume", a)
    refused(r"\d+.safetensors is cut off", "evaluate", a)
    (a / "metrics.csv").write_text("a,b\n1,2\n")
    refused("metrics.csv is not the table of a run", "plot", a, "--out", tmp_path / "x.png")


def test_one_process_at_a_time(whole, capsys):
    with runs.locked(whole):
        before = snapshot(whole)
        assert purerl_main("resume", whole) == 2
        assert "whole is being trained by another process" in capsys.readouterr().err and before == snapshot(whole)


def test_a_file_of_the_user_that_has_changed_is_refused(own, capsys):
    assert train("a", *MINE, agent="own.py:mine", env="own.py:bandit", seeds=2) == 0
    (own / "own.py").write_text(OWN + "\n# changed\n")
    for command in ("resume", "evaluate"):
        assert purerl_main(command, "a") == 2
        assert "own.py is not what a was made with; the copy in its code/ is" in capsys.readouterr().err
    assert purerl_main("repeat", "a") == 0  # tries it, and finds that it is the same
    (own / "own.py").unlink()
    assert purerl_main("resume", "a") == 2


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times, tmp_path):
    """Once: the chunk is finished and saved. Twice: it stops at once, in the middle of a long chunk."""
    chunks = ["--chunks", 5000] if times == 1 else ["--chunks", 1]
    what = ["train", "ppo", "CartPole-v1", *SMALL["ppo"], "--hidden", "4", "--seeds", 2, "--steps", 2e7, *chunks]
    script = "from purerl.host import cli; cli.main()"
    command = [sys.executable, "-c", script, *map(str, what), "--dir", str(tmp_path / "a")]
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("compiling"):
            break
    table = tmp_path / "a" / "metrics.csv"
    until = time.monotonic() + 60
    while times == 1 and not table.exists() and time.monotonic() < until:
        time.sleep(0.05)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    begin = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert "finishing this chunk, then saving; Ctrl-C again stops at once" in error
    if times == 1:
        assert re.search(r"stopped and saved at iteration \d+ of 625000: purerl resume", error)
        assert len(checkpoint.paths(tmp_path / "a" / "checkpoints")) == 1
    else:
        assert "stopped at once; iteration 0 is on disk" in error and time.monotonic() - begin < 10


# --- looking --------------------------------------------------------------------------------------------------------


def test_evaluate_and_plot(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = snapshot(whole)
    assert purerl_main("evaluate", whole, "--episodes", 8) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.split("\n") if re.match("│ (greedy|stochastic)", line)]
    assert len(rows) == 2 and "IQM" in out and "95 % interval" in out
    assert all(8 <= float(row.split("│")[2]) <= 500 for row in rows)
    assert purerl_main("plot", whole) == 0
    assert purerl_main("plot", whole, whole, "--metric", "entropy") == 0
    assert [p.name for p in sorted(tmp_path.glob("*.png"))] == ["plot-2.png", "plot.png"]
    for arguments, said in (
        (["--metric", "nothing"], "--metric is nothing; .* has episodes, episode_length, episode_return, approx_kl"),
        (["--out", "plot.png"], "--out is plot.png, which exists"),
        (["--out", "plot.doc"], "its ending must be one of .png, .pdf, .svg"),
        (["--out", "no/plot.png"], "there is no directory no"),
    ):
        assert purerl_main("plot", whole, *arguments) == 2 and re.search(said, capsys.readouterr().err)
    assert before == snapshot(whole)


def test_list_names_agents_and_environments(capsys):
    assert purerl_main("list") == 0
    out = capsys.readouterr().out
    assert "reinforce" in out
    assert re.search(r"Pendulum-v1 +│ Box\[3\] in \[-8, 8\] +│ Box\[1\] in \[-2, 2\] +│ +200", out)
    assert re.search(r"MNISTBandit-bsuite +│ downloads its data", out)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "FourRooms-misc"])
def test_an_episode_as_a_gif(env, whole, tmp_path, monkeypatch, capsys):
    from PIL import Image

    if env in drawing.CLASSIC:
        pytest.importorskip("pygame")
    a = whole
    if env != "CartPole-v1":
        a = tmp_path / "a"
        monkeypatch.setattr(work, "go", lambda *_: None)  # an untrained agent will do
        train(a, env=env, seeds=1)
        job = jobs.of_directory(a)
        state = purerl.batch(job.make)(job.hp()).init(job.run_keys())
        checkpoint.add(a / "checkpoints", 0, checkpoint.to_host(state), {})
    assert purerl_main("render", a, "--out", tmp_path / "e.gif", "--max-steps", 40, "--stochastic") == 0
    steps = int(re.search(r"episode of (\d+) steps", capsys.readouterr().err)[1])
    image = Image.open(tmp_path / "e.gif")
    frames = []
    for k in range(image.n_frames):
        image.seek(k)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert 1 < image.n_frames <= steps and min(frames[0].shape[:2]) >= 300
    assert (frames[0][:-28] != frames[-1][:-28]).any()  # something moves, besides the caption
    assert purerl_main("render", a, "--out", tmp_path / "e.gif") == 2
    assert purerl_main("render", a, "--number", 9, "--out", tmp_path / "f.gif") == 2


def test_what_can_not_be_drawn_says_so():
    env, env_params = purerl.make("UmbrellaChain-bsuite")
    with pytest.raises(ValueError, match="UmbrellaChain-bsuite can not be drawn"):
        drawing.painter(env, env_params)


# --- loggers --------------------------------------------------------------------------------------------------------


def test_tensorboard_files_hold_what_the_table_holds(whole, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2

    a = tmp_path / "a"
    monkeypatch.setattr(jobs, "Interrupts", StopAfter(2))
    assert train(a, "--tensorboard") == 130
    monkeypatch.undo()
    assert purerl_main("resume", a) == 0
    found = {}
    for path in sorted((a / "tensorboard" / "seed 1").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, check sum, event, check sum
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            at += 16 + size
    table = runs.read_metrics(a / "metrics.csv", 3)
    entropy = {step: value for (tag, step), value in found.items() if tag == "entropy"}
    assert entropy == {int(s): float(x) for s, x in zip(table.steps, table.columns["entropy"][:, 1], strict=True)}


class Service:
    """Stands in for wandb and mlflow, which are too heavy to be installed for a test."""

    def __init__(self):
        self.logged, self.opened, self.id, self.info = [], [], "abc", self
        self.run_id = "abc"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.append("closed")

    def init(self, **given):
        self.opened.append((given["project"], given["id"]))
        return self

    def start_run(self, run_id, run_name):
        self.opened.append((run_name, run_id))
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def log_metrics(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.opened.append("closed")

    def set_experiment(self, name):
        self.experiment = name

    def set_tracking_uri(self, uri):
        self.uri = uri

    def log_params(self, values):
        self.params = values


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_get_every_chunk_and_a_resumed_run_goes_on_there(name, tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    config = {"tensorboard": False, "wandb": None, "mlflow": None, name: "mine", "env": "x"}
    for first in (0, 20):
        with loggers.opened(tmp_path, config, first) as log:
            log(first + 10, {"seed 0": {"loss": 1.0, "episode_return": np.nan}})
    assert service.logged == [(10, {"seed 0/loss": 1.0}), (30, {"seed 0/loss": 1.0})]
    assert [x[1] for x in service.opened if x != "closed"] == [None, "abc"] and service.opened.count("closed") == 2
    assert json.loads((tmp_path / "loggers.json").read_text()) == {name: "abc"}
