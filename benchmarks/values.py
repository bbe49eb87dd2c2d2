"""Learned action values against exact ones: every Q-learning agent, in environments small enough to be solved.

    python benchmarks/values.py [--seeds 5] [--only FrozenLake] [--agent DQN] [--report] [--out FOLDER] [--record]

FrozenLake 4 x 4 and Catch are gymnax's, enumerated by `tabular.from_env`; the chain is a random walk of 20 states with
a reward at its right end. All agents act at random (ε = 1), so that every action of every state is sampled. The
comparison is of Q of every state and action, not of returns. The error is the largest |Q - Q*|. Each has its own exact
solution: Q* by value iteration; those of Munchausen and PQN by iterating their own operators. Writes NAME.json and
values.png into the folder of results (see `recorded.py`), and prints a table.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import recorded

from purerl.runs.devices import set_up_jax
from purerl.runs.stream import measure

set_up_jax()

import purerl  # noqa: E402
from purerl import bellman, networks, statistics, tabular  # noqa: E402
from purerl.agents.qrdqn import midpoints  # noqa: E402
from purerl.envs import Table  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "values"
GAMMA, TAU, ALPHA, LAMBDA, LENGTH = 0.9, 0.1, 0.9, 0.65, 16


class World(NamedTuple):
    """An environment, the observations of its states, and its exact model."""

    env: Any
    env_params: Any
    obs: Any  # of every state that is not terminal
    mdp: Any
    torso: Callable[[], nn.Module]
    range: tuple[float, float]  # of returns
    features: int = 64  # cosine features of IQN


class OneHot(nn.Module):
    """A state's number as a one-hot vector."""

    num: int

    def __call__(self, obs):
        return jax.nn.one_hot(obs, self.num)


def enumerated(name: str, torso: Callable, low: float, high: float, **arguments: Any) -> World:
    """A gymnax environment with its model."""
    env, env_params = purerl.make(name)
    found = tabular.from_env(env, env_params, jax.random.key(0), ignore=("time",), **arguments)
    return World(env, env_params, jnp.asarray(found.obs), found.mdp, torso, (low, high))


def frozen_lake() -> World:
    """16 cells, slippery; linear in the cell."""
    world = enumerated("FrozenLake-misc", partial(networks.MLP, ()), 0.0, 1.0, denominator=3, start_denominator=1)
    # most returns are 0 and the others far from it: 64 features approximate such steps badly, and bias the mean
    return world._replace(features=256)


def catch() -> World:
    """A ball falls; images of 50 pixels, two layers of 64."""
    torso = partial(networks.MLP, (64, 64), nn.relu)
    return enumerated("Catch-bsuite", torso, -1.0, 1.0, denominator=1, start_denominator=5)


def chain() -> World:
    """20 states in a row; linear in the state."""
    mdp = tabular.worlds.random_walk(20)
    env = Table(mdp)
    obs = jnp.arange(22)[~np.asarray(mdp.terminal)]
    return World(env, env.default_params, obs, mdp, lambda: OneHot(22), (0.0, 1.0))


WORLDS = {"FrozenLake": frozen_lake, "Catch": catch, "chain": chain}


def exact_munchausen(world: World) -> np.ndarray:
    """The fixed point of Munchausen's backup, `[S, A]`."""
    q_of = tabular.backup(world.mdp, GAMMA)
    ends = jnp.asarray(world.mdp.terminal)

    def sweep(_, q):
        bonus = jnp.clip(TAU * jax.nn.log_softmax(q / TAU), -1.0, 0.0)
        return q_of(jnp.where(ends, 0.0, bellman.soft_value(q, TAU))) + jnp.where(ends[:, None], 0.0, ALPHA * bonus)

    return np.asarray(jax.lax.fori_loop(0, 2000, sweep, jnp.zeros(jnp.shape(world.mdp.P)[:2])))


def exact(name: str, world: World) -> np.ndarray:
    """The exact limit of an agent's Q, for every state that is not terminal."""
    if name == "Munchausen":
        q = exact_munchausen(world)
    elif name == "PQN, λ = 0.65":
        half = lambda q: jnp.full(q.shape, 1 / q.shape[1])
        q = tabular.q_lambda_values(world.mdp, GAMMA, LAMBDA, half, LENGTH).q
    else:
        q = tabular.value_iteration(world.mdp, GAMMA).q
    return np.asarray(q)[~np.asarray(world.mdp.terminal)]


