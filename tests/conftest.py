"""Two XLA devices on the CPU, so that everything sharded is tested anywhere; compiled fast rather than to run fast."""

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLAGS = " --xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_compilation_cache", False)  # what is tested is compiled


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def cartpole():
    import purerl

    return purerl.make("CartPole-v1")


@pytest.fixture(autouse=True)
def room_for_programs():
    """Every compiled program keeps pages mapped, and Linux allows a process 65,530 of them: one more kills it."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
