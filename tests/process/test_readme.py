"""The README's Python runs, as somebody who copies it would run it."""

import re
from pathlib import Path

from commands import finished

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_python_in_the_readme_runs():
    code, out, error = finished(code="\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)))
    assert code == 0, error
    lines = out.strip().split("\n")
    assert [line.split()[0] for line in lines if line[0] in "24"] == ["20", "40"], out
