"""Architecture search by REINFORCE and by regularised evolution, against the exact expectation of random search.

    pip install 'purerl[nas]'
    python benchmarks/papers/architecture_search.py [--seeds 50] [--only cora] [--report] [--tune]

There is one JSON file for each space and method under results/architecture-search/, with every seed in it; the seeds of
a file run in one program, and a run that was stopped continues with the files that are missing. `--tune` compares
learning rates and costs of entropy on the space of small networks, on other seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from text_report import control_section

import purerl
from purerl import build, statistics, training
from purerl.core import Array, Reward
from purerl.envs import ArchitectureSearch
from purerl.envs.training_control import architecture
from purerl.envs.training_control.architecture import ArchitectureSearchParams, SearchSpace
from purerl.envs.training_control.nas_bench_graph import DATA_SETS
from purerl.runs import report
from purerl.runs.devices import set_up_jax

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "architecture-search"
PICTURE = HERE / "architecture-search.png"
OWN = "small-networks"
SPACES = (*DATA_SETS, OWN)
SEEDS, QUERIES, JUDGED = 50, 1_000, (100, 500, 1_000)
AT = (1, 2, 5, 10, 20, 30, 40, *range(50, QUERIES + 1, 50))  # numbers of queries at which curves are kept
BATCH = 10  # architectures between two gradient steps of the controller
KEY, TUNING_KEY = 26, 27
HP = purerl.SequenceREINFORCE(learning_rate=0.02, entropy_cost=0.0, baseline_decay=0.9)
EVOLUTION = {"population": 50, "sample": 10}

# --- the searches: space -> (keys [R], scores [M]) -> architectures of the queries [R, Q] -----------------------------


class Queries(NamedTuple):
    """The architectures so far, -1 where there is none yet, int32 `[Q]`, and their number."""

    found: Array
    count: Array


def recorder(num: int) -> Reward:
    """The environment's reward, with the architectures of the first `num` episodes in its state."""

    def apply(key, state: Queries, transitions):
        del key
        found = transitions.info["architecture"].max(0)  # each episode has one, on its last step
        found = jax.lax.dynamic_update_slice(state.found, found, (state.count,))
        return Queries(found, state.count + transitions.reward.shape[1]), transitions.reward, {}

    return Reward(lambda key, step: Queries(jnp.full(num, -1, jnp.int32), jnp.zeros((), jnp.int32)), apply)


def controller(space: SearchSpace) -> Callable[..., Array]:
    """REINFORCE with a moving average as baseline; its hyperparameters are data."""
    env = ArchitectureSearch(space)
    agent = build.agent(purerl.sequence_reinforce, env.action_space(), build.body(hidden=(64,)))
    length = len(space.decisions)

    def one(key, score, hp):
        params = ArchitectureSearchParams(score, length)
        learner = purerl.learner(
            env, params, agent(hp), BATCH, length, reward=recorder(QUERIES), info=("architecture",)
        )
        updates = QUERIES // BATCH
        return training.train(learner, key, updates, updates)[0].reward.found

    program = jax.jit(jax.vmap(one, (0, None, None)))
    return lambda keys, score, hp=HP: program(keys, score, training.loop.as_arrays(hp))


def evolution(space: SearchSpace) -> Callable[..., Array]:
    """Regularised evolution."""
    one = lambda key, score: architecture.regularized_evolution(key, space.index, score, QUERIES, **EVOLUTION)
    return jax.jit(jax.vmap(one, (0, None)))


METHODS = {"reinforce": controller, "evolution": evolution}
NAMES = {"reinforce": "REINFORCE", "evolution": "regularised evolution"}


def space_of(name: str) -> SearchSpace:
    """A space by its name."""
    return architecture.small_networks() if name == OWN else architecture.nas_bench_graph(name)


@cache
def program(method: str, shared: str) -> Callable[..., Array]:
    """A search, compiled once for spaces that have the same sequences."""
    return METHODS[method](space_of(shared))


