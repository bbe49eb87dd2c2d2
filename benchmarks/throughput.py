"""Speed of acting and training, against the number of environments and seeds.

    python benchmarks/throughput.py acting [--env CartPole-v1] [--largest 65536]
    python benchmarks/throughput.py training [--env CartPole-v1] [--seeds 1,4,16,64] [--envs 4,64,1024]
    python benchmarks/throughput.py resets
    python benchmarks/throughput.py memory
    python benchmarks/throughput.py remembering

`acting` times whole rollouts of N environments, transitions kept, with random actions and with a 64-64 network,
compared with gymnax's own `RolloutWrapper`, in alternation in one process. `training` times PPO against seeds and
against environments, with the share of this machine's matrix-product peak. `resets` measures an environment with an
expensive reset. `memory` compares the peak memory of `purerl train` over 10⁶ and 10⁷ steps. `remembering` compares
networks with memory to those without. Each prints a table and writes JSON and a picture under results/throughput/.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from purerl.runs.devices import set_up_jax

set_up_jax()  # before gymnax, whose import uses jax: afterwards flags and devices have no effect
jax.config.update("jax_enable_compilation_cache", False)

import flax.struct  # noqa: E402
from gymnax.environments.environment import Environment, EnvParams, EnvState  # noqa: E402
from gymnax.environments.spaces import Box, Discrete  # noqa: E402
from versus import JOBS, dot_flops, peak_flops, program  # noqa: E402

import purerl  # noqa: E402
from purerl import distributions, networks, training  # noqa: E402
from purerl.core import Agent  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "throughput"
STEPS_AT_ONCE = 2**17  # steps of a timed rollout, over all environments


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every call, `[rounds]` for each function, in alternation; first calls compile and are not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in contestants.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - begin)
    return {name: np.array(x) for name, x in times.items()}


def spread(ratio: np.ndarray) -> str:
    """Median, and the lowest and highest of the rounds."""
    return f"{np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]"


# --- acting -----------------------------------------------------------------------------------------------------------


def rollouts(env: Any, env_params: Any, num_envs: int, length: int) -> dict[str, Callable[[], Any]]:
    """The same rollout by purerl and by gymnax, with random actions and with those of a network."""
    from gymnax.experimental import RolloutWrapper

    policy = distributions.for_space(env.action_space(env_params))
    network = networks.actor_critic(policy)
    space, key = env.action_space(env_params), jax.random.key(0)
    params = network.init(key, jnp.zeros((1, *env.observation_space(env_params).shape)))
    draw = lambda key: space.sample(key)

    def random_act(key, state, memory, obs):
        return jax.vmap(draw)(jax.random.split(key, num_envs)), memory, ()

    def network_act(key, state, memory, obs):
        return policy.sample(key, network.apply(state, obs)[0]), memory, ()

    def ours(act):
        agent = Agent(None, lambda n: (), lambda memory, ended: memory, act, None, None)  # pyright: ignore
        environment = training.vectorized(env, env_params)

        @jax.jit
        def once(key, params):
            begin, key = jax.random.split(key)
            position = training.start(environment, agent, jax.random.split(begin, num_envs))
            return training.rollout(environment, agent, params, position, key, length)

        return lambda: once(key, params)

    def theirs(forward):
        wrapper = RolloutWrapper(forward, env=env, env_params=env_params, num_env_steps=length)
        keys = jax.random.split(key, num_envs)
        return lambda: wrapper.batch_rollout(keys, params)

    forward = lambda params, obs, key: policy.sample(key, network.apply(params, obs[None])[0])[0]
    return {
        "purerl, random": ours(random_act),
        "gymnax, random": theirs(None),
        "purerl, network": ours(network_act),
        "gymnax, network": theirs(forward),
    }


def acting(given: argparse.Namespace) -> dict[str, Any]:
    """Environment steps per second against the number of environments."""
    env, env_params = purerl.make(given.env)
    sizes = [given.factor**k for k in range(20) if given.factor**k <= given.largest]
    rows = []
    for num_envs in track(sizes, "acting"):
        length = int(np.clip(STEPS_AT_ONCE // num_envs, 16, 8192))
        times = alternate(rollouts(env, env_params, num_envs, length), given.rounds)
        steps = num_envs * length
        rows.append({"num_envs": num_envs, "length": length, "steps_per_second": {}, "over_gymnax": {}})
        for name, seconds in times.items():
            rows[-1]["steps_per_second"][name] = steps / float(np.median(seconds))
        for kind in ("random", "network"):
            ratio = times[f"gymnax, {kind}"] / times[f"purerl, {kind}"]
            rows[-1]["over_gymnax"][kind] = [float(x) for x in (np.median(ratio), ratio.min(), ratio.max())]
    return {"name": f"acting-{given.env}", "title": f"steps/s in {given.env}", "rows": rows}


def show_acting(result: dict[str, Any]) -> list[str]:
    """A row for each number of environments."""
    names = list(result["rows"][0]["steps_per_second"])
    lines = ["| environments | " + " | ".join(names) + " | random, over gymnax | network, over gymnax |"]
    lines.append("|" + "---|" * (len(names) + 3))
    for row in result["rows"]:
        cells = [f"{row['num_envs']:,}", *(f"{row['steps_per_second'][name]:,.0f}" for name in names)]
        for middle, low, high in row["over_gymnax"].values():
            cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


# --- training ---------------------------------------------------------------------------------------------------------


def train_rows(env: str, torso: str, num_envs: int, seeds: int, rounds: int, steps: float | None) -> dict[str, Any]:
    """PPO, 4 epochs of 4 minibatches on blocks of 128 steps: steps per second of all seeds together."""
    job = dataclasses.replace(JOBS["ppo-cartpole"], env=env, num_envs=num_envs, torso=torso)
    make, hp = program(job)
    alone = make
    key = jax.random.key(0) if seeds == 1 else jax.random.split(jax.random.key(0), seeds)
    if seeds > 1:
        make = purerl.batch(make, jax.devices() if seeds % len(jax.devices()) == 0 else None)
    begin = time.perf_counter()
    compiled = training.compile_run(make, hp, key)
    jax.block_until_ready(compiled.state)
    compiling = time.perf_counter() - begin
    advance, state = compiled.advance, compiled.state

    def timed(updates):
        nonlocal state
        begin = time.perf_counter()
        once = training.Program(state, advance)
        ((_, state, metrics),) = purerl.run(make, hp, None, updates, updates, program=once)
        jax.block_until_ready(metrics)
        return time.perf_counter() - begin

    updates = max(1, round(0.5 / timed(1)))
    if steps is not None:
        updates, rounds = max(1, round(steps / job.block)), 1
    else:
        timed(updates)
    seconds = np.array([timed(updates) for _ in range(rounds)]) / updates
    shapes = jax.eval_shape(lambda: alone(hp).init(jax.random.key(0)))
    flops = seeds * dot_flops(jax.make_jaxpr(lambda state: alone(hp).step(state))(shapes).jaxpr)
    pace = seeds * job.block / seconds
    return {
        "num_envs": num_envs, "seeds": seeds, "compile_seconds": compiling, "updates_timed": updates,
        "steps_per_second": [float(x) for x in (np.median(pace), pace.min(), pace.max())],
        "flops_per_second": flops / float(np.median(seconds)),
    }  # fmt: skip


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Training steps per second against seeds, and against environments."""
    grid = [(n, 1) for n in given.envs] + [(given.envs[0], s) for s in given.seeds if s > 1]
    rows = [train_rows(given.env, given.torso, n, s, given.rounds, given.steps) for n, s in track(grid, "training")]
    peak = peak_flops() * (1 if jax.default_backend() == "cpu" else len(jax.devices()))
    for row in rows:
        row["share_of_peak"] = row.pop("flops_per_second") / peak
    name = f"training-{given.env}" + (f"-{given.steps:.0e}".replace("+0", "") if given.steps else "")
    return {"name": name, "title": f"PPO on {given.env}, {given.torso}", "peak_flops": peak, "rows": rows}


