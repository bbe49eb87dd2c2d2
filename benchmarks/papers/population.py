"""Population-based training: the toy of its paper, and PPO on two tasks against random search and Sobol points.

    python benchmarks/papers/population.py [--seeds 8] [--only Breakout] [--members 16] [--steps 1e6] [--report]

Every arm trains as many members for as many steps. The member of the highest score at the end of the search gives the
hyperparameters, constant or as the schedule of its ancestors; these are trained again from the beginning on fresh
seeds, and the policy that the search itself holds is evaluated on fresh episodes. There is one JSON file for each task,
arm and seed under results/population/, and a run that was stopped continues with the files that are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from controlled_trainings import load, rounded, save
from text_report import section
from training_control_exact import summary

import purerl
from purerl import build, training
from purerl.hyperparameters import config, option
from purerl.runs import populations, report
from purerl.runs.devices import set_up_jax
from purerl.search import designs, pbt
from purerl.search.spaces import log_uniform, uniform

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "population"
SEEDS, MEMBERS, GENERATIONS, EPISODES, NUM_ENVS = 8, 16, 20, 512, 16
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
    rollout_length: int = 128


TASKS = {"Breakout-MinAtar": Task(1_000_000), "SpaceInvaders-MinAtar": Task(1_000_000)}
SPACE = {
    "learning_rate": log_uniform(1e-5, 1e-2),
    "entropy_cost": log_uniform(1e-4, 1e-1),
    "clip": log_uniform(0.05, 0.5),
    "gae_lambda": uniform(0.8, 1.0),
}
KEPT = 1e12  # a horizon at which the learning rate is constant, so that all arms share one program


class Arm(NamedTuple):
    """A search."""

    about: str
    design: Callable[..., designs.Points]
    exchange: Callable
    annealed: bool = False


def apart(key: Any, hp: Any, state: Any, scores: Any) -> tuple[Any, Any, Any]:
    """No exchange, of broken members neither."""
    del key
    return hp, state, jnp.arange(len(scores), dtype=jnp.int32)


ARMS = {
    "pbt": Arm("population-based training", designs.random, pbt.exchange(SPACE)),
    "pbt-resample": Arm(
        "population-based training, resampling",
        designs.random,
        pbt.exchange(SPACE, explore=pbt.resample(0.25, pbt.gaussian(0.1))),
    ),
    "random": Arm("random search", designs.random, apart),
    "sobol": Arm("Sobol points", designs.sobol, apart),
    "sobol-annealed": Arm("Sobol points, learning rate annealed", designs.sobol, apart, annealed=True),
}


@cache
def assembled(task: str) -> tuple[Any, Any, Callable, Callable]:
    """The environment and its parameters, `hp -> Agent`, and the `make` of a batch."""
    env, env_params = purerl.make(task)
    body = build.body(build.torso_for(env.observation_space(env_params)))
    agent = build.agent(purerl.ppo, env.action_space(env_params), body)
    one = lambda hp: purerl.learner(env, env_params, agent(hp), NUM_ENVS, TASKS[task].rollout_length)
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


def again(task: str, schedule: dict[str, np.ndarray], hp: Any, every: int, members: int, key: Any) -> Any:
    """The agents after a schedule, `[G]` for each hyperparameter, on as many fresh seeds as there are members."""
    make, keys = assembled(task)[3], jax.random.split(key, members)
    state: Any = None
    for g in range(len(next(iter(schedule.values())))):
        own = dataclasses.replace(hp, **{name: jnp.full(members, x[g]) for name, x in schedule.items()})
        ((_, state, _),) = training.run(make, own, keys if state is None else None, every, every, state)
    return state.agent


def run(task: str, name: str, seed: int, members: int, steps: int, episodes: int) -> None:
    """Search, then train the winner on fresh seeds, unless the file is there."""
    path = RESULTS / task / name / f"{seed}.json"
    if path.exists():
        return
    report.note(f"{task}: {ARMS[name].about}, seed {seed}")
    begin, arm = time.perf_counter(), ARMS[name]
    make = assembled(task)[3]
    every = max(1, steps // (NUM_ENVS * TASKS[task].rollout_length * GENERATIONS))
    default = purerl.PPO(anneal_steps=float(steps) if arm.annealed else KEPT)
    hp = pbt.members(default, arm.design(SPACE, members, seed))
    generations = []
    state: Any = None
    for generation in pbt.evolve(make, hp, key_of(SEARCH, seed), every * GENERATIONS, every, arm.exchange):
        state = generation.state
        generations.append(jax.tree.map(np.asarray, generation._replace(state=(), metrics={})))
    past = pbt.history(generations)
    best = int(np.where(np.isfinite(past.scores[-1]), past.scores[-1], -np.inf).argmax())
    schedule = pbt.schedule(past, best)
    held = jax.tree.map(lambda x: x[best : best + 1], state.agent)
    del state
    policy = played(task, episodes, default, held, key_of(PLAYED, seed))
    fresh = again(task, schedule, default, every, members, key_of(FRESH, seed))
    final = played(task, episodes, default, fresh, key_of(PLAYED, seed))
    if name.startswith("pbt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        populations.picture(path.with_suffix(".png"), past, best, f"{task}, {arm.about}, seed {seed}")
    save(path, {
        "task": task, "arm": name, "seed": seed, "members": members, "steps": every * GENERATIONS * NUM_ENVS
        * TASKS[task].rollout_length, "generations": GENERATIONS, "score": float(past.scores[-1, best]),
        "policy": float(policy[0]), "fresh": rounded(np.asarray(final)),
        "schedule": {x: rounded(values, 9) for x, values in schedule.items()},
        "scores": [rounded(np.nan_to_num(x, nan=-1e9, neginf=-1e9)) for x in past.scores],
        "seconds": round(time.perf_counter() - begin, 1),
    })  # fmt: skip


def run_toy() -> None:
    """All arms of the toy, unless the file is there."""
    path = RESULTS / "toy.json"
    if not path.exists():
        save(path, {"arms": {name: rounded(toy_results(exchange), 7) for name, exchange in TOY_ARMS.items()}})


# --- the report -------------------------------------------------------------------------------------------------------


def records(task: str, arm: str) -> list[dict[str, Any]]:
    """The results of an arm on a task, by seed."""
    return sorted((load(path) for path in (RESULTS / task / arm).glob("*.json")), key=lambda x: x["seed"])


def rows(task: str) -> Iterator[str]:
    """A task's lines of the table, one for each arm that has run."""
    reference = {x["seed"]: np.mean(x["fresh"]) for x in records(task, "pbt")}
    for name, arm in ARMS.items():
        found = records(task, name)
        if not found:
            continue
        score, policy = (float(np.mean([x[what] for x in found])) for what in ("score", "policy"))
        fresh = [float(np.mean(x["fresh"])) for x in found]
        both = [(x, reference[r["seed"]]) for x, r in zip(fresh, found, strict=True) if r["seed"] in reference]
        better = "" if name == "pbt" or not both else f"{sum(a > b for a, b in both)} of {len(both)}"
        yield f"| {task} | {arm.about} | {score:.2f} | {policy:.2f} | {summary(fresh, 2)} | {better} | {len(found)} |"


