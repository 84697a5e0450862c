"""Which files of a folder are images: every kind that is read, and nothing left out in silence."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cgn.data.decoding import formats

log = logging.getLogger(__name__)

# What systems and archivers leave in folders, beside what begins with a full stop.
LEFT_BY_SYSTEMS = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


class Listing(NamedTuple):
    """The images of a folder in their order, and what else is there and not hidden."""

    images: list[Path]
    others: list[Path]


def hidden(path: Path) -> bool:
    """Whether a file or folder is not meant to be seen, as `.ipynb_checkpoints` or `._x.png`."""
    return path.name.startswith(".") or path.name in LEFT_BY_SYSTEMS


def list_images(
    folder: Path, *, endings: Collection[str] | None = None, deep: bool = False
) -> Listing:
    """List the images of a folder.

    Args:
        folder: The folder; what is hidden in it is passed over.
        endings: Of the names of images, in lower case; None for all kinds that are read.
        deep: Whether images in the folders within count as well.

    Returns:
        Images sorted by folder and name.

    Raises:
        ValueError: If the folder cannot be read, or two images differ in their ending alone.
    """
    wanted = formats().keys() if endings is None else endings
    images: list[Path] = []
    others: list[Path] = []
    try:
        for place in _folders(folder) if deep else [folder]:
            with os.scandir(place) as within:  # unlike paths, its entries know what they are
                entries = sorted(within, key=lambda entry: entry.name)
            for entry in entries:
                path = place / entry.name
                if hidden(path):
                    continue
                if path.suffix.lower() in wanted and entry.is_file():
                    images.append(path)
                elif not (deep and entry.is_dir()):
                    others.append(path)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}") from None
    _require_one_of_each_stem(images)
    return Listing(images, others)


def _folders(folder: Path) -> Iterator[Path]:
    """Go through a folder and all within it, each once even if links lead back to it."""
    visited: set[str] = set()
    folders: list[str] = []
    for place, names, _ in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:
            names.clear()
            continue
        visited.add(real)
        folders.append(place)
        names[:] = sorted(name for name in names if not hidden(Path(name)))
    return map(Path, sorted(folders))


def _require_one_of_each_stem(images: Sequence[Path]) -> None:
    """Refuse `x.jpg` beside `x.png`: one image would count twice, or its mask for another."""
    of_stem: defaultdict[Path, list[str]] = defaultdict(list)
    for path in images:
        of_stem[path.with_suffix("")].append(path.name)
    for stem, names in of_stem.items():
        if len(names) > 1:
            raise ValueError(
                f"{stem.parent} holds {' and '.join(map(repr, names))}, which may be one image "
                "twice; take one of them away, or rename it"
            )


def warn_of_unread(folder: Path, others: Sequence[Path]) -> None:
    """Tell the user which files of a folder are not read."""
    if others:
        log.warning(
            "%s: %d files or folders in it are not read, such as %r: they are no images, or in no "
            "class folder",
            folder,
            len(others),
            others[0].relative_to(folder).as_posix(),
        )


def class_folders(folder: Path) -> list[Path]:
    """List the folders in a folder that are not hidden, sorted by name.

    Raises:
        ValueError: If there is no such folder, or it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}") from None


def some(names: Iterable[str], n: int = 3) -> str:
    """Name the first few of many, for a message.

    Example:
        >>> some(["a", "b", "c", "d", "e"])
        "'a', 'b', 'c' and 2 more"
        >>> some([])
        'nothing'
    """
    every = list(names)
    shown = ", ".join(map(repr, every[:n])) or "nothing"
    return shown if len(every) <= n else f"{shown} and {len(every) - n} more"