def show_training(result: dict[str, Any]) -> list[str]:
    """A row for each number of environments and of seeds."""
    lines = [f"peak of matrix products: {result['peak_flops'] / 1e9:,.0f} GFLOP/s", ""]
    lines += ["| environments | seeds | steps/s [low, high] | share of the peak | compiling |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        middle, low, high = row["steps_per_second"]
        lines.append(
            f"| {row['num_envs']:,} | {row['seeds']:,} | {middle:,.0f} [{low:,.0f}, {high:,.0f}] | "
            f"{100 * row['share_of_peak']:.0f} % | {row['compile_seconds']:.1f} s |"
        )
    return lines


# --- resets -----------------------------------------------------------------------------------------------------------


@flax.struct.dataclass
class MazeState(EnvState):
    """The state: the maze and the position in it."""

    time: Any
    wall: Any  # bool [15, 15]
    at: Any  # int32 [2]


class Maze(Environment):
    """Reach the opposite corner of a maze. Every reset is expensive: a random walk of 600 steps generates the maze."""

    name = "Maze"
    size, carving = 15, 600
    moves = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)

    @property
    def default_params(self) -> EnvParams:
        """max_steps_in_episode: 100 steps."""
        return EnvParams(max_steps_in_episode=100)

    def reset_env(self, key, params):
        """Aldous-Broder: a random walk over the cells opens the wall to each cell that it enters first."""
        moves = jnp.asarray(self.moves)

        def carve(k, carry):
            wall, at = carry
            move = moves[jax.random.randint(jax.random.fold_in(key, k), (), 0, 4)]
            to = jnp.clip(at + 2 * move, 1, self.size - 2)
            between = (at + to) // 2
            new = wall[to[0], to[1]]
            opened = wall.at[between[0], between[1]].set(wall[between[0], between[1]] & ~new)
            return opened.at[to[0], to[1]].set(False), to

        start = jnp.ones(2, jnp.int32)
        wall = jnp.ones((self.size, self.size), bool).at[1, 1].set(False)
        wall, _ = jax.lax.fori_loop(0, self.carving, carve, (wall, start))
        state = MazeState(time=jnp.int32(0), wall=wall, at=start)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        """A move into a wall leaves the position unchanged."""
        to = state.at + jnp.asarray(self.moves)[action]
        to = jnp.where(state.wall[to[0], to[1]], state.at, to)
        state = state.replace(time=state.time + 1, at=to)  # pyright: ignore
        there = (to == self.size - 2).all()
        return self.get_obs(state), state, there.astype(jnp.float32), there, {}

    def get_obs(self, state, params=None, key=None):
        """Walls and the position, float32 [15, 15, 2]."""
        here = jnp.zeros((self.size, self.size), bool).at[state.at[0], state.at[1]].set(True)
        return jnp.stack([state.wall, here], -1).astype(jnp.float32)

    def is_truncated(self, state, params):
        """Truncate after 100 steps."""
        return state.time >= params.max_steps_in_episode

    def action_space(self, params=None):
        """Four directions."""
        return Discrete(4)

    def observation_space(self, params):
        """The space of `get_obs`."""
        return Box(0.0, 1.0, (self.size, self.size, 2), jnp.float32)


