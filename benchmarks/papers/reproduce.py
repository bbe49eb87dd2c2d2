"""Reproductions of published numbers: train, and compare with the numbers and results in the repository.

    python benchmarks/papers/reproduce.py KEY ... [--seeds 10]   # trains; results go to runs/benchmarks/papers
    python benchmarks/papers/reproduce.py --report               # trains nothing: the table of recorded results

Every seed's result is one JSON file; a run that was stopped continues with the missing seeds. `--record` computes what
is missing in the repository's results, and writes RESULTS.md.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Entry, Published, recorded

import purerl
from purerl import bellman, exploration, gradients, networks, normalize, statistics
from purerl.runs.devices import set_up_jax

CLEANRL = "[CleanRL](https://docs.cleanrl.dev/rl-algorithms/ppo/#experiment-results)"
SLM_LAB = "[SLM-Lab](https://github.com/kengz/SLM-Lab/blob/master/docs/BENCHMARKS.md), no deviation given"
RL_ZOO = "[RL Baselines3 Zoo](https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md), one run"
BRAX = "the least that [brax's own test](https://github.com/google/brax/tree/main/brax/training/agents) accepts"
UNKNOWN = "no citable source is known"
LAST_100 = "mean return of the last 100 training episodes in whole updates, mean over seeds"
BOOTSTRAP = "we bootstrap at time limits, CleanRL does not"


def cleanrl_ppo(env: str, mean: float, std: float, control: bool = False) -> Entry:
    """CleanRL's classic-control PPO at 500k steps."""
    return Entry(
        key=f"ppo-{env}",
        env=env,
        agent=purerl.ppo,
        hp=purerl.PPO(anneal_steps=976 * 512, value_clip=0.2),
        num_envs=4,
        rollout_length=128,
        num_updates=976,
        published=Published(mean, CLEANRL, std, runs=3, low_is_expected=control),
        protocol=LAST_100,
        differs=BOOTSTRAP,
    )


ENTRIES = [
    cleanrl_ppo("CartPole-v1", 490.04, 6.12),
    cleanrl_ppo("Acrobot-v1", -86.36, 1.32),
    cleanrl_ppo("MountainCar-v0", -200.00, 0.00, control=True),
    Entry(
        key="reinforce-CartPole-v1",
        env="CartPole-v1",
        agent=purerl.reinforce,
        hp=purerl.REINFORCE(),
        num_envs=8,
        rollout_length=500,
        num_updates=400,
        frames=200_000,
        published=Published(483, f"{SLM_LAB}, 200k frames"),
        protocol=LAST_100 + "; frames are steps inside of episodes",
        differs="hyperparameters",
    ),
    Entry(
        key="a2c-CartPole-v1",
        env="CartPole-v1",
        agent=purerl.a2c,
        hp=purerl.A2C(learning_rate=3e-3, anneal_steps=200_000),
        num_envs=8,
        rollout_length=5,
        num_updates=5000,
        published=Published(497, f"{SLM_LAB}, 200k frames"),
        protocol=LAST_100,
        differs="hyperparameters",
    ),
]


class TorchMLP(nn.Module):
    """ReLU layers of 120 and 84, and outputs for each action, all with PyTorch's initial weights."""

    num_actions: int
    outputs: int | None = None

    @nn.compact
    def __call__(self, obs):
        x = obs
        for size in (120, 84, self.num_actions * (self.outputs or 1)):
            bound = x.shape[-1] ** -0.5
            uniform = lambda key, shape, dtype, bound=bound: jax.random.uniform(key, shape, dtype, -bound, bound)
            x = nn.Dense(size, kernel_init=uniform, bias_init=uniform)(nn.relu(x) if x is not obs else x)
        return x if self.outputs is None else x.reshape(*x.shape[:-1], self.num_actions, self.outputs)


NORMED = partial(networks.MLP, hidden=(120, 84), activation=nn.relu, layer_norm=True)


