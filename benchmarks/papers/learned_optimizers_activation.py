"""A learned optimiser of networks, tested with other activations than the one that it was trained with.

    python benchmarks/papers/learned_optimizers_activation.py [--seeds 5] [--report]

Published (Andrychowicz et al., 2016, arXiv:1606.04474, section 3.2): an optimiser trained on networks with sigmoids
serves larger ones and more layers, and fails where the activation is ReLU. Here the networks are small and are trained
inside `TrainingControl`: 16 inputs, one hidden layer of 10, 4 classes by a teacher that every training draws anew,
minibatches of 32, 100 updates. The optimiser is the paper's, an LSTM of two layers of 20 for every coordinate, trained
by the gradient of the training losses through stretches of 20 updates. Adam has the best of 25 constant learning rates
for each activation, chosen on other trainings. There is one JSON file for each seed under
results/learned-optimizers-activation/, and a run that was stopped continues with what is missing.
"""

from __future__ import annotations

import argparse
import time
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from controlled_trainings import keys_of, load, rounded, save
from text_report import control_section
from training_control_exact import summary

from purerl import networks
from purerl.envs.training_control import data, learned, models, schedules
from purerl.envs.training_control.environment import TrainingControl
from purerl.envs.training_control.optimizers import ADAM, InnerOptimizer, Settings, first_order
from purerl.runs import report
from purerl.runs.devices import set_up_jax
from purerl.runs.progress import Progress

RESULTS = Path(__file__).parent / "results" / "learned-optimizers-activation"
ACTIVATIONS = {"sigmoid": nn.sigmoid, "tanh": nn.tanh, "ReLU": nn.relu}
TRAINED_WITH = "sigmoid"
SEEDS, INPUTS, WIDTH, CLASSES, BATCH = 5, 16, 10, 4, 32
UPDATES, STRETCH, UNROLL = 100, 4, 20
AT_ONCE, EPISODES, RATE = 16, 60, 3e-3
JUDGED, TUNED, RATES = 256, 64, np.logspace(-4, 0, 25)
TRAINING, JUDGING, TUNING = 20, 21, 22  # purposes of keys
OPTIMIZER = learned.coordinatewise(networks.stack(networks.lstm(20), networks.lstm(20)))


def environment(activation: str, optimizer: InnerOptimizer) -> TrainingControl:
    """Trainings of networks with an activation by an optimiser; nothing changes its settings."""
    hidden = nn.Sequential([nn.Dense(WIDTH), ACTIVATIONS[activation]])
    parts, draw = (400, 100, 100), data.teacher_student(600, INPUTS, CLASSES)
    return TrainingControl(
        models.with_head(hidden, CLASSES), draw, *parts, updates_per_step=STRETCH, batch_size=BATCH,
        budget=UPDATES // STRETCH, optimizer=optimizer,
    )  # fmt: skip


