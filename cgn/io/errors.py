"""What goes wrong with a disk, in one line that names the file and the cure."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CURES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.ENAMETOOLONG: "give it a shorter name",
}


class WriteError(OSError, ValueError):
    """A file cannot be written; the message has the reason and the cure."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say of whatever goes wrong with a disk inside the block which file it was, and the cure.

    Args:
        path: What is written.

    Raises:
        WriteError: In place of an OSError, or of another exception that comes of one.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = _errno(error, path)
        if number is None:
            raise
        cure = _CURES.get(number, "name another place or change its permissions")
        text = f"cannot write {path}: {os.strerror(number)}; {cure}, and run this again"
        raise WriteError(number, text) from error


def existing(path: Path) -> Path:
    """Return the path, or the nearest of the folders it lies in that is there."""
    absolute = path.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.exists())


def _errno(error: BaseException, path: Path) -> int | None:
    """The system's number of what went wrong with a disk; None if that is not what went wrong."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return None
    if isinstance(error, OSError):
        return error.errno
    if found := re.search(r"(?:os error|errno) (\d+)", str(error), re.IGNORECASE):
        return int(found[1])  # of libraries that are written in Rust or C++
    before = error.__cause__ or error.__context__
    if before is not None and (number := _errno(before, path)) is not None:
        return number
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        # PyTorch says that a file is short, and not why.
        free = shutil.disk_usage(existing(path.parent)).free
        return errno.ENOSPC if free < 1 << 20 else errno.EIO
    return None