def cleanrl_values(name: str, env: str, mean: float, std: float, control: bool = False) -> Entry:
    """CleanRL's classic-control DQN, C51 and PQN at 500k steps."""
    agent, hp, network, blocks, differs = {
        "dqn": (
            partial(purerl.dqn, optimizer=partial(gradients.adam, eps=1e-8)),
            purerl.DQN(),
            TorchMLP,
            (1, 10, 50_000, 100),
            "-",
        ),
        "c51": (
            partial(purerl.c51, optimizer=partial(gradients.adam, eps=0.01 / 128)),
            purerl.C51(),
            partial(TorchMLP, outputs=101),
            (1, 10, 50_000, 100),
            "-",
        ),
        "pqn": (
            purerl.pqn,
            purerl.PQN(anneal_steps=976 * 512),
            partial(networks.q_network, torso=NORMED),
            (4, 128, 976, 1),
            BOOTSTRAP,
        ),
    }[name]
    num_envs, rollout_length, num_updates, every = blocks
    source = CLEANRL.replace("/ppo/", f"/{name}/")
    return Entry(
        key=f"{name}-{env}",
        env=env,
        agent=agent,
        hp=hp,
        num_envs=num_envs,
        rollout_length=rollout_length,
        num_updates=num_updates,
        every=every,
        published=Published(mean, source, std, runs=3, low_is_expected=control),
        protocol=LAST_100.replace("updates", "thousands of steps") if every > 1 else LAST_100,
        differs=differs,
        network=network,
    )


VALUES = [
    cleanrl_values("dqn", "CartPole-v1", 488.69, 16.11),
    cleanrl_values("dqn", "Acrobot-v1", -91.54, 7.20),
    cleanrl_values("dqn", "MountainCar-v0", -194.95, 8.48),
    cleanrl_values("c51", "CartPole-v1", 481.20, 20.53),
    cleanrl_values("c51", "Acrobot-v1", -87.70, 5.52),
    cleanrl_values("c51", "MountainCar-v0", -166.38, 27.94),
    cleanrl_values("pqn", "CartPole-v1", 495.13, 6.89),
    cleanrl_values("pqn", "Acrobot-v1", -95.63, 5.73),
    cleanrl_values("pqn", "MountainCar-v0", -200.00, 0.00, control=True),
    Entry(
        key="dqn-DeepSea-10",
        env=partial(purerl.make, "DeepSea-bsuite", size=10),
        agent=purerl.dqn,
        hp=purerl.DQN(learning_rate=1e-3, learning_starts=128, train_every=1, target_period=100, explore_start=0.05),
        num_envs=1,
        rollout_length=1,
        num_updates=100_000,
        every=1_000,
        published=Published(
            0.0,
            "[bsuite](https://arxiv.org/abs/1908.03568): ε-greedy does not find the one rewarded path of 1,024",
            low_is_expected=True,
        ),
        protocol=LAST_100.replace("updates", "thousands of steps") + "; 10,000 episodes, ε = 0.05",
        differs="hyperparameters",
        network=partial(networks.q_network, torso=partial(networks.MLP, hidden=(50, 50), activation=nn.relu)),
    ),
]


def pair(torso: Any):
    """Actor and critic with torsos of the same kind."""
    return lambda policy: (networks.actor(policy, torso), networks.critic(policy, torso))


SMALL = pair(partial(networks.MLP, (64, 64), nn.relu))
GREEDY = "mean return of 128 greedy episodes of the final policy, mean over seeds"


def acting(name: str, task: str, env: str, steps: int, mean: float, agent: Any, hp: Any, source: str = RL_ZOO) -> Entry:
    """A continuous task for an actor-critic with a replay buffer: one environment, one gradient step per step."""
    return Entry(
        key=f"{name}-{task}",
        env=env,
        agent=agent,
        hp=hp,
        num_envs=1,
        rollout_length=1,
        num_updates=steps,
        every=steps // 50,
        published=Published(mean, f"{source}, {steps:,} steps"),
        protocol=GREEDY,
        differs="networks of 64-64",
        network=SMALL,
        greedy_episodes=128,
    )