def resets(given: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of whole rollouts, 4 seeds if vmapped, with different ways to compute resets."""
    env, length = Maze(), 128
    env_params = env.default_params
    space = env.action_space(env_params)

    def act(key, state, memory, obs):
        keys = jax.random.split(key, jax.tree.leaves(obs)[0].shape[0])
        return jax.vmap(space.sample)(keys), memory, ()

    agent = Agent(None, lambda n: (), lambda memory, ended: memory, act, None, None)  # pyright: ignore
    plain = training.vectorized(env, env_params)

    def block(num_envs, pool):
        def once(key):
            begin, pool_key, key = jax.random.split(key, 3)
            world = plain if pool is None else training.with_reset_pool(plain, pool_key, pool)
            position = training.start(world, agent, jax.random.split(begin, num_envs))
            return training.rollout(world, agent, (), position, key, length)[1].transitions.reward.sum()

        return once

    def everywhere(num_envs):
        """gymnax's own step, which resets on every step."""

        def once(key):
            begin, key = jax.random.split(key)
            _, state = jax.vmap(env.reset, (0, None))(jax.random.split(begin, num_envs), env_params)

            def step(state, key):
                keys = jax.random.split(key, 2 * num_envs)
                actions = jax.vmap(space.sample)(keys[:num_envs])
                _, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys[num_envs:], state, actions, env_params)
                return state, reward.sum()

            return jax.lax.scan(step, state, jax.random.split(key, length))[1].sum()

        return once

    rows, key = [], jax.random.key(0)
    keys = jax.random.split(key, 4)
    for num_envs in track((1, 16, 64), "resets"):
        calls = {
            "gymnax's step": (jax.jit(everywhere(num_envs)), key),
            "purerl": (jax.jit(block(num_envs, None)), key),
            "purerl, reset_pool=16": (jax.jit(block(num_envs, 16)), key),
            "purerl, 4 seeds vmapped": (jax.jit(jax.vmap(block(num_envs, None))), keys),
            "purerl, 4 seeds vmapped, reset_pool=16": (jax.jit(jax.vmap(block(num_envs, 16))), keys),
        }
        times = alternate({name: (lambda f=f, k=k: f(k)) for name, (f, k) in calls.items()}, given.rounds)
        pace = {name: length * num_envs * (4 if "4 seeds" in name else 1) / x for name, x in times.items()}
        rows.append(
            {
                "num_envs": num_envs,
                "steps_per_second": {name: float(np.median(x)) for name, x in pace.items()},
                "over_gymnax": {name: spread(x / pace["gymnax's step"]) for name, x in pace.items()},
            }
        )
    return {"name": "resets", "title": "steps/s in mazes that every reset carves anew", "rows": rows}


