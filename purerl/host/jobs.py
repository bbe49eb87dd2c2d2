"""The training job of the command line: plan it, compile it, run it, show it."""

from __future__ import annotations

import itertools
import os
import platform
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import distributions, networks, normalize, statistics, training
from purerl.host import options, report
from purerl.host.progress import Progress

NUM_CHUNKS = 100  # points of a learning curve


def _cores() -> int:
    """Processor cores that this process may use; macOS can not say which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """A name for this kind of processor: what is compiled for one must not run on another that shares the disk."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().split("\n") if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.platform() + platform.processor()
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"


def set_up_jax() -> None:
    """One XLA device a core, one thread each, and a cache of compiled programs. Call before jax is used.

    The matrix products here are small: two threads on one of them are slower than one.
    """
    if jax.__version__.startswith("0.10."):
        report.note(f"jax {jax.__version__} deadlocks on CPU in programs such as this one; install 0.9.2 or 0.11.2")
    if "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purerl" / "jax" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    try:
        if jax.config.jax_num_cpu_devices < 1:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_num_cpu_devices", _cores())
    except RuntimeError:  # a user's file has used jax already: the devices are what they are
        pass


class Plan(NamedTuple):
    """A job whose every argument has been checked."""

    title: str
    make: Callable[[Any], Any]  # of one run
    grid: list[Any]  # one config a value of the sweep
    swept: str  # the options that have several values
    labels: list[str]  # those values, one a config
    keys: jax.Array  # [seeds]
    num_updates: int
    steps_per_update: int
    devices: list[Any]
    picture: Path


def _grid(config: type, values: dict[str, Any]) -> tuple[list[Any], str, list[str]]:
    """Every combination of the values given for float options, as configs; what is swept, and its values."""
    swept = {name: value for name, value in values.items() if isinstance(value, tuple)}
    lists = [name for name, value in swept.items() if len(value) > 1]
    for name in lists:
        if None in swept[name]:
            raise ValueError(f"--{name.replace('_', '-')}: none is structure and can not be in a list with numbers")
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    grid = [config(**{**values, **point}) for point in points]
    return grid, ", ".join(lists), [", ".join(f"{point[name]:g}" for name in lists) for point in points]