ZOO_TD3 = {"learning_rate": 1e-3, "gamma": 0.98, "learning_starts": 10_000, "capacity": 200_000}
PENDULUM, MOUNTAIN = "Pendulum-v1", "MountainCarContinuous-v0"
SOFT = {"learning_rate": 1e-3, "learning_starts": 100}
CONTINUOUS = [
    acting("sac", "Pendulum-20k", PENDULUM, 20_000, -157.0, purerl.sac, purerl.SAC(**SOFT, capacity=20_000)),
    acting("td3", "Pendulum-20k", PENDULUM, 20_000, -151.9, purerl.td3, purerl.TD3(**ZOO_TD3)),
    acting("ddpg", "Pendulum-20k", PENDULUM, 20_000, -152.1, purerl.ddpg, purerl.DDPG(**ZOO_TD3)),
    acting(
        "sac", "Pendulum-300k", PENDULUM, 300_000, -151.0, purerl.sac, purerl.SAC(**SOFT, capacity=300_000), SLM_LAB
    ),
    acting(
        "td3",
        "MountainCarContinuous",
        MOUNTAIN,
        300_000,
        93.5,
        partial(purerl.td3, process=exploration.ornstein_uhlenbeck),
        purerl.TD3(learning_rate=1e-3, learning_starts=10_000, capacity=200_000, noise=0.5),
    ),
]


def fast():
    """brax's environment for smoke tests: a reward of 1 per step; the excess depends on milliseconds."""
    return purerl.make("brax/fast", max_steps=128)


def on_policy(
    name: str,
    task: str,
    env: Any,
    blocks: tuple[int, int, int],
    mean: float,
    agent: Any,
    hp: Any,
    source: str = SLM_LAB,
    control: bool = False,
) -> Entry:
    """A continuous task for a policy gradient; blocks are (environments, steps, updates)."""
    num_envs, rollout_length, num_updates = blocks
    steps = num_envs * rollout_length * num_updates
    return Entry(
        key=f"{name}-{task}",
        env=env,
        agent=agent,
        hp=hp,
        num_envs=num_envs,
        rollout_length=rollout_length,
        num_updates=num_updates,
        published=Published(mean, f"{source}, {steps:,} steps", low_is_expected=control),
        protocol=GREEDY,
        differs="hyperparameters",
        reward=lambda hp: normalize.rewards(hp.gamma),
        greedy_episodes=128,
    )


CONTINUOUS += [
    on_policy(
        "ppo",
        "Pendulum-300k",
        PENDULUM,
        (4, 1024, 73),
        -174.9,
        purerl.ppo,
        purerl.PPO(
            learning_rate=1e-3,
            anneal_steps=299_008.0,
            gamma=0.9,
            entropy_cost=0.0,
            num_epochs=10,
            num_minibatches=32,
            normalize_obs=True,
        ),
    ),
    on_policy(
        "a2c",
        "Pendulum-300k",
        PENDULUM,
        (8, 8, 4688),
        -820.7,
        purerl.a2c,
        purerl.A2C(learning_rate=5e-3, gamma=0.9, gae_lambda=0.9, anneal_steps=300_032.0, normalize_obs=True),
    ),
    on_policy(
        "ppo",
        "MountainCarContinuous",
        MOUNTAIN,
        (4, 128, 586),
        0.0,
        purerl.ppo,
        purerl.PPO(anneal_steps=300_032.0, entropy_cost=0.0),
        UNKNOWN,
        control=True,
    ),
    on_policy(
        "ppo",
        "brax-fast",
        fast,
        (64, 8, 64),
        135.0,
        purerl.ppo,
        purerl.PPO(learning_rate=3e-3, gamma=0.95, num_minibatches=8, normalize_obs=True),
        BRAX,
    ),
    Entry(
        key="sac-brax-fast",
        env=fast,
        agent=purerl.sac,
        hp=purerl.SAC(learning_rate=1e-3, learning_starts=2_048, capacity=32_768, train_every=2),
        num_envs=64,
        rollout_length=1,
        num_updates=512,
        every=8,
        published=Published(139.3, f"{BRAX}, 32,768 steps"),
        protocol=GREEDY,
        differs="networks of 64-64, hyperparameters",
        network=SMALL,
        greedy_episodes=128,
    ),
]

