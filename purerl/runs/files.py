"""A run's directory: config.json, manifest.json, metrics.csv, checkpoints/, curve.png, and code/ for users' files."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import purerl
from purerl.runs import checkpoint

FORMAT = 1
SWEEP, SEARCH = "sweep", "search"  # kinds of directories whose folders are runs
CONFIG, MANIFEST, METRICS, CHECKPOINTS, CURVE, CODE = (
    "config.json", "manifest.json", "metrics.csv", "checkpoints", "curve.png", "code",
)  # fmt: skip

# --- small files ----------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Write a text file to a temporary path, and replace `path` by it atomically.

    Raises:
      OSError: if it cannot be written; the message names the path.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        checkpoint.move_into_place(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: dict) -> None:
    """Write a dict as readable JSON; see `write`."""
    write(path, json.dumps(value, indent=1) + "\n")


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a directory, with the format in which it is."""
    write_json(directory / CONFIG, {"format": FORMAT, **config})


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a JSON file.

    Raises:
      ValueError: if there is none, or if it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """The config of a run's directory.

    Raises:
      ValueError: if the directory holds no run, or one of another format.
    """
    if not (directory / CONFIG).is_file():
        raise ValueError(f"{directory} is not the directory of a run: it has no {CONFIG}")
    config = read_json(directory / CONFIG)
    if config.get("format") != FORMAT:
        raise ValueError(f"{directory} has format {config.get('format')!r}; this version reads format {FORMAT}")
    return config


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a run's directory.

    Raises:
      ValueError: if there is none, or if the file is not a manifest.
    """
    manifest = read_json(directory / MANIFEST)
    parts = {"made_with": dict, "resumed": list, "parameters": list}
    if not all(isinstance(manifest.get(name), kind) for name, kind in parts.items()):
        raise ValueError(f"{directory / MANIFEST} is not a manifest: it must have {', '.join(parts)}")
    if not {"files", "num_devices"} <= manifest["made_with"].keys():
        raise ValueError(f"{directory / MANIFEST} is not a manifest: made_with lacks files or num_devices")
    return manifest


def check_no_search(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise a ValueError if a directory with this config holds a search, where a run or a sweep is meant."""
    if config.get("kind") == SEARCH:
        raise ValueError(f"{directory} is a search; name one of its runs, such as {directory / 'final'}")


def check_new(directory: Path) -> None:
    """Raise a ValueError if a directory exists and is not empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        what = "holds another run" if (directory / CONFIG).exists() else "exists and is not empty"
        raise ValueError(f"{directory} {what}; give another --dir, or remove it first")


def create(directory: Path, config: dict, manifest: dict, copies: Iterable[tuple[str, Path]]) -> None:
    """Create the directory of a new run; `copies`: files to copy into it, and their paths in it.

    Raises:
      ValueError: if it exists and is not empty.
      OSError: if it cannot be made or written to.
    """
    check_new(directory)
    try:
        (directory / CHECKPOINTS).mkdir(parents=True)
        for path, inside in copies:
            (directory / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, directory / inside)
    except OSError as error:
        raise OSError(f"{directory} cannot be made: {error.strerror or error}") from error
    write_json(directory / MANIFEST, manifest)
    write_config(directory, config)


def create_sweep(directory: Path, members: Mapping[str, Mapping[str, str]]) -> None:
    """Create the directory of a new sweep over structure: folders of runs, and the values by which they differ.

    Raises:
      ValueError: if it exists and is not empty.
      OSError: if it cannot be made or written to.
    """
    check_new(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{directory} cannot be made: {error.strerror or error}") from error
    write_config(directory, {"kind": SWEEP, "members": members})


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock the directory against other processes that train; the lock ends with the process, however that ends.

    Raises:
      ValueError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock: there, two processes in one directory are not prevented
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ValueError(f"{directory} is being trained by another process") from error
    finally:
        os.close(handle)


# --- the manifest ---------------------------------------------------------------------------------------------------


def processor() -> str:
    """A name for this kind of processor, from its instruction sets."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().split("\n") if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.platform() + platform.processor()
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"