def write_report() -> None:
    """The section of POPULATION.md."""
    lines = []
    if (RESULTS / "toy.json").exists():
        lines += [
            f"The toy of figure 2, {TOY_SEEDS} seeds, Q of the better of two workers after 200 steps:",
            "",
            "| arm | mean | standard deviation |",
            "|---|---|---|",
            *(f"| {x} | {np.mean(v):.6f} | {np.std(v):.6f} |" for x, v in load(RESULTS / "toy.json")["arms"].items()),
            "",
        ]
    table = [row for task in TASKS for row in rows(task)]
    if table:
        known = next(x for task in TASKS for arm in ARMS for x in records(task, arm))
        lines += [
            f"PPO, {known['members']} members, the same steps for every arm. Score: of the best member in the search; "
            "policy: its policy on fresh episodes; fresh seeds: its hyperparameters, or the schedule of its ancestors, "
            f"trained again from the beginning on {known['members']} other seeds. 95 % intervals of the mean over "
            "repetitions of the whole search.",
            "",
            "| task | search | score | policy | fresh seeds, mean [95 %] | least, most | better than pbt | seeds |",
            "|---|---|---|---|---|---|---|---|",
            *table,
        ]
    section("population", "\n".join(lines), file="POPULATION.md", title="Population-based training: evidence")


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"repetitions of each search [{SEEDS}]")
    parser.add_argument("--only", default="", help="only tasks, or toy, whose name contains this word")
    parser.add_argument("--members", type=int, default=MEMBERS, help=f"members of a population [{MEMBERS}]")
    parser.add_argument("--steps", type=float, help="environment steps of a member, in place of the task's")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"of an evaluation [{EPISODES}]")
    parser.add_argument("--out", type=Path, help=f"where results are [{RESULTS.relative_to(HERE)}]")
    parser.add_argument("--report", action="store_true", help="only write POPULATION.md from the results")
    given = parser.parse_args()
    if given.out:
        globals()["RESULTS"] = given.out
    if not given.report:
        set_up_jax(one_device=True)
        if given.only in "toy":
            run_toy()
        for seed in range(given.seeds):
            for task in TASKS:
                for name in ARMS if given.only in task else ():
                    run(task, name, seed, given.members, int(given.steps or TASKS[task].steps), given.episodes)
    if not given.out:
        write_report()


if __name__ == "__main__":
    main()
