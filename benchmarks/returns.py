"""GAE and V-trace over a block [128, 4096], and discounted sums by a scan and in passes.

    python benchmarks/returns.py [--rounds 15] [--out FOLDER] [--record]

Compared with a naive reversed Python loop under jit, and with RLax under vmap (extra `peers`), in alternation in one
process. Prints a table, beside it the recorded one, and writes JSON into the folder of results (see `recorded.py`).
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import recorded
from peers import note

from purerl.runs.devices import set_up_jax

set_up_jax()

from purerl import returns  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "returns"
T, N, GAMMA, LAM = 128, 4096, 0.99, 0.95


def naive_sums(x: jax.Array, discount: jax.Array) -> jax.Array:
    """Discounted sums of x `[T, N]` by a loop in Python, unrolled by jit: `[T, N]`."""
    y, ys = jnp.zeros_like(x[0]), []
    for t in reversed(range(len(x))):
        y = x[t] + discount[t] * y
        ys.append(y)
    return jnp.stack(ys[::-1])


def contestants() -> dict[str, dict[str, Callable]]:
    """The implementations of each task: functions of (log_ratio, reward, value [T + 1, N], terminated)."""
    no = jnp.zeros((T, N), bool)

    def gae(log_ratio, reward, value, terminated):
        return returns.gae(reward, value[:-1], value[1:], terminated, no, GAMMA, LAM)

    def naive_gae(log_ratio, reward, value, terminated):
        discount = jnp.where(terminated, 0.0, GAMMA)
        return naive_sums(reward + discount * value[1:] - value[:-1], discount * LAM)

    def vtrace(log_ratio, reward, value, terminated):
        return tuple(returns.vtrace(log_ratio, reward, value[:-1], value[1:], terminated, no, GAMMA, LAM))

    def naive_vtrace(log_ratio, reward, value, terminated):
        ratio, discount = jnp.minimum(1.0, jnp.exp(log_ratio)), jnp.where(terminated, 0.0, GAMMA)
        errors = naive_sums(ratio * (reward + discount * value[1:] - value[:-1]), discount * LAM * ratio)
        target = value[:-1] + errors
        after = jnp.concatenate([LAM * target[1:] + (1 - LAM) * value[1:-1], value[-1:]])
        return target, ratio * (reward + discount * after - value[:-1])

    tasks = {"GAE": {"purerl": gae, "a loop": naive_gae}, "V-trace": {"purerl": vtrace, "a loop": naive_vtrace}}
    try:
        import rlax
    except ImportError:
        return tasks

    over = lambda f: jax.vmap(f, 1, 1)

    def rlax_gae(log_ratio, reward, value, terminated):
        discount = jnp.where(terminated, 0.0, GAMMA)
        one = lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, LAM, v)
        return over(one)(reward, discount, value)

    def rlax_vtrace(log_ratio, reward, value, terminated):
        discount = jnp.where(terminated, 0.0, GAMMA)
        one = lambda v, n, r, d, p: rlax.vtrace_td_error_and_advantage(v, n, r, d, p, LAM)
        out = over(one)(value[:-1], value[1:], reward, discount, jnp.exp(log_ratio))
        return value[:-1] + out.errors, out.pg_advantage

    tasks["GAE"]["rlax"], tasks["V-trace"]["rlax"] = rlax_gae, rlax_vtrace
    return tasks


def measure(functions: dict[str, Callable], arguments: tuple, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each call, in alternation, after one that compiles: `[rounds]`. All must return the same values."""
    compiled = {name: jax.jit(f) for name, f in functions.items()}
    results = {name: jax.block_until_ready(f(*arguments)) for name, f in compiled.items()}
    first = next(iter(results.values()))
    for result in results.values():
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), result, first)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, f in compiled.items():
            calls = []
            for _ in range(5):
                begin = time.perf_counter()
                jax.block_until_ready(f(*arguments))
                calls.append(time.perf_counter() - begin)
            times[name].append(min(calls))
    return {name: np.array(x) for name, x in times.items()}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of alternation [15]")
    recorded.options(parser, RESULTS, report=False)
    given = parser.parse_args()
    place, rounds = recorded.place(given), given.rounds
    kind = jax.devices()[0].platform
    theirs = recorded.read(place.recorded / f"{kind}.json", {}) if place.own != place.recorded else {}
    note("'purerl[peers]'", "rlax")
    generator = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    arguments = (0.5 * normal(T, N), normal(T, N), normal(T + 1, N), jnp.asarray(generator.random((T, N)) < 0.02))
    result: dict[str, Any] = {"device": f"{jax.devices()[0].device_kind}, {platform.machine()}", "jax": jax.__version__}

    def show(task: str, times: dict[str, np.ndarray]) -> None:
        ours = next(iter(times.values()))
        result[task] = {}
        for name, seconds in times.items():
            ratio = seconds / ours
            spread = [float(f(ratio)) for f in (np.median, np.min, np.max)]
            result[task][name] = {"ms": 1e3 * float(np.median(seconds)), "over the first [median, least, most]": spread}
            text = "" if seconds is ours else f"{spread[0]:6.2f} x [{spread[1]:.2f}, {spread[2]:.2f}]"
            before = theirs.get(task, {}).get(name)
            if before:
                there = before["over the first [median, least, most]"]
                text = f"{text:22} recorded: {before['ms']:9.3f} ms"
                text += "" if seconds is ours else f" {there[0]:6.2f} x [{there[1]:.2f}, {there[2]:.2f}]"
            print(f"{task:28} {name:10} {1e3 * np.median(seconds):9.3f} ms  {text}")

    for task, functions in contestants().items():
        show(f"{task} [{T}, {N}]", measure(functions, arguments, rounds))
    for shape in ((128, 64), (128, 4096), (1024, 1), (100_000, 1)):
        x, discount = normal(*shape), jnp.full(shape, 0.9)
        ways = {
            "by steps": lambda x, d: returns.discounted_sums(x, d),
            "in passes": lambda x, d: returns.discounted_sums(x, d, in_passes=True),
        }
        show(f"sums {list(shape)}", measure(ways, (x, discount), rounds))
    recorded.save(place.own / f"{kind}.json", result)


if __name__ == "__main__":
    main()
