"""The textbook's tabular experiments, over enough seeds to compare their numbers.

    python benchmarks/textbook.py [--seeds 10] [--report] [--out FOLDER] [--record]

The ten-armed testbed (sections 2.3 to 2.8), maximisation bias (example 6.7) and n-step TD on a random walk (example
7.1) of Sutton & Barto, 2018. Every seed's result is one JSON file in the folder of results (see `recorded.py`); a run
that was stopped continues with the missing seeds. Prints a table, and writes it with a picture.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import recorded
from rich.progress import Progress, TimeRemainingColumn

import purerl
from purerl import tabular
from purerl.tabular import MDP, bandits, worlds

RESULTS = Path(__file__).parent / "results" / "textbook"
NUM_BANDITS, PULLS, EVERY = 2_000, 1_000, 10
TESTBED = {
    "greedy": bandits.epsilon_greedy(0.0),
    "ε = 0.01": bandits.epsilon_greedy(0.01),
    "ε = 0.1": bandits.epsilon_greedy(0.1),
    "ε = 0.1, α = 0.1": bandits.epsilon_greedy(0.1, step_size=0.1),
    "optimistic": bandits.epsilon_greedy(0.0, step_size=0.1, initial=5.0),
    "UCB, c = 2": bandits.ucb(2.0),
    "gradient, α = 0.1": bandits.gradient(0.1),
    "gradient, α = 0.1, no baseline": bandits.gradient(0.1, baseline=False),
}


# --- the experiments: each a pure function of a key to a dict of arrays -----------------------------------------------


def testbed(bandit: bandits.Bandit, mean: float, key: jax.Array) -> dict[str, jax.Array]:
    """Reward, and frequency of the best arm, at every tenth pull: means over bandits with arms N(mean, 1)."""

    def one(key):
        arms_key, key = jax.random.split(key)
        arms = mean + jax.random.normal(arms_key, (10,))

        def pull(state, key):
            act_key, reward_key = jax.random.split(key)
            arm = bandit.act(act_key, state)
            reward = arms[arm] + jax.random.normal(reward_key)
            return bandit.update(state, arm, reward), (reward, arm == arms.argmax())

        return jax.lax.scan(pull, bandit.init(10), jax.random.split(key, PULLS))[1]

    reward, best = jax.vmap(one)(jax.random.split(key, NUM_BANDITS))
    return {"reward": reward.mean(0)[EVERY - 1 :: EVERY], "best": 100.0 * best.mean(0)[EVERY - 1 :: EVERY]}


def maximisation_bias(make, key: jax.Array) -> dict[str, jax.Array]:
    """Percentage of 1,000 runs that select left in each of the first 300 episodes."""
    # from A, right terminates, left leads to B; there ten actions terminate, with rewards N(-0.1, 1)
    successors = np.full((3, 10, 1), 2, np.int32)
    successors[0, 0] = 1
    reward, noise = np.zeros((3, 10)), np.zeros((3, 10))
    reward[1], noise[1] = -0.1, 1.0
    legal = np.ones((3, 10), bool)
    legal[0, 2:] = False
    mdp = MDP(np.ones((3, 10, 1)), reward, np.arange(3) == 2, np.eye(3)[0], successors)
    env = purerl.envs.Table(mdp, noise)
    agent = make(3, 10, tabular.Control(step_size=0.1, epsilon=0.1), legal=legal)
    learner = purerl.learner(env, env.default_params, agent, 1, 1)

    def one(key):
        def step(state, _):
            state, sums = learner.step(state)
            return state, (sums.episodes, state.agent.count[:, 0, 0].sum())

        _, (ends, left) = jax.lax.scan(step, learner.init(key), length=600)  # an episode has two steps at most
        at_end = jnp.nonzero(ends, size=300)[0]
        return jnp.diff(left[at_end], prepend=0)

    return {"left": 100.0 * jax.vmap(one)(jax.random.split(key, 1_000)).mean(0)}


def walk(n: int, step_size: float, key: jax.Array) -> dict[str, jax.Array]:
    """Root mean squared error of V on 19 states after each of the first 10 episodes: the mean of 100 runs."""
    mdp = worlds.random_walk(19, left=-1.0)
    env = purerl.envs.Table(mdp)
    agent = tabular.n_step_td(tabular.uniform(mdp), tabular.Prediction(step_size=step_size, n=n))
    learner = purerl.learner(env, env.default_params, agent, 1, 1)
    exact = tabular.evaluate(mdp, tabular.uniform(mdp), 1.0)

    def one(key):
        def step(state, _):
            state, sums = learner.step(state)
            error = jnp.sqrt(jnp.square(state.agent.value - exact)[1:-1].mean())
            return state, (sums.episodes, error)

        _, (ends, error) = jax.lax.scan(step, learner.init(key), length=5_000)
        at_end = jnp.nonzero(ends, size=10, fill_value=-1)[0]
        return error[at_end]

    return {"error": jax.vmap(one)(jax.random.split(key, 100)).mean(0)}


EXPERIMENTS = {
    **{f"testbed, {name}": partial(testbed, bandit, 4.0 * ("gradient" in name)) for name, bandit in TESTBED.items()},
    "bias, Q-learning": partial(maximisation_bias, tabular.q_learning),
    "bias, Double Q-learning": partial(maximisation_bias, tabular.double_q_learning),
    "walk, n = 1, α = 0.4": partial(walk, 1, 0.4),
    "walk, n = 4, α = 0.4": partial(walk, 4, 0.4),
}

LAST = lambda name: lambda result: result[name][-1]
# the quantity measured, the published number, and the tolerance: twice the standard deviation of the published mean
# (of 2,000 bandits, 10,000 runs, 100 runs) and of ours
NUMBERS = [
    ("testbed, greedy", "reward, pull 1,000", LAST("reward"), 1.042, 0.06),
    ("testbed, ε = 0.01", "reward, pull 1,000", LAST("reward"), 1.321, 0.06),
    ("testbed, ε = 0.1", "reward, pull 1,000", LAST("reward"), 1.375, 0.06),
    ("testbed, UCB, c = 2", "reward, pull 1,000", LAST("reward"), 1.505, 0.06),
    ("testbed, greedy", "best arm, %, pull 1,000", LAST("best"), 35.6, 2.5),
    ("testbed, ε = 0.01", "best arm, %, pull 1,000", LAST("best"), 59.2, 2.5),
    ("testbed, ε = 0.1", "best arm, %, pull 1,000", LAST("best"), 80.5, 2.5),
    ("testbed, ε = 0.1, α = 0.1", "best arm, %, pull 1,000", LAST("best"), 75.9, 2.5),
    ("testbed, optimistic", "best arm, %, pull 1,000", LAST("best"), 85.0, 2.5),
    ("testbed, gradient, α = 0.1", "best arm, %, pull 1,000", LAST("best"), 85.8, 2.5),
    ("bias, Q-learning", "left, %, at its peak", lambda result: result["left"].max(), 94.0, 2.0),
    ("bias, Double Q-learning", "left, %, episode 100", lambda result: result["left"][99], 9.3, 2.0),
    ("walk, n = 4, α = 0.4", "error, mean of 10 episodes", lambda result: result["error"].mean(), 0.261, 0.01),
]


# --- running and reporting --------------------------------------------------------------------------------------------


def folder(root: Path, name: str) -> Path:
    """The folder of an experiment's seeds."""
    plain = "".join(c if c.isalnum() or c == "." else "-" for c in name.replace("ε", "epsilon").replace("α", "alpha"))
    return root / "-".join(filter(None, plain.split("-")))


