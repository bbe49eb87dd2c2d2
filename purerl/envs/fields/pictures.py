"""The picture that environments of the fields share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def bars(values: Any, names: Sequence[str], limits: tuple[float, float], title: str, colors: Any = "C0") -> Any:
    """A matplotlib figure with a bar for each value, `[K]`, its name below it; limits: of the vertical axis.

    >>> bars([1.0, -2.0], ["north", "east"], (-5, 5), "cars").axes[0].get_title()
    'cars'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(len(names)), np.asarray(values, float), color=colors)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(ylim=limits, title=title)
    return figure
