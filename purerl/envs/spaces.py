"""Action spaces that gymnax does not have."""

from __future__ import annotations

from collections.abc import Sequence

from gymnax.environments import spaces


class Parameterised(spaces.Dict):
    """A choice among K kinds of action, each with parameters of its own that only count if it is chosen.

    Actions are `{"choice": int, "parameters": (x₁, …, x_K)}`; policies for it are `distributions.parameterised`.

    Args:
      branches: the space of the parameters of every kind.
    """

    def __init__(self, branches: Sequence[spaces.Space]):
        if len(branches) < 1:
            raise ValueError(f"branches is {branches!r}; there must be at least one kind of action")
        self.branches = tuple(branches)
        super().__init__({"choice": spaces.Discrete(len(branches)), "parameters": spaces.Tuple(self.branches)})
