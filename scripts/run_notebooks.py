"""Execute notebooks in place of reading them: every cell must run, and each notebook's time is printed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbclient
import nbformat


def main() -> None:
    """Run every notebook given; exit 1 if one fails. With --write, keep the outputs in the file."""
    write = "--write" in sys.argv
    failed = 0
    paths = [Path(argument) for argument in sys.argv[1:] if argument != "--write"]
    for path in paths:
        begin = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={})
        try:
            client.execute(cwd=str(path.parent))
            if write:
                for cell in notebook.cells:
                    cell.metadata.pop("execution", None)
                notebook.metadata.pop("widgets", None)
                nbformat.write(notebook, path)
        except nbclient.exceptions.CellExecutionError as error:
            failed += 1
            print(error, file=sys.stderr)
        print(f"{path}: {time.perf_counter() - begin:.0f} s")
    print(f"{len(paths) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
