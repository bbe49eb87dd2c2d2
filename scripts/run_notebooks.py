"""Execute notebooks in place of reading them: every cell must run, and each notebook's time is printed."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

import nbclient
import nbformat
from nbclient.exceptions import CellControlSignal, DeadKernelError

# For the kernels: nearly all of their time is compiling, and a program runs for seconds. A caller's own flags stand.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


async def execute(path: Path, write: bool, free: asyncio.Semaphore) -> bool:
    """Whether every cell of a notebook runs, waiting for a free place to begin."""
    async with free:
        begin, passed = time.perf_counter(), True
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={})
        try:
            await client.async_execute(cwd=str(path.parent))
            if write:
                for cell in notebook.cells:
                    cell.metadata.pop("execution", None)
                notebook.metadata.pop("widgets", None)
                nbformat.write(notebook, path)
        except (CellControlSignal, DeadKernelError) as error:
            passed = False
            print(f"{path}: {error}", file=sys.stderr)
        print(f"{path}: {time.perf_counter() - begin:.0f} s", flush=True)
        return passed


async def execute_all(paths: list[Path], write: bool, jobs: int) -> list[bool]:
    """Whether each notebook passed; `jobs` of them run at a time."""
    free = asyncio.Semaphore(jobs)
    return await asyncio.gather(*(execute(path, write, free) for path in paths))


def main() -> None:
    """Run every notebook given; exit 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the files")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks that run at a time (default: 1)")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; it must be at least 1")
    passed = asyncio.run(execute_all(options.paths, options.write, options.jobs))
    print(f"{sum(passed)} passed, {passed.count(False)} failed")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
