"""A file from which a run goes on, kept up to date by time and beside the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from cgn.device.distributed import dist_info
from cgn.io.locks import locked
from cgn.training.loop import write_checkpoint


class Checkpoints:
    """Writes states of a run to one file, now and then.

    What lies on a GPU is copied to the host, which takes a fraction of a second, and written by a
    thread. What lies on the host is written at once: a copy would need as much memory again.
    """

    def __init__(self, path: Path | None, minutes: float) -> None:
        """Name the file.

        Args:
            path: Where to write; its folder is made if it is missing. None writes nothing.
            minutes: At least so many between two files.
        """
        self._path, self._seconds = path, 60 * minutes
        self._last = time.monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    @property
    def due(self) -> bool:
        """Whether the last file is old enough."""
        return time.monotonic() - self._last >= self._seconds

    def write(self, state: dict[str, Any]) -> None:
        """Write a state, which may change as soon as this returns."""
        self.wait()
        self._last = time.monotonic()
        if self._path is None:
            return
        if _on_host(state):
            write_checkpoint(state, self._path)
        else:
            self._writing = self._pool.submit(write_checkpoint, _to_host(state), self._path)

    def wait(self) -> None:
        """Wait until the last file is written.

        Raises:
            OSError: If it could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _on_host(value: Any) -> bool:
    """Tell whether all tensors in nested containers lie in the host's memory."""
    if isinstance(value, dict):
        return all(map(_on_host, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_on_host, value))
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def _to_host(value: Any) -> Any:
    """Copy the tensors in nested containers to the host's memory."""
    if isinstance(value, dict):
        return {key: _to_host(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_host(each) for each in value]
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


@contextmanager
def alone_at(out: Path) -> Iterator[None]:
    """Let no other process make the same file, or go on from the same checkpoint, in the block.

    It is waited for, but for those of `torchrun`, who would wait in vain for one another.
    """
    if not dist_info().is_main_process:
        yield
        return
    with locked(out.with_suffix(".checkpoint"), wait=dist_info().size == 1):
        yield
