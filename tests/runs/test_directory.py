"""What is in a run's directory: configuration, manifest, metrics, checkpoints. What can not be used is refused."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import command, copy_of_own, shas, snapshot, train_own

import purerl
from purerl.cli import main as cli
from purerl.runs import checkpoint, devices, files, plans, sources

# --- what is in it --------------------------------------------------------------------------------------------------


def test_a_directory_holds_everything(whole):
    names = sorted(p.name for p in whole.iterdir())
    assert names == ["checkpoints", "config.json", "curve.png", "manifest.json", "metrics.csv"]
    config, manifest = files.read_json(whole / "config.json"), files.read_json(whole / "manifest.json")
    asked = {p.name for p in cli.purerl_command.commands["train"].get_command(None, "ppo").params}
    how = {"directory", "devices", "save_every", "compilation_cache", "devices_per_seed", "distributed", "peer_timeout"}
    how |= {"init_from", "init_optimizer"}  # noted in the manifest, with the state itself
    how |= {"schedules"}  # its values are in `horizons`
    stored = set(config) - {"format", "agent", "hyperparameters", "horizons", "updates_per_chunk"}
    assert stored | set(config["hyperparameters"]) == asked - how  # nothing that was asked for is missing
    assert config["hyperparameters"]["anneal_steps"] == [640.0] and config["network"] == "mlp"
    made = manifest["made_with"]
    assert made["jax"] == jax.__version__ and made["python"].startswith("3.") and made["device"] == "cpu"
    assert (made["num_devices"], made["runs_per_device"]) == (2, 5) and "eigen=false" in made["xla_flags"]
    assert made["prng"] == "threefry2x32" and len(made["commit"] or "0" * 40) >= 40
    rates = [0.001] * 3 + [0.01] * 3 + [0.0001] * 3
    runs_of = [(row["run"], row["seed"], row["learning_rate"], row["iteration"]) for row in manifest["parameters"]]
    assert runs_of == list(zip(range(9), 3 * [0, 1, 2], rates, 9 * [20], strict=True))
    assert len(set(shas(whole))) == 9
    lines = (whole / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("run,seed,learning_rate,iteration,steps,episodes,episode_length,episode_return,")
    assert len(lines) == 1 + 5 * 9 and lines[-1].startswith("8,2,1e-04,20,640,")


def test_seeds_have_the_same_keys_whatever_is_swept_beside_them(whole):
    """The n-th seed is the n-th key of the job, in every configuration; another --seed gives other keys."""
    job = plans.plan_of_directory(whole)
    keys = jax.random.key_data(job.run_keys()).reshape(3, 3, -1)
    assert (keys == keys[:1]).all() and len(np.unique(keys[0], axis=0)) == 3
    assert np.asarray(job.hp().learning_rate).tolist() == np.float32([1e-3] * 3 + [1e-2] * 3 + [1e-4] * 3).tolist()
    other = plans.plan_of({**job.config, "seed": 1})
    assert not (jax.random.key_data(other.run_keys()) == jax.random.key_data(job.run_keys())).all(1).any()


def test_devices_are_never_more_than_runs():
    assert len(devices.usable_devices(None, 1)) == 1 and len(devices.usable_devices(2, 3)) == 2
    with pytest.raises(ValueError, match="--devices is 99; there are 2"):
        devices.usable_devices(99, 100)


def test_the_hash_of_a_run_is_of_all_that_its_agent_has_learned():
    leaves = {".agent.params": np.float32([[1, 2], [3, 4]]), ".position.obs": np.float32([[1], [2]])}
    one, two = files.hashes(leaves, 2)
    assert one != two
    changed = {**leaves, ".agent.params": np.float32([[1, 2], [3, 5]])}
    assert files.hashes(changed, 2)[0] == one and files.hashes(changed, 2)[1] != two
    assert files.hashes({**leaves, ".position.obs": np.float32([[7], [7]])}, 2) == [one, two]
    assert files.hashes({**leaves, ".agent.opt_state": np.float32([0, 0])}, 2)[0] != one


def test_metrics_come_back_as_they_were(tmp_path):
    about, live = {"seed": [0, 1], "rate": [0.1, 0.2]}, np.array([True, False])
    metrics = {"episodes": np.array([3, 4], np.int32), "loss": np.float32([1 / 3, np.nan])}
    files.append_metrics(tmp_path / "m.csv", 5, 50, about, metrics, np.array([True, True]))
    files.append_metrics(tmp_path / "m.csv", 7, 70, about, metrics, live)
    with (tmp_path / "m.csv").open("a") as file:
        file.write("0,0,0.1,9,90,3,0.33")  # still being written
    out = files.read_metrics(tmp_path / "m.csv", 2)
    assert out.iterations.tolist() == [5, 7] and out.steps.tolist() == [50, 70]
    np.testing.assert_array_equal(out.columns["loss"], np.float32([[1 / 3, np.nan], [1 / 3, np.nan]]))
    assert out.columns["episodes"].tolist() == [[3, 4], [3, 0]]
    files.cut_metrics(tmp_path / "m.csv", 5)
    assert files.read_metrics(tmp_path / "m.csv", 2).iterations.tolist() == [5]
    files.cut_metrics(tmp_path / "m.csv", 4)
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


def test_the_check_sum_covers_the_notes(tmp_path):
    path = tmp_path / "1.safetensors"
    checkpoint.save(path, {"x": np.zeros(2, np.float32)}, {"broken": '{"1": 4}'})
    whole = path.read_bytes()
    assert whole.count(b"4}") == 1
    path.write_bytes(whole.replace(b"4}", b"5}"))
    with pytest.raises(checkpoint.Damaged, match="its check sum is not that of its contents"):
        checkpoint.read(path)


def test_a_file_is_on_disk_before_its_name_and_the_name_afterwards(tmp_path, monkeypatch):
    part, path, waited = tmp_path / "a.part", tmp_path / "a", []
    part.write_text("x")
    monkeypatch.setattr(checkpoint, "sync", lambda of: waited.append((of, path.exists())))
    checkpoint.move_into_place(part, path)
    assert waited == [(part, False), (tmp_path, True)] and path.read_text() == "x"


@pytest.mark.parametrize(
    "like, said",
    [
        ({"x": jnp.zeros(3)}, r"has \['x'\] as float32\[2\], where this run has float32\[3\]"),
        ({"x": jnp.zeros(2, int)}, r"has \['x'\] as float32\[2\], where this run has int32\[2\]"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(2)}, r"has no \['y'\]: it belongs to another configuration or version"),
        ({}, r"has \['x'\], which is not a part of this run"),
    ],
    ids=["shape", "dtype", "missing", "foreign"],
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


def test_loading_executes_nothing(tmp_path):
    """A pickle that would run a command, in the place of a checkpoint."""
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    (tmp_path / "1.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="cut off or not a checkpoint"):
        checkpoint.newest(tmp_path, {})
    assert not (tmp_path / "owned").exists()


# --- what can not be used -------------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path, capsys):
    """Checks that a command is refused in one line, and changes nothing."""

    def check(said, *arguments):
        before = snapshot(tmp_path)
        assert command(*arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("purerl: error: ") and re.search(said, error), error
        assert before == snapshot(tmp_path)

    return check


def test_configs_that_can_not_be_used(whole, tmp_path, refused):
    a = tmp_path / "a"
    for name in ("resume", "evaluate", "render", "repeat", "plot"):
        refused("a is not the directory of a run: it has no config.json", name, a)
    shutil.copytree(whole, a)
    config = (a / "config.json").read_text()
    changes = [
        ("{", "config.json cannot be read: Expecting"),
        ("[]", "config.json holds a list, not an object"),
        (config.replace('"format": 1', '"format": 2'), "has format 2; this version reads format 1"),
        (config.replace('"agent": "ppo"', '"agent": "os"'), "there is no agent 'os'; allowed are"),
        (config.replace('"seeds": 3', '"seeds": -3'), "-3 is not a positive whole number"),
        (config.replace('"seeds": 3,', ""), "seeds is missing or unknown; the run is of another version of purerl"),
        (config.replace('"num_epochs": 1', '"num_epochs": "x"'), "'x' is not a valid integer"),
        (config.replace('"horizons": []', '"horizons": [3]'), "horizons or updates_per_chunk is missing or malformed"),
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


def test_contents_that_can_not_be_used(small, tmp_path, refused):
    a = tmp_path / "a"
    shutil.copytree(small, a)
    manifest = (a / "manifest.json").read_text()
    for text in ("{}", '{"made_with": {}, "resumed": [], "parameters": []}'):
        (a / "manifest.json").write_text(text)
        for name in ("resume", "evaluate", "repeat"):
            refused("manifest.json is not a manifest", name, a)
    (a / "manifest.json").write_text(manifest)
    newest = checkpoint.paths(a / "checkpoints")[0]
    leaves, notes = checkpoint.read(newest)
    checkpoint.save(newest, leaves, {**notes, "ended": '{"3": 1}'})
    refused(r"a checkpoint notes runs \[3\]; there are 3", "evaluate", a)
    for path in checkpoint.paths(a / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-10])
    refused(r"\d+.safetensors is cut off", "resume", a)
    refused(r"\d+.safetensors is cut off", "evaluate", a)
    (a / "metrics.csv").write_text("a,b\n1,2\n")
    refused("metrics.csv is not the table of a run", "plot", a, "--out", tmp_path / "x.png")


def test_one_process_at_a_time(small, capsys):
    with files.locked(small):
        before = snapshot(small)
        assert command("resume", small) == 2
        assert "small is being trained by another process" in capsys.readouterr().err and before == snapshot(small)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run whose agent is in a file with a neighbour, in another folder than at first; the files are gone."""
    folder = tmp_path_factory.mktemp("moved")
    home = folder / "home"
    home.mkdir()
    own = copy_of_own(home)
    own.write_text(f"import beside\n{own.read_text()}\nrate = beside.RATE\n")
    (home / "beside.py").write_text("RATE = 0.5\n")
    assert train_own(folder / "there", own=own, steps=64, chunks=2, seeds=1) == 0
    shutil.move(folder / "there", folder / "here")
    shutil.move(home, folder / "elsewhere")
    return folder


