"""The exception of an interrupted run."""

from __future__ import annotations


class Stopped(Exception):
    """A run that was interrupted: the message says how to resume it; exit code 130."""

    def __init__(self, text: str, at_once: bool = False):
        super().__init__(text)
        self.at_once = at_once
