"""Speed and scale of planning in finite MDPs.

    python benchmarks/tabular.py garnets [--mdps 10000] [--rounds 3]
    python benchmarks/tabular.py large [--states 1000000]

`garnets` solves random MDPs (100 states, 4 actions, 5 successors) by value iteration to the same residual: purerl in
one vmapped call, split over the cores; NumPy in batched sweeps over all of them; a Python loop of NumPy matrix
products; and pymdptoolbox (extra `peers`), on a subset, for the same number of sweeps. `large` solves one sparse MDP in
its own process, to 1e-6 of max |V|, and reports its peak memory. Each prints a table and writes JSON under
results/tabular/.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import note

RESULTS = Path(__file__).parent / "results" / "tabular"
GAMMA, TOLERANCE = 0.95, 1e-4


def describe() -> dict[str, Any]:
    """The machine and the versions."""
    import jax

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = {line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")}
    return {"cpu": ", ".join(names) or platform.machine(), "devices": jax.device_count(), "jax": jax.__version__}


def save(name: str, result: dict[str, Any]) -> None:
    """Write one JSON file for each benchmark."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(describe() | result, indent=1) + "\n")


# --- many small MDPs --------------------------------------------------------------------------------------------------


def numpy_batched(probability, reward, successors) -> tuple[np.ndarray, int]:
    """Sweeps over all B MDPs at once, until the last has converged: V `[B, S]`, and the number of sweeps."""
    count, num_states = reward.shape[:2]
    flat = (successors + num_states * np.arange(count)[:, None, None, None]).reshape(-1)
    value, sweeps, residual = np.zeros((count, num_states), np.float32), 0, np.inf
    while residual > TOLERANCE:
        following = value.reshape(-1).take(flat).reshape(probability.shape)
        new = (reward + GAMMA * np.einsum("bsak,bsak->bsa", probability, following)).max(-1)
        value, sweeps, residual = new, sweeps + 1, np.abs(new - value).max()
    return value, sweeps


def numpy_loop(dense, reward) -> tuple[np.ndarray, int]:
    """One MDP after another, each sweep one matrix product: V `[B, S]`, and the total number of sweeps."""
    values, sweeps = np.zeros(reward.shape[:2], np.float32), 0
    for i, (p, r) in enumerate(zip(dense, reward, strict=True)):
        value, residual = values[i], np.inf
        while residual > TOLERANCE:
            new = (r + GAMMA * (p @ value).reshape(r.shape)).max(-1)
            value, sweeps, residual = new, sweeps + 1, np.abs(new - value).max()
        values[i] = value
    return values, sweeps


def toolbox(dense, reward, sweeps) -> np.ndarray | None:
    """pymdptoolbox, for a given number of sweeps of each; its own stopping rule is different."""
    try:
        from mdptoolbox.mdp import ValueIteration
    except ImportError:
        return None
    values = []
    for p, r, n in zip(dense, reward, sweeps, strict=True):
        transitions = np.moveaxis(p.reshape(*r.shape, -1), 1, 0).astype(np.float64)
        transitions /= transitions.sum(-1, keepdims=True)  # it requires sums of 1 in float64
        solver = ValueIteration(transitions, r.astype(np.float64), GAMMA)
        solver.thresh, solver.max_iter = -1.0, int(n)
        solver.run()
        values.append(solver.V)
    return np.array(values)