ENTROPY = Entry(
    key="ppo-entropy-CartPole-v1",
    env="CartPole-v1",
    agent=purerl.ppo,
    hp=purerl.PPO(anneal_steps=976 * 512, value_clip=0.2),
    num_envs=4,
    rollout_length=128,
    num_updates=976,
    published=Published(490, f"about 490 to 500 up to 0.01, falling to about 260 at 0.5 ({UNKNOWN})"),
    protocol=LAST_100,
    sweep={"entropy_cost": (0.0, 5e-4, 1e-3, 0.01, 0.05, 0.1, 0.5)},
)


# --- networks with memory -----------------------------------------------------------------------------------------


def memories(
    longest: float | None = None, slowest: float = 100.0, context: int = 64, layers: tuple[nn.Module, ...] = ()
) -> dict[str, Any]:
    """Each memory, and none.

    `longest` is the longest initial time scale of the cells, if a task needs more than the default, and `slowest` that
    of the linear recurrence; `layers` follow the recurrent memories, as in the published recurrent PPO.
    """
    spans = {} if longest is None else {"longest": longest}
    then = lambda core: networks.stack(core, *layers) if layers else core
    return {
        "none": None,
        "gru": then(networks.gru(**spans)),
        "lstm": then(networks.lstm(**spans)),
        "min_gru": then(networks.min_gru(longest=slowest)),
        "transformer": networks.transformer(context=context),
    }


def chain(length: int):
    """MemoryChain: a bit to store in memory for `length` steps."""
    env, env_params = purerl.make("MemoryChain-bsuite")
    return env, env_params.replace(memory_length=length)


def maze(length: int):
    """A T-maze with a corridor of `length` cells."""
    env, env_params = purerl.make("TMaze-v0")
    return env, env_params.replace(length=length)


def without_velocities(name: str, keep: tuple[int, ...]):
    """Only positions are observed."""
    from purerl.envs import Observe  # its import uses jax, which must be set up first

    env, env_params = purerl.make(name)
    return Observe(env, keep), env_params


def remembering(
    task: str,
    env: Any,
    blocks: tuple[int, int, int],
    published: Published,
    cores: dict[str, Any],
    activation: Any = nn.tanh,
    reward: Any = lambda hp: None,
    **hp: Any,
) -> list[Entry]:
    """A task for PPO with each memory, and without one; blocks are (environments, steps, updates)."""
    num_envs, rollout_length, num_updates = blocks
    torso = partial(networks.MLP, hidden=(64,), activation=activation)
    return [
        Entry(
            key=f"memory-{task}-{name}",
            env=env,
            agent=purerl.ppo,
            hp=purerl.PPO(anneal_steps=float(num_envs * rollout_length * num_updates), **hp),
            num_envs=num_envs,
            rollout_length=rollout_length,
            num_updates=num_updates,
            published=published,
            protocol=GREEDY,
            network=partial(networks.actor_critic, torso=torso, memory=core),
            reward=reward,
            greedy_episodes=128,
        )
        for name, core in cores.items()
    ]


SOLVED = Published(1.0, "[bsuite](https://arxiv.org/abs/1908.03568): 1 with memory, 0 without")


class Magnified(nn.Module):
    """An MLP of observations rescaled to a common range; the replay buffer stores them unchanged."""

    scale: tuple[float, ...]

    @nn.compact
    def __call__(self, obs):
        return networks.MLP((64,), nn.relu)(obs * jnp.array(self.scale))


def recurrent_q(task: str, env: Any, blocks: tuple, published: Published, torso: Any, **hp: Any) -> Entry:
    """R2D2: DQN with a GRU, stored memory, double and dueling, rescaled Q. A sequence is a block."""
    rescaled = bellman.transformed_backup(bellman.double_backup, bellman.signed_hyperbolic, bellman.signed_parabolic)
    num_envs, rollout_length, num_updates = blocks
    return Entry(
        key=f"r2d2-{task}",
        env=env,
        agent=partial(purerl.dqn, backup=rescaled),
        hp=purerl.DQN(sequence_length=rollout_length, batch_size=32, learning_starts=2_000, max_grad_norm=10.0, **hp),
        num_envs=num_envs,
        rollout_length=rollout_length,
        num_updates=num_updates,
        every=num_updates // 50,
        published=published,
        protocol=GREEDY,
        differs="hyperparameters",
        network=partial(networks.q_network, torso=torso, dueling=True, memory=networks.gru()),
        greedy_episodes=128,
    )


