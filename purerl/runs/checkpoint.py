"""Checkpoints: any pytree of arrays on disk, as safetensors. Reading one executes no code."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from purerl.training.processes import to_host as whole

FORMAT = "1"
KEPT = 2  # checkpoints of a run: if the newest is damaged, the one before it is used


class Damaged(ValueError):
    """A file that is truncated, has changed contents, or is not a checkpoint."""


def is_key(x: Any) -> bool:
    """Whether a leaf is an array of typed keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def to_host(tree: Any) -> dict[str, np.ndarray]:
    """The leaves by their paths; keys as their bits, under a path that ends in the name of their generator.

    Leaves that are split over processes are gathered: every process must call this.
    """
    out = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if is_key(x):
            name, x = f"{name}#{jax.random.key_impl(x)}", jax.random.key_data(x)
        out[name] = x
    # safetensors writes the buffer in memory order
    return {name: np.asarray(x, order="C") for name, x in zip(out, whole([*out.values()]), strict=True)}


def _expected(like: Any) -> dict[str, tuple[Any, Any]]:
    """The shape and dtype of every leaf of `to_host`, and the function that makes a leaf of the pytree of it."""
    expected = {}
    for path, x in jax.tree_util.tree_leaves_with_path(like):
        name = jax.tree_util.keystr(path)
        if is_key(x):
            impl = jax.random.key_impl(jnp.empty(0, x.dtype))
            bits = jax.eval_shape(jax.random.key_data, x)
            expected[f"{name}#{impl}"] = (bits, lambda data, impl=impl: jax.random.wrap_key_data(data, impl=impl))
        else:
            expected[name] = (x, lambda data: data)
    return expected


def shapes_of(like: Any) -> dict[str, Any]:
    """The shape and dtype of every leaf that `to_host` makes of such a pytree, by its name."""
    return {name: x for name, (x, _) in _expected(like).items()}


def from_host(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """The pytree of `to_host`'s leaves, on the default device; `like` has its structure, shapes and dtypes.

    Raises:
      ValueError: if a leaf is missing, superfluous, or of another shape or dtype; the message names it.
    """
    expected = _expected(like)
    missing, foreign = sorted(expected.keys() - leaves.keys()), sorted(leaves.keys() - expected.keys())
    if missing or foreign:
        what = f"has no {missing[0]}" if missing else f"has {foreign[0]}, which is not a part of this run"
        raise ValueError(f"{what}: it belongs to another configuration or version")
    for name, (x, _) in expected.items():
        found = leaves[name]
        if found.shape != x.shape or found.dtype != x.dtype:
            there, wanted = f"{found.dtype}{list(found.shape)}", f"{x.dtype}{list(x.shape)}"
            raise ValueError(f"has {name} as {there}, where this run has {wanted}")
    made = [wrap(jnp.asarray(leaves[name])) for name, (_, wrap) in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), made)


def digest(leaves: dict[str, np.ndarray], notes: dict[str, str]) -> str:
    """A checksum of names, dtypes, shapes and contents, and of the notes except the checksum itself."""
    total = zlib.crc32(repr(sorted(item for item in notes.items() if item[0] != "digest")).encode())
    for name, x in sorted(leaves.items()):
        total = zlib.crc32(f"{name}{x.dtype}{x.shape}".encode(), total)
        total = zlib.crc32(x.reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_into_place(part: Path, path: Path) -> None:
    """Replace `path` atomically by the complete file `part`."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def save(path: Path, leaves: dict[str, np.ndarray], notes: dict[str, str] | None = None) -> None:
    """Write the leaves of `to_host` to a temporary file, and replace `path` by it atomically.

    Raises:
      OSError: if the disk is full or cannot be written to; the message names the path.
    """
    about = {**(notes or {}), "purerl": FORMAT}
    about["digest"] = digest(leaves, about)
    part = path.with_name(path.name + ".part")
    try:
        safetensors.numpy.save_file(leaves, part, metadata=about)
        move_into_place(part, path)
    except (safetensors.SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The leaves and notes of a checkpoint file.

    Raises:
      Damaged: if the file is truncated, damaged or not a checkpoint.
      ValueError: if the checkpoint has another format.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            notes = file.metadata() or {}
            if notes.get("purerl") != FORMAT:
                kind = f"has format {notes['purerl']}" if "purerl" in notes else "is not a checkpoint of purerl"
                raise ValueError(f"{path} {kind}; this version reads format {FORMAT}")
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise Damaged(f"{path} is cut off or not a checkpoint: {error}") from error
    if digest(leaves, notes) != notes.get("digest"):
        raise Damaged(f"{path} is damaged: its check sum is not that of its contents")
    return leaves, notes


def load(path: Path, like: Any) -> tuple[Any, dict[str, str]]:
    """The pytree of a checkpoint file and its notes; see `save` and `from_host`."""
    leaves, notes = read(path)
    try:
        return from_host(leaves, like), notes
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def paths(directory: Path) -> list[Path]:
    """The checkpoints in a directory, the newest first."""
    return sorted((p for p in directory.glob("*.safetensors") if p.stem.isdecimal()), key=lambda p: -int(p.stem))


def newest(directory: Path, like: Any) -> tuple[Any, dict[str, str], list[tuple[Path, str]]] | None:
    """The newest intact checkpoint, its notes, and the newer, damaged ones with their errors; None if there is none.

    Raises:
      ValueError: if all are damaged, or if one has another format, version or configuration.
    """
    damaged: list[tuple[Path, str]] = []
    for path in paths(directory):
        try:
            return *load(path, like), damaged
        except Damaged as error:
            damaged.append((path, str(error)))
    if damaged:
        raise ValueError(damaged[0][1])
    return None


def add(directory: Path, iteration: int, leaves: dict[str, np.ndarray], notes: dict[str, str]) -> None:
    """Save a checkpoint named by its iteration, and remove all but the newest `KEPT`."""
    save(directory / f"{iteration:09d}.safetensors", leaves, notes)
    for path in paths(directory)[KEPT:]:
        path.unlink()
