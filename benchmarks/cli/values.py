"""What single words of the command line may be: numbers, names, files and folders.

Each function reads one word, as `type` of argparse; what is wrong with it is known before any work
starts. Which words there are is not here: see `benchmarks.cli.arguments`.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from cgn.io.schema import LOSS_WEIGHT, RANGES, Range, user_path

Kind = type[int] | type[float]


def number(name: str, kind: Kind = int) -> Callable[[str], float]:
    """Make the reader of a number.

    Args:
        name: Of the setting, as in `RANGES`, or `weight_` and the name of a loss.
        kind: int or float.

    Example:
        >>> number("seed")("7"), number("ema_decay", float)("0.5")
        (7, 0.5)
    """
    allowed: Range = LOSS_WEIGHT if name.startswith("weight_") else RANGES[name]

    def read(text: str) -> float:
        value = kind(text)
        if problem := allowed.problem(value):
            raise ArgumentTypeError(problem)
        return value

    read.__name__ = kind.__name__  # argparse says it of what is no number
    return read


def word(text: str) -> str:
    """Read a word that is not empty."""
    if not text.strip():
        raise ArgumentTypeError("expected a word, got nothing")
    return text


def names(text: str) -> str:
    """Read names with commas between them, none of which is empty."""
    if not all(part.strip() for part in text.split(",")):
        raise ArgumentTypeError(f"expected names with single commas between them, got {text!r}")
    return text


def file_to_read(text: str) -> Path:
    """Read the path of a file that is there."""
    path = _path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"expected a file, {path} is a folder")
    if not path.is_file():
        raise ArgumentTypeError(f"there is no file {path}")
    return path


def folder_to_read(text: str) -> Path:
    """Read the path of a folder that is there."""
    path = _path(text)
    if not path.is_dir():
        is_there = path.exists()
        raise ArgumentTypeError(
            f"expected a folder, {path} is a file" if is_there else f"there is no folder {path}"
        )
    return path


def file_to_write(*endings: str) -> Callable[[str], Path]:
    """Make the reader of the path of a file that may be there, and will be replaced.

    Args:
        endings: What its name has to end in, one of them; none if any will do.
    """

    def read(text: str) -> Path:
        path = _path(text)
        if path.is_dir() or text.endswith(("/", "/.")):
            raise ArgumentTypeError(f"expected a file, {path} is a folder")
        if endings and path.suffix.lower() not in endings:
            raise ArgumentTypeError(f"expected a file *{' or *'.join(endings)}, got {path}")
        _require_folders(path.parent)
        return path

    return read


def folder_to_write(text: str) -> Path:
    """Read the path of a folder that may not be there yet."""
    path = _path(text)
    _require_folders(path)
    return path


def path_to_write(text: str) -> Path:
    """Read the path of what will be a folder or a file."""
    path = _path(text)
    _require_folders(path.parent)
    return path


def source_of_images(text: str) -> str:
    """Read `hub:NAME` or the path of a folder that is there."""
    return word(text) if text.startswith("hub:") else str(folder_to_read(text))


def source_of_weights(text: str) -> str:
    """Read the path of a file that is there, or what says where else weights are."""
    return word(text) if ":" in text else str(file_to_read(text))


def _path(text: str) -> Path:
    """Read a path."""
    try:
        return user_path(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _require_folders(folder: Path) -> None:
    """Refuse a path that leads through a file."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ArgumentTypeError(f"expected a folder, {path} is a file")
