"""Learned policies against known optima: a linear-quadratic regulator, a hybrid game, a grid with a mask.

    python benchmarks/optima.py [--seeds 10] [--only regulator] [--agent SAC] [--report] [--out FOLDER] [--record]

`regulator`: a mass with friction is pushed to the origin; the discounted cost is s'Qs + a'Ra, there is noise, and the
optimal action is -K s with K of the discounted Riccati equation. The learned gain is fitted to the greedy actions in
states that the optimal policy visits; the error is ‖K̂ - K‖ / ‖K‖. `platform`: the return of greedy episodes of
Platform-v0 against the optimum, 8.369, the shortfall as a share of it. `grid`: in MaskedGrid-v0, the loss of greedy
episodes from every cell against V* of value iteration over legal moves, and for Q-learning agents the largest error, as
a share of the largest |V*|. Every seed is an entry of CASE.json in the folder of results (see `recorded.py`); missing
entries are computed.
"""

from __future__ import annotations

import argparse
import os
import platform as machine
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import recorded
import scipy.linalg
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from purerl.runs.devices import set_up_jax
from purerl.runs.stream import measure

set_up_jax()

import purerl  # noqa: E402
from purerl import build, distributions, networks, statistics, tabular  # noqa: E402
from purerl.agents.parts.declarations import Body  # noqa: E402
from purerl.envs import MaskedGrid, Platform, masked_grid  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "optima"
GAMMA = 0.95


# --- the linear-quadratic regulator -----------------------------------------------------------------------------------

A = np.array([[0.8, 0.4], [0.0, 0.6]])
B = np.array([[0.0], [0.5]])
Q, R, NOISE = np.diag([1.0, 0.2]), np.array([[0.1]]), 0.1


def riccati() -> tuple[np.ndarray, np.ndarray]:
    """The gain K `[1, 2]` of the discounted problem, and the covariance `[2, 2]` of the states under it."""
    a, b = np.sqrt(GAMMA) * A, np.sqrt(GAMMA) * B
    P = scipy.linalg.solve_discrete_are(a, b, Q, R)
    K = np.linalg.solve(R + b.T @ P @ b, b.T @ P @ a)
    return K, scipy.linalg.solve_discrete_lyapunov(A - B @ K, NOISE**2 * np.eye(2))


@struct.dataclass
class RegulatorParams:
    """max_steps_in_episode: the time limit."""

    max_steps_in_episode: int = 50


class RegulatorState(NamedTuple):
    """Position and velocity, and the steps taken."""

    s: jax.Array
    time: jax.Array


class Regulator(Environment):
    """s' = A s + B a + noise, reward -(s'Qs + a'Ra); it never terminates; the time limit truncates it."""

    name = "regulator"

    @property
    def default_params(self) -> RegulatorParams:
        return RegulatorParams()

    def reset_env(self, key, params):
        s = 0.7 * jax.random.normal(key, (2,))
        return s, RegulatorState(s, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        reward = -(state.s @ Q @ state.s + action @ R @ action)
        s = A @ state.s + B @ action + NOISE * jax.random.normal(key, (2,))
        return s, RegulatorState(s, state.time + 1), reward, jnp.zeros((), bool), {}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        return spaces.Box(-2.0, 2.0, (1,))

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (2,))


def gain_error(agent: Any, state: Any, key: Any) -> jax.Array:
    """‖K̂ - K‖ / ‖K‖ of the greedy policy, float []."""
    K, covariance = riccati()
    root = np.linalg.cholesky(covariance + 0.05 * np.eye(2))
    s = jax.random.normal(key, (512, 2)) @ root.T
    action, _ = agent.greedy(state, agent.memory(512), s)
    fitted = -jnp.linalg.lstsq(s, action)[0].T
    return jnp.linalg.norm(fitted - K) / np.linalg.norm(K)


# --- the other two ----------------------------------------------------------------------------------------------------

BEST = 8.3692  # of Platform-v0, ten times the mean of `envs.platform.best_reward`


def shortfall(agent: Any, state: Any, key: Any) -> jax.Array:
    """The loss of greedy episodes of Platform-v0, as a share of the optimal return, float []."""
    env = Platform()
    played = purerl.evaluate(env, env.default_params, agent, state, key, 512, greedy=True)
    return 1 - played.returns.mean() / BEST


