"""Agents whose environments share devices; what the files for clusters say; checks that need no second process."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from commands import command, newest, same_bits, train_own

from purerl.cli import main as cli
from purerl.runs import devices, files
from purerl.training import processes

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "scale.md", DOCS / "howto" / "several-machines.md"]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """One seed whose four environments are split over two devices."""
    directory = tmp_path_factory.mktemp("split") / "run"
    assert train_own(directory, "--devices-per-seed", 2, seeds=1) == 0
    return directory


def test_devices_share_the_environments_of_a_seed(split, tmp_path):
    """The results are those of one device up to rounding, and repeat to the same bits."""
    assert train_own(tmp_path / "one", "--devices", 1, seeds=1) == 0
    two, one = newest(split), newest(tmp_path / "one")
    assert two.keys() == one.keys()
    params = [name for name in two if name.startswith(".agent.params")]
    assert params and all(np.abs(two[name] - one[name]).max() < 1e-6 for name in params)
    made = files.read_manifest(split)["made_with"]
    assert (made["num_devices"], made["devices_per_seed"], made["runs_per_device"]) == (2, 2, 1)
    assert command("repeat", split, "--dir", tmp_path / "again") == 0
    same_bits(split, tmp_path / "again")


def test_a_resumed_run_has_as_many_devices_for_each_seed(split, tmp_path):
    job = {"seeds": 1, "steps": 320}
    assert train_own(tmp_path / "a", "--devices-per-seed", 2, "--anneal-steps", 640, **job) == 0
    assert command("resume", tmp_path / "a", "--steps", 640) == 0
    assert files.read_manifest(tmp_path / "a")["resumed"] == []
    for name, x in newest(split).items():
        np.testing.assert_array_equal(x, newest(tmp_path / "a")[name], name)


@pytest.mark.parametrize(
    "options, said",
    [
        (["--devices-per-seed", "3"], "--devices-per-seed is 3; there are 2 devices"),
        (["--devices-per-seed", "2", "--num-envs", "3"], "2 devices; their number must divide num_envs, which is 3"),
        (
            ["--devices-per-seed", "2", "--isolate-seeds"],
            "devices_per_run is 2: isolate is for runs of one",
        ),
        (["--devices-per-seed", "2", "--episodic"], "this learner is episodic"),
        (["--distributed", "host:1"], "it must be HOST:PORT,PROCESS/PROCESSES"),
        (["--distributed", "host:1,2/2"], "of 2 processes the numbers are 0 to 1"),
        (["--peer-timeout", "0"], "0.0 is not in the range x>=1"),
    ],
)
def test_what_does_not_fit_is_one_line(options, said, tmp_path, capsys):
    assert train_own(tmp_path / "a", *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.splitlines()[-1].startswith("purerl: error: ") and "Traceback" not in error
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "asked, runs, each, said",
    [
        (None, 5, 1, r"5 runs \(seeds x configurations\) on 2 devices of 2 processes: .* such as 4 or 6"),
        (None, 1, 1, r"1 run .*: --devices-per-seed 2 splits the environments of each"),
        (None, 4, 3, r"4 runs .* --devices-per-seed 3: --devices-per-seed must divide the number of devices"),
        (1, 4, 1, "--devices is 1; with --distributed all devices of all processes are used"),
    ],
)  # fmt: skip
def test_runs_are_split_evenly_over_processes(asked, runs, each, said, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(ValueError, match=said):
        devices.usable_devices(asked, runs, each)
    assert len(devices.usable_devices(None, 4)) == len(devices.usable_devices(None, 1, 2)) == 2


# --- documents --------------------------------------------------------------------------------------------------------


def commands_of(text):
    """The purerl commands of a script, without what only a shell knows."""
    joined = text.replace("\\\n", " ")
    found = [re.sub(r'"\$\w+"', "host:1,0/2", line) for line in joined.split("\n") if re.search(r"\bpurerl \w", line)]
    return [shlex.split(line[re.search(r"\bpurerl \w", line).start() :].rstrip(" &")) for line in found
            if not line.lstrip().startswith("#")]  # fmt: skip


def parses(words):
    found, (name, *arguments) = cli.purerl_command, words[1:]
    while isinstance(found, click.Group):
        found = found.get_command(click.Context(found), name)
        name, *arguments = arguments if isinstance(found, click.Group) else (name, *arguments)
    arguments = [re.sub(r"\$\w+", "runs/a", word) for word in arguments]
    return found.make_context(name, arguments).params


def test_the_script_for_slurm():
    path = DOCS / "scripts" / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert int(asked["nodes"]) * int(asked["ntasks-per-node"]) == 64 and asked["gpus-per-node"] == "8"
    resumed, new = [parses(words) for words in commands_of(text)]
    assert resumed["distributed"] == new["distributed"] == "" and new["seeds"] == 1024


def test_the_manifest_for_kubernetes():
    service, job = yaml.safe_load_all((DOCS / "scripts" / "kubernetes.yaml").read_text())
    assert (service["apiVersion"], service["kind"], service["spec"]["clusterIP"]) == ("v1", "Service", "None")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pods = job["spec"]["template"]["spec"]
    assert pods["subdomain"] == service["metadata"]["name"] and pods["restartPolicy"] in ("OnFailure", "Never")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 64
    (container,) = pods["containers"]
    (script,) = container["args"]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    name, port = job["metadata"]["name"], 1234
    assert f'"{name}-0.{pods["subdomain"]}:{port},$JOB_COMPLETION_INDEX/64"' in script
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pods["volumes"]}
    resumed, new = [parses(words) for words in commands_of(script)]
    assert resumed["run"] == new["directory"] and new["seeds"] == 1024


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_of_the_pages(page):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for words in commands_of(block):
            assert parses(words)
        subprocess.run(["bash", "-n", "-c", block], check=True)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
