"""purerl against brax's own trainer on brax's robots: wall time and return, in one run.

    pip install -c constraints.txt -e '.[brax,cuda]'
    python benchmarks/physics.py [--algorithm ppo] [--envs ant,halfcheetah,hopper,walker2d] [--seeds 1] [--report]

Both have the same robots ("spring" physics), steps, environments, minibatches, gradient steps, networks and
coefficients: those of brax's notebook for PPO on ant and for SAC on halfcheetah, for all four. Each library runs in its
own process: all compile at once, train a third of the steps to warm up, and then take turns to train the rest, which is
timed. The seeds after the first train later, all at once and not timed. A seed's return is that of 128 greedy episodes
of 1,000 steps of the final policy, measured for both by `purerl.evaluate`. What differs: purerl's advantages use the
whole block and bootstrap at the time limit, brax's use 5 steps and are computed again for every minibatch; purerl's SAC
acts uniformly at random for its first steps, brax's by its untrained policy. Writes results/physics/*.json, one for
each robot and algorithm, and a table, with the lowest and the highest seed. `--share` is the share of the steps to
train, for a short trial.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import need
from versus import ask

RESULTS = Path(__file__).parent / "results" / "physics"
ROBOTS = ("ant", "halfcheetah", "hopper", "walker2d")
PARTS, WARM_PARTS = 6, 2  # parts of the training, and those of the warm-up: brax compiles again in the second
PPO = {"num_envs": 4096, "length": 80, "num_updates": 60}  # 19,660,800 steps
SAC = {"num_envs": 128, "length": 1, "num_updates": 2048, "gradient_steps": 64}  # 262,144 steps
CAPACITY, WARM_UP = 2**20, 8192
SIZES = {"ppo": PPO, "sac": SAC}


def ours(algorithm: str, robot: str, seed: int, num_updates: int, wait: Any) -> tuple[Any, Any]:
    """Train by purerl; `(agent, agent_state)`. `wait(1)` is called after the first part."""
    import flax.linen as nn
    import jax
    import optax

    import purerl
    from purerl import distributions, networks, training
    from purerl.networks.heads import Head

    env, env_params = purerl.make(f"brax/{robot}", backend="spring")
    space = env.action_space(env_params)

    class Two(nn.Module):
        """brax's networks: a small policy and a wide value function."""

        num_params: int

        @nn.compact
        def __call__(self, obs):
            slim, wide = (networks.MLP(hidden, nn.swish)(obs) for hidden in ((32,) * 4, (256,) * 5))
            return Head(self.num_params, 0.01)(slim), Head(1, 1.0)(wide)[..., 0]

    if algorithm == "ppo":
        policy = distributions.squashed(space.low, space.high, space.shape)
        network = Two(policy.num_params)
        hp = purerl.PPO(
            learning_rate=3e-4, gamma=0.97, clip=0.3, entropy_cost=1e-2, num_epochs=4, num_minibatches=32,
            normalize_obs=True,
        )  # fmt: skip
        agent = lambda hp: purerl.ppo(network, policy, hp, optimizer=lambda _: optax.scale_by_adam())
        scale = 10.0
    else:
        policy = distributions.hybrid(space, distributions.squashed)
        torso = partial(networks.MLP, (256, 256), nn.relu)
        actor, critic = networks.actor(policy, torso), networks.critic(policy, torso)
        hp = purerl.SAC(
            learning_rate=6e-4, gamma=0.997, batch_size=512, capacity=CAPACITY, learning_starts=WARM_UP,
            train_every=SAC["num_envs"], num_gradient_steps=SAC["gradient_steps"], target_entropy=-0.5,
        )  # fmt: skip
        agent = lambda hp: purerl.sac(actor, critic, policy, hp)
        scale = 30.0
    size = SIZES[algorithm]
    paid = purerl.rewards.scale(scale)
    make = lambda hp: purerl.learner(env, env_params, agent(hp), size["num_envs"], size["length"], paid)
    program = training.compile_run(make, hp, jax.random.key(seed))
    every = num_updates // PARTS
    state: Any = None
    for part, (_, state, metrics) in enumerate(training.run(make, hp, None, num_updates, every, program=program)):  # noqa: B007
        jax.block_until_ready(metrics)
        wait(part + 1)
    return agent(hp), state.agent


