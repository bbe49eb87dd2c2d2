"""An exported policy as a function of NumPy arrays. Needs jax or onnxruntime, and no other part of the package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purerl.export import folder


def _leaf(tree: Any, path: Sequence[str | int], name: str) -> Any:
    """The leaf of nested dicts, tuples and objects at a path."""
    for step in path:
        try:
            named = isinstance(step, str) and not isinstance(tree, Mapping)
            tree = getattr(tree, step) if named else tree[step]
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ValueError(f"{name} is missing: the observation has no {step!r}") from None
    return tree


def _nested(leaves: Sequence[tuple[Sequence[str | int], Any]]) -> Any:
    """Leaves `(path, x)` as their paths nest them: x itself, or dicts and tuples."""
    if len(leaves) == 1 and not leaves[0][0]:
        return leaves[0][1]
    if not all(path for path, _ in leaves):
        raise ValueError("policy.json is damaged: the path of an input or output ends where that of another goes on")
    heads = list(dict.fromkeys(path[0] for path, _ in leaves))
    parts = {head: _nested([(path[1:], x) for path, x in leaves if path[0] == head]) for head in heads}
    return tuple(parts.values()) if all(type(head) is int for head in heads) else parts


def _first(tree: Any) -> Any:
    """The first row of nested arrays."""
    if isinstance(tree, dict):
        return {name: _first(x) for name, x in tree.items()}
    return tuple(map(_first, tree)) if isinstance(tree, tuple) else tree[0]


def _filled(port: Mapping[str, Any], batch: int | None) -> tuple[Any, ...]:
    return tuple(batch if n == "batch" else n for n in port["shape"])


def _shape(port: Mapping[str, Any]) -> str:
    return f"{port['dtype']} [{', '.join(map(str, port['shape']))}]"


def _choices(space: Any, path: Sequence[str | int]) -> tuple[int, int] | None:
    """The least and the largest number of the discrete part at a path of a space of policy.json; None of any other."""
    try:
        for step in path:
            space = space["parts"][step]
        return (space["start"], space["start"] + space["n"] - 1) if space["type"] == "Discrete" else None
    except (KeyError, IndexError, TypeError):
        return None


class Policy:
    """An exported policy.

    `policy(obs) -> action`, for a batch of observations, NumPy arrays nested as the observation space, or for one
    observation without the axis of the batch. With memory `policy(obs, memory, reset) -> (action, memory)`: without
    `memory` an episode starts; `reset`, bool `[B]`, is True in the rows where one does. If actions are sampled
    `policy(obs, noise=policy.noise(generator, batch))`.

    `about`: the contents of policy.json. `program(*arrays)`: the program itself, without checks.
    """

    def __init__(self, about: dict[str, Any], program: Callable[..., tuple[np.ndarray, ...]]):
        self.about, self.program = about, program
        self._groups: dict[str, list[dict[str, Any]]] = {}
        for port in about["inputs"]:
            self._groups.setdefault(port["name"].partition(".")[0], []).append(port)
        found = {p["name"]: _choices(about.get("observation"), p["path"]) for p in self._groups.get("obs", ())}
        self._choices = {name: choices for name, choices in found.items() if choices}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The program: outputs by name, of arrays by the names of the inputs.

        Raises:
          ValueError: if an input is missing, unknown, of another shape or dtype, or outside of a discrete space.
        """
        names = [port["name"] for port in self.about["inputs"]]
        if unknown := sorted(set(inputs) - set(names)):
            raise ValueError(f"there is no input {unknown[0]!r}; the inputs are {', '.join(names)}")
        arrays, batch = [], None
        for port in self.about["inputs"]:
            if port["name"] not in inputs:
                raise ValueError(f"{port['name']} is missing; it must be {_shape(port)}")
            x = np.asarray(inputs[port["name"]])
            if batch is None and x.ndim and port["shape"][:1] == ["batch"]:
                batch = x.shape[0]
            if x.shape != _filled(port, batch) or x.dtype.name != port["dtype"] or batch == 0:
                given = f"{x.dtype.name} [{', '.join(map(str, x.shape))}]"
                said = f", and batch is {batch}, as of {names[0]}" if arrays else ""
                raise ValueError(f"{port['name']} is {given}; it must be {_shape(port)}{said}")
            low, high = self._choices.get(port["name"], (None, None))
            if low is not None and (wrong := x[(x < low) | (x > high)]).size:
                raise ValueError(f"{port['name']} has the value {wrong[0]}; values must be from {low} to {high}")
            arrays.append(x)
        outputs = self.program(*arrays)
        if len(outputs) != len(self.about["outputs"]):
            raise ValueError(f"the program has {len(outputs)} outputs; policy.json lists {len(self.about['outputs'])}")
        return {port["name"]: x for port, x in zip(self.about["outputs"], outputs, strict=True)}

    def memory(self, batch: int) -> tuple[np.ndarray, ...]:
        """A memory for `batch` rows, whose contents a reset replaces; () without memory."""
        return tuple(np.zeros(_filled(port, batch), port["dtype"]) for port in self._groups.get("memory", ()))

    def noise(self, generator: np.random.Generator, batch: int) -> tuple[np.ndarray, ...]:
        """Noise of one step for `batch` rows: independent uniform uint32 numbers; () if actions are not sampled."""
        ports = self._groups.get("noise", ())
        return tuple(generator.integers(2**32, size=_filled(port, batch), dtype=np.uint32) for port in ports)

    def outputs(
        self, obs: Any, memory: Any = None, reset: Any = None, noise: Any = None
    ) -> tuple[dict[str, Any], tuple[np.ndarray, ...]]:
        """All outputs for a batch of observations, such as `action` and `q`, nested as their spaces; and the memory.

        Raises:
          ValueError: as `run`, or if memory, reset or noise are given and the policy has none.
        """
        inputs = {p["name"]: np.asarray(_leaf(obs, p["path"], p["name"])) for p in self._groups["obs"]}
        batch = next(iter(inputs.values())).shape[:1]
        if "memory" in self._groups:
            given = self.memory(*(batch or (1,))) if memory is None else memory
            begun = np.full(batch, memory is None) if reset is None else reset
            inputs |= {**self._named("memory", given), "reset": begun}
        elif memory is not None or reset is not None:
            raise ValueError("memory or reset is given, and the policy has no memory")
        if noise is None and "noise" in self._groups:
            raise ValueError("noise is missing, since actions are sampled: give policy.noise(generator, batch)")
        found = self.run(inputs | self._named("noise", () if noise is None else noise))
        groups: dict[str, list[Any]] = {}
        for port in self.about["outputs"]:
            groups.setdefault(port["name"].partition(".")[0], []).append((port["path"], found[port["name"]]))
        after = tuple(x for _, x in groups.pop("next_memory", ()))
        return {name: _nested(leaves) for name, leaves in groups.items()}, after

    def _named(self, group: str, arrays: Sequence[Any]) -> dict[str, Any]:
        ports = self._groups.get(group, [])
        if not isinstance(arrays, (tuple, list)):
            raise ValueError(f"{group} is {type(arrays).__name__}; it must be a tuple of {len(ports)} arrays")
        if len(arrays) != len(ports):
            raise ValueError(f"{group} has {len(arrays)} arrays; the policy takes {len(ports)}")
        return {port["name"]: x for port, x in zip(ports, arrays, strict=True)}

    def __call__(self, obs: Any, memory: Any = None, reset: Any = None, noise: Any = None) -> Any:
        """The first output, the action, of each observation; with memory `(action, memory)`. See the class."""
        ports = self._groups["obs"]
        leaves = [(port["path"], np.asarray(_leaf(obs, port["path"], port["name"]))) for port in ports]
        one = leaves[0][1].ndim == len(ports[0]["shape"]) - 1
        if one:
            obs = _nested([(path, x[None]) for path, x in leaves])
            reset = None if reset is None else np.reshape(reset, 1)
        outputs, after = self.outputs(obs, memory, reset, noise)
        action = next(iter(outputs.values()))
        action = _first(action) if one else action
        return (action, after) if "memory" in self._groups else action


