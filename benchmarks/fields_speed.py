"""Environment steps per second of every environment of the fields, beside the simulators of reference packages.

    pip install -c constraints.txt -e '.[data]' && pip install --no-deps stockpyl highway-env
    python benchmarks/fields_speed.py [--only Highway] [--envs 1,64,4096,65536] [--rounds 3] [--memory 4]

One process on one core. N environments act at random in one compiled loop that draws actions, steps, and resets where
an episode ended; each number is the best of the rounds, each of a quarter of a second or more; there are fewer rounds
where one step of all environments takes seconds, and no number where it would take more than 40. Compiling is not
counted. Where N environments would need more memory for a step than `--memory`, in GB, they act in blocks, one block
after another in the same program; the table says how many.

The packages' own loops run in the same process: highway-env's `step` with random actions and its reset at the end of an
episode; stockpyl's `simulation` under the optimal (s, S) and echelon base-stock policies, without its checks. Writes
results/fields_speed/speed.json and RESULTS.md. stockpyl needs --no-deps because it pins an old sphinx.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from peers import missing, note
from rich.progress import Progress
from tabular import describe

import purerl
from purerl import training
from purerl.envs import registry
from purerl.envs.fields import highway, inventory
from purerl.runs.devices import set_up_jax

RESULTS = Path(__file__).parent / "results" / "fields_speed"
SECONDS, LONGEST = 0.25, 6.0  # of a timed call, at least; of all of them, but for the last one
TOO_LONG = 40.0  # seconds of a single step of all environments

Run = Callable[[int], Any]  # takes so many steps


def best(run: Run, rounds: int) -> tuple[float, int]:
    """The least seconds per step of a function, and the steps of a timed call.

    The first call is not counted, unless one step takes so long that there is no other.
    """

    def timed(count: int) -> float:
        begin = time.perf_counter()
        run(count)
        return time.perf_counter() - begin

    if (elapsed := timed(1)) > LONGEST:
        return elapsed, 1
    count, elapsed = 1, timed(1)
    while elapsed < SECONDS:
        count = math.ceil(count * min(1.3 * SECONDS / elapsed, 100))
        elapsed = timed(count)
    times = [elapsed]
    while len(times) < rounds and sum(times) < LONGEST:
        times.append(timed(count))
    return min(times) / count, count


# --- purerl -----------------------------------------------------------------------------------------------------------


def program(env: Any, env_params: Any, num_envs: int, num_blocks: int = 1) -> tuple[Run, float]:
    """A function that steps N environments with random actions, in blocks, and the bytes that one block needs."""
    environment, size = training.vectorized(env, env_params), num_envs // num_blocks
    draw = jax.vmap(env.action_space(env_params).sample)

    def step(_, carry):
        key, _obs, state, total = carry
        key, act_key, env_key, reset_key = jax.random.split(key, 4)
        keys, reset_keys = jax.random.split(env_key, size), jax.random.split(reset_key, size)
        out = environment.step(keys, reset_keys, state, draw(jax.random.split(act_key, size)), environment.reset)
        return key, out.obs, out.state, total + out.reward

    def begin(key):
        reset_key, key = jax.random.split(key)
        return key, *environment.reset(jax.random.split(reset_key, size)), jnp.zeros(size)

    @partial(jax.jit, donate_argnums=1)
    def advance(count, carry):
        return jax.lax.map(lambda one: jax.lax.fori_loop(0, count, step, one), carry)

    start = jax.jit(lambda keys: jax.lax.map(begin, keys))
    carry = start(jax.random.split(jax.random.key(0), num_blocks))
    compiled = advance.lower(1, carry).compile()

    def run(count):
        nonlocal carry
        carry = jax.block_until_ready(compiled(count, carry))

    return run, getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)


# --- the packages' own loops ------------------------------------------------------------------------------------------


def highway_env(name: str) -> Run:
    """Random actions in an environment of highway-env."""
    import gymnasium
    import highway_env  # noqa: F401

    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)

    def run(count):
        for _ in range(count):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return run


def stockpyl_network(changed: dict[str, Any]) -> Run:
    """Periods of a simulation of a serial system."""
    from stockpyl.sim import simulation
    from stockpyl.supply_chain_network import serial_system

    network = serial_system(**changed)
    return lambda count: simulation(network, count, rand_seed=0, progress_bar=False, consistency_checks="N")


def stockpyl_single() -> Run:
    """The default system of `Inventory`, under its optimal policy.

    Orders follow the demand of a period there, so that a lead time of 1 is our 0.
    """
    params = inventory.Inventory().default_params
    reorder, order_up_to, _ = inventory.best_policy(params)
    return stockpyl_network({
        "num_nodes": 1, "local_holding_cost": params.holding, "stockout_cost": params.penalty,
        "demand_type": "P", "mean": 6, "policy_type": "sS",
        "reorder_point": reorder, "order_up_to_level": order_up_to, "shipment_lead_time": 1,
    })  # fmt: skip


def stockpyl_serial() -> Run:
    """The default system of `SerialInventory`, under its optimal policy; nodes from downstream on."""
    params = inventory.SerialInventory().default_params
    levels, _ = inventory.echelon_base_stock(params)
    return stockpyl_network({
        "num_nodes": 3, "node_order_in_system": [2, 1, 0], "node_order_in_lists": [0, 1, 2],
        "local_holding_cost": params.holding.tolist(), "stockout_cost": [params.penalty, 0, 0],
        "demand_type": "P", "mean": 5, "policy_type": "EBS",
        "base_stock_level": levels.tolist(), "shipment_lead_time": [1 + params.lead[0], *params.lead[1:]],
    })  # fmt: skip


# --- all --------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """An environment, and the package that has the same one."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    package: str = ""
    module: str = ""
    reference: Callable[[], Run] | None = None


