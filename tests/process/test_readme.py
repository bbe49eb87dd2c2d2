"""The README's Python runs, as somebody who copies it would run it, and has no errors of types."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import finished

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_python_in_the_readme_runs():
    code, out, error = finished(code="\n".join(BLOCKS))
    assert code == 0, error
    lines = out.strip().split("\n")
    assert [line.split()[0] for line in lines if line[0] in "24"] == ["20", "40"], out


def test_python_in_the_readme_has_no_errors_of_types(tmp_path):
    """By pyright's own rules, which are stricter than this project's."""
    pytest.importorskip("pyright")
    for number, block in enumerate(BLOCKS):
        (tmp_path / f"readme_{number}.py").write_text(block)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
