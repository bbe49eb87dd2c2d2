"""The effect of training rewards: shaping, novelty, constraints, several objectives, by the environment's own return.

    python benchmarks/rewards.py [--seeds 10] [--only mountain-car] [--report] [--out FOLDER] [--record]

`mountain-car`: PPO in MountainCar-v0 for 307,000 steps, plain, and shaped by the potential of its height and speed; the
plain return of 512 greedy episodes (solved: -110 or more). `deep-sea-10`, `deep-sea-20`: DeepSea of those sizes, by DQN
with ε = 0.05 and by PPO, plain, with counts and with RND; the share of the last episodes that find the reward.
`constraint`: CartPole with a cost if the cart is more than 0.3 from the middle, by `lagrangian`; the mean cost of a
step over the last tenth of the run, against a limit of 0.1. `preferences`: 300 noisy comparisons of segments; the rank
correlation of the learned reward with the true one. Every seed is an entry of WORLD.json in the folder of results (see
`recorded.py`); missing entries are computed. `front`: Pendulum for 64 weightings of standing upright against saving
effort, trained at once, one seed each; the results, plotted as a Pareto front.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import recorded
from scipy.stats import spearmanr

from purerl.runs.devices import set_up_jax
from purerl.runs.stream import measure

set_up_jax()

import purerl  # noqa: E402
from purerl import distributions, networks, rewards, statistics  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "rewards"
Design = Callable[[list[int]], dict[str, list[float]]]  # seeds -> "measured" and perhaps "return", one number a seed


def ppo(space: Any, hp: Any) -> Any:
    """PPO with separate networks of 64-64."""
    policy = distributions.for_space(space)
    return purerl.ppo(networks.actor_critic(policy), policy, hp)


def dqn(space: Any, hp: Any) -> Any:
    """DQN with a network of 64-64."""
    return purerl.dqn(networks.q_network(space.n, partial(networks.MLP, (64, 64), nn.relu)), hp)


def last_return(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """Mean return of the last 100 episodes or more: metrics `[K, R]` to `[R]`."""
    return statistics.last_returns(metrics["episodes"], metrics["episode_return"])


def share_found(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """The share of episodes that find DeepSea's reward, whose return is about 1, otherwise 0: `[K, R]` to `[R]`."""
    return np.clip(last_return(metrics), 0.0, 1.0)


