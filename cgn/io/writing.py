"""Files are written whole or not at all, and what killed processes left behind is swept away.

A file is made in a folder of its own beside its place, and moved to its place when it is all there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path

import torch

from cgn.io.errors import existing, write_errors
from cgn.io.locks import Hold, hold, locked, sweep_locks

PATTERN = ".*-*.part"  # of the folders in which things are made
_LOCK = ".lock"
_own: set[Path] = set()  # those in use by this process


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Make a file, or a folder that is not there yet, as a whole or not at all.

    Its folder is made if it is missing. A link is followed, and what is no file, such as a pipe,
    is written to as it is.

    Yields:
        Where to write it. After the block it stands at `path`; after an exception nothing has
        changed.

    Raises:
        WriteError: If it cannot be written, in whatever words a library says so.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written(Path(folder) / "a" / "note.txt") as place:
        ...         _ = place.write_text("whole")
        ...     (Path(folder) / "a" / "note.txt").read_text()
        'whole'
    """
    with write_errors(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            yield path
            return
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        with _workshop(real.parent) as folder:
            place = folder / real.name
            yield place
            if place.is_file():
                _flush(place)
            os.replace(place, real)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8 and with the line ends that it has, as a whole or not at all.

    Raises:
        WriteError: If it cannot be written.
    """
    with written(path) as place:
        place.write_text(text, encoding="utf-8", newline="")


def write_all(file: RawIOBase, content: bytes) -> None:
    """Append to a file that is not buffered: what was written is kept, whatever happens next.

    Raises:
        OSError: If not all of it can be written; a disk that is nearly full takes a part.
    """
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def download(url: str, path: Path, digits: str | None = None) -> None:
    """Fetch a file, unless it is there; whoever comes while another does it waits.

    Args:
        url: Where it lies.
        path: Where it goes.
        digits: With what its sha256 begins, if that is known.

    Raises:
        OSError: If there is no connection.
        RuntimeError: If its sha256 begins otherwise.
        WriteError: If it cannot be written.
    """
    with locked(path):
        if not path.is_file():
            with written(path) as place:
                torch.hub.download_url_to_file(url, str(place), digits, progress=False)


def file_sha256(path: Path) -> str:
    """Hash the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_room(folder: Path, n_bytes: int, cure: str = "name another folder") -> None:
    """Refuse what the disk of a folder, which may still be missing, cannot hold.

    Raises:
        ValueError: If there is less room; the message has `cure`, what else than room helps.
    """
    free = shutil.disk_usage(existing(folder)).free
    if n_bytes > free:
        raise ValueError(
            f"{folder} has room for {free / 1e9:.1f} GB, and {n_bytes / 1e9:.1f} are needed; make "
            f"room or {cure}"
        )


def sweep(folder: Path) -> None:
    """Remove what processes that are no more were making in a folder, not further down."""
    sweep_locks(folder)
    for left in folder.glob(PATTERN):
        if left in _own or not left.is_dir():
            continue
        with suppress(OSError, NotImplementedError):
            if not (left / _LOCK).exists():
                left.rmdir()  # fails if its process has just put its lock there
            elif (ended := hold(left / _LOCK)) is not None:
                _clear(left, ended)


@contextmanager
def _workshop(parent: Path) -> Iterator[Path]:
    """Make a folder beside others that belongs to this process for as long as the block lasts."""
    sweep(parent)
    folder = parent / f".{os.getpid()}-{secrets.token_hex(4)}.part"
    _own.add(folder)
    try:
        held = None
        while held is None:
            folder.mkdir(exist_ok=True)
            # Another process that sweeps may be faster.
            with suppress(FileNotFoundError):
                held = hold(folder / _LOCK)
        try:
            yield folder
        finally:
            _clear(folder, held)
    finally:
        _own.discard(folder)


def _clear(folder: Path, held: Hold) -> None:
    """Remove a folder in which something was made; its lock last, so that no kill orphans it."""
    for each in folder.iterdir():
        if each.name == _LOCK:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
    held.end()
    with suppress(OSError):
        folder.rmdir()


def _flush(file: Path) -> None:
    """Let all of a file reach the disk before it gets its name, and others read it."""
    os.chmod(file, 0o644)  # some libraries make files that only their owner can read
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