def found(root: Path, name: str) -> dict[int, dict[str, list[float]]]:
    """The results of the existing seeds."""
    return {int(path.stem): recorded.read(path)["result"] for path in sorted(folder(root, name).glob("*.json"))}


def load(root: Path, name: str) -> dict[str, np.ndarray] | None:
    """Means over the existing seeds, and their number; None if there are none."""
    seeds = [*found(root, name).values()]
    if not seeds:
        return None
    return {key: np.mean([seed[key] for seed in seeds], axis=0) for key in seeds[0]} | {"seeds": np.array(len(seeds))}


def run(root: Path, name: str, seeds: int, progress: Progress) -> int:
    """Run every seed that has no file yet, and return their number."""
    computed = 0
    function, task = jax.jit(EXPERIMENTS[name]), progress.add_task(name, total=seeds)
    for seed in range(seeds):
        path = folder(root, name) / f"{seed}.json"
        if not path.exists():
            key = jax.random.fold_in(jax.random.key(2018), seed)
            result = {k: np.round(np.asarray(x, float), 4).tolist() for k, x in function(key).items()}
            versions = {package: version(package) for package in ("purerl", "jax", "gymnax")}
            record = {"experiment": name, "seed": seed, "versions": versions}
            record |= {"device": f"{jax.devices()[0].device_kind}, {platform.machine()}", "result": result}
            recorded.save(path, record, indent=None)
            computed += 1
        progress.advance(task)
    return computed