def keys_of(seeds: Any, key: int = KEY) -> Array:
    """The keys of seeds."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(key)))(jnp.asarray(seeds))


# --- running ----------------------------------------------------------------------------------------------------------


def random_search(space: SearchSpace) -> dict[str, Any]:
    """The table in a few numbers, and the expected best of random draws after so many queries as `AT` has.

    `distinct` draws architectures without replacement; `sequences` draws sequences of choices, all alike, so that
    architectures may repeat, as a controller does before it has learned.
    """
    score = np.asarray(space.validation, np.float64)
    sequences = np.bincount(space.index[space.index >= 0], minlength=len(score))
    best = int(score.argmax())
    return {
        "architectures": len(score),
        "mean": score.mean(),
        "best": score[best],
        "test_of_best": float(space.test[best]),
        "best_test": float(space.test.max()),
        "distinct": [architecture.expected_best_of_distinct(score, n) for n in AT],
        "sequences": [architecture.expected_best_of_independent(score, n, sequences) for n in AT],
    }


def rounded(x: Any) -> Any:
    """Numbers for a file."""
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [rounded(value) for value in x]
    return round(float(x), 6) if isinstance(x, float | np.floating) else x


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps(rounded(record), indent=None) + "\n")
    path.with_suffix(".part").rename(path)


def run(name: str, method: str, num_seeds: int) -> None:
    """Run all seeds of a search on a space, unless its file is there."""
    path = RESULTS / name / f"{method}.json"
    if path.exists() and len(json.loads(path.read_text())["runs"]) >= num_seeds:
        return
    report.note(f"{name}: {NAMES[method]}, {num_seeds} seeds")
    space = space_of(name)
    shared = name if name in (OWN, "proteins") else DATA_SETS[0]
    if not np.array_equal(space.index, space_of(shared).index):
        shared = name
    start = time.perf_counter()
    found = np.asarray(program(method, shared)(keys_of(range(num_seeds)), jnp.asarray(space.validation)))
    seconds = time.perf_counter() - start
    if found.min() < 0:
        raise ValueError(f"{name}, {method}: some query has no architecture")
    runs = []
    for seed, queries in enumerate(found):
        so_far = np.maximum.accumulate(space.validation[queries])
        best = int(queries[space.validation[queries].argmax()])
        runs.append({
            "seed": seed,
            "best": [so_far[n - 1] for n in AT],
            "distinct": [len(set(queries[:n].tolist())) for n in JUDGED],
            "architecture": best,
            "test": space.test[best],
        })  # fmt: skip
    write(path, {
        "space": name, "method": method, "at": AT, "random": random_search(space), "runs": runs,
        "settings": {k: x for k, x in vars(HP).items()} | {"batch": BATCH} if method == "reinforce" else EVOLUTION,
        "seconds": seconds,
        "versions": {p: version(p) for p in ("purerl", "jax", "jaxlib", "numpy")},
        "device": f"{jax.devices()[0].device_kind} x {jax.device_count()}, {platform.machine()}",
    })  # fmt: skip


def tune(num_seeds: int) -> None:
    """Mean best so far of the controller by learning rate and cost of entropy, on the space of small networks."""
    space = space_of(OWN)
    search, keys = program("reinforce", OWN), keys_of(range(num_seeds), TUNING_KEY)
    report.note(f"best of the table {space.validation.max():.4f}")
    for rate in (0.005, 0.01, 0.02, 0.05):
        for entropy in (0.0, 0.001, 0.01):
            hp = type(HP)(**vars(HP) | {"learning_rate": rate, "entropy_cost": entropy})
            found = np.asarray(search(keys, jnp.asarray(space.validation), hp))
            best = np.maximum.accumulate(space.validation[found], 1).mean(0)
            at = ", ".join(f"{best[n - 1]:.4f}" for n in JUDGED)
            report.note(f"learning rate {rate:g}, cost of entropy {entropy:g}: {at}")


# --- the report -------------------------------------------------------------------------------------------------------


def records(name: str, method: str) -> dict[str, Any] | None:
    """The results of a search on a space; None before it has run."""
    path = RESULTS / name / f"{method}.json"
    return json.loads(path.read_text()) if path.exists() else None


def best_at(record: dict[str, Any], num_queries: int) -> np.ndarray:
    """Best so far of each seed, after so many queries."""
    at = record["at"].index(num_queries)
    return np.array([x["best"][at] for x in record["runs"]])


def cell(values: np.ndarray, digits: int = 4) -> str:
    """Mean and 95 % interval of seeds."""
    low, high = statistics.interval(values, statistics.mean)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def above(record: dict[str, Any]) -> list[bool]:
    """Whether the interval lies above the expectation of random search, for each number of `JUDGED`."""
    limits = [record["random"]["distinct"][record["at"].index(n)] for n in JUDGED]
    lows = [statistics.interval(best_at(record, n), statistics.mean)[0] for n in JUDGED]
    return [low > limit for low, limit in zip(lows, limits, strict=True)]


def rows(name: str) -> list[str]:
    """A space's lines of the table."""
    found = {method: records(name, method) for method in METHODS}
    known = next((x for x in found.values() if x), None)
    if known is None:
        return [f"| {name} | not run | | | | | |"]
    table = known["random"]
    expected = [table["distinct"][known["at"].index(n)] for n in JUDGED]
    first = f"{name}: {table['architectures']:,} networks, best {table['best']:.4f}"
    lines = [f"| {first} | random search, exact | {' | '.join(f'{x:.4f}' for x in expected)} | | |"]
    for method, record in found.items():
        if record is None:
            lines.append(f"| | {NAMES[method]} | not run | | | | |")
            continue
        cells = " | ".join(cell(best_at(record, n)) for n in JUDGED)
        distinct = np.mean([x["distinct"][-1] for x in record["runs"]])
        wins = ", ".join(str(n) for n, won in zip(JUDGED, above(record), strict=True) if won) or "none"
        lines.append(f"| | {NAMES[method]} | {cells} | {distinct:.0f} | {wins} |")
    return lines