def every() -> list[Row]:
    """Every environment of `purerl.envs.fields`, and the fast variant of the highway."""
    own = [name for name, maker in registry.OWN.items() if maker.__module__.startswith("purerl.envs.fields")]
    known = {
        "Inventory-v0": ("stockpyl", "stockpyl", stockpyl_single),
        "SerialInventory-v0": ("stockpyl", "stockpyl", stockpyl_serial),
        "Highway-v0": ("highway-env, highway-v0", "highway_env", partial(highway_env, "highway-v0")),
    }
    fast = lambda: (highway.Highway(**highway.FAST), highway.fast_params())
    found = [Row(name, partial(purerl.make, name), *known.get(name, ())) for name in own]
    of_package = "highway-env, highway-fast-v0", "highway_env", partial(highway_env, "highway-fast-v0")
    return [*found, Row("Highway-v0, fast", fast, *of_package)]


def measure(row: Row, sizes: list[int], rounds: int, limit: float, said: Callable[[], None]) -> dict[str, Any] | None:
    """Steps per second of an environment for each number of copies, and of its package; None without its data."""
    try:
        env, env_params = row.make()
    except ValueError as error:
        print(f"{row.name}: {error}")
        return None
    measured, bytes_each = [], 0.0
    for num_envs in sizes:
        num_blocks = 1
        if measured and num_envs / measured[-1]["steps_per_second"] > TOO_LONG:
            said()
            continue
        while bytes_each * num_envs / num_blocks > limit and num_blocks < num_envs:
            num_blocks *= 2
        run, memory = program(env, env_params, num_envs, num_blocks)
        bytes_each = memory * num_blocks / num_envs
        seconds, count = best(run, rounds)
        measured.append({"num_envs": num_envs, "blocks": num_blocks, "loop": count, "bytes": memory,
                         "steps_per_second": num_envs / seconds})  # fmt: skip
        said()
    result = {"name": row.name, "rows": measured, "package": row.package}
    if row.reference and not missing(row.module):
        run = row.reference()
        np.random.seed(0)  # noqa: NPY002 (stockpyl's)
        result["package_steps_per_second"] = 1 / best(run, rounds)[0]
    return result


def short(x: float) -> str:
    """A number of three digits, such as "12,300" or "0.153"."""
    return f"{float(f'{x:.3g}'):,.0f}" if x >= 100 else f"{x:.3g}"


def table(results: list[dict[str, Any]], sizes: list[int]) -> str:
    """A row for each environment, in Markdown; the ratio is that of the largest pace to the package's."""
    heads = ["environment", *(f"N = {size:,}" for size in sizes), "package", "its steps/s", "N = 1 over it", "best"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for result in results:
        rows = {row["num_envs"]: row for row in result["rows"]}
        paces = [row["steps_per_second"] for row in rows.values()]
        blocks = lambda row: f" ({row['blocks']} blocks)" if row["blocks"] > 1 else ""
        of = lambda size: short(rows[size]["steps_per_second"]) + blocks(rows[size]) if size in rows else "-"
        cells = [result["name"], *map(of, sizes)]
        if pace := result.get("package_steps_per_second"):
            cells += [result["package"], short(pace), f"{short(paces[0] / pace)} x", f"{short(max(paces) / pace)} x"]
        else:
            cells += ["", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(x) for x in text.split(",")]
    parser.add_argument("--only", default="", help="only environments whose name contains this word")
    parser.add_argument("--envs", type=numbers, default=[1, 64, 4096, 65536], help="numbers of environments")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=float, default=4.0, help="GB for a step, at most [4]")
    parser.add_argument("--dir", type=Path, default=RESULTS, help="folder of the JSON and the table")
    given = parser.parse_args()
    chosen = [row for row in every() if given.only in row.name]
    if not chosen:
        parser.error(f"--only: no environment contains {given.only!r}; there are {', '.join(x.name for x in every())}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    set_up_jax()
    note("'purerl[data]'; pip install --no-deps stockpyl highway-env", "stockpyl", "highway_env")
    results = []
    with Progress() as progress:
        task = progress.add_task("measuring", total=len(chosen) * len(given.envs))
        for row in chosen:
            said = lambda: progress.advance(task)
            if found := measure(row, given.envs, given.rounds, given.memory * 2**30, said):
                results.append(found)
                jax.clear_caches()
    print(text := table(results, given.envs))
    packages = [
        name for name, module in (("stockpyl", "stockpyl"), ("highway-env", "highway_env")) if not missing(module)
    ]
    machine = describe() | {
        "cores used": 1, "python": platform.python_version(), "date": datetime.date.today().isoformat(),
        **{name: version(name) for name in packages},
    }  # fmt: skip
    given.dir.mkdir(parents=True, exist_ok=True)
    (given.dir / "speed.json").write_text(json.dumps(machine | {"results": results}, indent=1) + "\n")
    if not given.only:
        head = "# Fields: environment steps per second\n\nWritten by `python benchmarks/fields_speed.py`; "
        about = ", ".join(f"{name} {x}" for name, x in machine.items())
        (given.dir / "RESULTS.md").write_text(f"{head}best of {given.rounds} rounds. {about}.\n\n{text}\n")


if __name__ == "__main__":
    main()
