"""Two XLA devices on the CPU, so that everything sharded is tested anywhere; programs are compiled fast and kept.

A folder is a tier, and a marker of the same name: `pytest -m contract` is `pytest tests/contract`. Tests marked `wide`
run only in `make test-all`.
"""

import gc
import hashlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TIERS = ("unit", "contract", "runs", "learning", "process")
FLAGS = "--xla_cpu_multi_thread_eigen=false"
FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.9."):  # later versions have no such choice, and end at a flag that they do not know
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
NOT_SMOKE = (  # most of the time of the unit tests
    *("test_execution.py", "test_highway.py", "test_car_following.py", "test_portfolio.py"),
    *("test_acquisition.py", "test_glimpses.py"),
    *("test_tabular.py", "test_memory.py", "test_distributions.py", "test_rewards.py"),
    *("test_text_metrics.py", "test_text_objectives.py", "test_text_models.py", "test_text_generation.py"),
    *("test_text_environment.py", "test_text_rewards.py", "test_sequence_agents.py", "test_text_likelihood.py"),
    *("test_training_control.py", "test_training_control_env.py", "test_architecture_search.py"),
    *("test_inventory.py", "test_traffic_signal.py", "test_spectrum.py", "test_battery.py"),
    *("test_replay.py", "test_values.py", "test_exploration.py", "test_metagradient.py", "test_pbt.py"),
    *("test_fields.py", "test_fields_benchmarks.py"),
)
MOST_MAPPINGS = 40_000  # of the 65,530 that Linux allows a process; every compiled program keeps some

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def tier_of(path):
    """The folder of a test, such as "unit"."""
    return next((part for part in Path(path).parts if part in TIERS), None)


def cache_folder():
    """Compiled programs are kept beside the checkout or where asked, for this processor and these versions alone."""
    import jax
    import jaxlib

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    about = [platform.machine(), *processor, jax.__version__, jaxlib.__version__, sys.version]
    folder = Path(os.environ.get("PURERL_TEST_CACHE", ROOT / ".cache"))
    return str(folder / f"xla-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}")


def pytest_configure(config):
    """Runs before any program is compiled. Learning tests are compiled to run fast, if no others are asked for."""
    asked = {tier_of(str(argument).split("::")[0]) for argument in config.args}
    learning = asked == {"learning"} or config.getoption("markexpr") == "learning"
    flags = FLAGS if learning else f"{FLAGS} {FAST_TO_COMPILE}"
    if FLAGS not in os.environ.get("XLA_FLAGS", ""):  # a worker has them from the process that started it
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_compilation_cache_dir", cache_folder())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # two workers compile many of the same
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish():
    """Collections are rare: each goes through every program that was traced, and together they took a tenth of time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def pytest_collection_modifyitems(items):
    for item in items:
        if tier := tier_of(item.path):
            item.add_marker(tier)
        if tier == "unit" and item.path.name not in NOT_SMOKE and not item.get_closest_marker("wide"):
            item.add_marker("smoke")


@pytest.fixture
def key():
    import jax

    return jax.random.key(0)


@pytest.fixture(scope="session")
def cartpole():
    import purerl

    return purerl.make("CartPole-v1")


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """At the end of a file, if the process is near the limit of its mappings: one more would kill it."""
    yield
    import jax

    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