def test_a_run_goes_on_without_the_original_files(moved, tmp_path, refused, capsys):
    """By the copies inside its directory, which are checked, or by the files of the same names elsewhere."""
    a, elsewhere, gone = tmp_path / "a", moved / "elsewhere", moved / "home" / "own.py"
    shutil.copytree(moved / "here", a)
    assert sorted(p.name for p in (a / "code").iterdir()) == ["beside.py", "own.py"]
    said = f"beside.py is gone, {gone} is gone: --code run uses the copies inside {a}, --code PATH the file or folder"
    for name in ("resume", "evaluate", "render", "repeat"):
        refused(re.escape(said), name, a)
    with pytest.raises(ValueError, match=r"own.py is gone: code=run uses the copies inside .*, code=PATH the file"):
        purerl.runs.load(a)
    assert command("plot", a, "--out", tmp_path / "plot.png") == 0
    for code in ("run", a / "code", elsewhere, elsewhere / "own.py"):
        run = purerl.runs.load(a, code=code)
        assert json.loads(json.dumps({"format": 1, **run.plan.config})) == files.read_config(a)
    assert command("resume", a, "--steps", 96, "--code", "run") == 0
    assert files.read_config(a)["agent"] == f"{gone}:mine" and files.read_manifest(a)["resumed"] == []
    assert command("resume", a, "--steps", 128, "--code", elsewhere) == 0
    assert files.read_manifest(a)["resumed"] == [{"iteration": 3, "differs": {}, "code": str(elsewhere)}]
    assert command("repeat", a, "--code", "run", "--dir", tmp_path / "b") == 0
    assert sorted(snapshot(a / "code").values()) == sorted(snapshot(tmp_path / "b" / "code").values())
    capsys.readouterr()
    refused("--code .*/nowhere: there is no such file or folder", "evaluate", a, "--code", tmp_path / "nowhere")
    refused("a: there is no .*own.py, which the run needs for", "evaluate", a, "--code", a)
    (a / "code" / "numpy.py").write_text("")
    refused("numpy.py is not in the manifest, and could be imported", "resume", a, "--code", "run")
    (a / "code" / "beside.py").write_text("RATE = 0.7")
    refused("beside.py, differs from its SHA-256 in the manifest; it is not executed", "resume", a, "--code", "run")
    manifest = (a / "manifest.json").read_text()
    (a / "manifest.json").write_text(manifest.replace(str(gone), str(gone).replace("own", "other")))
    refused("names .*own.py, which its manifest lacks; it is not run", "resume", a, "--code", "run")
    assert not list(a.rglob("__pycache__"))


