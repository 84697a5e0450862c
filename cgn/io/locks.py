"""Locks between processes and threads; the system frees those of a killed process."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cgn.io.errors import write_errors

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LONGEST_NAME = 143  # bytes that every file system in use takes; most take 255
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 2.0  # after which it is said that one waits
# What a file system answers that has no locks of some kind.
_UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF}
_TAKEN = {errno.EACCES, errno.EAGAIN}

_LOG = logging.getLogger(__name__)
# Not every file system tells the threads of a process apart: they have locks of their own.
_threads: defaultdict[str, Any] = defaultdict(threading.RLock)
_held: set[str] = set()
_files: set[Path] = set()  # the lock files of what is held


class TakenError(OSError):
    """Another process is at it."""


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Shorten the name of a file to so many bytes; a hash of all of it tells it from others.

    Example:
        >>> short_name("seed0.parquet"), short_name("a" * 200 + ".png")[-24:]
        ('seed0.parquet', 'aaaaaaa~86edc63223cb.png')
    """
    if len(os.fsencode(name)) <= longest:
        return name
    ending = Path(name).suffix if len(os.fsencode(Path(name).suffix)) <= 16 else ""
    tail = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}{ending}"
    head = os.fsencode(name)[: longest - len(os.fsencode(tail))]
    return head.decode(errors="ignore") + tail


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Let nobody else into a block of the same path; a thread may enter it again.

    The lock is a file beside the path, which goes with the lock. If it waits long for another
    process, that is logged.

    Raises:
        TakenError: If another process is in the block, and `wait` is False.
        WriteError: If nothing can be written there.
    """
    name = os.path.realpath(path)
    threads = _threads[name]
    if not threads.acquire(blocking=wait):
        raise TakenError(f"another thread works on {path}")
    try:
        if name in _held:
            yield
            return
        with _of_process(Path(name), path, wait):
            yield
    finally:
        threads.release()


def locked_if(path: Path | None) -> AbstractContextManager[None]:
    """Do as `locked`, if there is a path at all."""
    return nullcontext() if path is None else locked(path)


@contextmanager
def _of_process(real: Path, shown: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file of a path."""
    file = real.with_name(f".{short_name(real.name, LONGEST_NAME - 6)}.lock")
    warned, begun = False, time.monotonic()
    while (held := _try(file)) is None:
        if not wait:
            raise TakenError(f"another process works on {shown}")
        if not warned and time.monotonic() - begun >= PATIENCE_SECONDS:
            _LOG.warning("another process works on %s; waiting until it is done", shown)
            warned = True
        time.sleep(POLL_SECONDS)
    _held.add(str(real))
    _files.add(file)
    try:
        yield
    finally:
        _held.discard(str(real))
        held.end()
        _files.discard(file)


def sweep_locks(folder: Path) -> None:
    """Remove lock files of a folder that processes which are no more have left behind."""
    for file in folder.glob(".*.lock"):
        with suppress(OSError):
            if file not in _files and (free := hold(file)) is not None:
                free.end()


def _try(file: Path) -> Hold | None:
    """Take a lock whose folder may be missing."""
    with write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        return hold(file)


class Hold(NamedTuple):
    """A lock that this process has: the descriptor of its open file, and the file."""

    descriptor: int
    file: Path

    def end(self) -> None:
        """Remove the lock file and free the lock."""
        with suppress(OSError):
            self.file.unlink()
        if sys.platform != "win32":
            # A process forked meanwhile has the file open, too: to close it is not enough.
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)


def hold(file: Path) -> Hold | None:
    """Take the lock of a file, which is made if it is missing; None if another has it.

    On a file system without any locks a file in the system's temporary folder stands for it, which
    the processes of one machine share.

    Raises:
        OSError: If the file cannot be made.
    """
    try:
        return _hold(file)
    except NotImplementedError:
        name = hashlib.sha256(os.fsencode(file)).hexdigest()
        return _hold(Path(tempfile.gettempdir()) / f"cgn-bench-{name}.lock")


def _hold(file: Path) -> Hold | None:
    """Take the lock of this very file."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        # Whoever had it may have removed the file since it was opened.
        with suppress(FileNotFoundError):
            held = _take(descriptor) and os.path.samestat(file.stat(), os.fstat(descriptor))
        return Hold(descriptor, file) if held else None
    finally:
        if not held:
            os.close(descriptor)


def _take(descriptor: int) -> bool:
    """Take the lock of an open file; False if another has it."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    for lock in (fcntl.flock, fcntl.lockf):
        try:
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            if error.errno not in _UNKNOWN:
                raise
        else:
            return True
    raise NotImplementedError("this file system has no locks")
