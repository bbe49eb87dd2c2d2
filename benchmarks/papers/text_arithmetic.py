"""A verifiable task in text: a small GPT that sorts digits is trained by each algorithm on equal numbers of samples.

    python benchmarks/papers/text_arithmetic.py [--seeds 6] [--only rloo-4] [--record | --report]

Prompts are four digits, such as "3917=", and the completion has to be "1379". For each seed a model of its own learns
a few answers by maximum likelihood; reinforcement continues on prompts whose answers no model is shown. Learning rates
are chosen on a seed that is not reported. There is one JSON file for each algorithm and seed,
and a run that was stopped continues with what is missing. The models before reinforcement are kept in
.cache/text-arithmetic, which may be deleted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sections
from sections import recorded

import purerl
from purerl import statistics
from purerl.agents.parts import sequences
from purerl.runs import report
from purerl.runs.progress import Progress
from purerl.runs.stream import stream
from purerl.text import assembly, data, generation, likelihood, models, objectives, tokens
from purerl.text.environment import TextGeneration, equals_a_reference

CACHE = recorded.ROOT / ".cache" / "text-arithmetic"
PROMPT, STEPS = 5, 5  # tokens of a prompt, and of a completion with its end
LABELLED, PRETRAINING = 24, 200  # answers that maximum likelihood is shown, and its updates
COMPLETIONS, STEP = 61_440, 64  # of a run, and of a gradient step
EVERY = 2_560  # completions between evaluations
ANNEAL = float(COMPLETIONS * STEPS)  # environment steps over which learning rates fall to 0
RATES = (2e-5, 4e-5, 8e-5, 1.6e-4, 3.2e-4, 6.4e-4)
TUNING = 100  # the seed on which learning rates are chosen
TARGET = 0.95


class Entry(NamedTuple):
    """An algorithm of the table."""

    label: str
    agent: Callable  # (network, policy, learning rate) -> Agent
    block: int  # completions that are sampled before an update, which has block / 64 gradient steps


def reinforce(baseline: str, group_size: int = 1) -> Callable:
    hp = partial(purerl.SequenceREINFORCE, baseline=baseline, group_size=group_size, anneal_steps=ANNEAL)
    return lambda network, policy, rate: purerl.sequence_reinforce(network, policy, hp(rate))


def rloo(group_size: int) -> Callable:
    hp = partial(purerl.RLOO, group_size=group_size, anneal_steps=ANNEAL)
    return lambda network, policy, rate: purerl.rloo(network, policy, hp(rate))


def grpo(normaliser: str = "grpo", ratio: str = "token", scale: str = "group", **hp: Any) -> Callable:
    config = partial(purerl.GRPO, group_size=8, num_minibatches=4, anneal_steps=ANNEAL, **hp)
    parts = sequences.NORMALISERS[normaliser], sequences.RATIOS[ratio], objectives.SCALES[scale]
    return lambda network, policy, rate: purerl.grpo(network, policy, config(rate), *parts)


def ppo(num_epochs: int) -> Callable:
    hp = partial(purerl.SequencePPO, num_epochs=num_epochs, num_minibatches=4, anneal_steps=ANNEAL)
    return lambda network, policy, rate: purerl.sequence_ppo(network, policy, hp(rate))


ALGORITHMS = {
    "rloo-4": Entry("RLOO, k = 4", rloo(4), 64),
    "rloo-2": Entry("RLOO, k = 2", rloo(2), 64),
    "reinforce-average": Entry("REINFORCE, moving average", reinforce("moving-average"), 64),
    "reinforce-greedy": Entry("REINFORCE, self-critical", reinforce("self-critical", 2), 64),
    "reinforce": Entry("REINFORCE, no baseline", reinforce("none"), 64),
    "ppo": Entry("PPO, one pass", ppo(1), 256),
    "ppo-4": Entry("PPO, four passes", ppo(4), 256),
    "grpo": Entry("GRPO", grpo(clip_low=0.2, clip_high=0.2), 256),
    "dr_grpo": Entry("Dr. GRPO", grpo("dr_grpo", scale="none", clip_low=0.2, clip_high=0.2), 256),
    "dapo": Entry("DAPO", grpo("dapo", dynamic_sampling=True, max_length=STEPS), 256),
    "gspo": Entry("GSPO", grpo(ratio="gspo"), 256),
    "cispo": Entry("CISPO", grpo("dapo", ratio="cispo"), 256),
}

# --- the task and the models before reinforcement ---------------------------------------------------------------------


@cache
def problems() -> tuple[tokens.Tokenizer, data.Pairs, data.Pairs]:
    """The tokenizer, 9,000 problems for training and 1,000 that are held out."""
    every = data.sorting(4, "0123456789")
    return tokens.character_tokenizer(every.prompts), *data.split(every, 0.1, generator=np.random.default_rng(0))


@cache
def model() -> models.LanguageModel:
    return models.gpt2(models.GPT2(problems()[0].size, PROMPT + STEPS, width=64, num_layers=2, num_heads=4))


def accuracy(params: Any, choose: Callable = generation.greedy) -> jax.Array:
    """Share of the held-out problems that are solved, of one model."""
    tokenizer, _, held_out = problems()
    task = data.task(tokenizer, held_out, PROMPT, STEPS - 1)
    found = generation.generate(
        model(), params, jax.random.key(0), task.prompts, task.prompt_length, STEPS, task.end, choose
    )
    references = map(jnp.asarray, (task.references, task.reference_length, task.reference_mask))
    return (equals_a_reference(found.tokens, found.length, *references) & found.ended).mean()


of_models = jax.jit(jax.vmap(accuracy))
of_samples = jax.jit(jax.vmap(partial(accuracy, choose=generation.sample(1.0))))


def pretrained(seed: int) -> Any:
    """Parameters after maximum likelihood on a few problems of the seed's own; made once, then read."""
    path, empty = CACHE / f"{seed}.npz", jax.eval_shape(model().init, jax.random.key(0))
    if not path.exists():
        tokenizer, train, _ = problems()
        chosen = np.random.default_rng(seed + 1).choice(len(train.prompts), LABELLED, replace=False)
        few = data.Pairs([train.prompts[i] for i in chosen], [train.references[i] for i in chosen])
        batch = assembly.batches(tokenizer, few, PROMPT + STEPS - 1, "", 256)
        hp = likelihood.Likelihood(learning_rate=1e-3, warmup_updates=50.0)
        make = lambda hp: likelihood.likelihood_learner(model(), batch, hp)
        *_, (_, state, _) = purerl.run(make, hp, jax.random.key(seed), PRETRAINING, PRETRAINING)
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(CACHE / f"{seed}.part.npz", *jax.tree.leaves(state.agent.params))
        (CACHE / f"{seed}.part.npz").rename(path)
    return jax.tree.unflatten(jax.tree.structure(empty), list(np.load(path).values()))