NEEDS = {folder.STABLEHLO: ("jax", "flatbuffers"), folder.ONNX: ("onnxruntime",)}  # packages that run a program


def _first_runnable(directory: Path, files: Mapping[str, Any]) -> str:
    there = lambda name: importlib.util.find_spec(name) is not None
    programs = [name for name in NEEDS if name in files]
    for name in programs:
        if all(map(there, NEEDS[name])):
            return name
    wanted = " or ".join(f"{' and '.join(NEEDS[name])} for {name}" for name in programs)
    raise ValueError(f"{directory} needs packages that are missing: {wanted or 'it has no program'}")


def load(directory: str | Path, file: str | None = None) -> Policy:
    """See `purerl.export.load`."""
    directory = Path(directory)
    about = folder.read(directory)
    file = _first_runnable(directory, about["files"]) if file is None else file
    if file not in NEEDS:
        raise ValueError(f"file is {file!r}; it must be {' or '.join(NEEDS)}")
    data = folder.read_program(directory, about, file)
    if file == folder.ONNX:
        from purerl.export import onnx

        return Policy(about, onnx.read(data, [port["name"] for port in about["outputs"]]))
    try:
        import jax

        from purerl.export import stablehlo
    except ImportError:
        raise ValueError(f"{directory / file} needs JAX: pip install jax flatbuffers") from None
    folder.check_date(directory, about, jax.__version__)
    return Policy(about, stablehlo.read(data))
