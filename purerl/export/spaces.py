"""Spaces as JSON: shapes, dtypes, bounds and names."""

from __future__ import annotations

from typing import Any

import numpy as np


def _bound(x: Any, shape: tuple[int, ...]) -> Any:
    """A bound as numbers, one if all are equal; null where there is none."""
    values = np.broadcast_to(np.asarray(x), shape)
    plain = lambda v: None if isinstance(v, float) and not -1e30 < v < 1e30 else v
    if values.size and (values == values.reshape(-1)[0]).all():
        return plain(values.reshape(-1)[0].item())
    nested = lambda v: [nested(part) for part in v] if isinstance(v, list) else plain(v)
    return nested(values.tolist())


def describe(space: Any) -> dict[str, Any]:
    """A space of gymnax or gymnasium as a dict for JSON.

    >>> from gymnax.environments import spaces
    >>> about = describe(spaces.Dict({"kind": spaces.Discrete(3)}))
    >>> about["type"], about["parts"]["kind"]["n"], about["parts"]["kind"]["dtype"]
    ('Dict', 3, 'int32')
    """
    shape = tuple(getattr(space, "shape", None) or ())
    declared = getattr(space, "dtype", None)
    about = {"shape": list(shape), "dtype": None if declared is None else np.dtype(declared).name}
    if hasattr(space, "nvec"):
        start = np.broadcast_to(np.asarray(getattr(space, "start", 0)), shape)
        return {"type": "MultiDiscrete", "nvec": np.asarray(space.nvec).tolist(), "start": start.tolist(), **about}
    if hasattr(space, "n"):
        if shape:
            return {"type": "MultiBinary", **about}
        return {"type": "Discrete", "n": int(space.n), "start": int(getattr(space, "start", 0)), **about}
    if hasattr(space, "low"):
        return {"type": "Box", "low": _bound(space.low, shape), "high": _bound(space.high, shape), **about}
    inside = getattr(space, "spaces", None)
    if inside is None:
        return {"type": type(space).__name__, **about}
    if hasattr(inside, "keys"):
        return {"type": "Dict", "parts": {str(name): describe(inside[name]) for name in inside}}
    return {"type": "Tuple", "parts": [describe(part) for part in inside]}
