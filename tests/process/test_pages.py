"""The pages' Python runs, as somebody who copies it would run it, and has no errors of types."""

import json
import subprocess
import sys

import pages
import pytest
from commands import finished

PAGES = [page for page in pages.pages() if pages.python(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page, tmp_path, monkeypatch):
    """All blocks of a page in turn, in a folder of their own, in one process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(pages.ROOT))
    pages.write_files(page, tmp_path)
    code, out, error = finished(code=pages.python(page))
    last = error.strip().split("\n")[-1]
    if code and "pip install 'purerl[" in last:
        pytest.skip(last)
    assert code == 0, error
    if page.name == "README.md":
        assert [line.split()[0] for line in out.strip().split("\n") if line[0] in "24"] == ["20", "40"], out


def test_python_has_no_errors_of_types(tmp_path):
    """By pyright's own rules, which are stricter than this project's."""
    pytest.importorskip("pyright")
    for number, page in enumerate(PAGES):
        (tmp_path / f"{number}_{page.name.replace('/', '_').removesuffix('.md')}.py").write_text(pages.python(page))
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(pages.ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
