"""A job: what the words of a config stand for, and the runs that it trains, in chunks."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purerl import normalize, replay, rewards, statistics, training
from purerl.host import loggers, options, report, runs
from purerl.host.progress import Progress

# The matrix products here are small: two threads on one of them are slower than one. A loop whose iteration touches
# fewer bytes than the threshold, such as acting in a few environments, is compiled as one function: see
# benchmarks/NOTES.md.
FLAGS = (
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=200000",
)
FEWEST_CHUNKS, MOST_CHUNKS, STEPS_PER_CHUNK = 100, 1000, 200_000


def _cores() -> int:
    """Processor cores that this process may use; macOS can not say which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_up_jax() -> None:
    """One XLA device a core, one thread each, and a cache of compiled programs. Call before jax is used.

    The flags of `FLAGS` are added to XLA_FLAGS where it does not name them. What is compiled for one processor must
    not run on another that shares the disk: each kind has a cache of its own.
    """
    if jax.__version__.startswith("0.10."):
        report.note(f"jax {jax.__version__} deadlocks on CPU in programs such as this one; install 0.9.2 or 0.11.2")
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in FLAGS if flag.split("=")[0] not in given)]).strip()
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purerl" / "jax" / runs.processor()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    try:
        if jax.config.jax_num_cpu_devices < 1:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_num_cpu_devices", _cores())
    except RuntimeError:  # a user's file has used jax already: the devices are what they are
        pass


# --- from words to functions ----------------------------------------------------------------------------------------


WORDS = ("agent", "env", "network", "reward")  # that may name a file of the user's


class Plan(NamedTuple):
    """A job whose every argument has been checked."""

    config: dict[str, Any]  # complete: what stands for the job on disk
    title: str
    env: Any
    env_params: Any
    agent: Callable[[Any], Any]  # hp -> Agent
    make: Callable[[Any], Any]  # hp -> Learner, of one run
    grid: list[Any]  # one config a value of the sweep
    swept: list[str]  # the hyperparameters that have several values
    labels: list[str]  # those values, one a config
    keys: jax.Array  # [seeds]
    num_updates: int
    every: int  # updates a chunk
    steps_per_update: int
    files: list[str]  # of the user

    @property
    def num_runs(self) -> int:
        """Configurations x seeds."""
        return len(self.grid) * self.keys.shape[0]

    def hp(self, iteration: int = 0) -> Any:
        """Hyperparameters from an iteration on: leaves `[R]`, or scalars where there is one configuration."""
        horizons = {}
        for change in self.config["horizons"]:
            if change["iteration"] <= iteration:
                horizons |= {name: value for name, value in change.items() if name != "iteration"}
        grid = [dataclasses.replace(hp, **horizons) for hp in self.grid]
        which = np.arange(self.num_runs) // self.keys.shape[0]
        pick = lambda *x: jnp.asarray(x, jnp.float32)[which] if len(grid) > 1 else x[0]
        return jax.tree.map(pick, *grid)

    def run_keys(self) -> jax.Array:
        """The key of every run, `[R]`: the seeds, once for each configuration."""
        return self.keys[np.arange(self.num_runs) % self.keys.shape[0]]

    def about(self) -> dict[str, list]:
        """What tells the runs apart: lists `[R]` of the seed's number and of every value that is swept."""
        seeds = self.keys.shape[0]
        values = {name: [float(getattr(hp, name)) for hp in self.grid for _ in range(seeds)] for name in self.swept}
        return {"seed": [run % seeds for run in range(self.num_runs)], **values}

    def name_of(self, run: int) -> str:
        """A run in words."""
        return ", ".join(f"{name} {values[run]:g}" for name, values in self.about().items())


def _grid(config: type, values: dict[str, Any]) -> tuple[list[Any], list[str], list[str]]:
    """Every combination of the values given for float options, as configs; what is swept, and its values."""
    swept = {name: value for name, value in values.items() if isinstance(value, tuple)}
    lists = [name for name, value in swept.items() if len(value) > 1]
    for name in lists:
        if None in swept[name]:
            raise ValueError(f"--{name.replace('_', '-')}: none is structure and can not be in a list with numbers")
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    grid = [config(**{**values, **point}) for point in points]
    return grid, lists, [", ".join(f"{point[name]:g}" for name in lists) for point in points]