def show_resets(result: dict[str, Any]) -> list[str]:
    """A row for each kind of reset and number of environments."""
    lines = ["| environments | resets | steps/s | over gymnax's step |", "|---|---|---|---|"]
    for row in result["rows"]:
        for name, pace in row["steps_per_second"].items():
            lines.append(f"| {row['num_envs']} | {name} | {pace:,.0f} | {row['over_gymnax'][name]} |")
    return lines


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory of whole `purerl train` processes."""
    rows = []
    for steps in track([1_000_000, 10_000_000], "memory"):
        with tempfile.TemporaryDirectory() as folder:
            # compiled again each time, since compilation is a part of the peak
            command = ["train", "ppo", "CartPole-v1", "--seeds", "2", "--no-compilation-cache", "--chunks", "100"]
            command += ["--steps", str(steps), "--dir", f"{folder}/run"]
            process = subprocess.Popen([Path(sys.executable).with_name("purerl"), *command], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"purerl {' '.join(command)} failed")
        kilobyte = 1 if sys.platform == "darwin" else 1024
        rows.append({"steps": steps, "peak_bytes": usage.ru_maxrss * kilobyte})
    return {"name": "memory", "title": "peak memory of purerl train ppo CartPole-v1 --seeds 2", "rows": rows}


def show_memory(result: dict[str, Any]) -> list[str]:
    """Two rows, and their ratio."""
    lines = ["| steps | peak memory | over the first |", "|---|---|---|"]
    first = result["rows"][0]["peak_bytes"]
    for row in result["rows"]:
        lines.append(f"| {row['steps']:,} | {row['peak_bytes'] / 2**20:,.0f} MiB | {row['peak_bytes'] / first:.3f} |")
    return lines


# --- remembering ------------------------------------------------------------------------------------------------------


def remembering(given: argparse.Namespace) -> dict[str, Any]:
    """Time of PPO with memory over PPO without, 64 environments; unroll at T = 512; a Transformer's step by context."""
    env, env_params = purerl.make("CartPole-v1")
    policy = distributions.for_space(env.action_space(env_params))
    narrow = partial(networks.MLP, hidden=(64,))
    cores = {
        "none": None, "min_gru": networks.min_gru(), "gru": networks.gru(), "lstm": networks.lstm(),
        "transformer": networks.transformer(context=32),
    }  # fmt: skip

    def update(core):
        """One update of 128 steps, 4 epochs of 4 minibatches; the width is 64 everywhere."""
        network = networks.actor_critic(policy, narrow if core else networks.MLP, memory=core)
        make = lambda hp: purerl.learner(env, env_params, purerl.ppo(network, policy, hp), 64, 128)
        compiled = training.compile_run(make, purerl.PPO(), jax.random.key(0))
        state = compiled.state

        def call():
            nonlocal state
            once = training.Program(state, compiled.advance)
            ((_, state, metrics),) = purerl.run(make, purerl.PPO(), None, 3, 3, program=once)
            return metrics

        return call

    def unrolled(core, steps=512):
        params = core.init(jax.random.key(0), 64)
        x, ended = jnp.ones((steps, 64, 64)), jnp.zeros((steps, 64), bool).at[::50].set(True)
        loss = lambda params: jnp.square(core.unroll(params, core.memory(64), x, ended)[0]).sum()
        gradient = jax.jit(jax.grad(loss))
        return lambda: gradient(params)

    def stepped(context, steps=600):
        """Acting for a number of steps from the episode's start, most of them with a full cache."""
        core = networks.transformer(context=context)
        params = core.init(jax.random.key(0), 64)
        act = jax.jit(lambda: jax.lax.scan(lambda m, x: core.step(params, m, x)[::-1], core.memory(64), x)[1][-1])
        x = jnp.ones((steps, 64, 64))
        return act

    parts = {
        "update of PPO": ({name: update(core) for name, core in cores.items()}, "none"),
        "unroll and its gradient, T = 512": (
            {name: unrolled(core) for name, core in cores.items() if name in ("gru", "min_gru")}, "gru"
        ),
        "a Transformer's step": ({f"context {n}": stepped(n) for n in (32, 512)}, "context 32"),
    }  # fmt: skip
    rows = []
    for what, (calls, base) in parts.items():
        times = alternate(calls, given.rounds)
        for name, x in times.items():
            ratio = x / times[base]
            rows.append({"what": what, "name": name, "base": base, "seconds": float(np.median(x)),
                         "ratio": [float(r) for r in (np.median(ratio), ratio.min(), ratio.max())]})  # fmt: skip
    return {"name": "remembering", "title": "time of networks with memory", "rows": rows}


