#!/usr/bin/env python
"""What devices that share the environments of one agent send each other in one update, read from the compiled program.

    python benchmarks/scale.py                     # PPO and A2C on CartPole, two devices
    python benchmarks/scale.py --agent ppo --num-envs 1024

Every collective is listed with its bytes and how often it is executed. Prints a table, and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).with_name("results") / "scale"
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
         "s64": 8, "u64": 8, "f64": 8}  # fmt: skip


class Sent(NamedTuple):
    """A collective of a program."""

    kind: str
    bytes: int  # of its result, on each device
    times: int  # that it is executed in one update


def size_of(shape: str) -> int:
    """Bytes of an HLO shape, such as f32[2,64]{1,0} or a tuple of them.

    >>> size_of("(f32[2,64]{1,0}, pred[])")
    513
    """
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in found)


def sent(program: str) -> list[Sent]:
    """The collectives of an optimised HLO module, those in loops as often as these run."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if begin := re.match(r"(ENTRY )?%?([\w.-]+) .*->.*\{$", line):
            name = begin[2]
            entry = name if begin[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)

    def of(computation: str, times: int) -> list[Sent]:
        found = []
        for line in bodies[computation]:
            if op := re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line):
                found.append(Sent(op[2], size_of(op[1]), times))
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            inner = int(trips[1]) if trips else 1
            for called in re.findall(r"(?:body|to_apply|calls|branch_computations|true_computation|false_computation)="
                                     r"\{?%?([\w.-]+)", line):  # fmt: skip
                found += of(called, times * inner) if called in bodies else []
        return found

    return of(entry, 1)


def measured(agent: str, num_envs: int, length: int | None, devices: int) -> dict:
    """The collectives of one update of an agent on CartPole, and the number of its parameters."""
    import jax

    import purerl
    from purerl import build
    from purerl.agents.parts.declarations import declaration_of

    env, env_params = purerl.make("CartPole-v1")
    function = build.agent_function(agent)
    about = declaration_of(function)
    length = length or about.rollout_length
    make_agent = build.agent(function, env.action_space(env_params))
    one = lambda hp: purerl.learner(env, env_params, make_agent(hp), num_envs, length)
    learner = purerl.batch(one, jax.devices()[:devices], devices_per_run=devices)(about.hp)
    state = jax.jit(learner.init)(jax.random.split(jax.random.key(0), 1))
    found = sent(jax.jit(learner.step).lower(state).compile().as_text())
    kinds = {kind: [x for x in found if x.kind == kind] for kind in COLLECTIVES}
    rows = {kind: {"executed": sum(x.times for x in xs), "bytes": sum(x.bytes * x.times for x in xs)}
            for kind, xs in kinds.items() if xs}  # fmt: skip
    params = sum(x.size for x in jax.tree.leaves(state.agent.params))
    return {"agent": agent, "num_envs": num_envs, "rollout_length": length, "devices": devices,
            "parameters": params, "collectives": rows}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--agent", nargs="*", default=["ppo", "a2c"])
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--rollout-length", type=int)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_num_cpu_devices", given.devices)
    given.dir.mkdir(parents=True, exist_ok=True)
    for agent in given.agent:
        found = measured(agent, given.num_envs, given.rollout_length, given.devices)
        print(f"{agent}: {found['parameters']:,} parameters, {found['num_envs']} x {found['rollout_length']} steps, "
              f"{found['devices']} devices")  # fmt: skip
        for kind, row in found["collectives"].items():
            print(f"  {kind:20} executed {row['executed']:6,} times  {row['bytes']:14,} bytes")
        found["versions"] = {"jax": jax.__version__}
        (given.dir / f"{agent}-{given.num_envs}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
