"""The course of a training run: a row a step in a CSV file, and TensorBoard if it is installed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cgn.io.errors import write_errors
from cgn.io.writing import written


class LossLog:
    """Notes the losses of each step; it is what the loops call as `progress`.

    Whoever resumes a run at an earlier step writes the later ones again: rows that are in the file
    from that step on are dropped first, so that no step is there twice.
    """

    def __init__(self, path: Path) -> None:
        """Name the CSV file; TensorBoard's lie in a folder of the same name."""
        self.path = path
        self._begun = False
        self._board: Any = None

    def __call__(self, step: int, steps: int, terms: dict[str, float]) -> None:
        """Note a step."""
        if not self._begun:
            self._begin(step, terms)
        with write_errors(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([step, *terms.values()])
        if self._board is not None:
            for name, value in terms.items():
                self._board.add_scalar(f"loss/{name}", value, step)
            self._board.flush()

    def _begin(self, step: int, terms: dict[str, float]) -> None:
        """Keep the rows before this step, and open TensorBoard."""
        rows = []
        if self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if row[:1] and row[0].isdecimal()]
        with written(self.path) as place, place.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *terms])
            writer.writerows(row for row in rows if int(row[0]) < step)
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import

            self._board = SummaryWriter(str(self.path.with_suffix("")), purge_step=step)
        self._begun = True


def combine_callbacks(
    update: Callable[[int, int], None], log: LossLog | None
) -> Callable[[int, int, dict[str, float]], None]:
    """Tell a display and a log of each step.

    Args:
        update: Called with steps done and steps in all.
        log: Notes the losses; None notes nothing.

    Returns:
        What the loops call as `progress`.
    """

    def progress(step: int, steps: int, terms: dict[str, float]) -> None:
        update(step, steps)
        if log is not None:
            log(step, steps, terms)

    return progress
