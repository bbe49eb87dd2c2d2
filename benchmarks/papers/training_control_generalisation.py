"""Regularisation of networks on few images: without, by the best fixed setting, and by an agent while they train.

    pip install 'purerl[data]'
    python benchmarks/papers/training_control_generalisation.py [--seeds 5] [--only ppo] [--record | --report]

The agent chooses dropout, label smoothing and weight decay at 5 times of a training on 200 images. Of the 1,797 digits
it sees one half, and the other half is for the judgement, on 100, 200 and 400 images. A fixed setting of the three is
found by random search on the first half, at the cost of the agent's training, for the same criterion: the final
validation accuracy. There is one JSON file for each arm and seed, and a run that was stopped continues with what is
missing.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sections
from controlled_trainings import LAST, controlled, keys_of, outcome, ppo, rounded, save, search, train
from training_control_exact import summary

import purerl
from purerl import build, networks
from purerl.core import Transition
from purerl.envs.training_control import actions, data, models, schedules, terms
from purerl.envs.training_control.data import Data
from purerl.envs.training_control.environment import TrainingControl, TrainingControlParams
from purerl.envs.training_control.optimizers import ADAM, Settings
from purerl.runs import report

SEEDS, STRETCHES, NUM_UPDATES, BATCH = 5, 5, 200, 20
NUM_ENVS, GROUP, UPDATES, CANDIDATES = 64, 8, 40, 64  # 2,560 trainings, of PPO and of random search
IMAGES, TRAINED_ON, JUDGED = (100, 200, 400), 200, 100
CONTROLS = ("dropout", "label_smoothing", "weight_decay")
TRAINING, JUDGING, SEARCHING, DRAWING = 0, 1, 2, 3  # purposes of keys


@cache
def halves() -> tuple[Data, Data]:
    """The digits, in a random order, in two halves."""
    every = data.digits()
    order = np.random.default_rng(26).permutation(len(every.y))
    return tuple(Data(every.x[rows], every.y[rows]) for rows in np.array_split(order, 2))  # pyright: ignore[reportReturnType]


def final_accuracy(transitions: Transition) -> Any:
    """The validation accuracy at the end of the training, in per cent, otherwise 0."""
    return 100 * terms.final_score(transitions)


@cache
def environment(part: int, images: int, steps: int = STRETCHES) -> TrainingControl:
    """Networks of 64 hidden units, Adam, 200 updates, on so many images of one half.

    The first half is for training the agent and for the search alone, so that its images that no network is trained on
    are all for validation but for a few.
    """
    validation, test = ((len(halves()[0].y) - images - 20), 20) if part == 0 else (200, 298)
    model = models.with_head(networks.MLP((64,), activation=jax.nn.relu), 10, dropout=True)
    return TrainingControl(
        model, halves()[part], images, validation, test, updates_per_step=NUM_UPDATES // steps, batch_size=BATCH,
        budget=steps, actions=actions.choose(*CONTROLS), reward=final_accuracy,
    )  # fmt: skip


BEFORE = Settings(learning_rate=5e-3, optimizer=ADAM)  # without dropout, label smoothing and weight decay


PARAMS = TrainingControlParams(BEFORE, max_steps_in_episode=STRETCHES)


def hyperparameters() -> Any:
    """PPO's."""
    steps = float(NUM_ENVS * STRETCHES * UPDATES)
    return ppo(learning_rate=3e-3, anneal_steps=steps, gae_lambda=1.0, normalize_obs=True)


# --- running ----------------------------------------------------------------------------------------------------------


@cache
def fixed(part: int, images: int) -> Any:
    """Trainings with one setting: `(settings, keys [n]) -> outcomes [n]`."""
    env = environment(part, images, 1)  # nothing is decided on the way, so all updates are one step
    params = PARAMS.replace(max_steps_in_episode=1)

    @jax.jit
    def judge(settings, keys):
        control = lambda carry, obs, now, used: (carry, settings)
        play = lambda key: schedules.rollout(key, env, params, 1, control)
        return jax.vmap(lambda key: outcome(play(key), (*LAST, "score"), CONTROLS))(keys)

    return judge


def settings_of(action: Any) -> Settings:
    """The settings of an action in [-1, 1]³."""
    return environment(0, TRAINED_ON).actions.apply(BEFORE, action)


def random_search(seed: int) -> dict[str, Any]:
    """The best of random settings on the first half of the images, by the final validation accuracy."""
    tried = jax.random.uniform(keys_of(SEARCHING, seed, 1)[0], (CANDIDATES, len(CONTROLS)), minval=-1.0)
    program = lambda action, keys: fixed(0, TRAINED_ON)(settings_of(action), keys)["score"]
    num = NUM_ENVS * UPDATES // CANDIDATES
    scores = search(f"random search, seed {seed}", program, tried, keys_of(SEARCHING, seed + 1000, num), 40)
    best = int(scores.argmax())
    found = {name: float(getattr(settings_of(tried[best]), name)) for name in CONTROLS}
    return {"trainings": num * CANDIDATES, "chosen": found, "scores": rounded(scores)}


def judged(program: Any, seed: int) -> dict[str, Any]:
    """Means over held-out trainings for each number of images: `program(images) -> (keys -> outcomes)`."""
    found = {}
    for images in IMAGES:
        out = program(images)(keys_of(JUDGING, seed * 1000 + images, JUDGED))
        mean = {name: float(np.mean(out[name])) for name in LAST[1:]}
        found[str(images)] = mean | {name: np.resize(np.mean(out[name], axis=0), STRETCHES) for name in CONTROLS}
    return rounded(found, 7)  # weight decay is small


