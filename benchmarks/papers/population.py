"""Population-based training: the toy of its paper, and PPO on two tasks against random search and Sobol points.

    python benchmarks/papers/population.py [--seeds 8] [--only Breakout] [--arms pbt sobol] [--record | --report]

Every arm trains as many members for as many steps. The member of the highest score at the end of the search gives the
hyperparameters, constant or as the schedule of its ancestors; these are trained again from the beginning on fresh
seeds, and the policy that the search itself holds is evaluated on fresh episodes. There is one JSON file for each task,
arm and seed, and a run that was stopped continues with the files that are missing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sections
from controlled_trainings import rounded, save
from training_control_exact import interval, summary

import purerl
from purerl import build, normalize, training
from purerl.hyperparameters import config, option
from purerl.runs import report
from purerl.search import designs, halving, pbt
from purerl.search.spaces import log_uniform, uniform

SEEDS, MEMBERS, GENERATIONS, NUM_ENVS = 8, 8, 16, 16
FRESH_SEEDS, EPISODES = 4, 128
SEARCH, FRESH, PLAYED = 1, 2, 3  # purposes of keys

# --- the toy of figure 2 ----------------------------------------------------------------------------------------------


@config
class Toy:
    """Weights of the surrogate 1.2 - h₁ θ₁² - h₂ θ₂²."""

    h1: float = option(1.0, "h₁", low=0.0, high=1.0)
    h2: float = option(1.0, "h₂", low=0.0, high=1.0)


UNIT = {"h1": uniform(0, 1), "h2": uniform(0, 1)}
HALF, NOISE = pbt.truncation(0.5), pbt.gaussian(0.1)
TOY_SEEDS = 200
TOY_ARMS: dict[str, Callable] = {  # (key, hp, θ, scores) -> (hp, θ, ...)
    "no exchange": pbt.exchange(UNIT, pbt.truncation(0.0)),
    "copying weights alone": lambda key, hp, theta, scores: (hp, pbt.copied(theta, HALF(key, scores))),
    "exploring alone": lambda key, hp, theta, scores: (
        pbt.explored(key, hp, jnp.ones(2, bool), UNIT, NOISE),
        theta,
    ),
    "both": pbt.exchange(UNIT, HALF, NOISE),
}


def quality(theta: Any) -> Any:
    """Q = 1.2 - θ₁² - θ₂²."""
    return 1.2 - (theta**2).sum(-1)


def toy(exchange: Callable, key: Any) -> Any:
    """θ of two workers, `[2, 2]`, after 200 steps of gradient ascent on their surrogates, with 20 exchanges."""

    def generation(carry, key):
        hp, theta = carry
        weights = jnp.stack([hp.h1, hp.h2], -1)
        theta = jax.lax.fori_loop(0, 10, lambda _, theta: theta - 0.01 * 2 * weights * theta, theta)
        return exchange(key, hp, theta, quality(theta))[:2], None

    hp = Toy(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    return jax.lax.scan(generation, (hp, jnp.full((2, 2), 0.9)), jax.random.split(key, 20))[0][1]


def toy_results(exchange: Callable) -> np.ndarray:
    """Q of the better worker, float64 `[TOY_SEEDS]`."""
    keys = jax.random.split(jax.random.key(0), TOY_SEEDS)
    return quality(np.asarray(jax.jit(jax.vmap(partial(toy, exchange)))(keys), np.float64)).max(-1)


# --- PPO --------------------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """An environment, and how PPO acts in it."""

    steps: int  # of a member
    rollout_length: int = 64
    reward: Callable[[Any], Any] = lambda hp: None


TASKS = {
    "Breakout-MinAtar": Task(163_840),
    "Pendulum-v1": Task(196_608, reward=lambda hp: normalize.rewards(hp.gamma)),
}
SPACE = {
    "learning_rate": log_uniform(1e-5, 1e-2),
    "entropy_cost": log_uniform(1e-4, 1e-1),
    "clip": log_uniform(0.05, 0.5),
    "gamma": uniform(0.9, 0.999),
    "gae_lambda": uniform(0.8, 1.0),
}
KEPT = 1e12  # a horizon at which the learning rate is constant, so that all arms share one program
ETA = 4  # of successive halving: its rungs end after 1, 4 and all 16 generations


LIMITS = (
    "Members, steps and the MLP in place of a convolutional network, which trains several times more slowly, were "
    "chosen so that eight repetitions of all searches of both tasks take about 45 minutes of one of two virtual cores. "
    "Eight members are few (the paper's populations of agents have 30 to 80), and the trainings are short. No other "
    "sizes were tried. PBT was run first with the paper's factors of 0.8 or 1.2; after three repetitions noise took "
    "their place in the main arm, since the schedules of γ and λ jumped between the ends of the space."
)


class Winner(NamedTuple):
    """What a search has found."""

    score: float  # in the last generation of the search
    schedule: dict[str, np.ndarray]  # hyperparameters, float [G] each
    agent: Any  # the state of its agent, leaves [1, ...]
    scores: list[np.ndarray]  # of all members, by generation
    generations: int  # trained by all members together


def apart(key: Any, hp: Any, state: Any, scores: Any) -> tuple[Any, Any, Any]:
    """No exchange, of broken members neither."""
    del key
    return hp, state, jnp.arange(len(scores), dtype=jnp.int32)


def on_host(generation: pbt.Generation) -> pbt.Generation:
    """What is kept of a generation."""
    return jax.tree.map(np.asarray, generation._replace(state=(), metrics={}))


def population(design: Callable[..., designs.Points], exchange: Callable = apart) -> Callable[..., Winner]:
    """Members that all train to the end, `(make, default, key, every, members, seed) -> Winner`."""

    def search(make, default, key, every, members, seed):
        hp, state, generations = pbt.members(default, design(SPACE, members, seed)), None, []
        for generation in pbt.evolve(make, hp, key, every * GENERATIONS, every, exchange):
            state = generation.state
            generations.append(on_host(generation))
        past = pbt.history(generations)
        best = pbt.best(past.scores[-1])
        agent = jax.tree.map(lambda x: x[best : best + 1], state.agent)
        score = float(past.scores[-1, best])
        return Winner(score, pbt.schedule(past, best), agent, list(past.scores), GENERATIONS * members)

    return search


def restricted(generation: pbt.Generation, keep: np.ndarray) -> pbt.Generation:
    """A generation of fewer members, none of which has copied another."""
    some = lambda tree: jax.tree.map(lambda x: x[keep] if jnp.ndim(x) else x, tree)
    parent = jnp.arange(len(keep), dtype=jnp.int32)
    return some(generation._replace(parent=generation.parent))._replace(iteration=generation.iteration, parent=parent)


def halved(make: Callable, default: Any, key: Any, every: int, members: int, seed: int) -> Winner:
    """Successive halving from random points: as many trials as cost no more than the members of a population."""
    cost = lambda trials: halving.cost([halving.halving(trials, GENERATIONS, ETA)])
    most = max(n for n in range(members, GENERATIONS * members + 1) if cost(n) <= GENERATIONS * members)
    hp, generation, scores = pbt.members(default, designs.random(SPACE, most, seed)), None, []
    for trials, generations in halving.halving(most, GENERATIONS, ETA):
        start = None
        if generation is not None:
            keep = halving.best(scores[-1], trials, np.ones(len(scores[-1]), bool))
            start = restricted(generation, np.flatnonzero(keep))
        for generation in pbt.evolve(make, hp, key, every * generations, every, apart, start=start):
            scores.append(np.asarray(generation.scores))
    assert generation is not None
    best = int(halving.best(scores[-1], 1, np.ones(len(scores[-1]), bool)).argmax())
    constant = {name: np.repeat(np.asarray(getattr(generation.hp, name))[best], GENERATIONS) for name in SPACE}
    agent = jax.tree.map(lambda x: x[best : best + 1], generation.state.agent)
    return Winner(float(scores[-1][best]), constant, agent, scores, cost(most))


class Arm(NamedTuple):
    """A search."""

    about: str
    search: Callable[..., Winner]
    annealed: bool = False


ARMS = {
    # factors of 0.8 and 1.2 leave only the two ends of intervals as narrow as those of γ and λ
    "pbt": Arm("population-based training", population(designs.random, pbt.exchange(SPACE, explore=pbt.gaussian(0.1)))),
    "random": Arm("random search", population(designs.random)),
    "sobol": Arm("Sobol points", population(designs.sobol)),
    "halving": Arm("successive halving", halved),
    "pbt-factors": Arm("PBT with factors 0.8 or 1.2", population(designs.random, pbt.exchange(SPACE))),
    "sobol-annealed": Arm("Sobol points, learning rate annealed", population(designs.sobol), annealed=True),
}


@cache
def assembled(task: str) -> tuple[Any, Any, Callable, Callable]:
    """The environment and its parameters, `hp -> Agent`, and the `make` of a batch."""
    env, env_params = purerl.make(task)
    agent = build.agent(purerl.ppo, env.action_space(env_params))  # of an MLP of 64-64
    length, reward = TASKS[task].rollout_length, TASKS[task].reward
    one = lambda hp: purerl.learner(env, env_params, agent(hp), NUM_ENVS, length, reward=reward(hp))
    return env, env_params, agent, purerl.batch(one)


def key_of(purpose: int, seed: int) -> Any:
    """A key, for a purpose and a seed."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(29), purpose), seed)


