"""What commands print: tables, lines and progress, none of which a terminal obeys."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from cgn.io.text import printable

if TYPE_CHECKING:
    from benchmarks.report.table import Table

Update = Callable[..., None]


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line, in which nothing is an order to the terminal."""
    print(printable(line), file=file)


class PlainConsole(Console):
    """A console for which strings are words: no markup, no emoji codes, nothing to obey.

    This holds for all that is laid out on it, too: cells, titles, captions.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text that shows it as it is."""
        return super().render_str(printable(text), **options | {"markup": False, "emoji": False})

    def on_broken_pipe(self) -> None:
        """Leave it to the program what follows if nobody reads on."""
        raise BrokenPipeError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """What a command prints.

    Attributes:
        json: Print each result as one line of JSON.
        quiet: Print results and errors alone, without progress and notes.
    """

    json: bool = False
    quiet: bool = False

    def tables(self, *tables: Table) -> None:
        """Print tables; wide where nobody's terminal is the limit."""
        if self.json:
            from benchmarks.report.table import to_json  # with pandas, which help does without

            say(to_json(tables))
            return
        console = PlainConsole() if sys.stdout.isatty() else PlainConsole(width=160)
        console.print(*tables)

    def lines(self, name: str, lines: Iterable[str]) -> None:
        """Print lines that are a result; in JSON, a list under their name."""
        if self.json:
            say(json.dumps({name: list(lines)}))
            return
        for line in lines:
            say(line)

    def numbers(self, numbers: Mapping[str, float]) -> None:
        """Print numbers by name."""
        if self.json:
            say(json.dumps(dict(numbers)))
            return
        for name, number in numbers.items():
            say(f"{printable(name):38} {number:7.4f}")

    def note(self, line: str) -> None:
        """Print what was done."""
        if not (self.json or self.quiet):
            say(line)

    @contextmanager
    def progress(self) -> Iterator[ProgressBars]:
        """Show progress inside the block, on standard error.

        Bars are for a terminal and for the first of several processes, and vanish when their task
        is done; notes stay.
        """
        from cgn.device.distributed import dist_info  # with PyTorch, which help does without

        columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
        errors = PlainConsole(stderr=True, quiet=self.quiet)
        is_shown = errors.is_terminal and dist_info().is_main_process and not self.quiet
        with Progress(
            *columns, TimeRemainingColumn(), console=errors, transient=True, disable=not is_shown
        ) as display:
            yield ProgressBars(display)


class ProgressBars:
    """Shows tasks under way, as `benchmarks.core.context.Progress` asks."""

    def __init__(self, display: Progress) -> None:
        self.display = display

    @contextmanager
    def task(self, description: str) -> Iterator[Update]:
        """Show a task inside the block; call the result with steps done and steps in all."""
        task = self.display.add_task(printable(description), total=None)

        def update(done: int, total: int, *_: object) -> None:
            self.display.update(task, completed=done, total=total)

        try:
            yield update
        finally:
            self.display.remove_task(task)

    def note(self, line: str) -> None:
        """Print one line that stays."""
        self.display.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


class EtaLogger:
    """Notes after each fit how many are left, and how long they will take at that speed."""

    def __init__(self, n_fits: int, progress: ProgressBars) -> None:
        self.n_fits, self.progress = n_fits, progress
        self.n_done, self.started = 0, time.perf_counter()

    def step(self, name: str) -> None:
        """Count one fit, of a model and suite of that name."""
        self.n_done += 1
        seconds_a_fit = (time.perf_counter() - self.started) / self.n_done
        left = timedelta(seconds=round(seconds_a_fit * (self.n_fits - self.n_done)))
        self.progress.note(f"{name}: {self.n_done} of {self.n_fits} fits, {left} left")
