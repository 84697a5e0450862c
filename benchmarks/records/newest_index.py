"""The newest value of each key of a file that only grows, found without reading the file.

An index lies beside its file, and is built again when the file has another size or time than
the index was built for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

Entries = Iterable[tuple[bytes, bytes]]  # key and value, oldest first


class NewestIndex:
    """Values by key on disk, as a context manager; the caller keeps other processes out.

    Args:
        source: The file.
        entries: Reads all of it, if the index does not fit it.
    """

    def __init__(self, source: Path, entries: Callable[[], Entries]) -> None:
        self.source, self.path = source, source.with_name(f".{source.stem}.index")
        # Not every file system has the locks of SQLite, and the caller holds one.
        on_disk = f"{self.path.absolute().as_uri()}?nolock=1"
        for place in (on_disk, on_disk, ":memory:"):
            try:
                return self._open(place, entries)
            except sqlite3.Error:  # damaged, or the disk is full: it can be built again
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the newest value of a key; None if it has none."""
        row = self._database.execute("SELECT value FROM newest WHERE key = ?", [key]).fetchone()
        return None if row is None else bytes(row[0])

    def add(self, entries: Entries) -> None:
        """Take up what the file has grown by."""
        try:
            with self._database:
                self._fill(entries)
        except sqlite3.Error:
            self.path.unlink(missing_ok=True)

    def _open(self, place: str, entries: Callable[[], Entries]) -> None:
        """Open the index, and fill it if it does not fit the file."""
        self._database = sqlite3.connect(place, uri=True)
        try:
            with suppress(sqlite3.OperationalError):  # of a new file, without tables
                built_for = self._database.execute("SELECT size, time FROM built_for").fetchall()
                if built_for == [self._state()]:
                    return
            with self._database:
                self._database.execute("DROP TABLE IF EXISTS newest")
                self._database.execute("DROP TABLE IF EXISTS built_for")
                self._database.execute(
                    "CREATE TABLE newest (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
                )
                self._database.execute(
                    "CREATE TABLE built_for (id INTEGER PRIMARY KEY, size INTEGER, time INTEGER)"
                )
                self._fill(entries())
        except BaseException:
            self._database.close()
            raise

    def _fill(self, entries: Entries) -> None:
        """Put entries in, and note which state of the file the index fits now."""
        self._database.executemany("INSERT OR REPLACE INTO newest VALUES (?, ?)", entries)
        self._database.execute("INSERT OR REPLACE INTO built_for VALUES (0, ?, ?)", self._state())

    def _state(self) -> tuple[int, int]:
        """Size and time of the file."""
        stat = self.source.stat()
        return stat.st_size, stat.st_mtime_ns