RECURRENT = [
    recurrent_q(
        "chain-20",
        partial(chain, 20),
        (16, 32, 200),
        SOLVED,
        partial(networks.MLP, (64,)),
        learning_rate=1e-3,
        capacity=32_000,
        train_every=32,
        target_period=2_000,
        explore_steps=50_000.0,
    ),
    recurrent_q(
        "cartpole",
        partial(without_velocities, "CartPole-v1", (0, 2)),
        (8, 16, 900),
        Published(500, "solved: the longest episode"),
        partial(Magnified, (1.0, 10.0)),
        learning_rate=2e-3,
        anneal_steps=115_200.0,
        n_step=3,
        gamma=0.99,
        capacity=100_000,
        train_every=8,
        target_period=1_000,
        explore_steps=30_000.0,
        explore_end=0.02,
        burn_in=16,
    ),
]
LSTM = f"{RL_ZOO}, recurrent PPO (LSTM), 100k steps"
AFTER = (networks.MLP((64,), nn.relu),)
TO_REMEMBER = {"learning_rate": 2e-3, "clip": 0.1}
MEMORY = {
    "MemoryChain, 5 steps": remembering("chain-5", partial(chain, 5), (32, 32, 100), SOLVED, memories(), **TO_REMEMBER),
    "MemoryChain, 20 steps": remembering(
        "chain-20", partial(chain, 20), (32, 32, 100), SOLVED, memories(), **TO_REMEMBER
    ),
    "MemoryChain, 50 steps": remembering(
        "chain-50", partial(chain, 50), (32, 64, 150), SOLVED, memories(longest=100.0), **TO_REMEMBER
    ),
    "CartPole-v1 without velocities, 100k steps": remembering(
        "cartpole",
        partial(without_velocities, "CartPole-v1", (0, 2)),
        (32, 64, 49),  # as for Pendulum below: blocks of 256 steps impair every memory
        Published(500, LSTM),
        memories(slowest=8.0, context=16, layers=AFTER),
        activation=nn.relu,
        reward=lambda hp: normalize.rewards(hp.gamma),
        learning_rate=1e-3,
        gamma=0.98,
        entropy_cost=0.0,
        num_epochs=10,
        num_minibatches=8,
        normalize_obs=True,
    ),
    "Pendulum-v1 without velocity, 100k steps": remembering(
        "pendulum",
        partial(without_velocities, "Pendulum-v1", (0, 1)),
        (32, 64, 49),  # blocks of 512 and γ = 0.9 impair even a PPO that observes the velocity
        Published(-218, LSTM),
        memories(slowest=8.0, context=8, layers=AFTER),
        activation=nn.relu,
        reward=lambda hp: normalize.rewards(hp.gamma),
        learning_rate=1e-3,
        gamma=0.95,
        entropy_cost=0.0,
        num_epochs=10,
        num_minibatches=16,
        normalize_obs=True,
    ),
    "T-maze, corridor 10, blocks of 8 steps": remembering(
        "tmaze-10",
        partial(maze, 10),
        (128, 8, 800),
        Published(4.0, "the best return; 1.95 without memory"),
        memories(context=16),
        learning_rate=1e-3,
        clip=0.1,
    ),
}


HEAD = ["| key | published | ours | seeds | verdict | measured | what differs |", "|---|---|---|---|---|---|---|"]