def plan(
    agent_name: str,
    make_agent: Callable,
    config: type,
    values: dict[str, Any],
    *,
    env: str,
    seeds: int,
    seed: int,
    steps: int,
    num_envs: int,
    rollout_length: int,
    network: str | None,
    hidden: tuple[int, ...],
    activation: str,
    shared_torso: bool,
    squash: bool,
    normalize_reward: bool,
    time_limit: int | None,
    sticky_actions: float | None,
    devices: int | None,
    plot: Path | None,
) -> Plan:
    """Check every argument and name every part; nothing is compiled.

    Raises:
      ValueError: naming the argument, what was given and what is allowed.
    """
    if "anneal_steps" in values and values["anneal_steps"] is None:
        values["anneal_steps"] = (float(steps),)
    grid, swept, labels = _grid(config, values)
    if steps < num_envs * rollout_length:
        raise ValueError(
            f"--steps is {steps}; one iteration is num_envs x rollout_length = {num_envs} x {rollout_length} = "
            f"{num_envs * rollout_length} steps, and there must be at least one"
        )
    if normalize_reward and "gamma" not in values:
        raise ValueError(f"--normalize-reward needs a discount; {config.__name__} has no gamma")
    environment, env_params = options.environment(env)
    if time_limit or sticky_actions is not None:
        from purerl.envs import StickyActions, TimeLimit

        environment = TimeLimit(environment, time_limit) if time_limit else environment
        environment = StickyActions(environment, sticky_actions) if sticky_actions is not None else environment
    space = environment.action_space(env_params)
    if squash and not hasattr(space, "low"):
        raise ValueError(f"--squash is for continuous actions; {env} has {space!r}")
    policy = distributions.for_space(space, distributions.tanh_normal if squash else distributions.normal)
    image = len(getattr(environment.observation_space(env_params), "shape", ())) == 3
    torso = options.torso(network or ("minatar-cnn" if image else "mlp"), hidden, activation)
    net = networks.actor_critic(policy, torso, shared_torso)

    def make(hp):
        reward = normalize.rewards(hp.gamma) if normalize_reward else None
        return training.learner(environment, env_params, make_agent(net, policy, hp), num_envs, rollout_length, reward)

    root = jax.random.key(seed)
    keys = jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(seeds))
    available = jax.devices()
    if devices is not None and devices > len(available):
        raise ValueError(f"--devices is {devices}; there are {len(available)}")
    used = available[: min(devices or len(available), seeds * len(grid))]
    jax.eval_shape(lambda key: make(grid[0]).step(make(grid[0]).init(key)), root)  # shapes are those of all
    name = Path(agent_name.partition(":")[0]).stem + "-" + Path(env.partition(":")[0]).stem
    title = f"{agent_name} on {env}"
    picture = plot or report.unused(Path(f"{name}.png"))
    if plot and plot.exists():
        raise ValueError(f"--plot is {plot}, which exists; give another name, or remove it first")
    if picture.suffix not in report.PICTURES:
        raise ValueError(f"--plot is {picture}; its ending must be one of {', '.join(report.PICTURES)}")
    if not os.access(picture.parent, os.W_OK):
        raise ValueError(f"--plot is {picture}; there is no directory {picture.parent} that can be written to")
    step_size = num_envs * rollout_length
    return Plan(title, make, grid, swept, labels, keys, steps // step_size, step_size, used, picture)


class Result(NamedTuple):
    """What a job measured; R = sweep x seeds."""

    steps: np.ndarray  # [K] environment steps of each run so far
    episodes: np.ndarray  # [K, G, S]
    returns: np.ndarray  # [K, G, S]
    compile_seconds: float
    run_seconds: float
    total_steps: int  # of all runs together


class Measured(NamedTuple):
    """What training R runs at once gave; the rows are chunks."""

    iterations: np.ndarray  # [K] updates done so far
    metrics: dict[str, np.ndarray]  # [K, R]
    compile_seconds: float
    run_seconds: float


def measure(
    make: Callable, hp: Any, keys: jax.Array, devices: list[Any], num_updates: int, every: int, steps_per_update: int
) -> Measured:
    """Train one run a key over the devices, showing progress; vectors among the leaves of `hp` go with the keys.

    Runs that only fill up the devices are computed and dropped.
    """
    runs = keys.shape[0]
    order = np.arange(runs + -runs % len(devices)) % runs
    hp = jax.tree.map(lambda x: jnp.asarray(x)[order] if jnp.ndim(x) else x, hp)
    make = training.batch(make, devices if len(devices) > 1 else None)
    rows, iterations = [], []
    stride = max(1, num_updates // every // NUM_CHUNKS)  # rows between two looks at the screen
    with Progress(num_updates, runs * steps_per_update) as progress:
        with progress.compiling():
            begin = time.perf_counter()
            program = training.compile_run(make, hp, keys[order])
            jax.block_until_ready(program.state)
            compile_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        for iteration, _, metrics in training.run(make, hp, None, num_updates, every, program=program):
            rows.append({name: np.asarray(x)[:runs] for name, x in metrics.items()})
            iterations.append(iteration)
            if len(rows) % stride == 0 or iteration == num_updates:
                recent = rows[-10 * stride :]
                episodes, returns = (np.stack([row[n] for row in recent]) for n in ("episodes", "episode_return"))
                progress.update(iteration, float(statistics.last_returns(episodes, returns).mean()))
        run_seconds = time.perf_counter() - begin
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Measured(np.asarray(iterations), stacked, compile_seconds, run_seconds)


def execute(job: Plan) -> Result:
    """Compile and run a plan."""
    num_configs, num_seeds = len(job.grid), job.keys.shape[0]
    runs = np.arange(num_configs * num_seeds)
    pick = lambda *x: jnp.asarray(x, jnp.float32)[runs // num_seeds] if num_configs > 1 else x[0]
    hp, keys = jax.tree.map(pick, *job.grid), job.keys[runs % num_seeds]
    every = max(1, job.num_updates // NUM_CHUNKS)
    out = measure(job.make, hp, keys, job.devices, job.num_updates, every, job.steps_per_update)
    by_config = lambda name: out.metrics[name].reshape(-1, num_configs, num_seeds)
    return Result(
        steps=out.iterations * job.steps_per_update,
        episodes=by_config("episodes"),
        returns=by_config("episode_return"),
        compile_seconds=out.compile_seconds,
        run_seconds=out.run_seconds,
        total_steps=len(runs) * job.num_updates * job.steps_per_update,
    )


def train(job: Plan) -> None:
    """Run a plan, print its table and write its picture."""
    num_configs, num_seeds = len(job.grid), job.keys.shape[0]
    sweep = f"{num_configs} configurations x " if num_configs > 1 else ""
    report.note(
        f"{job.title}: {sweep}{num_seeds} seeds, {job.num_updates:,} iterations of {job.steps_per_update:,} steps = "
        f"{job.num_updates * job.steps_per_update:,} steps each, on {len(job.devices)} {job.devices[0].platform} device"
        + ("s" if len(job.devices) > 1 else "")
    )
    result = execute(job)
    final = statistics.last_returns(
        result.episodes.reshape(len(result.steps), -1), result.returns.reshape(len(result.steps), -1)
    ).reshape(num_configs, num_seeds)
    report.table(job.title, job.swept, job.labels, final, result)
    report.picture(job.picture, job.title, job.swept, job.labels, final, result)
    report.note(f"learning curve: {job.picture}")
