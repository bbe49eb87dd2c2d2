"""A learned optimiser on quadratics, trained through the unrolled training and by policy gradient, against tuned ones.

    python benchmarks/papers/learned_optimizers.py [--seeds 5] [--only adam] [--record | --report]

The problems of Andrychowicz et al. (2016, arXiv:1606.04474, section 3.1): f(θ) = ‖Wθ - y‖² in 10 dimensions, W and y
uniform in (0, 1), θ₀ ~ N(0, 0.01²), 100 steps. The optimiser is an LSTM of two layers of 20 for every coordinate,
trained on unrolls of 20 steps with Adam: by the gradient of the sum of losses, or by REINFORCE, whose actions are the
updates with noise. SGD, momentum, RMSProp and Adam have the best of 41 learning rates over five decades, chosen on
other problems by the mean loss at step 100. There is one JSON file for each arm and seed, and a run that was stopped
continues with what is missing.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sections
from controlled_trainings import keys_of, rounded, save
from training_control_exact import summary

from purerl import networks
from purerl.envs.training_control import learned
from purerl.envs.training_control.optimizers import OPTIMIZERS, Settings, as_arrays, first_order
from purerl.runs import report
from purerl.runs.progress import Progress

SEEDS, STEPS, UNROLL, DIMENSIONS = 5, 100, 20, 10
BATCH, EPISODES, RATE, NOISE = 32, 1_000, 3e-3, 0.02
JUDGED, TUNED, RATES = 1024, 256, np.logspace(-4, 1, 41)
TRAINING, JUDGING, TUNING = 10, 11, 12  # purposes of keys
OPTIMIZER = learned.coordinatewise(networks.stack(networks.lstm(20), networks.lstm(20)))
ARMS = {
    "gradient": "learned, by the gradient of the unrolled training",
    "reinforce": "learned, by REINFORCE",
    **{name: f"{name}, tuned" for name in OPTIMIZERS},
}


def problem(key: Any) -> tuple[Any, Any, Any]:
    """W `[n, n]`, y `[n]`, and where to start, `[n]`."""
    w_key, y_key, start_key = jax.random.split(key, 3)
    size = (DIMENSIONS, DIMENSIONS)
    start = 0.01 * jax.random.normal(start_key, size[:1])
    return jax.random.uniform(w_key, size), jax.random.uniform(y_key, size[:1]), start


def loss_of(w: Any, y: Any) -> Any:
    """f(θ) = ‖Wθ - y‖²."""
    return lambda x: jnp.square(w @ x - y).sum()


def losses(inner: Any, keys: Any) -> Any:
    """The losses of problems `[B]` under an optimiser, `[STEPS + 1, B]`."""

    def one(key):
        w, y, start = problem(key)
        return learned.unroll(key, inner, loss_of(w, y), start, inner.init(start), STEPS).losses

    return jax.vmap(one, out_axes=1)(keys)


def train(way: str, seed: int) -> tuple[Any, list[float]]:
    """An optimiser's weights after training, and its loss at step 100 while it trained."""
    rate = optax.cosine_decay_schedule(RATE, EPISODES * STEPS // UNROLL)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    noise = NOISE if way == "reinforce" else None

    def objective(weights, w, y, params, state, keys):
        inner = OPTIMIZER.optimizer(weights)
        go = lambda w, y, x, s, k: learned.unroll(k, inner, loss_of(w, y), x, s, UNROLL, noise)
        out = jax.vmap(go)(w, y, params, state, keys)
        values, log_prob = out.losses.T, out.log_prob.T
        loss = learned.unrolled_loss(values) if noise is None else learned.reinforce_loss(values, log_prob)
        return loss, (out.params, out.state, values[-1].mean())

    @jax.jit
    def episodes(weights, opt_state, keys):
        def episode(carry, key):
            weights, opt_state = carry
            problem_key, noise_key = jax.random.split(key)
            w, y, params = jax.vmap(problem)(jax.random.split(problem_key, BATCH))
            state = jax.vmap(OPTIMIZER.optimizer(weights).init)(params)

            def one(carry, key):
                weights, opt_state, params, state = carry
                grads, (params, state, last) = jax.grad(objective, has_aux=True)(
                    weights, w, y, params, state, jax.random.split(key, BATCH)
                )
                change, opt_state = adam.update(grads, opt_state)
                return (optax.apply_updates(weights, change), opt_state, params, state), last

            keys = jax.random.split(noise_key, STEPS // UNROLL)
            (weights, opt_state, _, _), last = jax.lax.scan(one, (weights, opt_state, params, state), keys)
            return (weights, opt_state), last[-1]

        return jax.lax.scan(episode, (weights, opt_state), keys)

    init_key, *keys = keys_of(TRAINING, seed, 1 + EPISODES)
    weights, curve = OPTIMIZER.init(init_key), []
    carry, every = (weights, adam.init(weights)), EPISODES // 20
    with Progress(EPISODES, BATCH * STEPS, result="loss") as progress:
        with progress.compiling():
            program = episodes.lower(*carry, jnp.stack(keys[:every])).compile()
        for i in range(0, EPISODES, every):
            carry, last = program(*carry, jnp.stack(keys[i : i + every]))
            curve.append(float(last.mean()))
            progress.update(i + every, curve[-1])
    return carry[0], curve


@cache
def tuned(name: str) -> float:
    """The best learning rate of an optimiser, on problems for this alone."""
    keys = keys_of(TUNING, 0, TUNED)
    final = jax.jit(lambda rates: jax.vmap(lambda rate: losses(with_rate(name, rate), keys)[-1].mean())(rates))
    found = np.asarray(final(jnp.asarray(RATES)))
    return float(RATES[np.nanargmin(np.where(np.isfinite(found), found, np.nan))])


def with_rate(name: str, rate: Any) -> Any:
    """One of the package's optimisers at a rate, with momentum 0.9."""
    inner = first_order()
    settings = as_arrays(Settings(rate, optimizer=OPTIMIZERS.index(name)))
    return inner._replace(update=lambda grads, state, params, _: inner.update(grads, state, params, settings))


def run(root: Path, arm: str, seed: int) -> None:
    """Train or tune, then judge on problems that are the same for all arms of the seed."""
    path = root / arm / f"{seed}.json"
    if path.exists():
        return
    report.note(f"{ARMS[arm]}, seed {seed}")
    begin, more = time.perf_counter(), {}
    if arm in OPTIMIZERS:
        more = {"rate": tuned(arm)}
        inner = with_rate(arm, more["rate"])
    else:
        weights, curve = train(arm, seed)
        inner, more = OPTIMIZER.optimizer(weights), {"curve": rounded(curve), "problems": BATCH * EPISODES}
    values = jax.jit(lambda keys: losses(inner, keys).mean(1))(keys_of(JUDGING, seed, JUDGED))
    seconds = round(time.perf_counter() - begin, 1)
    save(path, {"arm": arm, "seed": seed, "losses": rounded(values), "seconds": seconds, **more})


def arms_of(found: sections.Found) -> dict[str, np.ndarray]:
    """The losses of arms that have run, `[R, STEPS + 1]`, by their labels."""
    runs = {arm: [*found[arm].values()] for arm in ARMS if arm in found}
    rate = lambda x: f" ({x['rate']:.3g})" if "rate" in x else ""
    return {ARMS[arm] + rate(own[0]): np.array([x["losses"] for x in own]) for arm, own in runs.items()}


def section(found: sections.Found) -> str:
    """The section of CONTROL.md."""
    lines = [
        "## A learned optimiser",
        "",
        "`python benchmarks/papers/learned_optimizers.py`. Quadratics of 10 dimensions, an LSTM of two layers of 20 "
        f"for every coordinate (arXiv:1606.04474, section 3.1); {BATCH * EPISODES:,} problems to learn from, {JUDGED} "
        "others to judge on, for each seed. Published: the learned optimiser is below the tuned ones at step 100.",
        "",
        "| optimiser | loss at step 20 | loss at step 100, mean [95 % interval] | least, most | seeds |",
        "|---|---|---|---|---|",
    ]
    for about, values in arms_of(found).items():
        early, final = (summary(list(values[:, at]), 4) for at in (20, STEPS))
        lines.append(f"| {about} | {early.split(' [')[0]} | {final} | {len(values)} |")
    return "\n".join([*lines, "", "![a learned optimiser](learned-optimizers.png)"])


def picture(found: sections.Found, path: Path) -> None:
    """Losses against steps."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, (about, values) in enumerate(arms_of(found).items()):
        ax.plot(values.mean(0), f"C{i}", label=about)
        ax.fill_between(range(STEPS + 1), values.min(0), values.max(0), color=f"C{i}", alpha=0.2)
    ax.set(yscale="log", xlabel="step", ylabel="loss", title="10 dimensions (bands: least and most of seeds)")
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    for seed in range(given.seeds):
        for arm in given.names:
            run(root, arm, seed)


def main() -> None:
    """Train and tune what is missing, then report."""
    sections.main(
        sections.parser(__doc__, SEEDS), "learned-optimizers", "CONTROL.md", "learned", compute, section, picture,
        value=lambda x: x["losses"][-1], names=ARMS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