# --- reinforcement ----------------------------------------------------------------------------------------------------


def learner_of(entry: Entry) -> Callable[[Any], Any]:
    """`{"rate", "start"} -> Learner`."""
    tokenizer, train, _ = problems()
    env = TextGeneration(data.task(tokenizer, train, PROMPT, STEPS - 1), STEPS, vocab_size=tokenizer.size)
    policy = models.policy(tokenizer.size)

    def make(hp):
        network = models.policy_network(model(), PROMPT + STEPS, hp["start"])
        agent = entry.agent(network, policy, hp["rate"])
        return purerl.learner(env, env.default_params, agent, entry.block, STEPS)

    return make


def folder(key: str, rate: float | None = None) -> str:
    """The folder of an algorithm's seeds; the sweep has one for each learning rate."""
    return key + ("" if rate is None else f"/sweep-{rate:g}")


def train(root: Path, key: str, runs: list[tuple[float, int]], sweep: bool) -> None:
    """Train every (learning rate, seed) that has no file yet, in one program."""
    entry = ALGORITHMS[key]
    paths = [root / folder(key, rate if sweep else None) / f"{seed}.json" for rate, seed in runs]
    missing = [(path, *run) for path, run in zip(paths, runs, strict=True) if not path.exists()]
    if not missing:
        return
    num, num_updates, every = len(missing), COMPLETIONS // entry.block, EVERY // entry.block
    start = jax.tree.map(lambda *x: np.stack(x), *(pretrained(seed) for _, _, seed in missing))
    hp = {"rate": np.array([rate for _, rate, _ in missing], np.float32), "start": start}
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(7)))(jnp.array([seed for *_, seed in missing]))
    curve = [(0, np.asarray(of_models(start)), np.asarray(of_samples(start)), np.full(num, np.nan))]
    report.note(f"{key}{', sweep' if sweep else ''}: {num} runs")
    devices = jax.devices()[: min(jax.device_count(), num)]
    with Progress(num_updates, num * entry.block, result="held-out accuracy") as progress:
        for done, state, metrics in stream(learner_of(entry), hp, num, devices, num_updates, every, progress, keys):
            params = jax.tree.map(lambda x: np.asarray(x)[:num], state.agent.params["model"])
            right = np.asarray(of_models(params))
            curve.append((done * entry.block, right, metrics["episode_return"], metrics["entropy"]))
            progress.update(done, float(right.mean()))
        seconds = progress.run_seconds
    columns = ("completions", "held_out", "sampled", "entropy")
    for i, (path, rate, seed) in enumerate(missing):
        rows = [[n, *(round(float(x[i]), 4) for x in of)] for n, *of in curve]
        rows[0][-1] = None
        recorded.save(path, {
            "key": key, "seed": seed, "learning_rate": rate, "block": entry.block,
            "before": rows[0][1], "sampled_before": rows[0][2], "after": rows[-1][1],
            "curve": {name: [row[j] for row in rows] for j, name in enumerate(columns)},
            "labelled": LABELLED, "pretraining_updates": PRETRAINING,
            "seconds_of_all_runs": round(seconds), "runs": num,
            **recorded.made_with(),
        })  # fmt: skip


