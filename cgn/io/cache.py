"""Files that are made once: each is named by a hash of all that decides its content.

What is kept so is not here: see `cgn.counterfactuals.sampling`, `classifiers.fit`,
`benchmarks.data.rendered`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch

from cgn.io.locks import locked
from cgn.io.writing import require_room, sweep

Content = TypeVar("Content")
_LOG = logging.getLogger(__name__)


def cache_key(parts: object, code: Iterable[Path]) -> str:
    """Hash all that decides what a file holds; the version of PyTorch always does.

    Args:
        parts: Settings, versions and hashes, anything JSON can hold.
        code: Source files of the code that makes the file.

    Returns:
        24 hexadecimal digits.

    Example:
        >>> len(cache_key({"seed": 0}, []))
        24
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(code)]
    return hashlib.sha256(json.dumps([torch.__version__, parts, texts]).encode()).hexdigest()[:24]


def open_or_make(
    path: Path,
    open_: Callable[[Path], Content],
    make: Callable[[Path], None],
    *,
    n_bytes: int = 0,
) -> Content:
    """Open a file of the cache; if it is missing or damaged, make it first.

    Whoever comes while another process makes the file waits for it, and opens it then.

    Args:
        path: The file.
        open_: Reads it; a ValueError says that it is damaged.
        make: Writes it, as a whole or not at all.
        n_bytes: How large it will be at least, if that is known: a disk without the room is found
            before the work.

    Returns:
        What `open_` gave.

    Raises:
        ValueError: If there is no room.
        WriteError: If nothing can be written there.
    """
    opened = _opened(path, open_)
    if opened:
        sweep(path.parent)
        return opened[0]
    with locked(path):
        if opened := _opened(path, open_):  # another process has made it meanwhile
            return opened[0]
        require_room(path.parent, n_bytes, "name another folder with CGN_BENCH_CACHE")
        make(path)
        return open_(path)


def _opened(path: Path, open_: Callable[[Path], Content]) -> tuple[Content, ...]:
    """Open a file, if it is there and whole."""
    if not path.is_file():
        return ()
    try:
        return (open_(path),)
    except (ValueError, KeyError, RuntimeError) as error:  # of tensors that fit no network
        # Its name says how to make a damaged file again: nobody has to be asked to delete it.
        _LOG.warning("%s is damaged and made anew: %s", path, " ".join(str(error).split())[:200])
        return ()