def test_a_neighbour_that_has_changed_is_named(moved, tmp_path, refused, monkeypatch, capsys):
    home, a = moved / "home", tmp_path / "a"
    shutil.copytree(moved / "here", a)
    shutil.copytree(moved / "elsewhere", home)
    (home / "beside.py").write_text("RATE = 0.75\n")
    try:
        refused("beside.py has changed since the run was made: --code run uses", "resume", a)
        assert command("repeat", a) == 0  # tries it, and finds that it is the same
        assert "changed since that run was made, without effect on them: " in (said := capsys.readouterr().err), said
        manifest = files.read_json(a / "manifest.json")
        manifest["parameters"][0]["sha256"] = "0" * 64
        files.write_json(a / "manifest.json", manifest)
        monkeypatch.setenv("COLUMNS", "400")
        assert command("repeat", a) == 1
        (row,) = [line for line in capsys.readouterr().out.split("\n") if "│ file " in line]
        assert "beside.py" in row
    finally:
        shutil.rmtree(home)


def test_copies_of_older_runs_are_found(moved, tmp_path):
    a = tmp_path / "a"
    shutil.copytree(moved / "here", a)
    for path in [*(a / "code").iterdir()]:
        path.rename(path.with_name(f"{files.digest_of(path)[:8]}-{path.name}"))
    (own,) = (a / "code").glob("*-own.py")
    used = sources.sources(a, files.read_config(a), files.read_manifest(a)["made_with"]["files"], "run")
    assert used[str(moved / "home" / "own.py")] == str(own)


