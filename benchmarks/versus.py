"""purerl against other libraries on the same work: whole trainings in alternation, without compile time.

    pip install -e '.[peers]'
    python benchmarks/versus.py --job ppo-cartpole --seeds 1
    python benchmarks/versus.py --job ppo-cartpole --seeds 8 --peers rejax
    python benchmarks/versus.py --job ppo-breakout-mlp --peers rejax
    python benchmarks/versus.py --job dqn-cartpole --seeds 1
    python benchmarks/versus.py --job pqn-cartpole --seeds 1 --peers rejax
    python benchmarks/versus.py --job sac-pendulum --seeds 1

Each library runs in its own process, with its usual XLA flags, and waits while another runs. A round trains each of
them once, from a new seed; the ratio of a round is the other library's time over purerl's. Evaluation is off; the
learning curves are those of the timed runs themselves. Writes JOB-SEEDS.json and .png into the folder of results (see
`recorded.py`), and shows the recorded table beside. All have the same environments, steps, epochs, minibatches,
networks and coefficients.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import recorded
from peers import need

from purerl.runs.devices import FLAGS, set_up_jax

RESULTS = Path(__file__).parent / "results" / "versus"
MODULES = {"rejax": "rejax", "sb3": "stable_baselines3", "sbx": "sbx"}
POINTS = 20  # of a learning curve
OURS = " ".join(FLAGS)


@dataclass(frozen=True)
class Job:
    """The work: every setting that affects the time."""

    env: str
    num_envs: int
    rollout_length: int
    num_epochs: int  # of each block; with a replay buffer: gradient steps
    num_minibatches: int
    torso: str
    num_updates: int
    algorithm: str = "ppo"
    width: int = 64  # of both hidden layers

    @property
    def block(self) -> int:
        """Steps of one update."""
        return self.num_envs * self.rollout_length


JOBS = {
    "ppo-cartpole": Job("CartPole-v1", 4, 128, 4, 4, "mlp", 200),
    "ppo-breakout-mlp": Job("Breakout-MinAtar", 64, 128, 4, 8, "mlp", 20),
    "ppo-breakout-cnn": Job("Breakout-MinAtar", 64, 128, 4, 8, "cnn", 10),
    "dqn-cartpole": Job("CartPole-v1", 1, 1, 1, 1, "relu", 10_000, "dqn"),
    "pqn-cartpole": Job("CartPole-v1", 4, 128, 4, 4, "norm", 200, "pqn"),
    "sac-pendulum": Job("Pendulum-v1", 1, 1, 1, 1, "relu", 10_000, "sac"),
    "sac-pendulum-256": Job("Pendulum-v1", 1, 1, 1, 1, "relu", 2_000, "sac", 256),
}
REPLAYED = ("dqn", "sac")
SOFT = {"learning_rate": 1e-3, "gamma": 0.99, "batch_size": 256}
BATCH, CAPACITY, WARM_UP, TARGET_PERIOD, Q_LAMBDA = 128, 10_000, 1_000, 500, 0.65
RATES = {"learning_rate": 2.5e-4, "gamma": 0.99, "max_grad_norm": 10.0}  # of the Q-learning agents;
SHARED = {"learning_rate": 2.5e-4, "gamma": 0.99, "gae_lambda": 0.95, "max_grad_norm": 0.5}
CLIP, ENTROPY_COST, VALUE_COST = 0.2, 0.01, 0.5

Curve = list[tuple[int, float]]  # (environment steps, return)
Contestant = Callable[[Job, int], tuple[float, Callable[[int], tuple[float, Curve]]]]


# --- the libraries: (job,  seeds) -> (seconds of compiling, seed -> (seconds of training, learning curve)) ----------


def purerl(job: Job, seeds: int):
    """The agents of this package, seeds split over one device for each core."""
    import jax

    set_up_jax()
    jax.config.update("jax_enable_compilation_cache", False)
    import numpy as np

    import purerl as package
    from purerl import training

    make, hp = program(job)
    devices = jax.devices() if seeds % len(jax.devices()) == 0 else None
    if seeds > 1:
        make = package.batch(make, devices)
    keys = lambda seed: jax.random.key(seed) if seeds == 1 else jax.random.split(jax.random.key(seed), seeds)
    begin = time.perf_counter()
    init = jax.jit(lambda key: make(hp).init(key))
    compiled = training.compile_run(make, hp, state=init(keys(0)))
    jax.block_until_ready(compiled.state.iteration)
    compile_seconds = time.perf_counter() - begin

    def train(seed):
        begin = time.perf_counter()
        once = training.Program(init(keys(seed)), compiled.advance)
        every = max(1, job.num_updates // POINTS)
        rows = [
            (i, m["episode_return"]) for i, _, m in package.run(make, hp, None, job.num_updates, every, program=once)
        ]
        curve = [(i * job.block, float(np.mean(np.asarray(x)))) for i, x in rows]
        return time.perf_counter() - begin, curve

    return compile_seconds, train


def program(job: Job, **parts: Any):
    """`(make, hp)` of a job; `parts` replace the parts that a profile removes."""
    import purerl as package

    env, env_params = parts.get("env") or package.make(job.env)
    agent, hp = AGENTS[job.algorithm](job, env.action_space(env_params), parts)
    make = lambda hp: package.learner(env, env_params, agent(hp), job.num_envs, job.rollout_length)
    return make, hp


def torso_of(job: Job):
    """The torso of the networks."""
    from functools import partial

    import flax.linen as nn

    from purerl import networks

    relu = partial(networks.MLP, activation=nn.relu)
    return {"mlp": networks.MLP, "cnn": networks.MinAtarCNN, "relu": relu, "norm": partial(relu, layer_norm=True)}[
        job.torso
    ]


def _ppo(job: Job, space: Any, parts: dict[str, Any]):
    import purerl as package
    from purerl import distributions, networks

    policy = parts.get("policy", lambda x: x)(distributions.for_space(space))
    network = networks.actor_critic(policy, torso_of(job))
    hp = package.PPO(
        num_epochs=parts.get("num_epochs", job.num_epochs),
        num_minibatches=job.num_minibatches,
        clip=CLIP,
        value_clip=CLIP,
        entropy_cost=ENTROPY_COST,
        value_cost=VALUE_COST,
        **SHARED,
    )
    optimizer = {"optimizer": parts["optimizer"]} if "optimizer" in parts else {}
    return lambda hp: package.ppo(network, policy, hp, **optimizer), hp


def _q_arguments(parts: dict[str, Any]) -> dict[str, Any]:
    greedy = {"explore": lambda key, q, amount: q.argmax(-1).astype("int32")} if "policy" in parts else {}
    return greedy | ({"optimizer": parts["optimizer"]} if "optimizer" in parts else {})


def _dqn(job: Job, space: Any, parts: dict[str, Any]):
    import purerl as package
    from purerl import networks

    network = networks.q_network(space.n, torso_of(job))
    hp = package.DQN(
        batch_size=BATCH, capacity=CAPACITY, learning_starts=WARM_UP, train_every=1, target_period=TARGET_PERIOD,
        explore_steps=job.block * job.num_updates / 2, num_gradient_steps=job.num_epochs, **RATES,
    )  # fmt: skip
    if parts.get("num_epochs") == 0:
        hp = package.DQN(**{**vars(hp), "learning_starts": 10**9})
    return lambda hp: package.dqn(network, hp, **_q_arguments(parts)), hp


def _pqn(job: Job, space: Any, parts: dict[str, Any]):
    import purerl as package
    from purerl import networks

    network = networks.q_network(space.n, torso_of(job))
    hp = package.PQN(
        num_epochs=parts.get("num_epochs", job.num_epochs), num_minibatches=job.num_minibatches, q_lambda=Q_LAMBDA,
        explore_steps=job.block * job.num_updates / 2, **RATES,
    )  # fmt: skip
    return lambda hp: package.pqn(network, hp, **_q_arguments(parts)), hp


def _sac(job: Job, space: Any, parts: dict[str, Any]):
    from functools import partial

    import flax.linen as nn

    import purerl as package
    from purerl import distributions, networks

    policy = distributions.hybrid(space)
    torso = partial(networks.MLP, (job.width, job.width), nn.relu)
    actor, critic = networks.actor(policy, torso), networks.critic(policy, torso)
    starts = 10**9 if parts.get("num_epochs") == 0 else WARM_UP
    hp = package.SAC(capacity=CAPACITY, learning_starts=starts, num_gradient_steps=job.num_epochs, **SOFT)
    optimizer = {"optimizer": parts["optimizer"]} if "optimizer" in parts else {}
    return lambda hp: package.sac(actor, critic, policy, hp, **optimizer), hp


AGENTS = {"ppo": _ppo, "dqn": _dqn, "pqn": _pqn, "sac": _sac}


class FiveValues:
    """A gymnax 1.x environment with the step of gymnax 0.x, which rejax 0.1.3 expects."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        if name == "env" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, key, env_params):
        return self.env.reset(key, env_params)

    def step(self, key, state, action, env_params):
        obs, state, reward, terminated, truncated, info = self.env.step(key, state, action, env_params)
        return obs, state, reward, terminated | truncated, info