@partial(jax.jit, static_argnums=(0, 1))
def played(task: str, episodes: int, hp: Any, states: Any, key: Any) -> Any:
    """The mean return of each policy, `[n]`, in episodes that are the same for all; of sampled actions."""
    env, env_params, agent, _ = assembled(task)
    one = lambda state: training.evaluate(env, env_params, agent(hp), state, key, episodes).returns.mean()
    return jax.lax.map(one, states)


def again(task: str, schedule: dict[str, np.ndarray], hp: Any, every: int, num: int, key: Any) -> Any:
    """The agents after a schedule, `[G]` for each hyperparameter, on fresh seeds."""
    make, keys = assembled(task)[3], jax.random.split(key, num)
    state: Any = None
    for g in range(GENERATIONS):
        own = dataclasses.replace(hp, **{name: jnp.full(num, x[g]) for name, x in schedule.items()})
        ((_, state, _),) = training.run(make, own, keys if state is None else None, every, every, state)
    return state.agent


def known(scores: np.ndarray, statistic: Callable) -> float | None:
    """A statistic of the finite scores of a generation; None if there is none."""
    finite = scores[np.isfinite(scores)]
    return round(float(statistic(finite)), 5) if len(finite) else None


def run(path: Path, task: str, name: str, seed: int, members: int, steps: int, fresh: int, episodes: int) -> None:
    """Search, then train the winner on fresh seeds, unless the file is there."""
    if path.exists():
        return
    report.note(f"{task}: {ARMS[name].about}, seed {seed}")
    begin, arm = time.perf_counter(), ARMS[name]
    block = NUM_ENVS * TASKS[task].rollout_length
    every = max(1, steps // (block * GENERATIONS))
    default = purerl.PPO(anneal_steps=float(steps) if arm.annealed else KEPT)
    found = arm.search(assembled(task)[3], default, key_of(SEARCH, seed), every, members, seed)
    policy = played(task, episodes, default, found.agent, key_of(PLAYED, seed))
    agents = again(task, found.schedule, default, every, fresh, key_of(FRESH, seed))
    final = played(task, episodes, default, agents, key_of(PLAYED, seed))
    save(path, {
        "task": task, "arm": name, "seed": seed, "members": members, "steps": every * GENERATIONS * block,
        "generations": GENERATIONS, "cost": found.generations * every * block, "episodes": episodes,
        "score": found.score, "policy": float(policy[0]), "fresh": rounded(np.asarray(final)),
        "schedule": {x: rounded(np.unique(v) if np.ptp(v) == 0 else v, 9) for x, v in found.schedule.items()},
        "best": [known(x, np.max) for x in found.scores], "median": [known(x, np.median) for x in found.scores],
        "seconds": round(time.perf_counter() - begin, 1),
    })  # fmt: skip


def run_toy(path: Path) -> None:
    """All arms of the toy, unless the file is there."""
    if not path.exists():
        save(path, {"arms": {name: rounded(toy_results(exchange), 7) for name, exchange in TOY_ARMS.items()}})


# --- the report -------------------------------------------------------------------------------------------------------


def compute(root: Path, given: Any) -> None:
    """What is missing."""
    if "toy" in given.names:
        run_toy(root / "toy.json")
    for seed in range(given.seeds):
        for task in [name for name in TASKS if name in given.names]:
            for name in given.arms:
                path, steps = root / task / name / f"{seed}.json", int(given.steps or TASKS[task].steps)
                run(path, task, name, seed, given.members, steps, given.fresh, given.episodes)


def fresh(record: dict[str, Any]) -> float:
    """The mean return of the policies that fresh seeds have trained."""
    return float(np.mean(record["fresh"]))


def rows(found: sections.Found, task: str) -> Iterator[str]:
    """A task's lines of the table, one for each arm that has run."""
    reference = found[f"{task}/pbt"]
    for name, arm in ARMS.items():
        runs = [*found[f"{task}/{name}"].values()]
        if not runs:
            continue
        score, policy = (float(np.mean([x[what] for x in runs])) for what in ("score", "policy"))
        both = [fresh(reference[x["seed"]]) - fresh(x) for x in runs if x["seed"] in reference]
        cells = ["", "", ""]
        if name != "pbt" and both:
            low, high = interval(both)
            verdict = "better" if low > 0 else "worse" if high < 0 else "not apart"
            won = f"{sum(x > 0 for x in both)} of {len(both)}"
            cells = [f"{np.mean(both):.2f} [{low:.2f}, {high:.2f}]", won, verdict]
        yield (
            f"| {task} | {arm.about} | {runs[0]['cost']:,} | {score:.2f} | {policy:.2f} | "
            f"{summary([fresh(x) for x in runs], 2)} | {' | '.join(cells)} | {len(runs)} |"
        )


def picture(found: sections.Found, path: Path) -> None:
    """Best scores during the search, final performance with intervals, and the schedules of PBT's best members."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(TASKS), 2 + len(SPACE), figsize=(20, 3.4 * len(TASKS)), layout="constrained")
    for task, (search, final, *panels) in zip(TASKS, axes, strict=True):
        for i, (name, arm) in enumerate(ARMS.items()):
            runs, color = [*found[f"{task}/{name}"].values()], f"C{i}"
            if not runs:
                continue
            best = np.array([x["best"] for x in runs], float)  # NaN before the first episode has finished
            at = np.arange(1, GENERATIONS + 1) * runs[0]["steps"] / GENERATIONS / 1000
            search.plot(at, np.nanmean(best, 0), color, label=arm.about)
            values = [fresh(x) for x in runs]
            low, high = interval(values)
            final.plot(np.full(len(values), i), values, ".", color=color, alpha=0.5)
            final.errorbar(i + 0.25, np.mean(values), [[np.mean(values) - low], [high - np.mean(values)]], fmt="o",
                           color=color, capsize=3)  # fmt: skip
        search.set(title="best score in the search", xlabel="thousands of steps of a member", ylabel=task)
        final.set_title("on fresh seeds, 95 %")
        final.set_xticks(range(len(ARMS)), ARMS, rotation=30, fontsize=7)
        for (name, dimension), panel in zip(SPACE.items(), panels, strict=True):
            for j, record in enumerate(found[f"{task}/pbt"].values()):
                values = np.broadcast_to(record["schedule"][name], GENERATIONS)
                panel.step(range(1, GENERATIONS + 1), values, f"C{j % 10}", where="mid", linewidth=1)
            panel.set(title=f"PBT: {name}", xlabel="generation", ylim=dimension[:2])
            panel.set_yscale("log" if dimension.log else "linear")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(ARMS))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def conclusions(found: sections.Found, task: str) -> Iterator[str]:
    """What PBT is better than, worse than and not apart from, and which arms have too few repetitions."""
    of: dict[str, list[str]] = {"better than": [], "worse than": [], "not apart from": []}
    for row in rows(found, task):
        about, verdict = row.split(" | ")[1], row.split(" | ")[-2]
        for name in of:
            if verdict and name.startswith(verdict):
                of[name].append(about)
    said = "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in of.items() if names)
    runs = {name: found[f"{task}/{name}"].values() for name in ARMS}
    if said:
        yield f"- {task}: by the intervals of the paired differences PBT is {said}."
    if runs["pbt"] and runs["random"]:
        (policy, again_), (policy_random, again_random) = (
            (np.mean([x["policy"] for x in runs[name]]), np.mean([fresh(x) for x in runs[name]]))
            for name in ("pbt", "random")
        )
        yield (
            f"- {task}: the policy of PBT's best member has {policy:.1f}, its schedule on fresh seeds {again_:.1f}; of "
            f"random search these are {policy_random:.1f} and {again_random:.1f}."
        )
    few = ", ".join(f"{ARMS[name].about} ({len(x)})" for name, x in runs.items() if len(x) < SEEDS)
    if few:
        yield f"- {task}: missed, {SEEDS} repetitions of {few}."


def section(found: sections.Found) -> str:
    """The section of POPULATION.md."""
    lines, toys = [], found["."].get("toy")
    if toys:
        lines += [
            f"The toy of figure 2, {TOY_SEEDS} seeds, Q of the better of two workers after 200 steps:",
            "",
            "| arm | mean | standard deviation |",
            "|---|---|---|",
            *(f"| {x} | {np.mean(v):.6f} | {np.std(v):.6f} |" for x, v in toys["arms"].items()),
            "",
        ]
    table = [row for task in TASKS for row in rows(found, task)]
    if table:
        known = next(x for task in TASKS for arm in ARMS for x in found[f"{task}/{arm}"].values())
        spaces = ", ".join(f"{x} {'log-' if d.log else ''}uniform in [{d.low:g}, {d.high:g}]" for x, d in SPACE.items())
        lines += [
            "## PPO on two tasks, at equal environment steps",
            "",
            f"`python benchmarks/papers/population.py`. PPO with an MLP of 64-64, {NUM_ENVS} environments; a "
            f"population has {known['members']} members and {GENERATIONS} generations, after each of which the lowest "
            "fifth copies the highest, and adds normal noise to its hyperparameters, a tenth of their interval. "
            "Successive halving starts from as many random points as cost no more. PBT, random search and halving of "
            f"the same seed start from the same points. Space: {spaces}. Score: of the best member in the search; "
            f"policy: its policy on {known['episodes']} other episodes; fresh seeds: its hyperparameters, for PBT the "
            f"schedule of its ancestors, trained again from the beginning on {len(known['fresh'])} other seeds. "
            "Intervals are Student's, 95 %, over repetitions of the whole search; differences are paired by them, "
            "without a correction for their number.",
            "",
            "| task | search | environment steps | score | policy | fresh seeds, mean [95 %] | least, most | PBT minus "
            "it | PBT higher | | repetitions |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *table,
            "",
            "![search, final performance and PBT's schedules](population.png)",
            "",
            *(line for task in TASKS for line in conclusions(found, task)),
            "",
            LIMITS,
        ]
    return "\n".join(lines)


def with_toy(found: sections.Found) -> sections.Found:
    """The arms of the toy too, each with all its seeds."""
    toys = found["."].get("toy", {"arms": {}})["arms"]
    return found | {"toy": {arm: {"fresh": values} for arm, values in toys.items()}}


def main() -> None:
    """Run what is missing, then report."""
    parser = sections.parser(__doc__, SEEDS, "search")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], metavar="ARM",
                        help=f"only these of {', '.join(ARMS)}")  # fmt: skip
    parser.add_argument("--members", type=int, default=MEMBERS, help=f"members of a population [{MEMBERS}]")
    parser.add_argument("--steps", type=float, help="environment steps of a member, in place of the task's")
    parser.add_argument("--fresh", type=int, default=FRESH_SEEDS, help=f"seeds of the final training [{FRESH_SEEDS}]")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"of an evaluation [{EPISODES}]")
    sections.main(
        parser, "population", "POPULATION.md", "population", compute, section, picture,
        value=lambda x: fresh(x) if "fresh" in x else None, seeds=with_toy, names=("toy", *TASKS), kind="task",
        one_device=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