def regret_rows() -> list[str]:
    """Regret on the own space: best of the table minus best so far."""
    lines = ["| after queries | random search, exact | " + " | ".join(NAMES.values()) + " |", "|---|---|---|---|"]
    found = {method: records(OWN, method) for method in METHODS}
    known = next((x for x in found.values() if x), None)
    if known is None:
        return ["Not run."]
    best = known["random"]["best"]
    for n in JUDGED:
        at = known["at"].index(n)
        cells = [cell(best - best_at(x, n), 5) if x else "not run" for x in found.values()]
        lines.append(f"| {n:,} | {best - known['random']['distinct'][at]:.5f} | {' | '.join(cells)} |")
    return lines


def picture() -> None:
    """Best so far against queries, for every space."""
    import matplotlib.pyplot as plt

    shown = [name for name in SPACES if any(records(name, method) for method in METHODS)]
    columns = min(5, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 3.2 * lines), layout="constrained", squeeze=False
    )
    for ax in axes.reshape(-1)[len(shown) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.reshape(-1), shown, strict=False):
        for method, color in zip(METHODS, ("C0", "C2"), strict=True):
            record = records(name, method)
            if record is None:
                continue
            at, table = record["at"], record["random"]
            best = np.array([x["best"] for x in record["runs"]])
            low, high = np.transpose([statistics.interval(x, statistics.mean) for x in best.T])
            ax.plot(at, best.mean(0), color, label=NAMES[method])
            ax.fill_between(at, low, high, color=color, alpha=0.25)
        ax.plot(at, table["distinct"], "k", linewidth=1, label="random search, exact")
        ax.axhline(table["best"], color="grey", linewidth=0.7, linestyle=":")
        ax.set(title=name, xlim=(10, QUERIES), ylim=(table["distinct"][at.index(10)], None), xlabel="queries")
    axes[0, 0].set_ylabel("best validation score so far")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def write_report() -> None:
    """The section of CONTROL.md and its picture."""
    done = [records(name, "reinforce") for name in DATA_SETS]
    wins = {method: sum(bool(x) and all(above(x)) for x in map(partial(records, method=method), DATA_SETS))
            for method in METHODS}  # fmt: skip
    lines = [
        "## Architecture search",
        "",
        "`python benchmarks/papers/architecture_search.py`. Best validation score so far after 100, 500 and 1,000 "
        "queries, mean over seeds [95 % interval]. Random search is the exact expectation of as many distinct networks "
        "drawn from the table. For the searches every query counts, also of a network that was queried before. "
        f"REINFORCE: batches of {BATCH}, a moving average as baseline, Adam with the learning rate "
        f"{HP.learning_rate:g}. Regularised evolution: a population of "
        f"{EVOLUTION['population']}, samples of {EVOLUTION['sample']}.",
        "",
        "| table | search | 100 | 500 | 1,000 | distinct of 1,000 | interval above random search at |",
        "|---|---|---|---|---|---|---|",
        *[line for name in SPACES for line in rows(name)],
        "",
        f"Of the {sum(x is not None for x in done)} data sets of NAS-Bench-Graph that were run, the interval lies "
        "above random search at all three numbers on "
        + ", ".join(f"{wins[method]} ({NAMES[method]})" for method in METHODS)
        + ".",
        "",
        "**Regret on the space of small networks**, whose 5,832 members were all trained: best of the table minus best "
        "so far.",
        "",
        *regret_rows(),
        "",
        f"![best so far against queries]({PICTURE.name})",
    ]
    control_section("architecture-search", "\n".join(lines))
    picture()


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds of each search [{SEEDS}]")
    parser.add_argument("--only", default="", help="only spaces whose name contains this word")
    parser.add_argument("--report", action="store_true", help="only write CONTROL.md from the results")
    parser.add_argument("--tune", action="store_true", help="compare hyperparameters of the controller, write nothing")
    given = parser.parse_args()
    if not given.report:
        set_up_jax()
    if given.tune:
        tune(given.seeds)
        return
    if not given.report:
        for name in SPACES:
            for method in METHODS:
                if given.only in name:
                    run(name, method, given.seeds)
    write_report()


if __name__ == "__main__":
    main()
