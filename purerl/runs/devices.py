"""The devices that runs are split over, and the configuration of jax for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from purerl import replay
from purerl.runs import files, report
from purerl.runs.cache import cache_folder
from purerl.training import processes

# The matrix products here are small: two threads for one product are slower than one. A loop whose iteration touches
# fewer bytes than the threshold, such as acting in a few environments, is compiled as one function; see
# benchmarks/NOTES.md.
FLAGS = (
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=200000",
)
# LLVM's second level of optimisation in place of the third: see benchmarks/NOTES.md
QUICK = "--xla_backend_optimization_level=2"


def _cores() -> int:
    """The number of processor cores that this process may use; on macOS, of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_compilation_cache(directory: str | Path | None = None) -> Path:
    """See `purerl.runs.use_compilation_cache`."""
    there = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if directory is None and there:
        return Path(there)
    own = cache_folder() / "jax" / files.processor() if directory is None else Path(directory)
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    reset_cache()  # jax decides at its first program whether there is a cache
    return own


def turn_off_compilation_cache() -> None:
    """Neither read nor write stored programs from here on."""
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # jax decides at its first program whether there is a cache


def set_up_jax(one_device: bool = False, quick: bool = False) -> None:
    """Set up one XLA device for each core, one thread each, and a cache of compiled programs. Call before jax is used.

    one_device: set up a single device that uses all cores instead, for a single run of larger matrix products.
    quick: compile with the flag of `QUICK`, for runs that take hardly longer than their compilation.

    Numbers have 32 bits, whatever JAX_ENABLE_X64 says: the states of learners have fixed dtypes, and a run is to be
    the same everywhere.

    The flags of `FLAGS` are added to XLA_FLAGS unless it names them. A program compiled for one kind of processor must
    not run on another that shares the disk, so each kind has its own cache.
    """
    if jax.__version__.startswith("0.10."):
        report.note(f"jax {jax.__version__} deadlocks on CPU in programs such as this one; install 0.9.2 or 0.11.2")
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        report.note("JAX_ENABLE_X64 is set and has no effect here: runs are in float32")
        jax.config.update("jax_enable_x64", False)
    given, flags = os.environ.get("XLA_FLAGS", ""), (FLAGS[1:] if one_device else FLAGS) + (QUICK,) * quick
    os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in flags if flag.split("=")[0] not in given)]).strip()
    use_compilation_cache()
    try:
        if jax.config.jax_num_cpu_devices < 1:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_num_cpu_devices", 1 if one_device else _cores())
    except RuntimeError:  # a user's file has used jax already: its devices stay as they are
        pass


def usable_devices(asked: int | None, num_runs: int, per_seed: int = 1) -> list[Any]:
    """The devices to split runs over: as many as requested, or all; never more than the runs need, `per_seed` each.

    Several processes use all of their devices, each for as many runs.

    Raises:
      ValueError: if there are fewer than requested, or the runs cannot be split over them.
    """
    available = jax.devices()
    if processes.count() > 1:
        if asked is not None:
            raise ValueError(f"--devices is {asked}; with --distributed all devices of all processes are used")
        groups = len(available) // per_seed
        if groups * per_seed != len(available) or num_runs % groups:
            among = f", --devices-per-seed {per_seed}" if per_seed > 1 else ""
            raise ValueError(
                f"{report.counted(num_runs, 'run')} (seeds x configurations) on {len(available)} devices of "
                f"{processes.count()} processes{among}: {_what_fits(num_runs, len(available), per_seed)}"
            )
        return available
    if asked is not None and asked > len(available):
        raise ValueError(f"--devices is {asked}; there are {len(available)}")
    groups = min((asked or len(available)) // per_seed, num_runs)
    if groups < 1:
        raise ValueError(f"--devices-per-seed is {per_seed}; there are {asked or len(available)} devices")
    return available[: groups * per_seed]


def _what_fits(num_runs: int, num_devices: int, per_seed: int) -> str:
    """What would split runs over all devices of several processes."""
    if num_devices % per_seed:
        return "--devices-per-seed must divide the number of devices"
    groups = num_devices // per_seed
    less, more = num_runs // groups * groups, -(-num_runs // groups) * groups
    if less:
        return f"there must be a multiple of {groups}, such as {less:,} or {more:,}"
    if num_devices % num_runs:
        return f"there must be a multiple of {groups}"
    return f"--devices-per-seed {num_devices // num_runs} splits the environments of each"


def check_memory(state: Any, num_runs: int) -> None:
    """Raise a ValueError unless the states of all runs fit into the memory of the devices."""
    needed = num_runs * replay.bytes_of(state)
    there = replay.device_bytes()
    there = there and there * (processes.count() if jax.default_backend() == "cpu" else jax.device_count())
    if there is not None and needed > there:
        raise ValueError(f"the states of {num_runs} runs need {needed / 1e9:.1f} GB, most of it replay buffers; "
                         f"there are {there / 1e9:.1f} GB: lower --capacity or --seeds")  # fmt: skip