class Contestant(NamedTuple):
    """An agent, its hyperparameters, and the function from its network's outputs to Q."""

    agent: Callable[[World], Callable]  # hp -> Agent
    hp: Any
    q: Callable[[World, Any, Any], Any]  # (world, params, obs) -> Q


def contestants(world: World, steps: int) -> dict[str, Contestant]:
    """Every agent, with settings as equal as the algorithms permit."""
    num_actions = world.env.action_space(world.env_params).n
    low, high = world.range
    linear = not isinstance(world.torso(), networks.MLP) or world.torso().hidden == ()
    common = {
        "learning_rate": 3e-2 if linear else 2e-3, "anneal_steps": float(steps), "gamma": GAMMA,
        "explore_start": 1.0, "explore_end": 1.0,
    }  # fmt: skip
    replayed = common | {
        "capacity": steps, "batch_size": 256, "learning_starts": 1_000, "train_every": 32, "target_period": 1_600,
    }  # fmt: skip
    plain = networks.q_network(num_actions, world.torso)
    many = networks.q_network(num_actions, world.torso, outputs=51)
    # quantiles of two actions need separate features, which a single feature per state cannot provide
    wide = lambda: nn.Sequential([world.torso(), networks.MLP((world.features,), nn.relu)])
    implicit = networks.implicit_q_network(num_actions, wide)
    support = jnp.linspace(low, high, 51)
    middle = midpoints(64)
    of_quantiles = lambda params, obs: implicit.apply(params, (obs, jnp.tile(middle, (obs.shape[0], 1)))).mean(-1)
    dqn = lambda **parts: lambda world: lambda hp: purerl.dqn(plain, hp, **parts)
    q = lambda world, params, obs: plain.apply(params, obs)
    mean = lambda world, params, obs: many.apply(params, obs).mean(-1)
    pqn = {**common, "max_grad_norm": None, "num_epochs": 2, "num_minibatches": 1}
    return {
        "DQN": Contestant(dqn(), purerl.DQN(**replayed), q),
        "Double DQN": Contestant(dqn(backup=bellman.double_backup), purerl.DQN(**replayed), q),
        "Munchausen": Contestant(dqn(backup=bellman.munchausen_backup(TAU, ALPHA)), purerl.DQN(**replayed), q),
        "C51": Contestant(
            lambda world: lambda hp: purerl.c51(many, hp),
            purerl.C51(num_atoms=51, low=low, high=high, **replayed),
            lambda world, params, obs: bellman.expectation(jax.nn.softmax(many.apply(params, obs)), support),
        ),
        "QR-DQN": Contestant(
            lambda world: lambda hp: purerl.qrdqn(many, hp), purerl.QRDQN(num_quantiles=51, kappa=0.0, **replayed), mean
        ),
        "IQN": Contestant(
            lambda world: lambda hp: purerl.iqn(implicit, hp),
            purerl.IQN(
                kappa=0.0,
                num_fractions=16,
                num_target_fractions=16,
                **replayed | {"learning_rate": 1e-3, "batch_size": 128},
            ),
            lambda world, params, obs: of_quantiles(params, obs),
        ),
        "PQN, λ = 0": Contestant(lambda world: lambda hp: purerl.pqn(plain, hp), purerl.PQN(q_lambda=0.0, **pqn), q),
        "PQN, λ = 0.65": Contestant(
            lambda world: lambda hp: purerl.pqn(plain, hp), purerl.PQN(q_lambda=LAMBDA, **pqn), q
        ),
    }


