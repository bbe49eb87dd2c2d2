"""Reproductions of published numbers: run what is missing, write RESULTS.md.

    python benchmarks/papers/reproduce.py [KEY ...] [--seeds 10] [--report]

Every seed's result is one JSON file under results/; a run that is stopped goes on with the seeds that are missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import harness
import numpy as np
from harness import Entry, Published

import purerl
from purerl import statistics
from purerl.host import jobs

CLEANRL = "[CleanRL](https://docs.cleanrl.dev/rl-algorithms/ppo/#experiment-results)"
LAST_100 = "mean return of the last 100 training episodes in whole updates, mean over seeds"
BOOTSTRAP = "we bootstrap at time limits, CleanRL does not"


def cleanrl_ppo(env: str, mean: float, std: float, control: bool = False) -> Entry:
    """CleanRL's classic-control PPO at 500k steps."""
    return Entry(
        key=f"ppo-{env}",
        env=env,
        agent=purerl.ppo,
        hp=purerl.PPO(anneal_steps=976 * 512, value_clip=0.2),
        num_envs=4,
        rollout_length=128,
        num_updates=976,
        published=Published(mean, CLEANRL, std, runs=3, low_is_expected=control),
        protocol=LAST_100,
        differs=BOOTSTRAP,
    )


ENTRIES = [
    cleanrl_ppo("CartPole-v1", 490.04, 6.12),
    cleanrl_ppo("Acrobot-v1", -86.36, 1.32),
    cleanrl_ppo("MountainCar-v0", -200.00, 0.00, control=True),
    Entry(
        key="reinforce-CartPole-v1",
        env="CartPole-v1",
        agent=purerl.reinforce,
        hp=purerl.REINFORCE(),
        num_envs=8,
        rollout_length=500,
        num_updates=400,
        frames=200_000,
        published=Published(483, "one library, 200k frames, no deviation given"),
        protocol=LAST_100 + "; frames are steps inside of episodes",
        differs="hyperparameters",
    ),
    Entry(
        key="a2c-CartPole-v1",
        env="CartPole-v1",
        agent=purerl.a2c,
        hp=purerl.A2C(learning_rate=3e-3, anneal_steps=200_000),
        num_envs=8,
        rollout_length=5,
        num_updates=5000,
        published=Published(497, "one library, 200k frames, no deviation given"),
        protocol=LAST_100,
        differs="hyperparameters",
    ),
]

ENTROPY = Entry(
    key="ppo-entropy-CartPole-v1",
    env="CartPole-v1",
    agent=purerl.ppo,
    hp=purerl.PPO(anneal_steps=976 * 512, value_clip=0.2),
    num_envs=4,
    rollout_length=128,
    num_updates=976,
    published=Published(490, "about 490 to 500 up to 0.01, falling to about 260 at 0.5"),
    protocol=LAST_100,
    sweep={"entropy_cost": (0.0, 5e-4, 1e-3, 0.01, 0.05, 0.1, 0.5)},
)


def report(here: Path) -> str:
    """The page of results, from the files that are there."""
    lines = [
        "# Reproductions",
        "",
        "Written by `python benchmarks/papers/reproduce.py --report` from the JSON files under `results/`, one a seed.",
        "Ours: mean over seeds, 95 % bootstrap interval. Reproduced: |difference| ≤ 2 √(s₁²/k₁ + s₂²/k₂).",
        "",
        "| key | published | ours | seeds | verdict | measured | what differs |",
        "|---|---|---|---|---|---|---|",
        *[harness.row(entry) for entry in ENTRIES],
        "",
        "MountainCar is a negative control: plain PPO does not solve it in 500k steps; solving it would be an error.",
        "",
        "## Entropy cost of PPO on CartPole-v1",
        "",
        "All values and seeds train in one vmapped program. Published: " + ENTROPY.published.source + ".",
        "",
        "| entropy cost | mean return | 95 % interval | seeds |",
        "|---|---|---|---|",
    ]
    curves = {}
    for value in ENTROPY.sweep["entropy_cost"]:
        ours = harness.scores(ENTROPY, value)
        if len(ours):
            low, high = statistics.interval(ours, statistics.mean)
            lines.append(f"| {value:g} | {ours.mean():.1f} | {low:.1f} .. {high:.1f} | {len(ours)} |")
            curves[value] = (ours.mean(), low, high, ours)
    if curves:
        draw(curves, here / "entropy.png")
        lines += ["", "![Return against entropy cost](entropy.png)"]
    return "\n".join(lines) + "\n"


def draw(curves: dict, path: Path) -> None:
    """Return against entropy cost: seeds, mean and interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for index, (mean, low, high, ours) in enumerate(curves.values()):
        axis.plot(np.full(len(ours), index), ours, ".", color="#1f6feb", alpha=0.35)
        axis.errorbar(index, mean, [[mean - low], [high - mean]], fmt="o", color="#1f6feb", capsize=4)
    axis.set_xticks(range(len(curves)), [f"{value:g}" for value in curves])
    axis.set(xlabel="entropy cost", ylabel="return of the last 100 episodes", ylim=(0, 515))
    axis.set_title("PPO on CartPole-v1, 500k steps: seeds, mean, 95 % interval", fontsize=10, loc="left")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run what is asked for and missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {entry.key: entry for entry in [*ENTRIES, ENTROPY]}
    parser.add_argument("keys", nargs="*", metavar="KEY", help="one of " + ", ".join(known) + " [default: all]")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of each entry, the sweep at most 8 [10]")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md from what is there")
    arguments = parser.parse_args()
    unknown = [key for key in arguments.keys if key not in known]
    if unknown:
        parser.error(f"there is no entry {unknown[0]!r}; allowed are {', '.join(known)}")
    if not arguments.report:
        jobs.set_up_jax()
        for key in arguments.keys or known:
            harness.run(known[key], min(arguments.seeds, 8) if known[key].sweep else arguments.seeds)
    here = Path(__file__).parent
    (here / "RESULTS.md").write_text(report(here), encoding="utf-8")
    print(report(here))


if __name__ == "__main__":
    main()
