"""A policy as a program: a pure function of named arrays, with normaliser, masks, bounds and memory inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from purerl.core import Agent, Array
from purerl.distributions import clip_to_space
from purerl.export.interpreter import draws, with_noise

# (key, memory, obs) -> (the action as the environment's step takes it, outputs by name, memory)
Choose = Callable[[Any, Any, Any], tuple[Any, dict[str, Any], Any]]


class Port(NamedTuple):
    """An input or output of a program."""

    name: str  # such as "obs", or "obs.cell" of an observation that is a dict
    path: tuple[str | int, ...]  # where it is in the observation, action or memory; () if that is one array
    shape: tuple[int | None, ...]  # None: the batch
    dtype: str


class Program(NamedTuple):
    """A policy as a function of arrays, whose leading axes are a batch of any size.

    `function(*inputs) -> outputs`, a tuple. Inputs are the leaves of `obs`; with memory those of `memory`, and `reset`,
    bool `[B]`, True at the start of an episode, where any memory is ignored; if actions are sampled `noise`, uniform
    uint32 numbers. Outputs are those of `choose`, such as `action` and `q`, and with memory `next_memory`.
    """

    function: Callable[..., tuple[Array, ...]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def greedy(agent: Agent, state: Any, space: Any) -> Choose:
    """The agent's greedy action, as the action space has it."""

    def choose(key, memory, obs):
        del key  # not used
        action, memory = agent.greedy(state, memory, obs)
        return action, {"action": clip_to_space(space, action)}, memory

    return choose


def sampled(agent: Agent, state: Any, space: Any) -> Choose:
    """An action that the agent samples, exploration included, as the action space has it."""

    def choose(key, memory, obs):
        action, memory, _ = agent.act(key, state, memory, obs)
        return action, {"action": clip_to_space(space, action)}, memory

    return choose


def greedy_and_values(agent: Agent, state: Any, space: Any) -> Choose:
    """The greedy action, and the action values Q(s, ·) `[B, A]` as the output `q`.

    Raises:
      ValueError: if the agent does not choose by action values.
    """
    values = agent.values
    if values is None:
        raise ValueError("Q-values are of agents that choose by them, such as dqn and pqn; this one has none")

    def choose(key, memory, obs):
        action, outputs, next_memory = greedy(agent, state, space)(key, memory, obs)
        return action, {**outputs, "q": values(state, memory, obs)[0]}, next_memory

    return choose


def _path(path: tuple) -> tuple[str | int, ...]:
    return tuple(next(getattr(step, name) for name in ("key", "idx", "name") if hasattr(step, name)) for step in path)


def _ports(name: str, tree: Any) -> list[Port]:
    """The ports of a pytree of shapes, in the order of its leaves."""
    ports = []
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        parts = _path(path)
        shape = tuple(None if export.is_symbolic_dim(n) else int(n) for n in x.shape)
        ports.append(Port(".".join(map(str, (name, *parts))), parts, shape, x.dtype.name))
    return ports


def shapes_of(ports: tuple[Port, ...], batch: Any) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of ports for a batch."""
    fill = lambda shape: tuple(batch if n is None else n for n in shape)
    return [jax.ShapeDtypeStruct(fill(port.shape), jnp.dtype(port.dtype)) for port in ports]


def keeps_memory(choose: Choose, memory: Any, obs: Any) -> bool:
    """Whether the memory is written: one that is only passed on, such as of exploration's noise, is none.

    Args:
      memory, obs: arrays or shapes, leaves `[B, ...]`.
    """
    key = jax.eval_shape(jax.random.key, 0)
    jaxpr = jax.make_jaxpr(lambda memory, key, obs: choose(key, memory, obs)[2])(memory, key, obs).jaxpr
    return jaxpr.outvars != jaxpr.invars[: len(jax.tree.leaves(memory))]


def program(choose: Choose, start: Callable[[int], Any], reset: Callable[[Any, Array], Any], obs: Any) -> Program:
    """The program of a policy.

    Args:
      choose: such as `greedy(agent, state, space)`.
      start, reset: `memory` and `reset` of the agent.
      obs: example observations, arrays or shapes, leaves `[B, ...]`.
    Raises:
      ValueError: at trace time, if noise cannot be an input, see `interpreter.with_noise`.
    """
    (batch,) = export.symbolic_shape("b")
    rows = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), tree)
    obs, memory = rows(obs), rows(jax.eval_shape(lambda: start(1)))
    key, kept = jax.eval_shape(jax.random.key, 0), keeps_memory(choose, memory, obs)
    noise = jax.eval_shape(draws(lambda *args: choose(*args)[:2]), key, memory, obs)
    flag = jax.ShapeDtypeStruct((batch,), jnp.bool_)
    example = (obs, (memory, flag) if kept else (), noise)

    def call(obs, remembered, noise):
        memory = reset(*remembered) if kept else start(jax.tree.leaves(obs)[0].shape[0])
        _, outputs, memory = with_noise(choose)(noise, memory, obs)
        return outputs, memory if kept else ()

    def function(*inputs):
        outputs, memory = call(*jax.tree.unflatten(jax.tree.structure(example), inputs))
        return (*jax.tree.leaves(outputs), *jax.tree.leaves(memory))

    outputs, after = jax.eval_shape(call, *example)
    inputs = _ports("obs", obs)
    if kept:
        inputs += [*_ports("memory", jax.tree.leaves(memory)), Port("reset", (), (None,), "bool")]
    inputs += _ports("noise", noise[0] if len(noise) == 1 else noise)
    given = [port for name in sorted(outputs) for port in _ports(name, outputs[name])]
    return Program(function, tuple(inputs), (*given, *_ports("next_memory", jax.tree.leaves(after))))
