"""Progress bars on the terminal, and lines about hours of fits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from benchmarks.cli.terminal import PlainConsole
from benchmarks.core.context import Update
from cgn.device.distributed import dist_info
from cgn.io.text import printable


class TerminalProgress:
    """Shows tasks as bars on standard error, if that is a terminal, and lines that stay.

    Attributes:
        display: rich's own.
    """

    def __init__(self, display: Progress) -> None:
        self.display = display

    @contextmanager
    def task(self, description: str) -> Iterator[Update]:
        """Show a bar inside the block."""
        task = self.display.add_task(printable(description), total=None)

        def update(done: int, total: int, *_: object) -> None:
            self.display.update(task, completed=done, total=total)

        try:
            yield update
        finally:
            self.display.remove_task(task)

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self.display.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[TerminalProgress]:
    """Show bars inside the block, in the first of several processes; they vanish at its end."""
    errors = PlainConsole(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal or not dist_info().is_main_process,
    ) as display:
        yield TerminalProgress(display)


class EtaLogger:
    """Says after each fit how many are left, and how long they will take at that speed."""

    def __init__(self, n_fits: int, progress: TerminalProgress) -> None:
        self.n_fits, self.progress = n_fits, progress
        self.n_done, self.started = 0, time.perf_counter()

    def step(self, name: str) -> None:
        """Count one fit, of a model and suite of that name."""
        self.n_done += 1
        seconds_a_fit = (time.perf_counter() - self.started) / self.n_done
        left = timedelta(seconds=round(seconds_a_fit * (self.n_fits - self.n_done)))
        self.progress.note(f"{name}: {self.n_done} of {self.n_fits} fits, {left} left")
