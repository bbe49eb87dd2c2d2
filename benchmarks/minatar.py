"""DQN and PQN on the five MinAtar games.

    python benchmarks/minatar.py --agent pqn --frames 1e6 --seeds 2
    python benchmarks/minatar.py --agent dqn --game Breakout --frames 5e6 --seeds 10 --sticky 0.1 --all-actions
    python benchmarks/minatar.py --agent dqn --envs 64 --frames 5e6 --seeds 10 --sticky 0.1 --all-actions --cap 100000

Published numbers differ by protocol, so the protocol is explicit: whether the last action is repeated with some
probability (`--sticky`; 0.1 in MinAtar's own paper, 0 in most JAX papers), the time limit of an episode (`--cap`;
gymnax 1,000 steps, the paper none except Freeway's 2,500), and whether all six actions are available or only those with
an effect (`--all-actions`; the paper: six). The paper's DQN after 5 x 10⁶ frames, sticky 0.1, six actions, no cap, read
off its figure: Asterix 16.8, Breakout 10.0, Freeway 50.2, Seaquest 20.0, SpaceInvaders 43.9 (Young & Tian, 2019,
arXiv:1903.03176). One frame is one step.

DQN in one environment takes a gradient step with a batch of 32 after every frame, as in the paper: 5 x 10⁶ in sequence.
With `--envs N` it acts in N environments at once and takes a gradient step with a batch of 512 after N frames, which
suits a GPU: 8 samples per frame for N = 64. The score of a seed is the mean return of its last 100 training episodes or
more. Writes one JSON file for each game and protocol into the folder of results (see `recorded.py`), and prints a table
with 95 % bootstrap intervals; existing results are not computed again.
"""

from __future__ import annotations

import argparse
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import recorded

from purerl.runs.devices import set_up_jax
from purerl.runs.stream import measure, returns_so_far

set_up_jax()

import purerl  # noqa: E402
from purerl import networks, statistics  # noqa: E402
from purerl.envs import StickyActions, TimeLimit  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "minatar"
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
PAPER = {"Asterix": 16.8, "Breakout": 10.0, "Freeway": 50.2, "Seaquest": 20.0, "SpaceInvaders": 43.9}


def environment(game: str, sticky: float, cap: int, all_actions: bool) -> tuple[Any, Any]:
    """A game under a protocol."""
    env, env_params = purerl.make(f"{game}-MinAtar", use_minimal_action_set=not all_actions)
    cap = min(cap, 2_500) if game == "Freeway" else cap  # the time limit of MinAtar itself; the other games have none
    env_params = env_params.replace(max_steps_in_episode=cap)
    env = TimeLimit(env, cap)
    return (StickyActions(env, sticky) if sticky else env), env_params


def agent_of(name: str, num_actions: int, frames: int, num_envs: int) -> tuple[Any, Any, int, int]:
    """`hp -> Agent`, its hyperparameters, number of environments and block length."""
    if name == "dqn":  # as in the paper, except Adam instead of RMSProp, and with many environments
        network = networks.q_network(num_actions, networks.MinAtarCNN)
        one = num_envs == 1
        hp = purerl.DQN(
            capacity=min(100_000, frames), batch_size=32 if one else 512, learning_starts=5_000, train_every=num_envs,
            target_period=1_000 if one else 8_000, explore_end=0.1, explore_steps=100_000.0,
            learning_rate=2.5e-4 if one else 5e-4,
        )  # fmt: skip
        return lambda hp: purerl.dqn(network, hp), hp, num_envs, 4 if one else 1
    network = networks.q_network(num_actions, partial(networks.MinAtarCNN, layer_norm=True))
    hp = purerl.PQN(
        learning_rate=5e-4, anneal_steps=float(frames), q_lambda=0.65, explore_steps=0.1 * frames,
        num_epochs=2, num_minibatches=32,
    )  # fmt: skip
    return lambda hp: purerl.pqn(network, hp), hp, 128, 32


