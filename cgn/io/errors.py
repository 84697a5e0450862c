"""What is wrong with a file or a disk, in one line that names the file and the cure."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEAD_BYTES = 1_024  # that tell what a file is

_PAGE = ("is a web page", "download the file itself, not the page that shows it")
# How such files begin, in lower case: what they are, and the cure.
STAND_INS = {
    b"version https://git-lfs": (
        "is a Git-LFS pointer, not the file that it stands for",
        "run `git lfs pull` in its repository",
    ),
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<?xml": ("is an XML text", "it may be a server's error; download the file again"),
}


def beginning(head: bytes) -> bytes:
    """Give how a text begins, in lower case and without a mark of its encoding.

    Example:
        >>> beginning(bytes([0xEF, 0xBB, 0xBF]) + b" <HTML>")
        b'<html>'
    """
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()


def stand_in(head: bytes) -> tuple[str, str] | None:
    """Say what a file is that begins so, and the cure; None if it may be what its name says.

    Example:
        >>> stand_in(b"<html>")[0]
        'is a web page'
    """
    start = beginning(head)
    return next((said for begin, said in STAND_INS.items() if start.startswith(begin)), None)


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
