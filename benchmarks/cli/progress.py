"""How far long work is: bars that vanish when it is done, and lines about hours of fits.

Nothing is shown before a command opens a display, and results never go here: see `bench.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Progress

from benchmarks.cli.terminal import PlainConsole
from cgn.device.distributed import dist_info
from cgn.io.text import printable

Update = Callable[..., None]


def progress_bars() -> Progress:
    """Make the display of what is being done; it vanishes when all is done.

    Returns:
        A context manager. It writes to standard error, if that is a terminal, and in the first
        of several processes.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    errors = PlainConsole(stderr=True)
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal or not dist_info().is_main_process,
    )


@contextmanager
def bar(bars: Progress, description: str) -> Iterator[Update]:
    """Show one task inside the block.

    Args:
        bars: The display.
        description: What is being done.

    Yields:
        What to call with steps done and steps in all; anything after these counts for nothing.
    """
    task = bars.add_task(printable(description), total=None)

    def update(done: int, total: int, *_: object) -> None:
        bars.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        bars.remove_task(task)


class Clock:
    """Tells after each seed how much is done, and how long the rest will take at that speed."""

    def __init__(self, n_fits: int, out: Console) -> None:
        self.n_fits = n_fits
        self.out = out
        self.done = 0
        self.started = time.perf_counter()

    def tell(self, name: str, seeds: Iterable[int], fits_a_seed: int) -> Iterator[int]:
        """Yield seeds, and print a line whenever the next is asked for.

        Args:
            name: Of the suite, for the line.
            seeds: What to yield.
            fits_a_seed: How many fits are done for each.
        """
        for seed in seeds:
            yield seed
            self.done += fits_a_seed
            speed = (time.perf_counter() - self.started) / self.done
            left = timedelta(seconds=round(speed * (self.n_fits - self.done)))
            self.out.print(f"{name} seed {seed}: {self.done} of {self.n_fits} fits, {left} left")
