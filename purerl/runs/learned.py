"""What a run learned, apart from its state: parameters and normaliser, from which other training can start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from purerl.runs import checkpoint
from purerl.runs.plan import Plan, initializer

FILE = "initial.safetensors"  # in the directory of a run that started from a policy
LEARNED = ("params", "target_params", "moments")  # fields of an agent's state
OPTIMIZER = ("opt_state",)


def learned(leaves: dict[str, np.ndarray], optimizer: bool = False) -> dict[str, np.ndarray]:
    """Those of a learner state's leaves, by their paths, that training goes on from.

    >>> sorted(learned({".agent.params['w']": 1, ".agent.opt_state[0]": 2, ".agent.updates": 3, ".env.params": 4}))
    [".agent.params['w']"]
    """
    wanted = {*LEARNED, *(OPTIMIZER if optimizer else ())}
    fields = lambda name: re.findall(r"\.(\w+)", name.partition("[")[0])
    return {n: x for n, x in leaves.items() if fields(n)[:1] == ["agent"] and wanted & {*fields(n)}}


def packed(state: Any) -> bytes:
    """What training can go on from in the state of one learner, as a checkpoint file."""
    leaves, about = learned(checkpoint.to_host(state)), {"purerl": checkpoint.FORMAT}
    return safetensors.numpy.save(leaves, {**about, "digest": checkpoint.digest(leaves, about)})


def check(plan: Plan, leaves: dict[str, np.ndarray], optimizer: bool, source: Path) -> None:
    """Raise a ValueError unless the leaves are those of a run of the plan."""
    state = jax.eval_shape(lambda key: plan.make(plan.grid[0]).init(key), plan.keys[0])
    expected = learned({jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(state)}, optimizer)
    show = lambda x: f"{x.dtype}{list(x.shape)}"
    for name in sorted(expected.keys() | leaves.keys()):
        there, wanted = (show(tree[name]) if name in tree else "absent" for tree in (leaves, expected))
        if there != wanted:
            raise ValueError(
                f"--init-from is {source}; {name} is {there} there and {wanted} in this run: agent, network, "
                "--normalize-obs, observations and actions must be the same"
            )


def state_of(plan: Plan, leaves: dict[str, np.ndarray]) -> Any:
    """The initial state of all runs with the given leaves in place of their own."""
    state = jax.jit(initializer(plan))(plan.hp(), plan.run_keys())

    def place(path, x):
        found = leaves.get(jax.tree_util.keystr(path))
        return x if found is None else jnp.tile(found, (len(x), *[1] * found.ndim))

    return jax.tree_util.tree_map_with_path(place, state)


def saved(plan: Plan, directory: Path) -> tuple[int, Any, dict[str, str]] | None:
    """Iteration 0 of a run that starts from a policy, as `execute` takes a checkpoint; None for any other run."""
    path = directory / FILE
    return (0, state_of(plan, checkpoint.read(path)[0]), {}) if path.is_file() else None
