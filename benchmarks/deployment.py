"""Exported policies: differences from the agents, latency of one action, sizes, and a load test of the server.

    python benchmarks/deployment.py parity [--only ppo] [--hidden 16]
    python benchmarks/deployment.py latency [--sb3 PYTHON]
    python benchmarks/deployment.py load
    python benchmarks/deployment.py report

It needs the extras onnx and serve, in an environment of their own. `parity` exports every agent in every kind of action
space that it takes, without memory and with a GRU, as StableHLO and ONNX: parameters with noise, so that no bias is 0
and no scale is 1, and moments of normalised observations as after 50 of them. `latency` times the action of PPO with
two layers of 64 for CartPole in alternation: the jitted agent, the exported programs by `purerl.export.load`, and
`predict` of Stable-Baselines3's PPO with the same layers, which `--sb3` names the Python of. `load` starts the server
and asks it from this machine. Run both on an idle core: `taskset -c 0 python ...`. Each writes JSON to
results/deployment/, and `report` its tables.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces
from rich.progress import track
from tabular import describe

import purerl
from purerl.envs.spaces import MultiBinary, MultiDiscrete
from purerl.export import folder, page, programs, saving
from purerl.runs import options, plans, sweeps
from purerl.testing.checks import initial_state

RESULTS = Path(__file__).parent / "results" / "deployment"
HERE = f"{Path(__file__)}:"
SPACES = {
    "CartPole-v1": "Discrete", "MaskedGrid-v0": "Discrete, masked", "Sigmoid-v0": "MultiDiscrete",
    f"{HERE}bits": "MultiBinary", "Pendulum-v1": "Box", f"{HERE}several": "Dict and Tuple", "Platform-v0": "hybrid",
}  # fmt: skip
AGENTS = ("ppo", "a2c", "reinforce", "dqn", "c51", "qrdqn", "iqn", "rainbow", "pqn", "sac", "td3", "ddpg")
MEMORIES = ("none", "gru")
BATCHES = (1, 256)
REFUSALS = (
    "is for discrete actions",
    "are for continuous actions",
    "takes no network with memory",
    "hybrid: the space",
)
PERTURBATION = 0.3  # standard deviation of the noise of parameters
ROUNDS, CALLS = 15, 200  # of latency: medians of CALLS calls, in alternation
REQUESTS = 2000  # of the load test, for each number of clients


def store(name: str, found: Any) -> None:
    """Write results with what they were measured on."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    about = {
        "date": datetime.date.today().isoformat(),
        **describe(),
        **{package: version(package) for package in ("jax2onnx", "onnxruntime", "waitress")},
    }
    text = json.dumps({**about, "results": found}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def plan(agent: str, env: str, *words: str) -> Any:
    """The plan of `purerl train AGENT ENV ...`."""
    run, own = options.parameters(agent)
    given = click.Command(agent, params=[*run, *own]).make_context(agent, [env, *words]).params
    take = lambda parameters: {p.name: given[p.name] for p in parameters if p.expose_value}
    (point,) = sweeps.points_of({"agent": agent, **take(run), "hyperparameters": take(own)})
    return plans.plan_of(point.config)


class Noise(environment.Environment):
    """Observations `[3]` that are noise, for an action space; episodes of 20 steps. An agent cannot learn in it."""

    def __init__(self, space: spaces.Space):
        self._space = space

    @property
    def default_params(self) -> environment.EnvParams:
        return environment.EnvParams(20)

    def reset_env(self, key, params):
        return jax.random.normal(key, (3,)), environment.EnvState(jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        state = environment.EnvState(state.time + 1)
        ended = state.time >= params.max_steps_in_episode
        return jax.random.normal(key, (3,)), state, jnp.zeros(()), ended, {}

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (3,), jnp.float32)

    def action_space(self, params=None):
        return self._space


bits = partial(Noise, MultiBinary(3))
several = partial(Noise, spaces.Dict({
    "gear": spaces.Discrete(3), "pedals": spaces.Tuple((spaces.Box(-2.0, 1.0, (2,)), MultiDiscrete((2, 3)))),
}))  # fmt: skip


def perturbed(key: Any, state: Any) -> Any:
    """An agent's state whose parameters have noise added, as after some training."""

    def moved(path, x):
        if not any(getattr(part, "name", None) == "params" for part in path):
            return x
        own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return x + PERTURBATION * jax.random.normal(own, x.shape)

    return jax.jit(partial(jax.tree_util.tree_map_with_path, moved))(state)


def begun(job: Any, key: Any) -> tuple[Any, Any]:
    """The agent of a plan, and a state whose normaliser, if it has one, has seen observations."""
    agent = job.agent(job.grid[0])
    return agent, perturbed(key, initial_state(agent, job.env, job.env_params, key))


def parity(only: str | None, hidden: int) -> None:
    """Export every agent in every action space, with memory and without, and note the largest differences."""
    path = RESULTS / "parity.json"
    found = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    known = {(row["agent"], row["environment"], row["memory"]) for row in found}
    jobs = [(a, e, m) for a in AGENTS for e in SPACES for m in MEMORIES if only is None or a == only]
    missing = [(a, e, m) for a, e, m in jobs if (a, e.removeprefix(HERE), m) not in known]
    for agent_name, env, memory in track(missing, "exporting"):
        row: dict[str, Any] = {"agent": agent_name, "environment": env.removeprefix(HERE), "memory": memory}
        words = ["--hidden", str(hidden), "--memory", memory, "--memory-size", "8", "--seeds", "1"]
        try:
            normalized = ["--normalize-obs"] if agent_name in ("ppo", "a2c", "reinforce", "pqn") else []
            job = plan(agent_name, env, *words, *normalized)
        except (click.UsageError, ValueError) as error:
            if not any(words in str(error) for words in REFUSALS):
                raise
            found.append({**row, "refused": str(error)})
            store("parity", found)
            continue
        agent, state = begun(job, jax.random.key(0))
        with tempfile.TemporaryDirectory() as place:
            where = job.env, job.env_params, agent, state, jax.random.key(1)
            to = saving.STABLEHLO, saving.ONNX
            try:
                about = saving.save(Path(place) / "policy", *where, to=to)
            except ValueError as error:
                found.append({**row, "failed": str(error)})
            else:
                sizes = {file: about["files"][file]["bytes"] for file in about["parity"]}
                found.append({**row, "parity": about["parity"], "bytes": sizes})
        store("parity", found)


SB3 = """
import sys, time
import numpy as np, torch
from stable_baselines3 import PPO
torch.set_num_threads(1)
model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
for line in sys.stdin:
    batch, calls = map(int, line.split())
    obs = np.random.default_rng(0).normal(size=(batch, 4)).astype(np.float32)
    model.predict(obs, deterministic=True)
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        model.predict(obs, deterministic=True)
        times.append(time.perf_counter() - begin)
    print(float(np.median(times)), flush=True)
"""


def median(call: Callable[[np.ndarray], Any], batch: int) -> float:
    """The median seconds of CALLS calls."""
    obs, times = np.random.default_rng(0).normal(size=(batch, 4)).astype(np.float32), []
    call(obs)
    for _ in range(CALLS):
        begin = time.perf_counter()
        call(obs)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def latency(sb3: str | None) -> None:
    """Time one action for a batch of observations, NumPy in and out, in alternation."""
    job = plan("ppo", "CartPole-v1", "--normalize-obs", "--seeds", "1")
    agent, state = begun(job, jax.random.key(0))
    jitted = jax.jit(lambda obs: agent.greedy(state, (), obs)[0])
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "policy"
        where = job.env, job.env_params, agent, state, jax.random.key(1)
        about = saving.save(path, *where, to=(saving.STABLEHLO, saving.ONNX))
        stablehlo, onnx = (purerl.export.load(path, file) for file in (folder.STABLEHLO, folder.ONNX))
        contestants: dict[str, Callable[[int], float]] = {
            "jitted agent": lambda n: median(lambda obs: np.asarray(jitted(obs)), n),
            "exported, StableHLO": lambda n: median(stablehlo, n),
            "exported, ONNX": lambda n: median(onnx, n),
        }
        if sb3:
            worker = subprocess.Popen([sb3, "-c", SB3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

            def asked(batch: int) -> float:
                print(batch, CALLS, file=worker.stdin, flush=True)
                return float(worker.stdout.readline())

            contestants["Stable-Baselines3, predict"] = asked
        rows = {name: {str(batch): [] for batch in BATCHES} for name in contestants}
        for _ in track(range(ROUNDS), "timing"):
            for name, call in contestants.items():
                for batch in BATCHES:
                    rows[name][str(batch)].append(1e6 * call(batch))
        if sb3:
            worker.stdin.close()
            worker.wait()
    sizes = {file: about["files"][file]["bytes"] for file in about["parity"]}
    store("latency", {"microseconds": rows, "bytes": sizes, "page": len(page.page(
        {**about, "env_params": {}, "wrappers": {}}, b"0" * sizes[folder.ONNX]))})  # fmt: skip


def ask(port: int, body: bytes, requests: int, times: list[float]) -> None:
    """Ask the server so many times over one connection, and add the seconds of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(requests):
        begin = time.perf_counter()
        connection.request("POST", "/act", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}")
        times.append(time.perf_counter() - begin)
    connection.close()


def load(clients: Sequence[int] = (1, 4, 16)) -> None:
    """Requests per second and their latency, for numbers of clients that each ask one after another."""
    job = plan("ppo", "CartPole-v1", "--normalize-obs", "--seeds", "1")
    agent, state = begun(job, jax.random.key(0))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "policy"
        where = job.env, job.env_params, agent, state, jax.random.key(1)
        saving.save(path, *where, programs.greedy, (saving.STABLEHLO, saving.ONNX), steps=2)
        for file in (folder.STABLEHLO, folder.ONNX):
            command = [sys.executable, "-m", "purerl.export.serve", str(path), "--port", "0", "--file", file]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
                port = int(server.stdout.readline().split("/act")[0].rpartition(":")[2])
                for count in clients:
                    for batch in BATCHES:
                        obs = np.random.default_rng(0).normal(size=(batch, 4)).astype(np.float32)
                        body, times = json.dumps({"obs": obs.tolist()}).encode(), []
                        ask(port, body, 20, [])
                        share = (REQUESTS if batch == 1 else REQUESTS // 10) // count
                        threads = [threading.Thread(target=ask, args=(port, body, share, times)) for _ in range(count)]
                        begin = time.perf_counter()
                        for thread in threads:
                            thread.start()
                        for thread in threads:
                            thread.join()
                        seconds = time.perf_counter() - begin
                        if len(times) != share * count:
                            raise RuntimeError(f"{len(times)} of {share * count} requests were answered")
                        quantiles = [1e3 * float(np.quantile(times, q)) for q in (0.5, 0.99)]
                        rows.append({
                            "file": file, "clients": count, "batch": batch, "requests": len(times),
                            "per_second": len(times) / seconds, "median_ms": quantiles[0], "p99_ms": quantiles[1],
                        })  # fmt: skip
                server.terminate()
    store("load", rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return [line(head), line(["---"] * len(head)), *map(line, rows), ""]


def read(name: str) -> Any:
    """The results of a subcommand; None if there are none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else None


def differences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of parity: a row for each agent and memory, a column for each kind of action space."""

    def cell(agent: str, env: str, memory: str) -> str:
        at = agent, env.removeprefix(HERE), memory
        row = next((r for r in rows if (r["agent"], r["environment"], r["memory"]) == at), None)
        if row is None:
            return "not run"
        if "parity" not in row:
            return "—" if "refused" in row else "failed"
        parts = []
        for found in row["parity"].values():
            ties = f", {found['differing_ties']} ties" if found["differing_ties"] else ""
            largest = f"{found['largest_difference']:.1e}" if found["largest_difference"] else "0"
            parts.append(largest + ties)
        return " / ".join(parts)

    pairs = [(a, m) for a in AGENTS for m in MEMORIES]
    lines = [[a, m, *(cell(a, env, m) for env in SPACES)] for a, m in pairs]
    shown = [line for line in lines if {*line[2:]} != {"—"}]
    return table(["agent", "memory", *SPACES.values()], shown)


def report() -> None:
    """Write RESULTS.md of what there is."""
    lines = ["# Exported policies", "", "Written by `python benchmarks/deployment.py report`.", ""]
    if rows := read("parity"):
        count = sum("parity" in row for row in rows)
        lines += [
            f"Largest difference of an action from the agent's on 1,000 observations of episodes, StableHLO / ONNX "
            f"(`parity`; {count} policies, 1e-5 is allowed; 0: every action is the same; —: not taken by the agent).",
            f"Parameters have noise of standard deviation {PERTURBATION:g} added; normalised observations, of PPO, "
            "A2C, REINFORCE and PQN, have moments of 50 of them.",
            "", *differences(rows),
        ]  # fmt: skip
    if found := read("latency"):
        numbers = lambda values: f"{np.median(values):.0f} [{min(values):.0f}, {max(values):.0f}]"
        rows = [[name, *(numbers(x[str(batch)]) for batch in BATCHES)] for name, x in found["microseconds"].items()]
        sizes = ", ".join(f"{file} {size / 1024:.0f} KiB" for file, size in found["bytes"].items())
        lines += [
            "Microseconds until the greedy actions of a batch are there, from NumPy to NumPy, on one core that other "
            f"work shared (`latency`; median, and range of {ROUNDS} rounds of {CALLS} calls in alternation). "
            f"Stable-Baselines3's has no normaliser inside. Sizes: {sizes}, page {found['page'] / 1024:.0f} KiB "
            "without the runtime.",
            "", *table(["", *(f"batch {batch}" for batch in BATCHES)], rows),
        ]  # fmt: skip
    if rows := read("load"):
        cells = [[r["file"], str(r["clients"]), str(r["batch"]), f"{r['per_second']:.0f}", f"{r['median_ms']:.1f}",
                  f"{r['p99_ms']:.1f}"] for r in rows]  # fmt: skip
        lines += [
            "The server on the loopback, asked by clients on the same core (`load`).", "",
            *table(["program", "clients", "batch", "requests/s", "median ms", "99 % ms"], cells),
        ]  # fmt: skip
    (RESULTS / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parity", "latency", "load", "report"))
    parser.add_argument("--only", choices=AGENTS, help="of parity: one agent")
    parser.add_argument("--hidden", type=int, default=16, help="of parity: the width of a layer")
    parser.add_argument("--sb3", metavar="PYTHON", help="of latency: a Python with stable-baselines3")
    given = parser.parse_args()
    jobs = {"parity": lambda: parity(given.only, given.hidden), "latency": lambda: latency(given.sb3), "load": load}
    {**jobs, "report": report}[given.what]()


if __name__ == "__main__":
    main()
