"""The pages' Python runs, as somebody who copies it would run it, and has no errors of types."""

import json
import re
import subprocess
import sys

import pages
import pytest
from commands import finished

PAGES = [page for page in pages.pages() if pages.python(page)]
SMALL = ["--steps", "1024", "--seeds", "2", "--num-envs", "4", "--rollout-length", "32", "--hidden", "4"]
TRAININGS = ["--updates", "4", "--changes", "2", "--parallel", "4", "--trainings", "16", "--seeds", "1"]
RUNS = {  # directories that pages read, and the commands that write them
    "runs/ppo-CartPole-v1": [
        ["train", "ppo", "CartPole-v1", *SMALL],
        ["export", "runs/ppo-CartPole-v1", "--episodes", "4"],
    ],
    "runs/optimise-mlp-teacher-student": [["optimise", "mlp", "teacher-student", *TRAININGS, "--compared", "3"]],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with those directories."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(pages.ROOT))
        for arguments in (x for commands in RUNS.values() for x in commands):
            code, _, error = finished(*arguments)
            assert code == 0, error
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page, tmp_path, monkeypatch, request):
    """All blocks of a page in turn, in a folder of their own, in one process; `# → x` says what is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(pages.ROOT))
    pages.write_files(page, tmp_path)
    if any(f'"{name}' in pages.python(page) for name in RUNS):
        (tmp_path / "runs").symlink_to(request.getfixturevalue("runs") / "runs")
    bits = {"XLA_FLAGS": ""} if "# → True" in pages.python(page) else {}  # those of tests change bits
    code, out, error = finished(code=pages.python(page), **bits)
    last = error.strip().split("\n")[-1]
    if code and "pip install 'purerl[" in last:
        pytest.skip(last)
    assert code == 0, error
    lines = iter(out.split("\n"))
    for shown in re.findall(r"# → (.*)$", pages.python(page), re.MULTILINE):
        assert shown in lines, f"{page.name}: nothing printed, after what was shown before, is {shown!r}:\n{out}"
    if page.name == "README.md":
        assert [line.split()[0] for line in out.strip().split("\n") if line[0] in "24"] == ["20", "40"], out


def test_python_has_no_errors_of_types(tmp_path):
    """By pyright's own rules, which are stricter than this project's."""
    pytest.importorskip("pyright")
    for page in PAGES:
        folder = tmp_path / page.name.replace("/", "_").removesuffix(".md")
        folder.mkdir()
        pages.write_files(page, folder)
        (folder / "shown.py").write_text(pages.python(page))
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(pages.ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
