"""The one file from which an interrupted training goes on: its format, and how it is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cgn.device.distributed import dist_info
from cgn.io.locks import locked
from cgn.io.weights import read_checkpoint, restoring
from cgn.io.writing import written


class Stateful(Protocol):
    """A module, an optimiser, a learning rate's schedule, or an average."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes in training."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Set all that changes in training."""


class Checkpoint:
    """Saves a training run to a file and resumes it, bit for bit.

    What lies on a GPU is copied to the host, which takes a fraction of a second, and written by a
    thread. What lies on the host is written at once: a copy would need as much memory again.
    """

    def __init__(
        self,
        path: Path | None,
        parts: Mapping[str, Stateful],
        origin: object,
        generator: torch.Generator | None = None,
    ) -> None:
        """Describe the run.

        Args:
            path: The file; None saves and resumes nothing.
            parts: All that changes from step to step.
            origin: Settings and hashes that fix the run, of plain types; a file of another origin
                is refused.
            generator: Whose state is part of the run.
        """
        self._path, self._parts, self._origin, self._generator = path, parts, origin, generator
        self._last = time.monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def resume(self) -> int:
        """Load the file if there is one; return the steps done.

        Raises:
            ValueError: If it cannot be read, or belongs to another run.
        """
        if self._path is None or not self._path.is_file():
            return 0
        state = read_checkpoint(self._path, ("step", "origin", "parts", "generator", "torch"))
        if state["origin"] != self._origin:
            raise ValueError(
                f"{self._path} was made with other settings, images or weights; delete it to start "
                "anew, or repeat the command it was made with"
            )
        with restoring(self._path):
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            if self._generator is not None:
                self._generator.set_state(state["generator"])
            torch.set_rng_state(state["torch"])
            return int(state["step"])

    def seconds_since_save(self) -> float:
        """Return the age of the last save, or of this object."""
        return time.monotonic() - self._last

    def save(self, step: int) -> None:
        """Write the run, which may change as soon as this returns.

        Raises:
            OSError: If the last file could not be written.
        """
        self.wait()
        self._last = time.monotonic()
        if self._path is None:
            return
        state = {
            "step": step,
            "origin": self._origin,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "generator": None if self._generator is None else self._generator.get_state(),
            "torch": torch.get_rng_state(),
        }
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

    def discard(self) -> None:
        """Delete the file: the run is over."""
        self.wait()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state as a whole or not at all."""
    with written(path) as place:
        torch.save(state, place)


@contextmanager
def alone_at(out: Path) -> Iterator[None]:
    """Let no other process write the same file, or its checkpoint, inside the block.

    One process waits for the other; processes of `torchrun` would wait for one another in vain.
    """
    if not dist_info().is_main_process:
        yield
        return
    with locked(out.with_suffix(".checkpoint"), wait=dist_info().size == 1):
        yield


def _on_host(value: Any) -> bool:
    """Return whether all tensors in nested containers lie in the host's memory."""
    if isinstance(value, dict):
        return all(map(_on_host, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_on_host, value))
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def _to_host(value: Any) -> Any:
    """Copy the tensors in nested containers to the host's memory."""
    if isinstance(value, dict):
        return {key: _to_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_host(item) for item in value]
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
