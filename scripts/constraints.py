"""Write constraints.txt: the versions that this Python resolves to, beside those of the other Pythons.

    python3.11 scripts/constraints.py && python3.13 scripts/constraints.py

Python 3.11 has lines of its own, since it is held at an older jax; 3.12 and later share theirs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "constraints.txt"
HEADER = "# What was tested. Written by scripts/constraints.py; run it with Python 3.11 and with 3.12 or later.\n"
OLD, NEW = 'python_version < "3.12"', 'python_version >= "3.12"'


def frozen() -> dict[str, str]:
    """Names and versions of everything that a fresh environment installs."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # jax 0.10 is excluded; on Python 3.11 that leaves 0.9.2
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[dev,notebooks,docs]"], check=True)
        out = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    pins = dict(line.split("==") for line in out.split() if "==" in line)
    return {name.lower(): pin for name, pin in pins.items() if name.lower() != "purerl"}


def main() -> None:
    """Replace this Python's lines and keep the others'."""
    mine, other = (OLD, NEW) if sys.version_info < (3, 12) else (NEW, OLD)
    kept: dict[str, str] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []:
        match = re.fullmatch(r"(\S+)==(\S+?)(?: ; (.*))?", line)
        if match and match[3] in (None, other):
            kept[match[1]] = match[2]
    pins, lines = frozen(), []
    for name in sorted({*pins, *kept}):
        if pins.get(name) == kept.get(name):
            lines.append(f"{name}=={pins[name]}")
        else:
            lines += [f"{name}=={pins[name]} ; {mine}"] if name in pins else []
            lines += [f"{name}=={kept[name]} ; {other}"] if name in kept else []
    FILE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