def seeds_of(root: Path) -> dict[str, dict[int, recorded.Seed]]:
    """The number of every seed that is compared with the published one, for `recorded.beside`."""
    measured = {name: read for name, _, read, *_ in NUMBERS[::-1]}
    last = lambda result: next(iter(result.values()))[-1]
    arrays = lambda result: {key: np.array(x) for key, x in result.items()}
    return {
        name: {
            seed: recorded.Seed(float(measured.get(name, last)(arrays(result))), result)
            for seed, result in found(root, name).items()
        }
        for name in EXPERIMENTS
    }


def report(root: Path) -> str:
    """The table, in Markdown."""
    lines = [
        "# The textbook's tabular experiments",
        "",
        "Written by `python benchmarks/textbook.py --record`. Seeds are of 2,000 bandits, 1,000 runs or 100 runs each.",
        "",
        "| experiment | number | published | tolerance | ours | seeds | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, what, read, published, tolerance in NUMBERS:
        result = load(root, name)
        if result is None:
            lines.append(f"| {name} | {what} | {published:g} | ± {tolerance:g} | not run | | |")
            continue
        ours = float(read(result))
        good = "reproduced" if abs(ours - published) <= tolerance else f"**not reached** ({ours - published:+.3g})"
        row = f"| {name} | {what} | {published:g} | ± {tolerance:g} | {ours:.4g} | {result['seeds']} | {good} |"
        lines.append(row)
    return "\n".join([*lines, "", "![Curves](curves.png)", ""])


def draw(root: Path) -> None:
    """Rewards and best arms of the testbed, the bias over episodes, and errors on the walk."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    panels = [
        ("testbed", "reward", "pull", "mean reward"),
        ("testbed", "best", "pull", "best arm, %"),
        ("bias", "left", "episode", "goes left, %"),
        ("walk", "error", "episode", "error of V"),
    ]
    for axis, (start, key, x, y) in zip(axes.flat, panels, strict=True):
        for name in EXPERIMENTS:
            result = load(root, name) if name.startswith(start) else None
            if result is None or (key == "reward" and "gradient" in name):  # its arms have a different mean
                continue
            curve = result[key]
            every = EVERY if start == "testbed" else 1
            axis.plot(every * (1 + np.arange(len(curve))), curve, label=name.removeprefix(f"{start}, "), linewidth=1)
        axis.set(xlabel=x, ylabel=y)
        axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(root / "curves.png", dpi=130)
    plt.close(figure)


def main() -> None:
    """Compute the missing results, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=recorded.count, default=10, help="seeds of each experiment [10]")
    recorded.options(parser, RESULTS)
    given = parser.parse_args()
    place, computed = recorded.place(given), 0
    if not place.reports:
        with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn()) as progress:
            computed = sum([run(place.own, name, given.seeds, progress) for name in EXPERIMENTS])
    if not computed:
        recorded.nothing_computed(place, "every experiment")
    if not place.reports or given.record:
        (place.own / "RESULTS.md").write_text(report(place.own), encoding="utf-8")
        draw(place.own)
    print(report(place.shown))
    if place.shown != place.recorded:
        print("\n".join(recorded.beside(seeds_of(place.own), seeds_of(place.recorded))))


if __name__ == "__main__":
    main()
