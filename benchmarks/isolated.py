"""The cost of isolated seeds: PPO on CartPole, 8 seeds on one device, trained together and one after another.

    python benchmarks/isolated.py [--seeds 8] [--rounds 6]

Both programs run in alternation in one process; times are processor seconds of an update. Whether a seed among others
has the bits of that seed alone is printed too.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import purerl
from purerl import build, training
from purerl.runs import checkpoint, files
from purerl.runs.devices import set_up_jax


def main() -> None:
    """Compile, compare bits, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6, help="of alternation, 5 updates each [6]")
    given = parser.parse_args()
    set_up_jax()
    env, env_params = purerl.make("CartPole-v1")
    agent = build.agent(build.agent_function("ppo"), env.action_space(env_params))
    one = lambda hp: purerl.learner(env, env_params, agent(hp), 4, 128)
    keys, hp = jax.random.split(jax.random.key(0), given.seeds), training.loop.as_arrays(purerl.PPO())
    isolated, together, last = purerl.batch(one, isolate=True), purerl.batch(one), given.seeds - 1
    jobs = {"isolated": (isolated, keys), "together": (together, keys), "alone": (isolated, keys[last:])}
    programs = {name: training.compile_run(make, hp, k) for name, (make, k) in jobs.items()}
    state: dict = {name: program.state for name, program in programs.items()}
    times: dict[str, list[float]] = {name: [] for name in jobs}

    def updates(name: str, count: int) -> None:
        begin = time.process_time()
        state[name], metrics = programs[name].advance(jobs[name][0], hp, state[name], jnp.int32(count))
        jax.block_until_ready(metrics)
        times[name].append(1e3 * (time.process_time() - begin) / count)

    for name in jobs:
        updates(name, 10)
    sha = {name: files.hashes(checkpoint.to_host(state[name]), len(k))[-1] for name, (_, k) in jobs.items()}
    for name in ("isolated", "together"):
        same = "the bits" if sha[name] == sha["alone"] else "other bits"
        print(f"after 10 updates, the last of {given.seeds} seeds, {name}, has {same} of that seed alone")
    for _ in range(given.rounds):
        for name in jobs:
            updates(name, 5)
    measured = {name: np.array(x[1:]) for name, x in times.items()}
    for name, x in measured.items():
        print(f"{name}: {np.median(x):.2f} ms of processor time an update")
    ratio = measured["isolated"] / measured["together"]
    print(f"isolated over together: {np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]")


if __name__ == "__main__":
    main()