@cache
def exact_grid() -> np.ndarray:
    """Q* `[cells, 4]` of MaskedGrid-v0 over legal moves."""
    cells = len(masked_grid.LEGAL)
    P = np.zeros((cells, 4, cells))
    P[np.arange(cells)[:, None], np.arange(4), masked_grid.NEXT] = 1
    rewards = np.where(masked_grid.LEGAL, -1.0, -1e6)
    terminal = np.arange(cells) == cells - 1
    return np.asarray(tabular.value_iteration(tabular.MDP(P, rewards, terminal), GAMMA).q)


def grid_loss(agent: Any, state: Any, key: Any, values: Callable | None = None) -> jax.Array:
    """The loss of the greedy policy from every cell against V*, or the largest error of Q for Q-learning agents."""
    del key  # everything is deterministic
    env, q = MaskedGrid(), exact_grid()[masked_grid.STARTS]
    cells = jnp.asarray(masked_grid.STARTS, jnp.int32)
    legal = masked_grid.LEGAL[masked_grid.STARTS]
    best = np.where(legal, q, -np.inf).max(-1)
    largest = np.abs(best).max()
    if values is not None:
        learned = values(state, jax.vmap(env.see)(cells))
        return jnp.abs(jnp.where(legal, learned, 0) - np.where(legal, q, 0)).max() / largest

    def step(carry, _):
        cell, alive, total, discount = carry
        action, _ = agent.greedy(state, agent.memory(len(cells)), jax.vmap(env.see)(cell))
        paid = jnp.where(jnp.asarray(masked_grid.LEGAL)[cell, action], -1.0, 1.0)
        total = total + jnp.where(alive, discount * paid, 0.0)
        cell = jnp.asarray(masked_grid.NEXT, jnp.int32)[cell, action]
        return (cell, alive & (cell != len(masked_grid.LEGAL) - 1), total, discount * GAMMA), None

    begin = cells, jnp.ones(len(cells), bool), jnp.zeros(len(cells)), jnp.ones(())
    (_, _, total, _), _ = jax.lax.scan(step, begin, length=300)
    return jnp.abs(total - best).max() / largest


# --- the agents -------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One agent in one environment."""

    env: Any
    make: Callable[[Any], Any]  # hp -> Agent
    hp: Any
    blocks: tuple[int, int, int]  # environments, steps, updates
    error: Callable[[Any, Any, Any], jax.Array]


def by_policy(env: Any, hp: Any, blocks: tuple, error: Callable, box: Any = distributions.normal) -> Case:
    """PPO."""
    policy = distributions.for_space(env.action_space(env.default_params), box)
    network = networks.actor_critic(policy, partial(networks.MLP, (64, 64)))
    anneal = float(np.prod(blocks))
    hp = purerl.PPO(gamma=GAMMA, anneal_steps=anneal, **hp)
    return Case(env, lambda hp: purerl.ppo(network, policy, hp), hp, blocks, error)


def by_critic(
    algorithm: Callable, config: Any, env: Any, hp: dict, updates: int, error: Callable, activation: Any = nn.relu
) -> Case:
    """An actor-critic with a replay buffer: 16 environments, a gradient step every 16 steps."""
    torso = partial(networks.MLP, (64, 64), activation)
    anneal = 16.0 * updates
    usual = {"gamma": GAMMA, "learning_rate": 1e-3, "capacity": 200_000, "train_every": 16, "anneal_steps": anneal}
    make = build.agent(algorithm, env.action_space(env.default_params), Body(torso, torso))
    return Case(env, make, config(**usual | hp), (16, 1, updates), error)


def dqn_on_grid() -> Case:
    """DQN, whose values are compared with Q*."""
    network = networks.q_network(4, partial(networks.MLP, ()))
    hp = purerl.DQN(
        learning_rate=3e-2, anneal_steps=64_000.0, gamma=GAMMA, capacity=16_000, learning_starts=500, train_every=16,
        target_period=320, explore_start=1.0, explore_end=1.0,
    )  # fmt: skip
    error = partial(grid_loss, values=lambda state, obs: network.apply(state.params, obs))
    return Case(MaskedGrid(), lambda hp: purerl.dqn(network, hp), hp, (16, 1, 4000), error)