def last_cost(metrics: dict[str, np.ndarray]) -> np.ndarray:
    """Mean cost of a step in the last tenth of the run: metrics `[K, R]` to `[R]`."""
    return metrics["cost"][-max(1, len(metrics["cost"]) // 10) :].mean(0)


def energy(obs: jax.Array) -> jax.Array:
    """Sixty times the height of the car and the square of its speed, both about 0 to 1: `[..., 2]` to `[...]`."""
    position, speed = obs[..., 0], obs[..., 1]
    return 60 * (0.5 * (jnp.sin(3 * position) + 1) + jnp.square(speed / 0.07))


def cell(obs: jax.Array) -> jax.Array:
    """The number of DeepSea's cell `[T, N]`, whose observation `[T, N, ...]` is an image with a single one."""
    return obs.reshape(*obs.shape[:2], -1).argmax(-1)


def off_centre(tr: purerl.Transition) -> jax.Array:
    """The cost `[T, N]`: 1 if the cart is more than 0.3 from the middle, otherwise 0."""
    return (jnp.abs(tr.next_obs[..., 0]) > 0.3).astype(jnp.float32)


CAR_BLOCKS = (16, 128, 150)
CAR = purerl.PPO(
    learning_rate=2e-3,
    anneal_steps=float(math.prod(CAR_BLOCKS)),
    gamma=0.995,
    entropy_cost=0.0,
    num_epochs=10,
    num_minibatches=16,
)  # observations are not standardised: otherwise the plain reward is often enough
SEA = purerl.PPO(learning_rate=1e-3, gae_lambda=0.99, num_minibatches=4)
EPSILON = purerl.DQN(
    learning_rate=1e-3, gamma=0.99, capacity=20_000, batch_size=64, learning_starts=200, train_every=2,
    target_period=200, explore_start=0.05, explore_end=0.05,
)  # fmt: skip
POLE = purerl.PPO(learning_rate=1e-3, num_minibatches=8)
WIDE = nn.Sequential([networks.MLP((64,), nn.relu), nn.Dense(16)])


def unchanged(hp: Any) -> None:
    """The environment's own reward."""


def train(
    env_id: str,
    kwargs: dict[str, Any],
    agent_of: Callable[[Any, Any], purerl.Agent],  # (space, hp) ->
    hp: Any,
    reward_of: Callable[[Any], purerl.Reward | None],  # hp ->
    blocks: tuple[int, int, int],  # environments, steps, updates
    measure: Callable[[dict[str, np.ndarray]], np.ndarray] | None,  # metrics [K, R] -> [R]; None: greedy episodes
    seeds: list[int],
) -> dict[str, list[float]]:
    """The score of every seed, all trained in one program, and the return beside it."""
    env, env_params = purerl.make(env_id, **kwargs)
    agent = partial(agent_of, env.action_space(env_params))
    num_envs, length, num_updates = blocks
    make = lambda hp: purerl.learner(env, env_params, agent(hp), num_envs, length, reward=reward_of(hp))
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.array(seeds))
    every = max(1, num_updates // 50)
    measured = measure(make, hp, keys, jax.devices(), num_updates, every, num_envs * length)

    def one(state: Any, key: jax.Array) -> Any:
        key = jax.random.fold_in(key, 1)  # not a key of training
        return purerl.evaluate(env, env_params, agent(hp), state, key, 512, greedy=True)

    rounded = lambda x: [round(float(y), 4) for y in x]
    greedy = lambda: jax.jit(jax.vmap(one))(measured.state.agent, keys).returns.mean(-1)
    number = measure(measured.metrics) if measure else greedy()
    return {"measured": rounded(number), "return": rounded(last_return(measured.metrics))}


TERMS = {
    "upright": lambda tr: -jnp.square(jnp.arctan2(tr.obs[..., 1], tr.obs[..., 0])) - 0.1 * jnp.square(tr.obs[..., 2]),
    "effort": lambda tr: -jnp.square(jnp.clip(tr.action[..., 0], -2.0, 2.0)),
}


def preferences(seeds: list[int]) -> dict[str, list[float]]:
    """Rank correlation, on states not compared, of a hidden reward with the one learned from 300 noisy comparisons."""
    hidden = lambda x: 2 * x[..., 0] - jnp.square(x[..., 1])
    network = nn.Sequential([networks.MLP((64,)), nn.Dense(1)])

    def once(seed):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 4)
        a, b = jax.random.normal(keys[0], (2, 300, 10, 2))
        preferred = jax.random.bernoulli(keys[1], jax.nn.sigmoid(hidden(b).sum(-1) - hidden(a).sum(-1)))
        params, _ = rewards.learn_preferences(keys[2], network, a, b, preferred, num_steps=500, learning_rate=3e-3)
        states = jax.random.normal(keys[3], (1_000, 2))
        return network.apply(params, states)[:, 0], hidden(states)

    learned, true = jax.jit(jax.vmap(once))(jnp.array(seeds))
    return {"measured": [round(float(spearmanr(*x).statistic), 4) for x in zip(learned, true, strict=True)]}


def deep_sea(size: int, blocks: tuple[int, int, int]) -> dict[str, Design]:
    """DeepSea with and without a bonus for novel states; `blocks` are those of PPO."""
    world = ("DeepSea-bsuite", {"size": size})
    counts = lambda hp: rewards.count_bonus(cell, size * size + 1, 0.3)
    novelty = lambda hp: rewards.rnd(WIDE, 0.3, 3e-3, num_steps=8)
    return {
        "DQN, ε-greedy": partial(train, *world, dqn, EPSILON, unchanged, (1, 10, 6_000), share_found),
        "PPO": partial(train, *world, ppo, SEA, unchanged, blocks, share_found),
        "PPO, counts": partial(train, *world, ppo, SEA, counts, blocks, share_found),
        "PPO, RND": partial(train, *world, ppo, SEA, novelty, blocks, share_found),
    }


def worlds() -> dict[str, dict[str, Design]]:
    """Every environment with its reward designs."""
    car = ("MountainCar-v0", {}, ppo, CAR)
    pole = ("CartPole-v1", {}, ppo, POLE)
    shaped = lambda hp: rewards.potential(energy, hp.gamma)
    kept = lambda rate: lambda hp: rewards.lagrangian(off_centre, 0.1, rate)
    return {
        "mountain-car": {
            "plain": partial(train, *car, unchanged, CAR_BLOCKS, None),
            "shaped": partial(train, *car, shaped, CAR_BLOCKS, None),
        },
        "deep-sea-10": deep_sea(10, (16, 40, 200)),
        "deep-sea-20": deep_sea(20, (32, 20, 300)),
        "constraint": {
            "plain": partial(train, *pole, kept(0.0), (16, 64, 300), last_cost),
            "lagrangian": partial(train, *pole, kept(0.1), (16, 64, 300), last_cost),
        },
        "preferences": {"rank correlation": preferences},
    }


def front(num: int = 64) -> dict[str, list[float]]:
    """The two terms at the end of training for `num` weightings, all of them in one program."""
    env, env_params = purerl.make("Pendulum-v1")
    hp = purerl.PPO(learning_rate=1e-3, gamma=0.95, entropy_cost=0.0, num_epochs=10, normalize_obs=True)
    weights = jnp.linspace(0.0, 1.0, num)

    def make(hp):
        hp, weight = hp
        paid = rewards.weighted(TERMS, {"upright": weight, "effort": 1.0 - weight})
        agent = ppo(env.action_space(env_params), hp)
        return purerl.learner(env, env_params, agent, 16, 128, rewards.chain(paid, rewards.normalize(hp.gamma)))

    keys = jax.random.split(jax.random.key(0), num)
    metrics = measure(make, (hp, weights), keys, jax.devices(), 150, 5, 2048).metrics
    late = {name: np.asarray(metrics[name])[-3:].mean(0).round(4).tolist() for name in TERMS}
    return {"weight": np.asarray(weights).round(4).tolist(), **late}


def draw(points: dict[str, list[float]], path: Path) -> None:
    """Both terms of every weighting, with the Pareto-optimal ones marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    upright, effort, weight = (np.array(points[name]) for name in ("upright", "effort", "weight"))
    beaten = [((upright > u) & (effort > e)).any() for u, e in zip(upright, effort, strict=True)]
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    picture = axis.scatter(effort, upright, c=weight, cmap="viridis", s=np.where(beaten, 12, 40))
    figure.colorbar(picture, label="weight of standing upright")
    axis.set(xlabel="effort, mean of -torque² a step", ylabel="upright, mean of -(angle² + 0.1 speed²) a step")
    axis.set_title(
        f"{len(weight)} weightings in one program; large: no other is better in both", loc="left", fontsize=10
    )
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(found: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Mean and interval of every design in every environment."""
    lines = ["| world | design | measured, mean [95 %] | return | seeds |", "|---|---|---|---|---|"]
    for world, designs in found.items():
        for name, values in designs.items():
            x = np.array(values["measured"])
            if len(x) > 1:
                low, high = statistics.interval(x, statistics.mean)
                paid = f"{np.mean(values['return']):.2f}" if "return" in values else ""
                lines.append(f"| {world} | {name} | {x.mean():.3f} [{low:.3f}, {high:.3f}] | {paid} | {len(x)} |")
    return "\n".join(lines)


def seeds(root: Path, worlds: list[str]) -> dict[str, dict[int, recorded.Seed]]:
    """The results of every seed, for `recorded.beside`; of the front, those of every weighting."""
    stored = {world: recorded.read(root / f"{world}.json", {"designs": {}})["designs"] for world in worlds}
    stored["front"] = {name: {"measured": x} for name, x in recorded.read(root / "front.json", {}).items()}
    return {
        f"{world}, {name}": {seed: recorded.Seed(x[0], x) for seed, x in enumerate(zip(*values.values(), strict=True))}
        for world, designs in stored.items()
        for name, values in designs.items()
    }


def main() -> None:
    """Compute the missing results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = worlds()
    parser.add_argument("--seeds", type=recorded.count, default=10)
    parser.add_argument("--only", choices=[*every, "front"], help="one world")
    recorded.options(parser, RESULTS)
    given = parser.parse_args()
    wanted = lambda world: not given.report and given.only in (None, world)
    place, computed = recorded.place(given), 0
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for world, designs in every.items():
        path = place.shown / f"{world}.json"
        stored = recorded.read(path, {"designs": {}})
        found[world] = stored["designs"]
        for name, run in designs.items():
            there = found[world].get(name, {})
            done = len(there.get("measured", []))
            if wanted(world) and done < given.seeds:
                print(f"{world}, {name}", flush=True)
                more = run(list(range(done, given.seeds)))
                found[world][name] = {kind: there.get(kind, []) + numbers for kind, numbers in more.items()}
                stored["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}"
                recorded.save(path, stored)
                computed += 1
    path = place.shown / "front.json"
    if wanted("front") and not path.exists():
        recorded.save(path, front())
        computed += 1
    if path.exists() and path.parent == place.own:
        draw(recorded.read(path), path.with_suffix(".png"))
    if not computed:
        recorded.nothing_computed(place, given.only or "every world")
    print(table(found))
    own, theirs = seeds(place.shown, [*every]), seeds(place.recorded, [*every])
    print("\n".join(recorded.beside(own, theirs) if place.shown != place.recorded else []))


if __name__ == "__main__":
    main()
