"""The cost of replay buffers: time of sampling against capacity, and peak memory against the bytes of the data.

    python benchmarks/replay.py time
    python benchmarks/replay.py memory

`time`: adding one step, sampling and reading a batch of 128 (and updating its priorities), in a compiled loop over a
donated replay buffer, of 10³ to 10⁶ steps, in alternation in one process. The program is the same for every capacity;
only the memory latency grows. `memory`: a process that trains DQN with a replay buffer of 10⁶ steps of MinAtar
Breakout; its peak, less that of the same process with a replay buffer of 10³ steps, against the bytes of the data: each
observation once, action, reward and flags. Writes results/replay/*.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from purerl.runs.devices import set_up_jax

set_up_jax()

import purerl  # noqa: E402
from purerl import networks, replay  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "replay"
CAPACITIES = (10**3, 10**4, 10**5, 10**6)
MACHINE = f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}"


def step_of(obs: Any) -> purerl.Transition:
    """A block of one step of one environment."""
    flag = jnp.zeros((1, 1), bool)
    return purerl.Transition(obs, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)), obs, flag, flag, ~flag)


def loop(block: purerl.Transition, length: int, key: Any, memory: Any) -> Any:
    """`length` times: add, sample, read, update."""

    def body(i, carry):
        memory, total = carry
        memory = replay.add(memory, block)
        index = replay.sample(jax.random.fold_in(key, i), memory, 128)
        steps = replay.read(memory, index, 0.99)
        memory = replay.update(memory, index, jnp.abs(steps.reward) + index.weight)
        return memory, total + steps.reward.sum() + steps.obs.sum() + steps.next_obs.sum()

    return jax.lax.fori_loop(0, length, body, (memory, 0.0))


def timed(rounds: int = 12) -> list[dict[str, Any]]:
    """Microseconds of one step against capacity, for vectors of 4 numbers and images of 10 x 10 x 4."""
    rows, cases = [], {}
    for shape in ((4,), (10, 10, 4)):
        block = step_of(jnp.ones((1, 1, *shape)))
        for prioritized in (False, True):
            for capacity in CAPACITIES:
                memory = replay.init(jax.tree.map(lambda x: x[0], block), capacity, prioritized)
                filled = memory._replace(num_rows=jnp.int32(10 * capacity + 3))
                if prioritized:
                    sums = [jnp.full(x.shape, float(replay.FAN**i)) for i, x in enumerate(memory.priorities.tree)]
                    filled = filled._replace(priorities=memory.priorities._replace(tree=tuple(sums)))
                run = jax.jit(partial(loop, block, 500, jax.random.key(0)), donate_argnums=0)
                cases[shape, prioritized, capacity] = [run, run(filled)[0], []]
    for _ in track(range(rounds), "rounds"):
        for case in cases.values():
            run, memory, times = case
            begin = time.perf_counter()
            case[1] = jax.block_until_ready(run(memory))[0]
            times.append(1e6 * (time.perf_counter() - begin) / 500)
    for (shape, prioritized, capacity), (_, _, times) in cases.items():
        kind = "prioritised" if prioritized else "uniform"
        rows.append({"obs": shape, "kind": kind, "capacity": capacity, "microseconds": float(np.median(times))})
    return rows


def trained(capacity: int) -> None:
    """Train DQN on Breakout for a short time, and print the peak memory of this process."""
    env, env_params = purerl.make("Breakout-MinAtar")
    network = networks.q_network(env.num_actions, networks.MinAtarCNN)
    make = lambda hp: purerl.learner(env, env_params, purerl.dqn(network, hp), num_envs=8, rollout_length=8)
    hp = purerl.DQN(capacity=capacity, batch_size=32, learning_starts=1_000, train_every=64)
    for _, state, _ in purerl.run(make, hp, jax.random.key(0), 200, 50):
        jax.block_until_ready(state.agent.params)
    state = jax.eval_shape(lambda key: make(hp).init(key), jax.random.key(0)).agent.replay
    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype), (state.obs, state.action))
    data = capacity * sum(math.prod(x.shape) * x.dtype.itemsize for x in step) + capacity * (4 + 2)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"capacity": capacity, "peak": peak, "data": data}))


def memory() -> dict[str, Any]:
    """Run two processes, and compute the memory added by the large replay buffer."""
    found = {}
    for capacity in (10**3, 10**6):
        command = [sys.executable, __file__, "trained", "--capacity", str(capacity)]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        found[capacity] = json.loads(out.stdout.strip().split("\n")[-1])
    small, large = found.values()
    added, data = large["peak"] - small["peak"], large["data"] - small["data"]
    return {"small": small, "large": large, "added": added, "data": data, "ratio": added / data}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "memory", "trained"))
    parser.add_argument("--capacity", type=int, default=10**6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "trained":
        trained(given.capacity)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    if given.what == "time":
        rows = timed()
        print("| | " + " | ".join(f"{capacity:,}" for capacity in CAPACITIES) + " | largest over smallest |")
        print("|---|" + "---|" * (len(CAPACITIES) + 1))
        for at in range(0, len(rows), len(CAPACITIES)):
            line = rows[at : at + len(CAPACITIES)]
            times = [row["microseconds"] for row in line]
            cells = " | ".join(f"{x:.1f} µs" for x in times)
            print(f"| {line[0]['kind']}, {line[0]['obs']} | {cells} | {times[-1] / times[0]:.2f} |")
        result = {"machine": MACHINE, "rows": rows}
    else:
        result = {"machine": MACHINE, **memory()}
        print(f"peak memory grows by {result['added'] / 1e6:,.0f} MB for {result['data'] / 1e6:,.0f} MB of data: "
              f"{result['ratio']:.3f} x")  # fmt: skip
    (RESULTS / f"{given.what}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