def theirs(algorithm: str, robot: str, seed: int, num_updates: int, wait: Any) -> tuple[Any, Any]:
    """Train by brax; arguments and results as in `ours`."""
    import jax
    import jax.numpy as jnp
    from brax import envs
    from brax.training.agents.ppo import train as ppo
    from brax.training.agents.sac import train as sac

    from purerl.core import Agent

    if not hasattr(jax, "device_put_replicated"):  # brax 0.14 calls a function that jax 0.11 has removed
        spread = lambda tree, devices: jax.tree.map(lambda x: jnp.stack([x] * len(devices)), tree)
        jax.device_put_replicated = spread  # pyright: ignore
    size, env = SIZES[algorithm], envs.get_environment(robot, backend="spring")
    common = {
        "num_timesteps": num_updates * size["num_envs"] * size["length"], "num_envs": size["num_envs"],
        "episode_length": 1000, "seed": seed, "max_devices_per_host": 1,
    }  # fmt: skip
    if algorithm == "ppo":
        parts = iter(range(1, 100))
        make_policy, params, _ = ppo.train(
            env, **common, learning_rate=3e-4, discounting=0.97, entropy_cost=1e-2, num_updates_per_batch=4,
            num_minibatches=32, batch_size=size["num_envs"] * size["length"] // (32 * 5), unroll_length=5,
            reward_scaling=10, normalize_observations=True,
            num_evals=PARTS + 1, run_evals=False, progress_fn=lambda *_: wait(next(parts)),
        )  # fmt: skip
    else:
        parts = iter(range(100))  # 0 is before training
        make_policy, params, _ = sac.train(
            env, **common, learning_rate=6e-4, discounting=0.997, batch_size=512, reward_scaling=30,
            grad_updates_per_step=SAC["gradient_steps"], max_replay_size=CAPACITY, min_replay_size=WARM_UP,
            num_evals=PARTS + 1, num_eval_envs=1, progress_fn=lambda *_: wait(next(parts)),
        )  # fmt: skip

    def greedy(params, memory, obs):
        return make_policy(params, deterministic=True)(obs, jax.random.key(0))[0], memory

    nothing: Any = None
    return Agent(nothing, lambda n: (), lambda memory, ended: memory, nothing, greedy, nothing), params


CONTESTANTS = {"purerl": ours, "brax": theirs}