def load(found: sections.Found, key: str, rate: float | None = None) -> list[dict[str, Any]]:
    """The results of an algorithm's seeds, in their order."""
    return [*found[folder(key, rate)].values()]


def area(run: dict[str, Any]) -> float:
    """Mean held-out accuracy of the evaluations after the first."""
    return float(np.mean(run["curve"]["held_out"][1:]))


def chosen_rate(found: sections.Found, key: str) -> float:
    """The learning rate of the sweep with the largest mean accuracy."""
    return max(RATES, key=lambda rate: area(load(found, key, rate)[0]))


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    for key in given.names:
        train(root, key, [(rate, TUNING) for rate in RATES], sweep=True)
        rate = chosen_rate(sections.records(root), key)
        train(root, key, [(rate, seed) for seed in range(given.seeds)], sweep=False)


# --- the report -------------------------------------------------------------------------------------------------------


def until_target(run: dict[str, Any]) -> float:
    """Completions after which the held-out accuracy first is 95 %, between evaluations by a line; ∞ if never."""
    at, right = np.array(run["curve"]["completions"], float), np.array(run["curve"]["held_out"])
    i = int(np.argmax(right >= TARGET))
    if right[i] < TARGET:
        return np.inf
    return float(at[i - 1] + (TARGET - right[i - 1]) / (right[i] - right[i - 1]) * (at[i] - at[i - 1]))


def with_interval(values: Any, form: str = "{:.1f}") -> str:
    """Mean and 95 % interval over seeds."""
    low, high = statistics.interval(np.asarray(values), statistics.mean)
    return f"{form.format(np.mean(values))} [{form.format(low)}, {form.format(high)}]"


