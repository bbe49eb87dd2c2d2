"""Meta-gradients: A2C that starts with a small discount and learns it while it trains, against fixed values.

    python benchmarks/papers/meta_gradients.py [--seeds 10] [--only learned-small] [--record | --report]

The seeds of an arm are trained together, those of the same number from the same keys in every arm. There is one JSON
file for each arm and seed, and a run that was stopped continues with the arms of which files are missing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import sections
from controlled_trainings import rounded, save
from training_control_exact import interval, summary

import purerl
from purerl import distributions, networks, training
from purerl.runs import report
from purerl.runs.stream import measure
from purerl.search import metagradient

TASK = "CartPole-v1"
SEEDS, EPISODES, UPDATES, ROWS, NUM_ENVS, ROLLOUT_LENGTH = 10, 256, 400, 50, 64, 32
OUTER, META_RATE = (0.99, 0.95), 0.05  # γ' and λ' of the objective; Adam's step size of the logits
NAMES = ("gamma", "gae_lambda")


LIMITS = (
    "The objective's γ' and λ' are those of the fixed good arm: the method does not find a discount from nothing, it "
    "carries a known one through the update. The task, the sizes and the step size of the logits were chosen in trials "
    "on three other seeds; in smaller blocks, of 16 environments x 16 steps without standardised advantages and with a "
    "step size of 0.01, learning from γ = 0.5 brought nothing: the gradient is a product of two noisy ones. Near λ = 0 "
    "the sigmoid is flat, so λ leaves it slowly."
)


class Arm(NamedTuple):
    """A start, and whether γ and λ are learned from there."""

    start: tuple[float, float]  # γ, λ
    learned: bool
    color: str

    @property
    def about(self) -> str:
        """A line of the table."""
        return f"γ = {self.start[0]:g}, λ = {self.start[1]:g}, {'learned from there' if self.learned else 'fixed'}"


ARMS = {
    "fixed-small": Arm((0.5, 0.0), False, "C7"),
    "fixed-good": Arm(OUTER, False, "k"),
    "learned-small": Arm((0.5, 0.0), True, "C0"),
    "learned-some-lambda": Arm((0.5, 0.1), True, "C2"),
    "learned-good": Arm(OUTER, True, "C1"),
}
REFERENCE = "fixed-small"


def run(folder: Path, name: str, num_seeds: int, updates: int, episodes: int) -> None:
    """Train and evaluate all seeds of an arm, unless their files are there."""
    paths = [folder / f"{seed}.json" for seed in range(num_seeds)]
    if all(path.exists() for path in paths):
        return
    arm = ARMS[name]
    report.note(f"{TASK}: {arm.about}")
    env, env_params = purerl.make(TASK)
    policy = distributions.for_space(env.action_space(env_params))
    network = networks.actor_critic(policy)
    plain = partial(purerl.a2c, network, policy)
    objective = metagradient.policy_gradient(network, policy, *OUTER)

    def agent(hp):
        return metagradient.learning(plain, hp, NAMES, objective, META_RATE) if arm.learned else plain(hp)

    hp = purerl.A2C(learning_rate=3e-3, gamma=arm.start[0], gae_lambda=arm.start[1], normalize_advantage=True)
    train_key, play_key = jax.random.split(jax.random.key(31))
    keys = jax.vmap(lambda seed: jax.random.fold_in(train_key, seed))(np.arange(num_seeds))
    make = lambda hp: purerl.learner(env, env_params, agent(hp), NUM_ENVS, ROLLOUT_LENGTH)
    every = max(1, updates // ROWS)
    measured = measure(make, hp, keys, jax.devices()[:1], updates, every, NUM_ENVS * ROLLOUT_LENGTH)
    judge = lambda state: training.evaluate(env, env_params, agent(hp), state, play_key, episodes).returns.mean()
    final = jax.jit(lambda states: jax.lax.map(judge, states))(measured.state.agent)
    for seed, path in enumerate(paths):
        shown = {x: rounded(measured.metrics[x][:, seed], 6) for x in NAMES if arm.learned}
        save(path, {
            "task": TASK, "arm": name, "seed": seed, "steps": updates * NUM_ENVS * ROLLOUT_LENGTH,
            "iterations": measured.iterations.tolist(), "final": round(float(final[seed]), 4), "episodes": episodes,
            "returns": rounded(measured.metrics["episode_return"][:, seed], 3), **shown,
            "seconds_of_all": round(measured.run_seconds, 1), "seeds": num_seeds,
        })  # fmt: skip


def paired(one: dict[int, Any], other: dict[int, Any], of: Any) -> str:
    """The difference of two arms over the seeds that both have, with its interval; nothing if there are none."""
    differences = [of(x) - of(other[seed]) for seed, x in one.items() if seed in other]
    if not differences:
        return ""
    low, high = interval(differences)
    return f"{np.mean(differences):.1f} [{low:.1f}, {high:.1f}]"


def final_of(record: dict[str, Any]) -> float:
    """The mean return of the last policy."""
    return record["final"]


def mean_of(record: dict[str, Any]) -> float:
    """The mean return over the training."""
    return float(np.mean(record["returns"]))


def picture(found: sections.Found, path: Path) -> None:
    """Returns, γ and λ over the training; bands are Student's intervals."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for name, arm in ARMS.items():
        runs = [*found[name].values()]
        if not runs:
            continue
        steps = np.array(runs[0]["iterations"]) * NUM_ENVS * ROLLOUT_LENGTH / 1000
        for axis, what in zip(axes, ("returns", *NAMES), strict=True):
            if what not in runs[0]:
                axis.axhline(arm.start[NAMES.index(what)], color=arm.color, linestyle="--", linewidth=1)
                continue
            values = np.array([x[what] for x in runs])
            low, high = np.transpose([interval(list(column)) for column in values.T])
            axis.plot(steps, values.mean(0), arm.color, label=arm.about)
            axis.fill_between(steps, low, high, color=arm.color, alpha=0.2)
            if what != "returns":
                axis.plot(steps, values.T, arm.color, linewidth=0.4, alpha=0.5)
    for axis, title in zip(
        axes, ("return of training episodes", "γ (thin: each seed)", "λ (thin: each seed)"), strict=True
    ):
        axis.set(xlabel="thousands of environment steps", title=title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def section(found: sections.Found) -> str:
    """The section of POPULATION.md."""
    lines = [
        "## Meta-gradients",
        "",
        f"`python benchmarks/papers/meta_gradients.py`. A2C on {TASK}, {NUM_ENVS} environments x {ROLLOUT_LENGTH} "
        f"steps, {UPDATES} updates, learning rate 0.003, standardised advantages. The objective of the meta-gradient "
        f"(arXiv:1805.09801, equation 8) has γ' = {OUTER[0]} and λ' = {OUTER[1]}, and Adam changes the logits of γ "
        f"and λ with a step size of {META_RATE}. Final: mean return of {EPISODES} episodes of the last policy; "
        "training: mean over all of the training. Intervals are Student's, 95 %, over seeds; differences are paired by "
        "seed.",
        "",
        f"| A2C | final, mean [95 %] | least, most | minus {ARMS[REFERENCE].about} | training, mean [95 %] | minus the "
        "same | γ, λ at the end, means | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = found[REFERENCE]
    for name, arm in ARMS.items():
        runs = [*found[name].values()]
        if runs:
            last = ", ".join(f"{np.mean([x[n][-1] for x in runs]):.3f}" for n in NAMES if n in runs[0])
            of = (final_of, mean_of)
            differences = ["", ""] if name == REFERENCE else [paired(found[name], reference, x) for x in of]
            training_ = summary([mean_of(x) for x in runs], 1).split(" |")[0]
            lines.append(
                f"| {arm.about} | {summary([final_of(x) for x in runs], 1)} | {differences[0]} | {training_} | "
                f"{differences[1]} | {last or 'fixed'} | {len(runs)} |"
            )
    good, small, known = (found[name] for name in ("fixed-good", "learned-small", "learned-good"))
    if good and small and known:
        lines += [
            "",
            f"From γ = 0.5 and λ = 0 learning them gains {paired(small, reference, final_of)} of the final return, and "
            f"remains {paired(small, good, final_of)} from the fixed good values. Learned from the good values, the "
            f"return over the training gains {paired(known, good, mean_of)}, while λ falls at first; the final one "
            f"changes by {paired(known, good, final_of)}.",
        ]
    return "\n".join([*lines, "", "![γ and λ learned while training](meta-gradients.png)", "", LIMITS])


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    for name in given.names:
        run(root / name, name, given.seeds, given.updates, given.episodes)


def main() -> None:
    """Train what is missing, then report."""
    parser = sections.parser(__doc__, SEEDS)
    parser.add_argument("--updates", type=int, default=UPDATES, help=f"of a training [{UPDATES}]")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"of an evaluation [{EPISODES}]")
    sections.main(
        parser, "meta-gradients", "POPULATION.md", "meta-gradients", compute, section, picture,
        value=final_of, names=ARMS, one_device=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
