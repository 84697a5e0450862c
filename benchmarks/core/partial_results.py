"""Answers of an evaluation that is under way, kept so that an interruption costs little.

Short evaluations leave no trace on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cgn.io.journal import Journal, journal
from cgn.io.locks import TakenError

KEEP_SECONDS = 20.0  # between two times that answers are kept
Said = dict[str, dict[str, Tensor]]  # of a batch, by output and column, each (B,) on the CPU


class Keeper:
    """Keeps the answers of finished batches in a file, as a context manager.

    Another process that evaluates the same has the file first: this one then keeps nothing.

    Attributes:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._journal: Journal | None = None
        self._groups: list[_Group] = []  # of an earlier evaluation
        self._stack = ExitStack()
        self._kept_at = time.monotonic()

    def __enter__(self) -> Self:
        if self.path is not None and self.path.is_file():
            self._open()
        self._kept_at = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def seconds(self) -> float:
        """How long those answers took that an earlier evaluation kept."""
        return float(sum(group.seconds for group in self._groups))

    def of(self, variant: str, sizes: Sequence[int]) -> list[Said]:
        """Take up the answers of a variant's first batches, as far as they are kept.

        Args:
            variant: Its name.
            sizes: How many images each of its batches has; what does not fit is forgotten.
        """
        found: list[Said] = []
        for place, group in enumerate(self._groups):
            if group.variant == variant:
                found += group.answers
                if [*map(_length, found)] != [*sizes[: len(found)]]:
                    self._forget(place)
                    return found[: -len(group.answers)]
        return found

    def due(self) -> bool:
        """Whether it is time to keep what has been answered since the last time."""
        return self.path is not None and time.monotonic() - self._kept_at >= KEEP_SECONDS

    def add(self, variant: str, answers: list[Said]) -> list[Said]:
        """Keep the answers of the next batches of a variant, and return them.

        Raises:
            WriteError: If they cannot be written.
        """
        if self._journal is None:
            self._open()
        if self._journal is not None and answers:
            seconds = time.monotonic() - self._kept_at
            plain = [_lists(answer) for answer in answers]
            self._journal.add({"variant": variant, "seconds": seconds, "answers": plain})
        self._kept_at = time.monotonic()
        return answers

    def remove(self) -> None:
        """Forget all: what came of the answers is kept elsewhere."""
        if self._journal is not None:
            self._journal.remove()

    def _open(self) -> None:
        """Open the file, unless another process has it."""
        assert self.path is not None
        with suppress(TakenError):
            self._journal = self._stack.enter_context(journal(self.path, wait=False))
            for entry in self._journal.entries:
                try:
                    self._groups.append(_group(entry))
                except (KeyError, TypeError, ValueError, AttributeError):  # not from `add`
                    break
            self._forget(len(self._groups))

    def _forget(self, begin: int) -> None:
        """Forget a group of answers and all after it."""
        assert self._journal is not None
        del self._groups[begin:]
        self._journal.keep_first(begin)


@dataclass(frozen=True)
class _Group:
    """Answers of some batches of one variant, and how long they took."""

    variant: str
    seconds: float
    answers: list[Said]


def _group(entry: Any) -> _Group:
    """Read what `Keeper.add` kept."""
    answers = [_tensors(answer) for answer in entry["answers"]]
    return _Group(str(entry["variant"]), float(entry["seconds"]), answers)


def _length(said: Said) -> int:
    """How many images an answer is about; -1 if that differs."""
    lengths = {len(each) for columns in said.values() for each in columns.values()}
    return lengths.pop() if len(lengths) == 1 else -1


def _lists(said: Said) -> dict[str, dict[str, tuple[str, list[Any]]]]:
    """Turn tensors into what JSON can hold, no digit lost."""
    return {
        name: {
            column: (str(each.dtype).removeprefix("torch."), each.tolist())
            for column, each in columns.items()
        }
        for name, columns in said.items()
    }


def _tensors(lists: dict[str, dict[str, tuple[str, list[Any]]]]) -> Said:
    """Turn back what `_lists` gave."""
    return {
        name: {
            column: torch.tensor(values, dtype=getattr(torch, dtype))
            for column, (dtype, values) in columns.items()
        }
        for name, columns in lists.items()
    }