def row(key: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table."""
    if len(runs) < 2:
        return f"| {ALGORITHMS[key].label} | not run |" + " |" * 7
    needed = np.array([until_target(run) for run in runs]) / 1000
    show = lambda x: f"{x:.0f}" if np.isfinite(x) else f"> {COMPLETIONS / 1000:.0f}"
    middle = np.sort(needed)[[(len(runs) - 1) // 2, len(runs) // 2]].mean()
    cell = f"{show(middle)} [{show(needed.min())}, {show(needed.max())}]"
    percent = lambda name: with_interval([100 * run[name] for run in runs])
    highest = [100 * max(run["curve"]["held_out"]) for run in runs]
    return (
        f"| {ALGORITHMS[key].label} | {len(runs)} | {runs[0]['learning_rate']:.2g} | {percent('before')} "
        f"| {percent('after')} | {with_interval(highest)} | {with_interval([100 * area(run) for run in runs])} "
        f"| {np.isfinite(needed).sum()} of {len(runs)} | {cell} |"
    )


PUBLISHED = ("rloo-4", "rloo-2", "reinforce-average", "reinforce", "ppo")


def comparisons(found: sections.Found) -> list[str]:
    """The published order, pair by pair: differences of the mean accuracy between runs of the same seed."""
    lines = ["| published | difference of mean accuracy, points | ours |", "|---|---|---|"]
    for better, worse in itertools.pairwise(PUBLISHED):
        a, b = load(found, better), load(found, worse)
        if min(len(a), len(b)) < 2:
            continue
        difference = 100 * np.array([area(x) - area(y) for x, y in zip(a, b, strict=False)])
        low, high = statistics.interval(difference, statistics.mean)
        verdict = "as published" if low > 0 else "**the reverse**" if high < 0 else "no difference is shown"
        sign = "≥" if worse == "reinforce" else ">"
        labels = f"{ALGORITHMS[better].label} {sign} {ALGORITHMS[worse].label}"
        lines.append(f"| {labels} | {with_interval(difference, '{:+.1f}')} | {verdict} |")
    return lines


def picture(found: sections.Found, path: Path) -> None:
    """Held-out accuracy against completions: mean and 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "RLOO, REINFORCE": ("rloo-4", "rloo-2", "reinforce-average", "reinforce-greedy", "reinforce"),
        "PPO, and RLOO to compare": ("rloo-4", "ppo", "ppo-4"),
        "variants of GRPO, and RLOO to compare": ("rloo-4", "grpo", "dr_grpo", "dapo", "gspo", "cispo"),
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
    for axis, (title, keys) in zip(axes, panels.items(), strict=True):
        for key, color in zip(keys, report.COLORS, strict=False):
            runs = load(found, key)
            if len(runs) < 2:
                continue
            at = np.array(runs[0]["curve"]["completions"]) / 1000
            right = 100 * np.array([run["curve"]["held_out"] for run in runs])
            ends = np.array([statistics.interval(column, statistics.mean) for column in right.T])
            axis.plot(at, right.mean(0), color=color, label=f"{ALGORITHMS[key].label} ({len(runs)})")
            axis.fill_between(at, *ends.T, color=color, alpha=0.12, linewidth=0)
        axis.axhline(100 * TARGET, color="#6b7280", linewidth=0.8, linestyle=":")
        axis.set(xlabel="thousands of completions", ylim=(0, 101))
        axis.set_title(title, fontsize=10, loc="left")
        axis.legend(fontsize=8, frameon=False, loc="lower right")
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out problems solved, greedy, %")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def section(found: sections.Found) -> str:
    """The section of TEXT.md."""
    some = next((runs for key in ALGORITHMS if (runs := load(found, key))), None)
    if some is None:
        return ""
    sampled = with_interval([100 * run["sampled_before"] for run in some])
    swept = [key for key in ALGORITHMS if all(load(found, key, rate) for rate in RATES)]
    lines = [
        "## A verifiable task: digits are sorted",
        "",
        '`python benchmarks/papers/text_arithmetic.py`. The prompt "3917=" has the answer "1379"; characters are '
        "tokens, and a completion has 5 at most, its end included. There are 10,000 problems, of which 1,000 are held "
        f"out. A GPT of 2 layers of 64, one for each seed, learns {LABELLED} answers by maximum likelihood; it then "
        f"samples {sampled} % of held-out answers right. Each algorithm continues with {COMPLETIONS:,} completions of "
        f"the other 9,000 prompts, reward 1 for the right answer, and {COMPLETIONS // STEP} gradient steps of {STEP} "
        "completions (PPO with four passes: four times as many). RLOO and REINFORCE sample 64 completions for each "
        "step; the others sample 256 for four steps, so that ratios leave 1. Greedy completions of the self-critical "
        "baseline, and groups that dynamic sampling discards, are counted. Groups of GRPO have 8 members; clips are "
        "those of the papers.",
        "",
        "Learning rates fall to 0 within a run; their first values are chosen by the mean accuracy on seed "
        f"{TUNING}, which is not reported, from {', '.join(f'{rate:.2g}' for rate in RATES)}. Mean over seeds and 95 % "
        "interval, in percent of the held-out problems, greedy. The mean of the curve is that over all evaluations, "
        f"one every {EVERY:,} completions.",
        "",
        "| algorithm | seeds | rate | before | after | highest | mean of the curve | reach 95 % | thousands of "
        "completions until 95 %: median [least, most] |",
        "|---" * 9 + "|",
        *[row(key, load(found, key)) for key in ALGORITHMS],
        "",
        "The order published for models of billions of parameters (arXiv:2402.14740) is RLOO (4) > RLOO (2) > "
        "REINFORCE with baseline ≥ vanilla > PPO. Ours, from differences between runs of the same seed:",
        "",
        *comparisons(found),
        "",
        "Where ours is the reverse, the less is subtracted from the reward, the faster a run learns. A possible "
        "reason, which is not tested: rewards are 0 or 1 and one answer is right, so that without a baseline only "
        "right answers are learned from, as in maximum likelihood on the model's own right answers; with a baseline "
        "they count less the more frequent they are, and groups that are all right or all wrong teach nothing.",
        "",
        "The sweep, mean of the curve on the tuning seed:",
        "",
        "| algorithm | " + " | ".join(f"{rate:.2g}" for rate in RATES) + " |",
        "|---" * (1 + len(RATES)) + "|",
        *[
            f"| {ALGORITHMS[key].label} | {' | '.join(f'{100 * area(load(found, key, r)[0]):.1f}' for r in RATES)} |"
            for key in swept
        ],
        "",
        "![Held-out accuracy against completions](text-arithmetic.png)",
    ]
    return "\n".join(lines)


def main() -> None:
    """Compute what is missing, then report."""
    sections.main(
        sections.parser(__doc__, 6), "text-arithmetic", "TEXT.md", "arithmetic", compute, section, picture,
        value=area, names=ALGORITHMS, kind="algorithm",
    )  # fmt: skip


if __name__ == "__main__":
    main()
