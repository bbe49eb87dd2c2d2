"""StableHLO: a program as bytes by `jax.export`, for CPU and CUDA at once, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import export

from purerl.export.programs import Program, shapes_of

PLATFORMS = ("cpu", "cuda")


def write(program: Program, platforms: Sequence[str] = PLATFORMS) -> bytes:
    """The serialised program, with a symbolic batch.

    Raises:
      ValueError: if the package flatbuffers is missing.
    """
    (batch,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(program.function), platforms=platforms)(*shapes_of(program.inputs, batch))
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise ValueError("jax.export needs the package flatbuffers: pip install flatbuffers") from None


def read(data: bytes) -> Callable[..., tuple[np.ndarray, ...]]:
    """The program as a function of NumPy arrays, compiled for each size of the batch when it is first seen.

    Raises:
      ValueError: if flatbuffers is missing, or this version of JAX cannot read it.
    """
    try:
        exported = export.deserialize(bytearray(data))
    except ImportError:
        raise ValueError("jax.export needs the package flatbuffers: pip install flatbuffers") from None
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"JAX {jax.__version__} cannot read the program: {reason}") from error
    call, count = jax.jit(exported.call), len(exported.in_avals)

    def run(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        if len(inputs) != count:
            raise ValueError(f"the program takes {count} inputs; policy.json lists {len(inputs)}")
        return tuple(map(np.asarray, call(*inputs)))

    return run