def commit() -> str | None:
    """The git commit of the package's sources, with `+` if they differ from it; None if they are not in git."""
    folder = Path(purerl.__file__).parent
    ask = lambda *words: subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
    try:
        if ask("ls-files", "--error-unmatch", "__init__.py").returncode:
            return None
        changed = ask("status", "--porcelain", "--", ".").stdout.strip()
        return ask("rev-parse", "HEAD").stdout.strip() + ("+" if changed else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def made_with(
    devices: Sequence[Any], num_runs: int, files: Mapping[str, str], devices_per_seed: int = 1
) -> dict[str, Any]:
    """Everything besides the config on which the bits of a run may depend."""
    packages = ("jax", "jaxlib", "flax", "optax", "chex", "gymnax", "numpy")
    read = lambda name: str(getattr(jax.config, name, None))
    return {
        "python": platform.python_version(),
        "purerl": purerl.__version__,
        "commit": commit(),
        **{name: _version(name) for name in packages},
        "system": platform.platform(),
        "processor": processor(),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "runs_per_device": -(-num_runs * devices_per_seed // len(devices)),
        **({"devices_per_seed": devices_per_seed} if devices_per_seed > 1 else {}),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "prng": read("jax_default_prng_impl"),
        "threefry_partitionable": read("jax_threefry_partitionable"),
        "enable_x64": read("jax_enable_x64"),
        "matmul_precision": read("jax_default_matmul_precision"),
        "files": {name: digest_of(path) for name, path in files.items()},
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The entries in which two results of `made_with` differ: `(name, before, now)`; each file is an entry."""
    before, now = ({**made, **{f"file {p}": sha for p, sha in made["files"].items()}, "files": None} if "files" in made
                   else made for made in (before, now))  # fmt: skip
    names = [*before, *(name for name in now if name not in before)]
    return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]


def hashes(leaves: dict[str, np.ndarray], num_runs: int) -> list[str]:
    """SHA-256 of the state of each run's agent: its parameters, optimiser state and normalisers.

    Args:
      leaves: of the learner's state, `[R, ...]`, as `checkpoint.to_host` returns them.
    """
    out = [hashlib.sha256() for _ in range(num_runs)]
    for name, x in sorted(leaves.items()):
        if name.startswith(".agent"):
            for run, total in enumerate(out):
                total.update(f"{name}{x.dtype}{x.shape[1:]}".encode() + x[run].tobytes())
    return [total.hexdigest() for total in out]


# --- metrics.csv ----------------------------------------------------------------------------------------------------


class Metrics(NamedTuple):
    """The metrics of R runs, in K chunks. A run that has ended has no more rows: 0 episodes, and NaN."""

    iterations: np.ndarray  # int [K]
    steps: np.ndarray  # int [K], environment steps of each run
    columns: dict[str, np.ndarray]  # float [K, R]: episodes, episode_return, episode_length, the agent's own


def _shortest(x: Any) -> str:
    return str(x) if isinstance(x, (str, int)) else str(np.float32(x))


def append_metrics(
    path: Path,
    iteration: int,
    steps: int,
    about: Mapping[str, Sequence],
    metrics: dict[str, np.ndarray],
    live: np.ndarray,
) -> None:
    """Append the rows of one chunk, one for each live run, with its values of `about` (seed, swept values).

    metrics: arrays `[R]`.  live: bool `[R]`.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    if not path.exists():
        rows.writerow(["run", *about, "iteration", "steps", *metrics])
    for run in map(int, np.flatnonzero(live)):
        known = [_shortest(values[run]) for values in about.values()]
        cells = [int(x[run]) if name == "episodes" else _shortest(x[run]) for name, x in metrics.items()]
        rows.writerow([run, *known, iteration, steps, *cells])
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def read_metrics(path: Path, num_runs: int) -> Metrics:
    """The table of a run, without a last line that is incomplete.

    Raises:
      ValueError: if the file is not such a table.
    """
    rows: list[dict[str, str]] = []
    if path.exists():
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    try:
        steps = dict(sorted({int(row["iteration"]): int(row["steps"]) for row in rows}.items()))
        at = {iteration: k for k, iteration in enumerate(steps)}
        names = [name for name in (rows[0] if rows else ()) if name not in ("run", "iteration", "steps")]
        columns = {name: np.full((len(at), num_runs), np.nan, np.float32) for name in names}
        for row in rows:
            for name in names:
                columns[name][at[int(row["iteration"])], int(row["run"])] = float(row[name])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not the table of a run: {type(error).__name__}: {error}") from error
    if "episodes" in columns:
        columns["episodes"] = np.nan_to_num(columns["episodes"])
    return Metrics(np.array(list(steps), int), np.array(list(steps.values()), int), columns)


def read_about(path: Path) -> dict[str, list[str]]:
    """The values that distinguish the runs of a table, by name: the seed and the swept values, one for each run."""
    rows: dict[int, list[str]] = {}
    head: list[str] = []
    if path.exists():
        with path.open(encoding="utf-8") as file:
            head, *lines = [*csv.reader(line for line in file if line.endswith("\n"))] or [[]]
    if "iteration" not in head:
        return {}
    names = head[1 : head.index("iteration")]
    for row in lines:
        rows.setdefault(int(row[0]), row[1 : len(names) + 1])
    return {name: [rows[run][k] for run in sorted(rows)] for k, name in enumerate(names)}


def cut_metrics(path: Path, iteration: int) -> None:
    """Remove the rows after an iteration; the resumed run writes them again."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)  # the last line may be incomplete
    at = next(csv.reader(lines[:1]), []).index("iteration") if lines else 0
    keep = [line for line in lines[1:] if int(next(csv.reader([line]))[at]) <= iteration]
    if keep:
        write(path, "".join([lines[0], *keep]))
    else:
        path.unlink()
