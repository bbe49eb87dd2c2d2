"""The picture that environments of the fields share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_NUMBERS = 8  # bars with their values below them


def bars(values: Any, names: Sequence[str], limits: tuple[float, float], title: str, colors: Any = "C0") -> Any:
    """A matplotlib figure with a bar for each value, `[K]`, below it its name, and the value if there is room for it.

    Args:
      limits: of the vertical axis.  colors: one, or one for each bar, which its name has too.

    >>> [text.get_text() for text in bars([1.0, -2.0], ["north", "east"], (-5, 5), "cars").axes[0].get_xticklabels()]
    ['north\\n1', 'east\\n-2']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure, values = Figure(figsize=(4, 3), layout="constrained"), np.asarray(values, float)
    axes = figure.subplots()
    axes.bar(np.arange(len(names)), values, color=colors)
    axes.axhline(0, color="black", linewidth=0.8)
    if len(names) <= MOST_NUMBERS:  # so that one beyond the limits can be read
        names = [f"{name}\n{x + 0.0:.4g}" for name, x in zip(names, values, strict=True)]
    axes.set_xticks(np.arange(len(names)), names)
    if not isinstance(colors, str):
        for label, color in zip(axes.get_xticklabels(), colors, strict=True):
            label.set_color(color)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(ylim=limits, title=title)
    return figure