def report(root: Path) -> tuple[str, dict]:
    """The page of results, from the files under `root`, and the scores for each entropy cost."""
    lines = [
        "# Reproductions",
        "",
        "Written by `python benchmarks/papers/reproduce.py --record --report` from the JSON files under `results/`, "
        "one for each seed.",
        "Ours: mean over seeds, 95 % bootstrap interval. Reproduced: |difference| ≤ 2 √(s₁²/k₁ + s₂²/k₂).",
        "",
        *HEAD,
        *[harness.row(root, entry) for entry in [*ENTRIES, *VALUES, *RECURRENT, *CONTINUOUS]],
        "",
        "Negative controls: plain PPO and PQN do not solve MountainCar in 500k steps, ε-greedy DQN does not find the "
        "reward of DeepSea, and PPO without exploration learns to stand still in MountainCarContinuous; solving them "
        "would be an error.",
        "",
        "## Entropy cost of PPO on CartPole-v1",
        "",
        "All values and seeds train in one vmapped program. Published: " + ENTROPY.published.source + ".",
        "",
        "| entropy cost | mean return | 95 % interval | seeds |",
        "|---|---|---|---|",
    ]
    curves = {}
    for value in ENTROPY.sweep["entropy_cost"]:
        ours = harness.scores(root, ENTROPY, value)
        if len(ours):
            low, high = statistics.interval(ours, statistics.mean)
            lines.append(f"| {value:g} | {ours.mean():.1f} | {low:.1f} .. {high:.1f} | {len(ours)} |")
            curves[value] = (ours.mean(), low, high, ours)
    if curves:
        lines += ["", "![Return against entropy cost](entropy.png)"]
    names = list(memories())
    lines += [
        "",
        "## Networks with memory",
        "",
        f"PPO: {GREEDY}, with its 95 % interval; in brackets the number of seeds. Where velocities are hidden, a layer "
        "of 64 follows gru, lstm and min_gru, as in the published agent.",
        "",
    ]
    lines += ["| task | published | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for task, entries in MEMORY.items():
        cells = []
        for entry in entries:
            ours = harness.scores(root, entry)
            low, high = statistics.interval(ours, statistics.mean) if len(ours) > 1 else (np.nan, np.nan)
            cells.append(f"{ours.mean():.2f} [{low:.2f}, {high:.2f}] ({len(ours)})" if len(ours) > 1 else "not run")
        published = entries[0].published
        lines.append(f"| {task} | {published.mean:g}, {published.source} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n", curves


def draw(curves: dict, path: Path) -> None:
    """Plot return against entropy cost: seeds, mean and interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for index, (mean, low, high, ours) in enumerate(curves.values()):
        axis.plot(np.full(len(ours), index), ours, ".", color="#1f6feb", alpha=0.35)
        axis.errorbar(index, mean, [[mean - low], [high - mean]], fmt="o", color="#1f6feb", capsize=4)
    axis.set_xticks(range(len(curves)), [f"{value:g}" for value in curves])
    axis.set(xlabel="entropy cost", ylabel="return of the last 100 episodes", ylim=(0, 515))
    axis.set_title("PPO on CartPole-v1, 500k steps: seeds, mean, 95 % interval", fontsize=10, loc="left")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Compute the requested results that are missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    entries = [*ENTRIES, *VALUES, *RECURRENT, *CONTINUOUS, ENTROPY, *itertools.chain(*MEMORY.values())]
    known = {entry.key: entry for entry in entries}
    parser.add_argument("keys", nargs="*", metavar="KEY", help="one of " + ", ".join(known) + " [default: all]")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of each entry, the sweep at most 8 [10]")
    recorded.options(parser, harness.RESULTS, "papers")
    given = parser.parse_args()
    unknown = [key for key in given.keys if key not in known]
    if unknown:
        parser.error(f"there is no entry {unknown[0]!r}; allowed are {', '.join(known)}")
    place, wanted = recorded.place(given), [known[key] for key in given.keys or known]
    trained = 0
    if not place.reports:
        set_up_jax()
        for entry in wanted:
            seeds = min(given.seeds, 8) if entry.sweep else given.seeds
            trained += harness.run(place.own, entry, seeds)
    if not trained:
        recorded.nothing_computed(place, ", ".join(given.keys) or "every entry")
    page, curves = report(place.shown)
    if given.record:
        here = Path(__file__).parent
        draw(curves, here / "entropy.png")
        (here / "RESULTS.md").write_text(page, encoding="utf-8")
    if given.record or place.reports:
        print(page)
        return
    print("\n".join([*HEAD, *[harness.row(place.own, entry) for entry in wanted]]))
    for entry in wanted:
        print("\n".join(recorded.beside(harness.seeds(place.own, entry), harness.seeds(place.recorded, entry))))


if __name__ == "__main__":
    main()