def played(given: argparse.Namespace, game: str) -> dict[str, Any]:
    """Train all seeds of a game at once."""
    env, env_params = environment(game, given.sticky, given.cap, given.all_actions)
    agent, hp, num_envs, length = agent_of(given.agent, env.action_space(env_params).n, given.frames, given.envs)
    make = lambda hp: purerl.learner(env, env_params, agent(hp), num_envs, length)
    keys = jax.random.split(jax.random.key(0), given.seeds)
    devices = jax.devices() if given.seeds % len(jax.devices()) == 0 else jax.devices()[:1]
    num_updates = given.frames // (num_envs * length)
    print(f"{game}: {given.agent}, {given.seeds} seeds, {num_updates * num_envs * length:,} frames", flush=True)
    done = measure(make, hp, keys, devices, num_updates, max(1, num_updates // 50), num_envs * length)
    returns = returns_so_far([{k: v[i] for k, v in done.metrics.items()} for i in range(len(done.iterations))])
    return {
        "game": game, "agent": given.agent, "num_envs": num_envs, "frames": num_updates * num_envs * length,
        "sticky": given.sticky, "cap": given.cap, "all_actions": given.all_actions,
        "returns": returns.round(3).tolist(),
        "curve": np.nanmean(done.metrics["episode_return"], 1).round(3).tolist(),
        "frames_per_second": given.seeds * num_updates * num_envs * length / done.run_seconds,
        "compile_seconds": done.compile_seconds, "jax": jax.__version__,
        "machine": f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}, {platform.machine()}",
    }  # fmt: skip


def seeds(root: Path) -> dict[str, dict[int, recorded.Seed]]:
    """The returns of every seed of every file, for `recorded.beside`."""
    files = {path.stem: recorded.read(path)["returns"] for path in sorted(root.glob("*.json"))}
    return {name: {seed: recorded.Seed(x) for seed, x in enumerate(returns)} for name, returns in files.items()}


def main() -> None:
    """Run the requested games, then report all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count = lambda text: int(float(text))
    parser.add_argument("--agent", choices=("dqn", "pqn"), default="pqn")
    parser.add_argument("--game", choices=GAMES, help="one game [all five]")
    parser.add_argument("--frames", type=count, default=1_000_000)
    parser.add_argument("--seeds", type=recorded.count, default=2)
    parser.add_argument("--sticky", type=float, default=0.0)
    parser.add_argument("--cap", type=int, default=1_000)
    parser.add_argument("--all-actions", action="store_true")
    parser.add_argument("--envs", type=int, default=1, help="environments that DQN acts in at once [1]")
    recorded.options(parser, RESULTS)
    given = parser.parse_args()
    if given.envs < 1:
        parser.error(f"--envs is {given.envs}; it must be at least 1")
    place, computed = recorded.place(given), 0
    protocol = f"{given.frames}-{given.seeds}-{given.sticky:g}-{given.cap}-{'all' if given.all_actions else 'minimal'}"
    for game in () if given.report else [given.game] if given.game else GAMES:
        many = f"-{given.envs}" if given.agent == "dqn" and given.envs > 1 else ""
        path = place.own / f"{given.agent}-{game}-{protocol}{many}.json"
        if not path.exists():
            recorded.save(path, played(given, game))
            computed += 1
    if not computed:
        recorded.nothing_computed(place, given.game or "every game")
    print("| game | agent | in | frames | sticky | cap | actions | mean return | seeds | the paper's DQN, 5 x 10⁶ |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in sorted(place.shown.glob("*.json")):
        x = recorded.read(path)
        ours = np.array(x["returns"])
        low, high = statistics.interval(ours, statistics.mean) if len(ours) > 1 else (np.nan, np.nan)
        environments = x.get("num_envs", 128)  # older files of PQN do not have it
        print(f"| {x['game']} | {x['agent']} | {environments} | {x['frames']:,} | {x['sticky']} | {x['cap']} | "
              f"{'all' if x['all_actions'] else 'minimal'} | {ours.mean():.1f} [{low:.1f}, {high:.1f}] | {len(ours)} | "
              f"{PAPER[x['game']]} |")  # fmt: skip
    if place.shown != place.recorded:
        print("\n".join(recorded.beside(seeds(place.own), seeds(place.recorded))))


if __name__ == "__main__":
    main()
