"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time

import jax.monitoring
import rich.progress
from rich.console import Console

from purerl.training import processes

LINES = 10  # that a run prints if there is no terminal


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets in a path are no markup, and words between colons no emoji.

    Of several processes the first one prints.
    """
    return Console(stderr=stderr, markup=False, emoji=False, quiet=not processes.is_first())


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
    """Show iterations, steps/s, the result so far and the time left; compilation is shown separately.

    result: the name of the result.
    """

    def __init__(
        self,
        num_updates: int,
        steps_per_update: int,
        given: Console | None = None,
        first: int = 0,
        result: str = "return",
    ):
        self.result = result
        self.num_updates, self.steps_per_update, self.first = num_updates, steps_per_update, first
        self.compile_seconds = self.cache_seconds = 0.0  # the latter: time saved by the cache of compiled programs
        self.console = given or console(stderr=True)
        self.begin = time.perf_counter()
        self.printed = first * LINES // num_updates
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[speed]} steps/s  {task.fields[name]} {task.fields[result]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        start = {"total": num_updates, "completed": first, "start": False, "visible": False}
        self.task = self.bar.add_task("training", speed="-", name=result, result="-", **start)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    @contextlib.contextmanager
    def compiling(self, shown: bool = True):
        """Show that the program is being compiled, which does not count as time of the run.

        shown: whether also without a terminal; False: it has been compiled before.
        """
        self.bar.stop()
        if shown and not self.console.is_terminal:
            self.note("compiling")
        waiting = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("compiling"),
            rich.progress.TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        waiting.add_task("")

        def hear(event: str, duration_secs: float, **_: str | int):
            if event.endswith("/compile_time_saved_sec"):
                self.cache_seconds += duration_secs

        begin = time.perf_counter()
        jax.monitoring.register_event_duration_secs_listener(hear)
        try:
            with waiting:
                yield
        finally:
            jax.monitoring.unregister_event_duration_listener(hear)
        now = time.perf_counter()
        self.begin = self.begin + now - begin if self.compile_seconds else now
        self.compile_seconds += now - begin
        self.bar.update(self.task, visible=True)
        self.bar.start_task(self.task)
        self.bar.start()

    @property
    def run_seconds(self) -> float:
        """Seconds since the end of the first compilation, without those of later ones."""
        return time.perf_counter() - self.begin

    def note(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def update(self, iteration: int, result: float) -> None:
        """Show the number of completed updates, and the return so far."""
        seconds = self.run_seconds
        digits = ".4g" if self.result != "return" else ".1f" if abs(result) >= 10 else ".3f"
        shown = "-" if math.isnan(result) else format(result, digits)
        pace = (iteration - self.first) / max(seconds, 1e-9)
        speed = pace * self.steps_per_update
        self.bar.update(self.task, completed=iteration, speed=short(speed), result=shown)
        if not self.console.is_terminal and iteration * LINES // self.num_updates > self.printed:
            self.printed = iteration * LINES // self.num_updates
            left = (self.num_updates - iteration) / max(pace, 1e-9)
            where = f"iteration {iteration}/{self.num_updates}"
            self.note(f"{where}  {self.result} {shown}  {short(speed)} steps/s  {left:.0f} s left")


def progress_bar() -> rich.progress.Progress:
    """A progress bar on a terminal; nothing elsewhere."""
    columns = (
        rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(bar_width=30),
        rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn(compact=True),
    )  # fmt: skip
    own = console(stderr=True)
    return rich.progress.Progress(*columns, console=own, disable=not own.is_terminal, transient=True)