@cache
def agent_program(images: int) -> Any:
    """Trainings on the held-out half under the agent."""
    env = environment(1, images)
    agent = build.agent(purerl.ppo, env.action_space())(hyperparameters())
    return controlled(env, agent, STRETCHES, CONTROLS)


def run(path: Path, arm: str, seed: int) -> None:
    """One arm and seed, from its training or search to its judgement."""
    if path.exists():
        return
    report.note(f"{arm}, seed {seed}")
    begin, more = time.perf_counter(), {}
    if arm == "ppo":
        env = environment(0, TRAINED_ON)
        state, curve = train(env, PARAMS, hyperparameters(), NUM_ENVS, UPDATES, seed, GROUP)
        more = {"trainings": NUM_ENVS * UPDATES, "curve": curve, "hyperparameters": vars(hyperparameters())}

        def program(images):
            return lambda keys: agent_program(images)(state, PARAMS, keys)
    else:
        more = random_search(seed) if arm == "fixed" else {}
        settings = BEFORE._replace(**more["chosen"]) if more else BEFORE
        program = lambda images: lambda keys: fixed(1, images)(settings, keys)
    seconds = time.perf_counter() - begin
    save(path, {"arm": arm, "seed": seed, "images": judged(program, seed), "seconds": round(seconds, 1), **more})


ARMS = {"before": "without", "fixed": "best fixed setting of a random search", "ppo": "PPO chooses while it trains"}


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    for seed in range(given.seeds):
        for arm in given.names:
            run(root / arm / f"{seed}.json", arm, seed)


# --- the report -------------------------------------------------------------------------------------------------------


def of_arm(found: sections.Found, arm: str, images: int) -> dict[int, dict[str, Any]]:
    """The judgements of an arm for a number of images, by seed, with the gaps."""
    gaps = lambda x: {"gap": x["train_score"] - x["test_score"], "loss_gap": x["test_loss"] - x["train_loss"]}
    judged = {seed: x["images"][str(images)] for seed, x in found[arm].items()}
    return {seed: x | gaps(x) for seed, x in judged.items()}


def section(found: sections.Found) -> str:
    """The section of CONTROL.md."""
    lines = [
        "## Generalisation: regularisation that an agent chooses",
        "",
        "`python benchmarks/papers/training_control_generalisation.py`. A network of 64 hidden units on few of the "
        f"digits, Adam, {NUM_UPDATES} updates of {BATCH} images. PPO chooses dropout, label smoothing and weight decay "
        f"{STRETCHES} times in a training; it learned on {TRAINED_ON} images of one half of the digits, in "
        f"{NUM_ENVS * UPDATES:,} trainings, "
        "as many as the random search had. Judged on the other half: means over "
        f"{JUDGED} trainings for each seed, the same for all. The gap is the accuracy on training images minus that on "
        "test images. Settings are chosen for accuracy alone; label smoothing raises the log loss. PPO's own settings "
        "were not tuned. Means of seeds with 95 % intervals, Student's.",
        "",
        "| images | | test accuracy | train-test gap | log loss: test | its gap | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for images in IMAGES:
        for arm, about in ARMS.items():
            runs = of_arm(found, arm, images).values()
            if runs:
                cells = [
                    summary([x[name] for x in runs], 4).split(" | ")[0]
                    for name in ("test_score", "gap", "test_loss", "loss_gap")
                ]
                lines.append(f"| {images} | {about} | {' | '.join(cells)} | {len(runs)} |")
    lines += ["", "| images | test accuracy of PPO minus that of | mean [95 % interval] | least, most |"]
    lines.append("|---|---|---|---|")
    for images in IMAGES:
        ours = of_arm(found, "ppo", images)
        for arm in ("before", "fixed"):
            theirs = of_arm(found, arm, images)
            both = sorted(set(ours) & set(theirs))
            if both:
                difference = [ours[seed]["test_score"] - theirs[seed]["test_score"] for seed in both]
                lines.append(f"| {images} | {ARMS[arm]} | {summary(difference, 4)} |")
    return "\n".join([*lines, "", "![regularisation chosen by an agent](training-control-generalisation.png)"])


def picture(found: sections.Found, path: Path) -> None:
    """Accuracy and gap by the number of images, and the settings of the agent and of the random search."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 5, figsize=(20, 4), layout="constrained")
    for ax, name, title in zip(axes[:2], ("test_score", "gap"), ("test accuracy", "train-test gap"), strict=True):
        for i, (arm, about) in enumerate(ARMS.items()):
            for j, images in enumerate(IMAGES):
                values = [x[name] for x in of_arm(found, arm, images).values()]
                at = j + 0.2 * (i - 1)
                ax.plot(np.full(len(values), at), values, f"C{i}.", label=about if j == 0 else None)
        ax.set(xticks=range(len(IMAGES)), xticklabels=[f"{x} images" for x in IMAGES], title=title)
    axes[0].legend(fontsize=8)
    used = np.arange(STRETCHES + 1) / STRETCHES
    for ax, name in zip(axes[2:], CONTROLS, strict=True):
        for arm, color in (("fixed", "C1"), ("ppo", "C2")):
            for x in of_arm(found, arm, TRAINED_ON).values():
                ax.step(used, [*x[name], x[name][-1]], color, where="post", alpha=0.7)
        ax.set(xlabel="fraction of the budget", title=name.replace("_", " "))
    axes[-1].set_yscale("log")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Train what is missing, then report."""
    sections.main(
        sections.parser(__doc__, SEEDS), "training-control-generalisation", "CONTROL.md", "generalisation", compute,
        section, picture, value=lambda x: x["images"][str(TRAINED_ON)]["test_score"], names=ARMS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
