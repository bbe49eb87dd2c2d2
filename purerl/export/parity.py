"""Parity: the outputs of an exported program against those of the agent, on observations of real episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purerl import training
from purerl.core import Agent, Array, Key
from purerl.export.interpreter import draws, margins
from purerl.export.programs import Choose, Port, Program

BATCHES = (1, 2, 7)  # sizes that every program is run with; together the number of environments
TOLERANCE = 1e-5  # of continuous outputs, and of the margin of discrete ones


class Episodes(NamedTuple):
    """T steps of N environments, leaves `[T, N, ...]`; noise that all rows share is `[T, ...]`."""

    obs: Any
    begun: Array  # bool [T, N]: the step is the first of an episode
    noise: list[Array]
    outputs: dict[str, Any]  # of the agent
    margin: Array  # see `interpreter.margins`


def play(env: Any, env_params: Any, agent: Agent, choose: Choose, key: Key, steps: int) -> Episodes:
    """Act with the agent for so many steps in each of `sum(BATCHES)` environments; a pure function."""
    environment, num_envs = training.vectorized(env, env_params), sum(BATCHES)
    reset_key, step_key = jax.random.split(key)

    def step(carry, key):
        state, obs, memory, begun = carry
        act_key, env_key, reset_key = jax.random.split(key, 3)
        given = act_key, memory, obs
        action, outputs, after = choose(*given)
        step_keys, reset_keys = (jax.random.split(k, num_envs) for k in (env_key, reset_key))
        out = environment.step(step_keys, reset_keys, state, action, environment.reset)
        ended = out.terminated | out.truncated
        seen = Episodes(obs, begun, draws(choose)(*given), outputs, margins(choose)(*given))
        return (out.state, out.obs, agent.reset(after, ended), ended), seen

    obs, state = environment.reset(jax.random.split(reset_key, num_envs))
    begin = state, obs, agent.memory(num_envs), jnp.ones(num_envs, bool)
    return jax.lax.scan(step, begin, jax.random.split(step_key, steps))[1]


def _rows(ports: Sequence[Port], tree: Any) -> list[tuple[Port, np.ndarray]]:
    return list(zip(ports, map(np.asarray, jax.tree.leaves(tree)), strict=True))


def run(program: Program, call: Callable[..., tuple[np.ndarray, ...]], episodes: Episodes) -> list[np.ndarray]:
    """The outputs of an exported program for the observations of episodes, `[T, N, ...]` each, but for its memory.

    The environments are distributed over batches of the sizes `BATCHES`; every batch keeps its own memory.
    """
    of = lambda name: [port for port in program.inputs if port.name.partition(".")[0] == name]
    steps, remembers = len(episodes.begun), bool(of("reset"))
    given = [*_rows(of("obs"), episodes.obs), *_rows(of("noise"), episodes.noise)]
    count = sum(port.name.partition(".")[0] != "next_memory" for port in program.outputs)
    parts = []
    for end, size in zip(np.cumsum(BATCHES), BATCHES, strict=True):
        rows = slice(end - size, end)
        fill = lambda shape: tuple(size if n is None else n for n in shape)
        # not zeros: what a reset does not replace would be seen
        memory = [np.ones(fill(port.shape), port.dtype) for port in of("memory")]
        outputs = []
        for t in range(steps):
            now = [x[t, rows] if port.shape[:1] == (None,) else x[t] for port, x in given]
            obs, noise = now[: len(of("obs"))], now[len(of("obs")) :]
            reset = [np.asarray(episodes.begun[t, rows])] if remembers else []
            found = call(*obs, *memory, *reset, *noise)
            outputs.append(found[:count])
            memory = list(found[count:])
        parts.append([np.stack(x) for x in zip(*outputs, strict=True)])
    return [np.concatenate(x, axis=1) for x in zip(*parts, strict=True)]


def compare(program: Program, found: Sequence[np.ndarray], episodes: Episodes, what: str) -> dict[str, Any]:
    """The differences between an exported program's outputs and the agent's, for policy.json.

    Ties are observations whose margin is at most `TOLERANCE`; in these alone a discrete output may differ. Differences
    of continuous outputs are divided by the size of the agent's where that is above 1.

    Raises:
      ValueError: if a continuous output differs by more than `TOLERANCE`, a discrete one where its margin is larger
        than that, or if an output of the agent is NaN.
    """
    ports = program.outputs[: len(found)]
    expected = [np.asarray(x) for name in sorted(episodes.outputs) for x in jax.tree.leaves(episodes.outputs[name])]
    margin = np.asarray(episodes.margin)
    largest, discrete, ties = 0.0, 0, 0
    for port, x, y in zip(ports, found, expected, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            raise ValueError(f"{what}: {port.name} is {x.dtype} {x.shape}, of the agent {y.dtype} {y.shape}")
        if np.issubdtype(y.dtype, np.floating):
            if np.isnan(y).any():
                raise ValueError(f"{port.name} of the agent is NaN in {np.isnan(y).sum()} places: it is not exported")
            with np.errstate(invalid="ignore"):
                difference = np.where(x == y, 0.0, np.abs(x - y) / np.maximum(np.abs(y), 1))
            largest = max(largest, float(np.where(np.isnan(difference), np.inf, difference).max(initial=0)))
            continue
        differs = (x != y).reshape(*margin.shape, -1).any(-1)
        discrete += margin.size
        ties += int((differs & (margin <= TOLERANCE)).sum())
        if (wrong := differs & (margin > TOLERANCE)).any():
            raise ValueError(
                f"{what}: {port.name} differs from the agent's in {wrong.sum()} of {margin.size} observations, where "
                f"the best two are up to {margin[wrong].max():.3g} apart: nothing is exported"
            )
    if largest > TOLERANCE:
        raise ValueError(
            f"{what}: outputs differ from the agent's by up to {largest:.3g}, and {TOLERANCE:g} is allowed: nothing is "
            "exported"
        )
    counts = {"observations": int(margin.size), "batches": list(BATCHES), "episodes": int(np.sum(episodes.begun))}
    near = int((margin <= TOLERANCE).sum())
    return {**counts, "largest_difference": largest, "discrete": discrete, "ties": near, "differing_ties": ties}
