"""Execute notebooks in place of reading them: every cell must run, and each notebook's time is printed."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbclient
import nbformat


def run(path: Path, write: bool) -> bool:
    """Whether every cell of a notebook ran. With write, keep the outputs in the file."""
    begin, error = time.perf_counter(), None
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={})
    try:
        client.execute(cwd=str(path.parent))
        if write:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)
            notebook.metadata.pop("widgets", None)
            nbformat.write(notebook, path)
    except nbclient.exceptions.CellExecutionError as raised:
        error = raised
        print(error, file=sys.stderr)
    print(f"{path}: {time.perf_counter() - begin:.0f} s", flush=True)
    return error is None


def main() -> None:
    """Run every notebook given, one a core at a time; exit 1 if one fails."""
    paths = [Path(argument) for argument in sys.argv[1:] if argument != "--write"]
    with ProcessPoolExecutor(max(1, min(len(paths), os.cpu_count() or 1))) as pool:
        passed = sum(pool.map(partial(run, write="--write" in sys.argv), paths))
    print(f"{passed} passed, {len(paths) - passed} failed")
    sys.exit(passed < len(paths))


if __name__ == "__main__":
    main()