def show_remembering(result: dict[str, Any]) -> list[str]:
    """A row for each network."""
    lines = ["| | network | time over | |", "|---|---|---|---|"]
    for row in result["rows"]:
        middle, low, high = row["ratio"]
        lines.append(f"| {row['what']} | {row['name']} | {row['base']} | {middle:.2f} [{low:.2f}, {high:.2f}] |")
    return lines


# --- pictures and the command line ------------------------------------------------------------------------------------


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot steps per second against the varied quantity, on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    rows = result["rows"]
    if "seeds" in rows[0]:
        for label, key in (("environments, 1 seed", "num_envs"), ("seeds", "seeds")):
            chosen = [row for row in rows if (row["seeds"] == 1) == (key == "num_envs") or row is rows[0]]
            pace = [row["steps_per_second"][0] for row in chosen]
            axis.plot([row[key] for row in chosen], pace, "o-", ms=4, label=f"against {label}")
    else:
        for name in rows[0]["steps_per_second"]:
            style = {"ls": "--"} if name.startswith("gymnax") else {}
            pace = [row["steps_per_second"][name] for row in rows]
            axis.plot([row["num_envs"] for row in rows], pace, "o", **{"ls": "-", "ms": 4, **style}, label=name)
        axis.set(xlabel="environments")
    axis.set(xscale="log", yscale="log", ylabel="environment steps a second")
    axis.set_title(f"{result['title']} ({result['device']})", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


SHOW = {
    "acting": show_acting, "training": show_training, "resets": show_resets, "memory": show_memory,
    "remembering": show_remembering,
}  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    numbers = lambda text: [int(x) for x in text.split(",")]
    functions = {"acting": acting, "training": train, "resets": resets, "memory": memory, "remembering": remembering}
    for name, function in functions.items():
        part = parts.add_parser(name, help=str(function.__doc__).splitlines()[0])
        part.set_defaults(function=function)
        part.add_argument("--rounds", type=int, default=5)
        part.add_argument("--dir", type=Path, default=RESULTS, help="folder of JSON and pictures")
        if name in ("acting", "training"):
            part.add_argument("--env", default="CartPole-v1")
        if name == "acting":
            part.add_argument("--largest", type=int, default=65536)
            part.add_argument("--factor", type=int, default=4, help="between two numbers of environments [4]")
        if name == "training":
            part.add_argument("--torso", choices=("mlp", "cnn"), default="mlp")
            part.add_argument("--envs", type=numbers, default=[4, 16, 64, 256, 1024])
            part.add_argument("--seeds", type=numbers, default=[1, 2, 4, 8, 16, 32, 64])
            part.add_argument("--steps", type=float, help="time one run of so many steps a seed")
    given = parser.parse_args()
    result = given.function(given)
    device = jax.devices()[0]
    machine = f"{os.cpu_count()} cores, {platform.machine()}" if device.platform == "cpu" else device.device_kind
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    result |= {"device": machine, "date": datetime.date.today().isoformat(), "versions": versions}
    print("\n".join([result["title"], "", *SHOW[given.part](result)]))
    given.dir.mkdir(parents=True, exist_ok=True)
    path = given.dir / f"{result['name']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    if given.part in ("acting", "training", "resets"):
        draw(result, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