def cases() -> dict[str, dict[str, Case]]:
    """Every environment with its agents."""
    regulator, game, grid = Regulator(), Platform(), MaskedGrid()
    exact_grid()  # before anything is traced
    steady = {"learning_rate": 1e-3, "entropy_cost": 0.0, "num_epochs": 4, "num_minibatches": 8}
    # the gain is learned from random actions: if the policy is nearly deterministic, it no longer changes
    moving = {"normalize_advantage": "batch", "entropy_cost": 0.03}
    return {
        "regulator": {
            "PPO": by_policy(regulator, steady | moving, (64, 64, 800), gain_error),
            "SAC": by_critic(purerl.sac, purerl.SAC, regulator, {}, 20_000, gain_error, nn.tanh),
            "TD3": by_critic(purerl.td3, purerl.TD3, regulator, {"noise": 0.3}, 20_000, gain_error, nn.tanh),
            "DDPG": by_critic(purerl.ddpg, purerl.DDPG, regulator, {"noise": 0.3}, 20_000, gain_error, nn.tanh),
        },
        "platform": {
            "PPO": by_policy(game, steady | {"entropy_cost": 1e-3}, (64, 32, 1000), shortfall),
            "SAC": by_critic(purerl.sac, purerl.SAC, game, {"choice_entropy": 0.1}, 40_000, shortfall),
        },
        "grid": {
            "DQN": dqn_on_grid(),
            "PPO": by_policy(grid, steady | {"entropy_cost": 1e-3}, (32, 32, 200), grid_loss),
            "SAC": by_critic(purerl.sac, purerl.SAC, grid, {"choice_entropy": 0.1}, 4_000, grid_loss),
        },
    }


def errors(case: Case, seeds: list[int]) -> list[float]:
    """The error of every seed, all of them trained in one program."""
    params = case.env.default_params
    make = lambda hp: purerl.learner(case.env, params, case.make(hp), *case.blocks[:2])
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.array(seeds))
    num_updates, every = case.blocks[2], max(1, case.blocks[2] // 20)
    block = case.blocks[0] * case.blocks[1]
    measured = measure(make, case.hp, keys, jax.devices(), num_updates, every, block)
    agent = case.make(case.hp)
    judge = jax.jit(jax.vmap(lambda state, key: case.error(agent, state, jax.random.fold_in(key, 1))))
    return [round(float(x), 5) for x in judge(measured.state.agent, keys)]


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Mean error and interval of every agent in every environment, in per cent."""
    lines = ["| world | agent | error, mean [95 %] | largest | seeds |", "|---|---|---|---|---|"]
    for world, agents in found.items():
        for name, values in agents.items():
            if len(values) > 1:
                x = 100 * np.array(values)
                low, high = statistics.interval(x, statistics.mean)
                lines.append(
                    f"| {world} | {name} | {x.mean():.2f} % [{low:.2f}, {high:.2f}] | {x.max():.2f} % | {len(x)} |"
                )
    return "\n".join(lines)


def seeds(root: Path, worlds: list[str]) -> dict[str, dict[int, recorded.Seed]]:
    """The error of every seed, for `recorded.beside`."""
    stored = {world: recorded.read(root / f"{world}.json", {"agents": {}})["agents"] for world in worlds}
    return {
        f"{world}, {name}": {seed: recorded.Seed(error) for seed, error in enumerate(errors)}
        for world, agents in stored.items()
        for name, errors in agents.items()
    }


def main() -> None:
    """Compute the missing results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = cases()
    parser.add_argument("--seeds", type=recorded.count, default=10)
    parser.add_argument("--only", choices=every, help="one world")
    parser.add_argument("--agent", help="one agent")
    recorded.options(parser, RESULTS)
    given = parser.parse_args()
    known = sorted({name for agents in every.values() for name in agents})
    if given.agent not in (None, *known):
        parser.error(f"--agent: there is no {given.agent!r}; allowed are {', '.join(known)}")
    place, computed = recorded.place(given), 0
    found: dict[str, dict[str, list[float]]] = {}
    for world, agents in every.items():
        path = place.shown / f"{world}.json"
        stored = recorded.read(path, {"agents": {}})
        for name, case in agents.items():
            there = stored["agents"].get(name, [])
            asked = not given.report and given.only in (None, world) and given.agent in (None, name)
            if asked and len(there) < given.seeds:
                print(f"{world}, {name}", flush=True)
                there = there + errors(case, list(range(len(there), given.seeds)))
                stored["agents"][name] = there
                stored["machine"] = f"{os.cpu_count()} cores, {machine.machine()}, jax {jax.__version__}"
                recorded.save(path, stored)
                computed += 1
            found.setdefault(world, {})[name] = there
    if not computed:
        recorded.nothing_computed(place, given.agent or given.only or "every world")
    print(table(found))
    own, theirs = seeds(place.shown, [*every]), seeds(place.recorded, [*every])
    print("\n".join(recorded.beside(own, theirs) if place.shown != place.recorded else []))


if __name__ == "__main__":
    main()
