"""Files that are made once: each is named by a hash of all that decides its content.

What is kept so is not here: see `cgn.counterfactuals`, `classifiers.fit`, `benchmarks.rendered`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Content = TypeVar("Content")


def cache_key(parts: object, code: Iterable[Path]) -> str:
    """Hash all that decides what a file holds.

    Args:
        parts: Settings, versions and hashes, anything JSON can hold.
        code: Source files of the code that makes the file.

    Returns:
        24 hexadecimal digits.

    Example:
        >>> cache_key({"seed": 0}, [])[:8]
        '8d838297'
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(code)]
    return hashlib.sha256(json.dumps([parts, texts]).encode()).hexdigest()[:24]


def open_or_make(
    path: Path, open_: Callable[[Path], Content], make: Callable[[Path], None]
) -> Content:
    """Open a file of the cache; if it is missing or damaged, make it first.

    Args:
        path: The file.
        open_: Reads it; a ValueError says that it is damaged.
        make: Writes it, as a whole or not at all.

    Returns:
        What `open_` gave.
    """
    if path.is_file():
        # Its name says how to make a damaged file again: nobody has to be asked to delete it.
        with suppress(ValueError):
            return open_(path)
    make(path)
    return open_(path)
