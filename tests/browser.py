"""A real browser without a window, if there is one: what a page shows once its scripts have run."""

import shutil
import subprocess

import pytest

WORDS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=60000",
         "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--dump-dom")  # fmt: skip
NAME = "chromium"
needed = pytest.mark.skipif(not shutil.which(NAME), reason=f"needs {NAME}")


def shown(address, profile):
    """The page at an address, as HTML, without any network but this machine's; `profile`: a folder of the browser."""
    words = [NAME, *WORDS, f"--user-data-dir={profile}", address]
    return subprocess.run(words, capture_output=True, text=True, timeout=300).stdout