def plan(config: dict[str, Any]) -> Plan:
    """Check every argument and name every part; nothing is compiled.

    Args:
      config: values by the names of `options.parameters`, the agent's own under "hyperparameters".
    Raises:
      ValueError: naming the argument, what was given and what is allowed.
    """
    config = {**config, "hyperparameters": dict(config["hyperparameters"]), "horizons": config.get("horizons", [])}
    _, config_class = options.agent_function(config["agent"])
    values, steps, seeds = config["hyperparameters"], config["steps"], config["seeds"]
    num_envs, rollout_length = config["num_envs"], config["rollout_length"]
    for field in dataclasses.fields(config_class):
        if field.metadata.get("share") is not None and values[field.name] is None:
            values[field.name] = (field.metadata["share"] * steps,)
    if values.get("sequence_length") == 1 and config["memory"] != "none":
        values["sequence_length"] = rollout_length  # replayed sequences start where blocks do
    grid, swept, labels = _grid(config_class, values)
    if steps < num_envs * rollout_length:
        raise ValueError(
            f"--steps is {steps}; one iteration is num_envs x rollout_length = {num_envs} x {rollout_length} = "
            f"{num_envs * rollout_length} steps, and there must be at least one"
        )
    if config["normalize_reward"] and "gamma" not in values:
        raise ValueError(f"--normalize-reward needs a discount; {config_class.__name__} has no gamma")
    if config["stop_when"] is not None and not math.isfinite(config["stop_when"]):
        raise ValueError(f"--stop-when is {config['stop_when']}; it must be a finite return")
    loggers.check(config)
    env, env_params = options.environment(config["env"])
    if config["observe"]:
        from purerl.envs import Observe

        env = Observe(env, config["observe"])
    if config["time_limit"] or config["sticky_actions"] is not None:
        from purerl.envs import StickyActions, TimeLimit

        env = TimeLimit(env, config["time_limit"]) if config["time_limit"] else env
        env = StickyActions(env, config["sticky_actions"]) if config["sticky_actions"] is not None else env
    space = env.action_space(env_params)
    image = len(getattr(env.observation_space(env_params), "shape", ())) == 3
    config["network"] = config["network"] or ("minatar-cnn" if image else "mlp")
    agent = options.agent_of(config, space)

    own = options.reward(config["reward"]) if config["reward"] else None

    def make(hp):
        parts = ([own(hp)] if own else []) + ([normalize.rewards(hp.gamma)] if config["normalize_reward"] else [])
        paid = rewards.chain(*parts) if len(parts) > 1 else (parts or [None])[0]
        return training.learner(env, env_params, agent(hp), num_envs, rollout_length, paid)

    root = jax.random.key(config["seed"])
    keys = jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(seeds))
    state = jax.eval_shape(lambda key: make(grid[0]).init(key), root)  # shapes are those of all
    jax.eval_shape(lambda state: make(grid[0]).step(state), state)
    _check_memory(state, seeds * len(grid))
    step_size = num_envs * rollout_length
    num_updates = steps // step_size
    chunks = config["chunks"] or min(max(seeds * len(grid) * steps // STEPS_PER_CHUNK, FEWEST_CHUNKS), MOST_CHUNKS)
    every = config.get("updates_per_chunk") or max(1, num_updates // chunks)
    config["updates_per_chunk"] = every
    named = [name for name in WORDS if config[name]]
    words = [options.absolute(config[name]) for name in named]
    config |= zip(named, words, strict=True)
    short = lambda name: Path(name).name if ".py:" in name else name
    return Plan(
        config=config,
        title=f"{short(config['agent'])} on {short(config['env'])}",
        env=env,
        env_params=env_params,
        agent=agent,
        make=make,
        grid=grid,
        swept=swept,
        labels=labels,
        keys=keys,
        num_updates=num_updates,
        every=every,
        steps_per_update=step_size,
        files=sorted({word.rpartition(":")[0] for word in words if ".py:" in word}),
    )


def _check_memory(state: Any, num_runs: int) -> None:
    """Raise a ValueError unless the states of all runs fit into what the devices have."""
    needed = num_runs * replay.bytes_of(state)
    there = replay.device_bytes()
    there = there and there * (1 if jax.default_backend() == "cpu" else jax.device_count())
    if there is not None and needed > there:
        raise ValueError(f"the states of {num_runs} runs need {needed / 1e9:.1f} GB, most of it what they remember; "
                         f"there are {there / 1e9:.1f} GB: lower --capacity or --seeds")  # fmt: skip


def of_directory(directory: Path, same_files: bool = True) -> Plan:
    """The plan of a run on disk.

    Raises:
      ValueError: if the directory holds no run or one of another version, or if a user's file that it names has
        changed since, unless `same_files` is False, or lies in the directory itself: that might be anybody's code.
    """
    stored = runs.read_config(directory)
    for name in WORDS:
        path = Path(str(stored.get(name)).rpartition(":")[0])
        if path.suffix == ".py" and path.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{directory} names code of its own, {path}; it is not run")
    made = runs.read_manifest(directory)["made_with"]["files"] if same_files else {}
    for path, digest in made.items():
        if not Path(path).is_file() or runs.digest_of(path) != digest:
            raise ValueError(f"{path} is not what {directory} was made with; the copy in its {runs.CODE}/ is")
    return plan(options.restore(stored))


def usable_devices(asked: int | None, num_runs: int) -> list[Any]:
    """The devices to split runs over: as many as were asked for, or all; never more than there are runs.

    Raises:
      ValueError: if there are fewer than were asked for.
    """
    available = jax.devices()
    if asked is not None and asked > len(available):
        raise ValueError(f"--devices is {asked}; there are {len(available)}")
    return available[: min(asked or len(available), num_runs)]


# --- running --------------------------------------------------------------------------------------------------------


class Interrupts:
    """Ctrl-C, or a scheduler's SIGTERM: the first asks to stop after the chunk, the second stops at once."""

    def __init__(self, say: Callable[[str], None] = report.note):
        self.asked, self.say = False, say

    def __enter__(self) -> Interrupts:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("finishing this chunk, then saving; Ctrl-C again stops at once")


class Chunk(NamedTuple):
    """What R runs have done; the state has the runs that fill up the devices behind them."""

    iteration: int
    state: Any  # on the devices, leaves [R + fill-ups, ...], valid until the next chunk
    metrics: dict[str, np.ndarray]  # [R]


def _wait(arrays: dict[str, jax.Array]) -> None:
    """Until they are computed, in short sleeps: in a call that blocks, no signal would be heard."""
    pause = 1e-4
    for x in arrays.values():
        while not x.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
            time.sleep(pause)
            pause = min(1.3 * pause, 0.02)


def _aside(function: Callable, *args: Any) -> Any:
    """The function's result, computed in a thread beside, since compiling is a call that blocks for long."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return pool.submit(function, *args).result()  # waits for a lock, which signals interrupt
    finally:
        pool.shutdown(wait=False)


def stream(
    make: Callable,
    hp: Any,
    num_runs: int,
    devices: list[Any],
    num_updates: int,
    every: int,
    progress: Progress,
    keys: jax.Array | None = None,
    state: Any = None,
) -> Iterator[Chunk]:
    """Train R runs at once over the devices, from their keys or from a state `[R, ...]` of theirs.

    Vectors among the leaves of `hp` go with the runs. Runs that only fill up the devices are computed and dropped.
    """
    order = np.arange(num_runs + -num_runs % len(devices)) % num_runs
    hp = jax.tree.map(lambda x: jnp.asarray(x)[order] if jnp.ndim(x) else x, hp)
    make = training.batch(make, devices if len(devices) > 1 else None)
    if state is not None:
        layout = NamedSharding(Mesh(np.array(devices), ("runs",)), P("runs")) if len(devices) > 1 else devices[0]
        state = jax.device_put(jax.tree.map(lambda x: x[order], state), layout)
    with progress.compiling():
        program = _aside(training.compile_run, make, hp, None if keys is None else keys[order], state)
        jax.block_until_ready(program.state)
    del state
    for iteration, new, metrics in training.run(make, hp, None, num_updates, every, program=program):
        _wait(metrics)
        # a jitted function's dicts come out sorted: what every run reports goes first
        names = sorted(metrics, key=lambda name: (name != "episodes", not name.startswith("episode_"), name))
        yield Chunk(iteration, new, {name: np.asarray(metrics[name])[:num_runs] for name in names})


class Measured(NamedTuple):
    """What training R runs at once gave; the rows are chunks."""

    iterations: np.ndarray  # [K] updates done so far
    metrics: dict[str, np.ndarray]  # [K, R]
    state: Any  # of the learners at the end, leaves [R, ...]
    compile_seconds: float
    run_seconds: float


def returns_so_far(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The mean return of each run's last 100 episodes or more, `[R]`, from the metrics of chunks; NaN where none."""
    episodes, returns = (np.stack([row[name] for row in rows]) for name in ("episodes", "episode_return"))
    return statistics.last_returns(episodes, returns)


def stride(num_updates: int, every: int) -> int:
    """Chunks between two looks at the screen."""
    return max(1, num_updates // every // FEWEST_CHUNKS)


def measure(
    make: Callable, hp: Any, keys: jax.Array, devices: list[Any], num_updates: int, every: int, steps_per_update: int
) -> Measured:
    """Train one run a key from beginning to end, showing progress; see `stream`."""
    num_runs, rows, iterations, state = keys.shape[0], [], [], None
    look = stride(num_updates, every)
    with Progress(num_updates, num_runs * steps_per_update) as progress:
        for chunk in stream(make, hp, num_runs, devices, num_updates, every, progress, keys):
            rows.append(chunk.metrics)
            iterations.append(chunk.iteration)
            state = chunk.state
            if len(rows) % look == 0 or chunk.iteration == num_updates:
                progress.update(chunk.iteration, float(returns_so_far(rows[-10 * look :]).mean()))
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        state = jax.tree.map(lambda x: x[:num_runs], state)
        return Measured(np.asarray(iterations), stacked, state, progress.compile_seconds, progress.run_seconds)
