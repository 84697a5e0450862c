"""What long work has finished, kept line by line, so that an interruption costs little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cgn.io.errors import write_errors
from cgn.io.locks import locked
from cgn.io.schema import parsed
from cgn.io.writing import write_all


class Journal:
    """Entries in a file, one a line of JSON, each of which is kept as soon as it is added."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a line that an interruption cut short is dropped with all after it.

        Raises:
            WriteError: If nothing can be written there.
        """
        self.path = path
        self.entries: list[Any] = []
        self._ends = [0]  # of the lines, in bytes
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            try:
                entry = parsed(line, path) if line.endswith(b"\n") else None
            except ValueError:
                break
            if entry is None:
                break
            self.entries.append(entry)
            self._ends.append(self._ends[-1] + len(line))
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            self._file.truncate(self._ends[-1])

    def keep_first(self, n: int) -> None:
        """Drop all entries but the first n, also from the file."""
        del self.entries[n:], self._ends[n + 1 :]
        self._file.truncate(self._ends[-1])

    def add(self, entry: object) -> None:
        """Keep an entry, anything JSON can hold: from now on no interruption loses it.

        Raises:
            WriteError: If it cannot be written; nothing of it is.
        """
        line = json.dumps(entry).encode() + b"\n"
        try:
            with write_errors(self.path):
                write_all(self._file, line)
        except OSError:
            self._file.truncate(self._ends[-1])
            raise
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + len(line))

    def remove(self) -> None:
        """Remove the file: all that it was for is done."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def journal(path: Path, *, wait: bool = True) -> Iterator[Journal]:
    """Keep a journal inside the block, which no other process writes meanwhile.

    Args:
        path: The file.
        wait: Whether to wait until another process is done with it.

    Raises:
        TakenError: If another process has it, and `wait` is False.
        WriteError: If nothing can be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):
        ...         with journal(Path(folder) / "a.jsonl") as kept:
        ...             kept.add({"done": len(kept.entries)})
        ...     kept.entries
        [{'done': 0}, {'done': 1}]
    """
    with locked(path, wait=wait):
        kept = Journal(path)
        try:
            yield kept
        finally:
            kept.close()
