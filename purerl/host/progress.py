"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time

import rich.progress
from rich.console import Console

LINES = 10  # that a run prints where there is no terminal


def short(number: float) -> str:
    """A number in a few characters.

    >>> short(1234567), short(950)
    ('1.23M', '950')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


class Progress:
    """Iterations, steps/s, return so far and time left; compiling is shown apart."""

    def __init__(self, num_updates: int, steps_per_update: int, console: Console | None = None):
        self.num_updates, self.steps_per_update = num_updates, steps_per_update
        self.console = console or Console(stderr=True)
        self.begin = time.perf_counter()
        self.printed = 0
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[speed]} steps/s  return {task.fields[result]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=num_updates, speed="-", result="-", start=False, visible=False)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    @contextlib.contextmanager
    def compiling(self):
        """Shown while the program is compiled; the clock of the run starts afterwards."""
        task = self.bar.add_task("compiling", total=None, speed="", result="")
        if not self.console.is_terminal:
            self.console.print("compiling", highlight=False)
        yield
        self.bar.remove_task(task)
        self.bar.update(self.task, visible=True)
        self.bar.start_task(self.task)
        self.begin = time.perf_counter()

    def update(self, iteration: int, result: float) -> None:
        """Show that `iteration` updates are done, and the return so far."""
        seconds = time.perf_counter() - self.begin
        shown = "-" if math.isnan(result) else f"{result:.1f}"
        speed = iteration * self.steps_per_update / max(seconds, 1e-9)
        self.bar.update(self.task, completed=iteration, speed=short(speed), result=shown)
        if not self.console.is_terminal and iteration * LINES // self.num_updates > self.printed:
            self.printed = iteration * LINES // self.num_updates
            left = seconds * (self.num_updates / iteration - 1)
            pace = f"{short(speed)} steps/s  {left:.0f} s left"
            text = f"iteration {iteration}/{self.num_updates}  return {shown}  {pace}"
            self.console.print(text, highlight=False, soft_wrap=True)
