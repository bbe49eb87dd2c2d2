"""The user's folder for what can be computed again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Of compiled programs and the catalogue, such as ~/.cache/purerl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purerl"