def learn(world: World, name: str, contestant: Contestant, steps: int, seeds: int) -> dict[str, Any]:
    """Train, and compare with the exact values: the largest error of each seed, and Q of all."""
    num_envs = 16
    length = LENGTH if name.startswith("PQN") else 1
    agent = contestant.agent(world)
    make = lambda hp: purerl.learner(world.env, world.env_params, agent(hp), num_envs, length)
    keys = jax.random.split(jax.random.key(1), seeds)
    num_updates = steps // (num_envs * length)
    print(f"{name}: {seeds} seeds, {steps:,} steps", flush=True)
    devices = jax.devices() if seeds % len(jax.devices()) == 0 else jax.devices()[:1]
    done = measure(make, contestant.hp, keys, devices, num_updates, max(1, num_updates // 20), num_envs * length)
    q = jax.vmap(lambda params: contestant.q(world, params, world.obs))(done.state.agent.params)
    q, true = np.asarray(q, np.float64), exact(name, world)
    return {
        "error": np.abs(q - true).max((1, 2)).tolist(),
        "root_mean_square": np.sqrt(np.square(q - true).mean((1, 2))).tolist(),
        "bias": (q - true).mean((1, 2)).tolist(),
        "q": q.mean(0).ravel().round(5).tolist(),
        "exact": true.ravel().round(5).tolist(),
    }


def table(results: dict[str, dict]) -> list[str]:
    """The report, in lines of Markdown: the largest error, in per cent of the exact values' range."""
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    names = list(dict.fromkeys(name for world in results.values() for name in world["agents"]))
    for name in names:
        cells = []
        for world in results.values():
            found = world["agents"].get(name)
            if found is None:
                cells.append("")
                continue
            error, span = 100 * np.array(found["error"]), max(found["exact"]) - min(found["exact"])
            low, high = statistics.interval(error / span, statistics.mean)
            cells.append(f"{error.mean() / span:.1f} % [{low:.1f}, {high:.1f}] of {span:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def draw(results: dict[str, dict], path: Path) -> None:
    """Plot learned Q against exact Q, one panel for each environment."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(4 * len(results), 4), layout="constrained", squeeze=False)
    for axis, (title, world) in zip(axes[0], results.items(), strict=True):
        true = np.concatenate([found["exact"] for found in world["agents"].values()])
        ends = [true.min(), true.max()]
        axis.plot(ends, ends, color="#999999", linewidth=0.8)
        for name, found in world["agents"].items():
            axis.plot(found["exact"], found["q"], ".", ms=4, alpha=0.7, label=name)
        axis.set(xlabel="exact", ylabel="learned, mean over seeds")
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    axes[0][-1].legend(frameon=False, fontsize=7, loc="upper left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def stored(root: Path) -> dict[str, dict]:
    """The results of every world that are there."""
    found = {name: recorded.read(root / f"{name}.json") for name in WORLDS}
    return {name: world for name, world in found.items() if world}


def seeds(results: dict[str, dict]) -> dict[str, dict[int, recorded.Seed]]:
    """The errors of every seed, for `recorded.beside`."""
    numbers = ("error", "root_mean_square", "bias")
    return {
        f"{title}, {name}": {
            seed: recorded.Seed(x[0], x) for seed, x in enumerate(zip(*(found[n] for n in numbers), strict=True))
        }
        for title, world in results.items()
        for name, found in world["agents"].items()
    }


def main() -> None:
    """Run the requested agents, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=recorded.count, default=5)
    parser.add_argument("--only", choices=WORLDS, help="one world")
    parser.add_argument("--agent", help="one agent")
    parser.add_argument("--steps", type=int, help="of each seed [1,600,000 of FrozenLake, whose goal is seldom "
                        "reached; 400,000 of the others]")  # fmt: skip
    recorded.options(parser, RESULTS)
    given = parser.parse_args()
    place = recorded.place(given)
    if place.reports:
        recorded.nothing_computed(place, "every agent")
    for title in [given.only] if given.only else WORLDS:
        if given.report:
            break
        world, path = WORLDS[title](), place.own / f"{title}.json"
        steps = given.steps or (1_600_000 if title == "FrozenLake" else 400_000)
        result = {
            "steps": steps, "gamma": GAMMA, "jax": jax.__version__,
            "machine": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {platform.machine()}",
            "agents": recorded.read(path, {"agents": {}})["agents"],
        }  # fmt: skip
        there = contestants(world, steps)
        if given.agent not in (None, *there):
            parser.error(f"--agent: there is no {given.agent!r}; allowed are {'; '.join(there)}")
        for name, contestant in there.items():
            if given.agent in (None, name):
                result["agents"][name] = learn(world, name, contestant, steps, given.seeds)
                recorded.save(path, result)
                print(f"{title}, {name}: largest error {np.round(result['agents'][name]['error'], 3)}", flush=True)
    results = stored(place.shown)
    print("\n".join(table(results)))
    if not place.reports or given.record:
        draw(results, place.own / "values.png")
    if place.shown != place.recorded:
        print("\n".join(recorded.beside(seeds(results), seeds(stored(place.recorded)))))


if __name__ == "__main__":
    main()