def shown(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The optimiser, to which gradients are constants, as in the paper."""
    update = lambda grads, *rest: optimizer.update(jax.lax.stop_gradient(grads), *rest)
    return optimizer._replace(update=update)


def train(seed: int) -> tuple[Any, list[float]]:
    """An optimiser's weights after training, and the training losses at the end of the trainings it learned from."""
    rate = optax.cosine_decay_schedule(RATE, EPISODES * UPDATES // UNROLL)
    adam, settings = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), Settings(learning_rate=1.0)

    def objective(weights, state):
        env = environment(TRAINED_WITH, shown(OPTIMIZER.optimizer(weights)))

        def one(state, _):
            _, state, _, _, info = env.advance(state, settings, env.default_params)
            return state, info["train_loss"]

        state, values = jax.vmap(lambda state: jax.lax.scan(one, state, length=UNROLL // STRETCH))(state)
        return values.sum(1).mean(), (state, values[:, -1].mean())

    @jax.jit
    def episode(weights, opt_state, keys):
        env = environment(TRAINED_WITH, OPTIMIZER.optimizer(weights))
        state = jax.vmap(lambda key: env.reset_env(key, env.default_params)[1])(keys)

        def one(carry, _):
            weights, opt_state, state = carry
            grads, (state, last) = jax.grad(objective, has_aux=True)(weights, state)
            change, opt_state = adam.update(grads, opt_state)
            return (optax.apply_updates(weights, change), opt_state, state), last

        carry, last = jax.lax.scan(one, (weights, opt_state, state), length=UPDATES // UNROLL)
        return *carry[:2], last[-1]

    weights, curve = OPTIMIZER.init(keys_of(TRAINING, seed, 1)[0]), []
    carry = weights, adam.init(weights)
    with Progress(EPISODES, AT_ONCE * UPDATES, result="training loss") as progress:
        for i, keys in enumerate(keys_of(TRAINING, seed, 1 + EPISODES * AT_ONCE)[1:].reshape(EPISODES, AT_ONCE)):
            *carry, last = episode(*carry, keys)
            curve.append(float(last))
            progress.update(i + 1, curve[-1])
    return carry[0], curve


@cache
def played(activation: str, kind: str) -> Any:
    """Losses of the training part after every stretch, `(weights, rates [R], keys [n]) -> [R, UPDATES / STRETCH]`."""

    @jax.jit
    def play(weights, rates, keys):
        env = environment(activation, first_order() if kind == "adam" else OPTIMIZER.optimizer(weights))
        params = env.default_params.replace(settings=Settings(optimizer=ADAM))
        steps = UPDATES // STRETCH

        def one(rate, key):
            control = schedules.follow(schedules.constant(rate))
            return schedules.rollout(key, env, params, steps, control)["train_loss"]

        of_rate = lambda rate: jax.vmap(lambda key: one(rate, key))(keys).mean(0)
        return jax.lax.map(of_rate, rates)

    return play


@cache
def tuned(activation: str) -> float:
    """Adam's best learning rate for networks with an activation."""
    final = played(activation, "adam")((), jnp.asarray(RATES, jnp.float32), keys_of(TUNING, 0, TUNED))[:, -1]
    return float(RATES[np.asarray(final).argmin()])


def run(seed: int) -> None:
    """Train an optimiser, then judge it and Adam on the same trainings, for every activation."""
    path = RESULTS / f"{seed}.json"
    if path.exists():
        return
    report.note(f"seed {seed}")
    begin = time.perf_counter()
    weights, curve = train(seed)
    keys, losses = keys_of(JUDGING, seed, JUDGED), {}
    for activation in ACTIVATIONS:
        one = lambda rate: jnp.asarray([rate], jnp.float32)
        adam = played(activation, "adam")((), one(tuned(activation)), keys)[0]
        ours = played(activation, "learned")(weights, one(1.0), keys)[0]
        losses[activation] = {"rate": tuned(activation), "adam": rounded(adam), "learned": rounded(ours)}
    save(path, {"seed": seed, "losses": losses, "curve": rounded(curve), "trainings": AT_ONCE * EPISODES,
                "seconds": round(time.perf_counter() - begin, 1)})  # fmt: skip


def write_report() -> None:
    """The section of CONTROL.md."""
    found = sorted((load(path) for path in RESULTS.glob("*.json")), key=lambda x: x["seed"])
    lines = [
        "## A learned optimiser and activations that it has not seen",
        "",
        "`python benchmarks/papers/learned_optimizers_activation.py`. Published (arXiv:1606.04474, section 3.2): an "
        "optimiser trained on networks with sigmoids fails on networks with ReLU. Here: a hidden layer of "
        f"{WIDTH}, {INPUTS} inputs, {CLASSES} classes of a teacher that every training draws, {AT_ONCE * EPISODES:,} "
        f"trainings to learn from, all with {TRAINED_WITH}s; {JUDGED} others to judge on, for each of {len(found)} "
        f"seeds. Training loss after {UPDATES} updates; Adam's rate is the best of {len(RATES)} for the activation.",
        "",
        "| activation | Adam (rate) | learned, mean [95 % interval] | least, most |",
        "|---|---|---|---|",
    ]
    for activation in ACTIVATIONS if found else ():
        rows = [x["losses"][activation] for x in found]
        adam, ours = ([row[name][-1] for row in rows] for name in ("adam", "learned"))
        lines.append(f"| {activation} | {np.mean(adam):.4f} ({rows[0]['rate']:.3g}) | {summary(ours, 4)} |")
    control_section("learned-activation", "\n".join(lines))


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"[{SEEDS}]")
    parser.add_argument("--report", action="store_true", help="only write CONTROL.md from the results")
    given = parser.parse_args()
    if not given.report:
        set_up_jax()
        for seed in range(given.seeds):
            run(seed)
    write_report()


if __name__ == "__main__":
    main()
