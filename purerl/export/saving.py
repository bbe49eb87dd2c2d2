"""Export a policy: its programs, checked against the agent, and everything that is known about it."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import purerl
from purerl import statistics
from purerl.arguments import check_counts
from purerl.core import Agent, Key
from purerl.export import folder, onnx, parity, programs, spaces, stablehlo
from purerl.export.programs import Choose, Program

Beside = Callable[[Mapping[str, Any], Mapping[str, bytes]], Mapping[str, bytes]]
STEPS = 100  # of each of `sum(parity.BATCHES)` environments


class Format(NamedTuple):
    """A format of programs: `write(program) -> bytes`, and `read(bytes, names of outputs) -> function of arrays`."""

    file: str
    write: Callable[[Program], bytes]
    read: Callable[[bytes, Sequence[str]], Callable[..., tuple[np.ndarray, ...]]]


STABLEHLO = Format(folder.STABLEHLO, stablehlo.write, lambda data, names: stablehlo.read(data))
ONNX = Format(folder.ONNX, onnx.write, onnx.read)


def _ports(ports: Sequence[programs.Port]) -> list[dict[str, Any]]:
    shape = lambda port: ["batch" if n is None else n for n in port.shape]
    return [{"name": p.name, "path": list(p.path), "shape": shape(p), "dtype": p.dtype} for p in ports]


def score(returns: Any) -> dict[str, Any]:
    """The mean of episode returns `[E]` with its 95 % bootstrap interval over episodes, for policy.json."""
    returns = np.asarray(returns, np.float64)
    low, high = statistics.interval(returns, statistics.mean)
    return {"mean": float(returns.mean()), "low": low, "high": high, "episodes": len(returns)}


def write(
    directory: Path,
    program: Program,
    episodes: parity.Episodes,
    to: Sequence[Format],
    about: Mapping[str, Any],
    files: Mapping[str, bytes] = {},
    beside: Beside = lambda about, programs: {},
) -> dict[str, Any]:
    """Write the folder of a program that agrees with the agent's `episodes`; return the contents of policy.json.

    Args:
      files: further files of the folder, by their names.
      beside: further files that are made of the contents of policy.json and of the programs by their names.
    Raises:
      ValueError: as `purerl.export.save`.
    """
    names = [port.name for port in program.outputs]
    written, measured = dict(files), {}
    for kind in to:
        written[kind.file] = kind.write(program)
        found = parity.run(program, kind.read(written[kind.file], names), episodes)
        measured[kind.file] = parity.compare(program, found, episodes, kind.file)
    today = datetime.date.today()
    packages = ("jax", "jaxlib", "flax", "numpy")
    about = {
        **about,
        "versions": {
            "purerl": purerl.__version__, "python": platform.python_version(), **{n: version(n) for n in packages},
        },
        "made": today.isoformat(),
        "readable_until": (today + datetime.timedelta(folder.READABLE_DAYS)).isoformat(),
        "inputs": _ports(program.inputs),
        "outputs": _ports(program.outputs),
        "parity": measured,
    }  # fmt: skip
    folder.write(directory, {**written, **beside(about, written)}, about)
    return folder.read(directory)


def save(
    directory: Path,
    env: Any,
    env_params: Any,
    agent: Agent,
    state: Any,
    key: Key,
    choose: Callable[[Agent, Any, Any], Choose] = programs.greedy,
    to: Sequence[Format] = (STABLEHLO,),
    returns: Any = None,
    about: Mapping[str, Any] = {},
    steps: int = STEPS,
    files: Mapping[str, bytes] = {},
    beside: Beside = lambda about, programs: {},
) -> dict[str, Any]:
    """See `purerl.export.save`, and `write` for `files` and `beside`."""
    check_counts("export.save", steps=steps)
    space = env.action_space(env_params)
    chosen = choose(agent, state, space)
    obs, _ = jax.eval_shape(jax.vmap(lambda key: env.reset(key, env_params)), jax.random.split(key, 1))
    program = programs.program(chosen, agent.memory, agent.reset, obs)
    episodes = jax.jit(lambda key: parity.play(env, env_params, agent, chosen, key, steps))(key)
    known = {
        "environment": getattr(env, "name", type(env).__name__),
        **about,
        "actions": choose.__name__.replace("_", " "),
        "observation": spaces.describe(env.observation_space(env_params)),
        "action": spaces.describe(space),
        "return": None if returns is None else score(returns),
    }
    return write(Path(directory), program, episodes, to, known, files, beside)