def test_folders_of_models_and_data_are_taken_from_elsewhere():
    used = {"/m/model/config.json": "/r/code/m/model/config.json", "/d/notes.txt": "/r/code/d/notes.txt"}
    config = {"agent": "grpo", "text": {"model": "/m/model", "data": "/d/notes.txt", "reward": "exact"}}
    new = sources.renamed(config, used)["text"]
    assert new == {"model": "/r/code/m/model", "data": "/r/code/d/notes.txt", "reward": "exact"}
    assert sources.renamed({"kind": "pretraining", "data": "/d/notes.txt"}, used)["data"] == "/r/code/d/notes.txt"


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(small, tmp_path, monkeypatch, capsys):
    """A file-size limit would be the process's own; so the writes fail as they do on a full disk."""
    a = tmp_path / "a"
    save, saves = checkpoint.safetensors.numpy.save_file, []

    def full(leaves, path, metadata):
        saves.append(path)
        if len(saves) == 3:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(leaves, path, metadata)

    monkeypatch.setattr(checkpoint.safetensors.numpy, "save_file", full)
    assert train_own(a, "--save-every", 0) == 2
    error = capsys.readouterr().err.strip().split("\n")[-2]  # the last has the place in this file
    assert error.startswith("purerl: error: ") and "No space left on device" in error
    assert f"iteration 8 is on disk: purerl resume {a}" in error
    monkeypatch.undo()
    assert [p.name for p in (a / "checkpoints").iterdir() if p.suffix == ".part"] == []
    assert command("resume", a) == 0
    assert shas(a) == shas(small)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_while_metrics_are_written(small, tmp_path, monkeypatch, capsys):
    a, append = tmp_path / "a", files.append_metrics
    monkeypatch.setattr(files, "append_metrics", lambda path, *rest: append(Path("/dev/full"), *rest))
    assert train_own(a) == 2
    assert "/dev/full cannot be written: No space left on device; iteration 0 is on disk" in capsys.readouterr().err
    monkeypatch.undo()
    assert command("resume", a) == 0
    assert shas(a) == shas(small)