def rejax(job: Job, seeds: int):
    """rejax, its seeds vmapped; a snapshot of the actor at every point is evaluated after the timing."""
    import flax.linen as nn
    import gymnax
    import jax
    import jax.numpy as jnp
    import rejax as package
    from rejax.evaluate import evaluate
    from rejax.networks import DiscretePolicy, VNetwork

    class Convolution(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x))
            return nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))

    class Actor(DiscretePolicy):
        def setup(self):
            self.features = Convolution()
            self.action_logits = nn.Dense(self.action_dim)

    class Critic(VNetwork):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(Convolution()(x)).squeeze(1)

    env, env_params = gymnax.make(job.env)
    env = FiveValues(env)
    total = job.block * job.num_updates
    points = max(count for count in range(1, POINTS + 1) if job.num_updates % count == 0)
    kind, arguments = {
        "ppo": (package.PPO, {
            "num_steps": job.rollout_length, "num_epochs": job.num_epochs, "num_minibatches": job.num_minibatches,
            "clip_eps": CLIP, "ent_coef": ENTROPY_COST, "vf_coef": VALUE_COST, "agent_kwargs": {"activation": "tanh"},
            **SHARED,
        }),
        "dqn": (package.DQN, {
            "num_epochs": job.num_epochs, "buffer_size": CAPACITY, "fill_buffer": WARM_UP, "batch_size": BATCH,
            "target_update_freq": TARGET_PERIOD, "polyak": 0.0, "ddqn": False, "exploration_fraction": 0.5,
            "agent_kwargs": {"activation": "relu"}, **RATES,
        }),
        "sac": (package.SAC, {
            "num_epochs": job.num_epochs, "buffer_size": CAPACITY, "fill_buffer": WARM_UP, "polyak": 0.995,
            "target_update_freq": 1, "max_grad_norm": float("inf"), "hidden_layer_sizes": (job.width, job.width),
            **SOFT,
        }),
        "pqn": (package.PQN, {
            "num_steps": job.rollout_length, "num_epochs": job.num_epochs, "num_minibatches": job.num_minibatches,
            "td_lambda": Q_LAMBDA, "exploration_fraction": 0.5, **RATES,
        }),
    }[job.algorithm]  # fmt: skip
    algorithm = kind.create(
        env=env, env_params=env_params, num_envs=job.num_envs, total_timesteps=total, eval_freq=total // points,
        skip_initial_evaluation=True, **arguments,
    )  # fmt: skip
    if job.torso == "cnn":
        torso = {"hidden_layer_sizes": (), "activation": nn.relu}
        actions = env.action_space(env_params).n
        algorithm = algorithm.replace(actor=Actor(actions, **torso), critic=Critic(**torso))
    acts = job.algorithm in ("ppo", "sac")
    trained = lambda state: (state.actor_ts if acts else state.q_ts).params
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: trained(state))
    train_one = lambda key: kind.train(algorithm, key)
    keys = lambda seed: jax.random.key(seed) if seeds == 1 else jax.random.split(jax.random.key(seed), seeds)
    begin = time.perf_counter()
    compiled = jax.jit(train_one if seeds == 1 else jax.vmap(train_one)).lower(keys(0)).compile()
    compile_seconds = time.perf_counter() - begin

    @jax.jit
    def returns(params, key):
        network, how = (algorithm.actor, {}) if acts else (algorithm.agent, {"epsilon": 0.0})
        act = lambda obs, key: jnp.squeeze(network.apply(params, obs[None], key, method="act", **how))
        return evaluate.__wrapped__(act, key, env, env_params, 16, env_params.max_steps_in_episode)[1].mean()

    def train(seed):
        begin = time.perf_counter()
        _, snapshots = jax.block_until_ready(compiled(keys(seed)))
        seconds = time.perf_counter() - begin
        first = snapshots if seeds == 1 else jax.tree.map(lambda x: x[0], snapshots)
        count = jax.tree.leaves(first)[0].shape[0]
        at = lambda k: jax.tree.map(lambda x: x[k], first)
        curve = [((k + 1) * total // count, float(returns(at(k), jax.random.key(k)))) for k in range(count)]
        return seconds, curve

    return compile_seconds, train


def _stable_baselines(make_model: Callable, job: Job):
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Returns(BaseCallback):
        def __init__(self):
            super().__init__()
            self.curve: Curve = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            last = [episode["r"] for episode in self.model.ep_info_buffer]
            if last:
                self.curve.append((self.num_timesteps, sum(last[-20:]) / len(last[-20:])))

    def train(seed):
        env = make_vec_env(job.env, n_envs=job.num_envs, seed=seed)
        model, record = make_model(env, seed), Returns()
        begin = time.perf_counter()
        model.learn(job.block * job.num_updates, callback=record)
        return time.perf_counter() - begin, record.curve[:: max(1, len(record.curve) // POINTS)]

    return 0.0, train


def _sb3_arguments(job: Job) -> dict[str, Any]:
    if job.algorithm == "dqn":
        return {
            "buffer_size": CAPACITY, "learning_starts": WARM_UP, "batch_size": BATCH, "train_freq": 1,
            "gradient_steps": job.num_epochs, "target_update_interval": TARGET_PERIOD, "exploration_fraction": 0.5,
            "policy_kwargs": {"net_arch": [64, 64]}, "verbose": 0, **RATES,
        }  # fmt: skip
    if job.algorithm == "sac":
        return {
            "buffer_size": CAPACITY, "learning_starts": WARM_UP, "train_freq": 1, "gradient_steps": job.num_epochs,
            "tau": 0.005, "policy_kwargs": {"net_arch": [job.width, job.width]}, "verbose": 0, **SOFT,
        }  # fmt: skip
    return {
        "n_steps": job.rollout_length, "batch_size": job.block // job.num_minibatches, "n_epochs": job.num_epochs,
        "clip_range": CLIP, "ent_coef": ENTROPY_COST, "vf_coef": VALUE_COST, "verbose": 0, **SHARED,
    }  # fmt: skip


def sb3(job: Job, seeds: int):
    """Stable-Baselines3, on one thread of torch: with two it is slower at this size."""
    import torch
    from stable_baselines3 import DQN, PPO, SAC

    torch.set_num_threads(1)
    kind = {"dqn": DQN, "ppo": PPO, "sac": SAC}[job.algorithm]
    more = {"clip_range_vf": CLIP} if kind is PPO else {}
    make_model = lambda env, seed: kind("MlpPolicy", env, seed=seed, device="cpu", **more, **_sb3_arguments(job))
    return _stable_baselines(make_model, job)


def sbx(job: Job, seeds: int):
    """SBX; it compiles in a first training that is not counted."""
    from sbx import DQN, PPO, SAC

    kind, arguments = {"dqn": DQN, "ppo": PPO, "sac": SAC}[job.algorithm], _sb3_arguments(job)
    if job.algorithm == "dqn":
        arguments.pop("max_grad_norm")  # SBX has no such argument
    make_model = lambda env, seed: kind("MlpPolicy", env, seed=seed, **arguments)
    _, train = _stable_baselines(make_model, job)
    begin = time.perf_counter()
    short = Job(**{**vars(job), "num_updates": WARM_UP + 100 if job.algorithm in REPLAYED else 2})
    _stable_baselines(make_model, short)[1](0)
    return time.perf_counter() - begin, train


CONTESTANTS: dict[str, tuple[Contestant, str]] = {
    "purerl": (purerl, OURS),
    "rejax": (rejax, ""),
    "rejax-1": (rejax, OURS),  # with purerl's flags
    "sb3": (sb3, ""),
    "sbx": (sbx, OURS),
}


def applies(name: str, job: Job, seeds: int) -> bool:
    """Whether a library can do the same work: Stable-Baselines3 and SBX train one seed, in gymnasium."""
    theirs = job.env in ("CartPole-v1", "Pendulum-v1") and job.algorithm != "pqn"
    return name not in ("sb3", "sbx") or (seeds == 1 and theirs)


# --- the lower bound, and the profile ---------------------------------------------------------------------------------


def dot_flops(jaxpr: Any) -> float:
    """Floating-point operations of the matrix products in a jaxpr, loops counted as often as they run."""
    import math

    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            sizes = [eqn.invars[0].aval.shape[axis] for axis in contracted]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(sizes)
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * dot_flops(inner)
    return total


def peak_flops() -> float:
    """Operations per second of a large float32 matrix product: of all cores, or of one accelerator."""
    import jax
    import jax.numpy as jnp

    n = 512 if jax.default_backend() == "cpu" else 8192
    product = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x))
    x = jax.block_until_ready(product(jnp.eye(n)))
    best = 1e9
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, (time.perf_counter() - begin) / 10)
    return 2 * n**3 / best


def profile(job: Job, seeds: int, rounds: int = 7) -> dict[str, Any]:
    """Whole programs with one part removed, in alternation: the share of the time that the part takes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from gymnax.environments.environment import Environment

    import purerl as package
    from purerl import gradients, training

    real, real_params = package.make(job.env)

    class Still(Environment):
        """An environment with the spaces of the real one and no dynamics."""

        name = "still"
        action_space = staticmethod(lambda params=None: real.action_space(real_params))
        observation_space = staticmethod(lambda params: real.observation_space(real_params))

        def reset_env(self, key, params):
            return jnp.ones(real.observation_space(real_params).shape), jnp.zeros(())

        def step_env(self, key, state, action, params):
            state = state + action
            return (
                jnp.ones(real.observation_space(real_params).shape) * state,
                state,
                jnp.float32(1),
                jnp.bool_(False),
                {},
            )

        def is_truncated(self, state, params):
            return jnp.bool_(False)

    certain = lambda policy: policy._replace(sample=lambda key, p: policy.mode(p))
    replayed = job.algorithm in REPLAYED
    fewer = 0 if replayed else 1
    parts: dict[str, dict[str, Any]] = {
        "everything": {},
        **({} if replayed else {"shuffling": {}}),
        "optimiser and clipping": {"optimizer": lambda max_grad_norm: optax.identity()},
        **(
            {}
            if job.algorithm == "sac"
            else {
                "environment": {"env": (Still(), real_params)},
                "sampling of actions": {"policy": certain},
            }
        ),
        f"{job.num_epochs - fewer} of {job.num_epochs} passes": {"num_epochs": fewer},
    }
    runs, true_permutation = {}, gradients.permutation
    for name, part in parts.items():
        gradients.permutation = (lambda key, n: jnp.arange(n)) if name == "shuffling" else true_permutation
        make, hp = program(job, **part)
        key = jax.random.key(0) if seeds == 1 else jax.random.split(jax.random.key(0), seeds)
        if seeds > 1:
            make = package.batch(make, jax.devices() if seeds % len(jax.devices()) == 0 else None)
        compiled = training.compile_run(make, hp, key)
        runs[name] = [make, hp, compiled.state, compiled.advance, []]
    gradients.permutation = true_permutation
    count = max(1, job.num_updates // 5)
    for _ in range(rounds):
        for run in runs.values():
            make, hp, state, step, times = run
            begin = time.perf_counter()
            once = training.Program(state, step)
            for _, run[2], metrics in package.run(make, hp, None, count, count, program=once):
                jax.block_until_ready(metrics)
            times.append((time.perf_counter() - begin) / count)
    base = np.array(runs["everything"][-1][1:])
    share = {name: float(np.median(1 - np.array(run[-1][1:]) / base)) for name, run in runs.items() if run[-1]}
    make, hp = program(job)
    state = jax.eval_shape(lambda: make(hp).init(jax.random.key(0)))
    flops = seeds * dot_flops(jax.make_jaxpr(lambda state: make(hp).step(state))(state).jaxpr)
    update, peak = float(np.median(base)), peak_flops()
    return {
        "seconds_per_update": update, "flops_per_update": flops, "peak_flops": peak,
        "share_of_peak": flops / peak / update,
        "share_of_time": {name: x for name, x in share.items() if name != "everything"},
    }  # fmt: skip


# --- measurement ------------------------------------------------------------------------------------------------------


def worker(name: str, job: Job, seeds: int) -> None:
    """A worker process: compile, then train for each seed received; answer in lines of JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    say = lambda **answer: print(json.dumps(answer), file=out, flush=True)
    compile_seconds, train = CONTESTANTS[name][0](job, seeds)
    say(compile_seconds=compile_seconds)
    for line in sys.stdin:
        if line.strip() == "profile":
            say(**profile(job, seeds))
            continue
        seconds, curve = train(int(line))
        say(seconds=seconds, curve=curve)


def start(name: str, job: str, seeds: int) -> tuple[subprocess.Popen, float]:
    """A worker process that has compiled, and its compile time."""
    flags = CONTESTANTS[name][1]
    environ = {**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--worker", name, "--job", job, "--seeds", str(seeds)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    return process, ask(process)["compile_seconds"]


def ask(process: subprocess.Popen, line: str = "") -> dict[str, Any]:
    """Send a line to a worker process, and wait for its answer."""
    if line:
        print(line, file=process.stdin, flush=True)
    answer = process.stdout.readline() if process.stdout else ""
    if not answer:
        raise SystemExit(f"a worker process has ended: {' '.join(map(str, process.args))}")
    return json.loads(answer)


def contest(name: str, seeds: int, peers: list[str], rounds: int) -> dict[str, Any]:
    """Compile all, train in alternation, and profile purerl."""
    import numpy as np
    from rich.progress import track

    job = JOBS[name]
    names = ["purerl", *(peer for peer in peers if applies(peer, job, seeds))]
    processes, compiling = {}, {}
    for who in track(names, "compiling"):
        processes[who], compiling[who] = start(who, name, seeds)
    times: dict[str, list[float]] = {who: [] for who in names}
    curves: dict[str, Curve] = {}
    for seed in track(range(rounds + 1), "rounds"):  # the first round is a warm-up and is not counted
        for who in names:
            answer = ask(processes[who], str(seed))
            curves[who] = answer["curve"]
            times[who] += [answer["seconds"]] if seed else []
    report = ask(processes["purerl"], "profile")
    for process in processes.values():
        process.kill()
    ours = np.array(times["purerl"])
    packages = ("purerl", "jax", "jaxlib", "rejax", "stable_baselines3", "sbx-rl", "torch", "gymnax", "gymnasium")
    return {
        "job": name, "seeds": seeds, **vars(job), "steps_of_a_seed": job.block * job.num_updates,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.python_version()}",
        "versions": {package: _version(package) for package in packages},
        "compile_seconds": compiling, "seconds": times,
        "ratio": {
            who: {"median": float(np.median(x / ours)), "low": float((x / ours).min()), "high": float((x / ours).max())}
            for who, x in ((who, np.array(times[who])) for who in names)
        },
        "curves": curves, "profile": report,
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except Exception:
        return None


def show(result: dict[str, Any]) -> Iterator[str]:
    """The report, in lines of Markdown."""
    import numpy as np

    steps = result["steps_of_a_seed"] * result["seeds"]
    yield f"{result['job']}, {result['seeds']} seed(s), {steps:,} steps a round, {result['machine']}"
    yield ""
    yield "| | steps/s | its time over purerl's, median [low, high] | compiling |"
    yield "|---|---|---|---|"
    for who, times in result["seconds"].items():
        ratio, pace = result["ratio"][who], steps / np.median(times)
        spread = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        yield f"| {who} | {pace:,.0f} | {spread} | {result['compile_seconds'][who]:.1f} s |"
    report = result["profile"]
    yield ""
    yield (
        f"floor: {report['flops_per_update'] / 1e6:.0f} million operations of matrix products per update; at this "
        f"machine's {report['peak_flops'] / 1e9:.0f} GFLOP/s they are {100 * report['share_of_peak']:.0f} % of our "
        f"{1e6 * report['seconds_per_update']:,.0f} µs"
    )
    yield "share of the time that the whole program saves without a part: " + ", ".join(
        f"{name} {100 * share:.0f} %" for name, share in report["share_of_time"].items()
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot the times, and beside them the learning curves of the last round."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colors = dict(zip(result["seconds"], ("#1f6feb", "#d1590b", "#b58900", "#0d8a5f", "#8a3ffc"), strict=False))
    for who, times in result["seconds"].items():
        left.barh(who, result["steps_of_a_seed"] * result["seeds"] / np.median(times), color=colors[who])
        curve = np.array(result["curves"][who])
        right.plot(curve[:, 0], curve[:, 1], "o-", ms=3, color=colors[who], label=who)
    left.set(xlabel="environment steps a second")
    left.invert_yaxis()
    left.set_title(f"{result['job']}, {result['seeds']} seed(s)", loc="left", fontsize=10)
    right.set(xlabel="environment steps", ylabel="episode return")
    right.set_title("what they learned meanwhile", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--seeds", type=recorded.count, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="rejax,rejax-1,sb3,sbx", help="with commas between")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    recorded.options(parser, RESULTS, report=False)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, JOBS[given.job], given.seeds)
        return
    peers = given.peers.split(",") if given.peers else []
    for peer in peers:
        if peer not in CONTESTANTS:
            parser.error(f"--peers: there is no {peer!r}; allowed are {', '.join(CONTESTANTS)}")
    used = [peer.partition("-")[0] for peer in peers if applies(peer, JOBS[given.job], given.seeds)]
    need("'purerl[peers]'", *dict.fromkeys(MODULES[peer] for peer in used if peer in MODULES))
    result = contest(given.job, given.seeds, peers, given.rounds)
    print("\n".join(show(result)))
    place, name = recorded.place(given), f"{given.job}-{given.seeds}.json"
    theirs = recorded.read(place.recorded / name)
    if theirs and place.own != place.recorded:
        print("\n".join(["", "recorded in the repository:", "", *show(theirs)]))
    recorded.save(place.own / name, result)
    draw(result, (place.own / name).with_suffix(".png"))


if __name__ == "__main__":
    main()
