"""Where a run happens, and who hears how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from cgn.device.precision import PRECISIONS

Update = Callable[..., None]


class Progress(Protocol):
    """Shows long work to somebody."""

    def task(self, description: str) -> AbstractContextManager[Update]:
        """Show a task inside the block; call the result with steps done and steps in all."""

    def note(self, line: str) -> None:
        """Show one line that stays."""


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, description: str) -> Iterator[Update]:
        """Show nothing."""
        yield lambda *_: None

    def note(self, line: str) -> None:
        """Show nothing."""


SILENT = SilentProgress()


@dataclass(frozen=True)
class RunContext:
    """Where a run happens.

    Attributes:
        device: Where networks run.
        results: Folder of rows, predictions and leaderboards.
        cache: Folder of what can be made again.
        progress: Shows how far it is.
        precision: Of the networks, one of `cgn.device.precision.PRECISIONS`.
    """

    device: torch.device
    results: Path
    cache: Path
    progress: Progress = SILENT
    precision: str = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a type."""
        return PRECISIONS[self.precision]

    def model_id(self, name: str) -> str:
        """Name a model in the results: rows of other precisions are other models' rows.

        Example:
            >>> context = RunContext(torch.device("cpu"), Path(), Path(), precision="bfloat16")
            >>> context.model_id("erm")
            'erm+bfloat16'
        """
        return name if self.dtype == torch.float32 else f"{name}+{self.precision}"
