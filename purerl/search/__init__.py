"""The search for hyperparameters: spaces, designs and early stopping, as pure functions."""

from purerl.search import designs, halving, importance, spaces

__all__ = ["designs", "halving", "importance", "spaces"]