def worker(who: str, algorithm: str, robot: str, seed: int, num_updates: int) -> None:
    """A worker process: compile and warm up, report, wait for a line, train, and evaluate."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    say = lambda **answer: print(json.dumps(answer), file=out, flush=True)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    import purerl

    jax.config.update("jax_enable_compilation_cache", False)
    times: dict[str, float] = {}
    began = time.perf_counter()

    def wait(part: int) -> None:
        print(f"part {part} after {time.perf_counter() - began:.1f} s", file=sys.stderr)
        if part == WARM_PARTS:
            say(ready=time.perf_counter() - began)
            sys.stdin.readline()
            times["start"] = time.perf_counter()
        if part == PARTS:
            say(seconds=time.perf_counter() - times["start"])
            sys.stdin.readline()

    agent, state = CONTESTANTS[who](algorithm, robot, seed, num_updates, wait)
    env, env_params = purerl.make(f"brax/{robot}", backend="spring")
    judge = jax.jit(lambda state, key: purerl.evaluate(env, env_params, agent, state, key, 128, greedy=True))
    played = judge(state, jax.random.key(1))
    say(greedy_return=float(played.returns.mean()), device=jax.devices()[0].device_kind)


def contest(algorithm: str, robots: list[str], seeds: int, num_updates: int) -> None:
    """Compile all at once, train each first seed alone, then all other seeds, and evaluate all."""
    from rich.progress import track

    races = [(seed, robot, who) for seed in range(seeds) for robot in robots for who in CONTESTANTS]
    first, others = [race for race in races if race[0] == 0], [race for race in races if race[0] > 0]
    processes: dict[Any, subprocess.Popen] = {}
    for seed, robot, who in races:
        command = [sys.executable, __file__, "--worker", who, "--envs", robot, "--algorithm", algorithm]
        command += ["--updates", str(num_updates), "--seed", str(seed)]
        pipe = subprocess.PIPE
        processes[seed, robot, who] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def tell(races, line):
        for race in races:
            print(line, file=processes[race].stdin, flush=True)

    answers = {race: ask(processes[race]) for race in track(races, "compiling and warming up")}
    for race in track(first, "training"):
        answers[race] |= ask(processes[race], "train")
    tell(others, "train")
    for race in track(others, "training more seeds"):
        ask(processes[race])
    tell(races, "be judged")
    size = SIZES[algorithm]
    steps = num_updates * size["num_envs"] * size["length"]
    for robot in track(robots, "judging"):
        judged = {who: [ask(processes[seed, robot, who]) for seed in range(seeds)] for who in CONTESTANTS}
        result = {
            "algorithm": algorithm, "robot": robot, "physics": "spring", **size, "num_updates": num_updates,
            "steps": steps, "timed_steps": steps // PARTS * (PARTS - WARM_PARTS),
            "contestants": {
                who: answers[0, robot, who] | {
                    "device": every[0]["device"], "greedy_returns": [one["greedy_return"] for one in every]
                }
                for who, every in judged.items()
            },
            "versions": {name: version(name) for name in ("purerl", "brax", "jax", "jaxlib")},
            "date": datetime.date.today().isoformat(),
        }  # fmt: skip
        (RESULTS / f"{algorithm}-{robot}.json").write_text(json.dumps(result, indent=1) + "\n")


def table() -> list[str]:
    """The report of all results, in lines of Markdown."""

    def returns(all_seeds):
        low, high = min(all_seeds), max(all_seeds)
        return f"{statistics.fmean(all_seeds):,.0f}" + (f" [{low:,.0f}, {high:,.0f}]" if low < high else "")

    head = "| | steps | on | purerl, steps/s | brax, steps/s | its time over purerl's | seeds | return: purerl | brax |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        x = json.loads(path.read_text())
        our, their = (x["contestants"][who] for who in CONTESTANTS)
        pace = [f"{x['timed_steps'] / one['seconds']:,.0f}" for one in (our, their)]
        scores = [returns(one["greedy_returns"]) for one in (our, their)]
        lines.append(
            f"| {x['algorithm'].upper()}, {x['robot']} | {x['steps']:,} | {our['device']} | {pace[0]} | {pace[1]} | "
            f"{their['seconds'] / our['seconds']:.2f} | {len(our['greedy_returns'])} | {scores[0]} | {scores[1]} |"
        )
    return lines


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=SIZES, default="ppo")
    parser.add_argument("--envs", default=",".join(ROBOTS), help="with commas between")
    parser.add_argument("--seeds", type=int, default=1, help="of which the first is timed")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--report", action="store_true", help="only write the table of existing results")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; there must be at least one")
    robots = given.envs.split(",")
    if unknown := [robot for robot in robots if robot not in ROBOTS]:
        parser.error(f"--envs: there is no {unknown[0]!r}; allowed are {', '.join(ROBOTS)}")
    if given.worker:
        worker(given.worker, given.algorithm, robots[0], given.seed, given.updates)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not given.report:
        num_updates = int(SIZES[given.algorithm]["num_updates"] * given.share) // PARTS * PARTS
        if num_updates < PARTS:
            parser.error(f"--share is {given.share}; there must be at least {PARTS} updates")
        need("'purerl[brax]'", "brax")
        contest(given.algorithm, robots, given.seeds, num_updates)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