def garnets(given: argparse.Namespace) -> None:
    """Seconds of each implementation, in alternation."""
    from purerl.runs.devices import set_up_jax

    set_up_jax()
    import jax
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    from purerl import tabular

    keys = jax.random.split(jax.random.key(0), given.mdps)
    mdps = jax.jit(jax.vmap(lambda key: tabular.worlds.garnet(key, 100, 4, 5)))(keys)
    devices = jax.devices()
    devices = devices[: max(d for d in range(1, len(devices) + 1) if given.mdps % d == 0)]
    mesh = Mesh(np.array(devices), ("mdps",))
    plan = jax.vmap(lambda mdp: tabular.value_iteration(mdp, GAMMA, tolerance=TOLERANCE))
    split = jax.shard_map(plan, mesh=mesh, in_specs=P("mdps"), out_specs=P("mdps"), check_vma=False)
    solve = jax.jit(lambda mdps: (lambda x: (x.value, x.sweeps))(split(mdps)))
    placed = jax.device_put(mdps, jax.sharding.NamedSharding(mesh, P("mdps")))
    probability, reward, successors = (np.asarray(x) for x in (mdps.P, mdps.R, mdps.successors))
    dense = np.zeros((given.mdps, 400, 100), np.float32)
    for i in range(given.mdps):
        np.add.at(dense[i], (np.arange(400)[:, None], successors[i].reshape(400, 5)), probability[i].reshape(400, 5))
    value, sweeps = (np.asarray(x) for x in solve(placed))
    some = slice(0, max(1, given.mdps // 50))

    contestants: dict[str, tuple[float, Callable[[], Any]]] = {
        "purerl, one vmapped call": (1.0, lambda: jax.block_until_ready(solve(placed))[0]),
        "NumPy, batched sweeps": (1.0, lambda: numpy_batched(probability, reward, successors)[0]),
        "NumPy, a loop of matrix products": (1.0, lambda: numpy_loop(dense, reward)[0]),
        "pymdptoolbox (a 50th of them, times 50)": (
            given.mdps / len(value[some]),
            lambda: toolbox(dense[some], reward[some], sweeps[some]),
        ),
    }
    times: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for name, (scale, call) in contestants.items():
            begin = time.perf_counter()
            got = call()
            elapsed = scale * (time.perf_counter() - begin)
            if got is None:
                continue
            np.testing.assert_allclose(np.asarray(got), value[: len(got)], atol=2 * TOLERANCE / (1 - GAMMA))
            times.setdefault(name, []).append(elapsed)
    ours = np.array(times["purerl, one vmapped call"])
    lines = [f"{given.mdps} MDPs, residual {TOLERANCE:g}, {sweeps.min()} to {sweeps.max()} sweeps"]
    ratios = {}
    for name, seconds in times.items():
        ratio = np.array(seconds) / ours
        ratios[name] = [float(f(ratio)) for f in (np.median, np.min, np.max)]
        lines.append(
            f"{name:42} {np.median(seconds):8.2f} s   {ratios[name][0]:6.1f} x [{ratio.min():.1f}, {ratio.max():.1f}]"
        )
    print("\n".join(lines))
    # each sweep reads P and the successors once, and they do not fit into a cache
    gigabytes = (probability.nbytes + successors.nbytes + reward.nbytes) * float(sweeps.max()) / 1e9
    print(f"{gigabytes / np.median(ours):.1f} GB/s of tables read; a copy of as much runs at {bandwidth():.1f} GB/s")
    save("garnets", {"mdps": given.mdps, "seconds": times, "ratio [median, least, most]": ratios,
                     "GB/s": gigabytes / float(np.median(ours)), "copy GB/s": bandwidth()})  # fmt: skip


def bandwidth() -> float:
    """GB/s of memory traffic in a large copy by NumPy, on one core."""
    x = np.ones(50_000_000, np.float32)
    y = np.empty_like(x)
    best = np.inf
    for _ in range(3):
        begin = time.perf_counter()
        np.copyto(y, x)
        best = min(best, time.perf_counter() - begin)
    return 2 * x.nbytes / best / 1e9


# --- one large MDP ----------------------------------------------------------------------------------------------------


def solve_large(num_states: int) -> None:
    """Print a JSON line about one MDP, solved in this process."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    from purerl.tabular import MDP, value_iteration

    generator, shape = np.random.default_rng(0), (num_states, 4, 8)
    successors = generator.integers(0, num_states, shape, np.int32)
    probability = generator.random(shape, np.float32)
    for part in np.array_split(probability, 100):
        part /= part.sum(-1, keepdims=True)
    reward = generator.random(shape[:2])
    reward[generator.random(shape[:2]) < 0.9] = 0.0
    gamma = 0.99
    least = reward.max(-1).mean() / (1 - gamma)  # the value of a random walk that receives the best reward

    def solve(probability, successors, reward):
        mdp = MDP(probability, reward, jnp.zeros(num_states, bool), None, successors)
        # |V - V*| ≤ γ / (1 - γ) · residual
        solution = value_iteration(mdp, gamma, tolerance=1e-6 * least * (1 - gamma) / gamma)
        return solution.value, solution.sweeps, solution.residual

    arrays = [jax.device_put(x) for x in (probability, successors, reward)]
    del probability, successors, reward
    program = jax.jit(solve).lower(*arrays).compile()
    begin = time.perf_counter()
    value, sweeps, residual = jax.block_until_ready(program(*arrays))
    seconds = time.perf_counter() - begin
    bound = float(residual) * gamma / (1 - gamma) / float(jnp.abs(value).max())
    result = {"states": num_states, "actions": 4, "successors": 8, "gamma": gamma, "sweeps": int(sweeps)}
    result |= {"error over max |V|, at most": bound, "seconds": seconds}
    result |= {"peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    print(json.dumps(result))


def large(given: argparse.Namespace) -> None:
    """Solve one MDP in a new process, to measure its peak memory."""
    command = [sys.executable, __file__, "solve-large", "--states", str(given.states)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(out.splitlines()[-1])
    for name, x in result.items():
        print(f"{name:30} {x:,.3g}" if isinstance(x, float) else f"{name:30} {x:,}")
    save("large", result)


def main() -> None:
    """Run the requested benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["garnets", "large", "solve-large"], metavar="garnets | large")
    parser.add_argument("--mdps", type=int, default=10_000, help="MDPs of `garnets` [10000]")
    parser.add_argument("--rounds", type=int, default=3, help="of alternation [3]")
    parser.add_argument("--states", type=int, default=1_000_000, help="states of `large` [1000000]")
    given = parser.parse_args()
    if given.what == "garnets":
        note("'purerl[peers]'", "mdptoolbox")
    {"garnets": garnets, "large": large, "solve-large": lambda given: solve_large(given.states)}[given.what](given)


if __name__ == "__main__":
    main()
