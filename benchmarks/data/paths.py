"""Where official data is looked for, and where images, classifiers and CGNs are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.core.suite import Suite
from cgn.io.errors import existing
from cgn.io.locks import LONGEST_NAME


def official_folder(suite: Suite) -> Path:
    """Where a suite's official data is looked for."""
    return data_folder() / suite.official_folder


def data_folder() -> Path:
    """Where official data is looked for: `CGN_BENCH_DATA`, else a folder of the user's cache."""
    return Path(os.environ.get("CGN_BENCH_DATA") or user_cache_path("cgn-bench") / "data")


def cache_dir() -> Path:
    """Where images and fitted classifiers are kept: `CGN_BENCH_CACHE`, else the user's cache."""
    return Path(os.environ.get("CGN_BENCH_CACHE") or user_cache_path("cgn-bench"))


def image_cache_dir() -> Path:
    """Where rendered embedded images are kept."""
    return cache_dir() / "images"


def user_weights_dir() -> Path:
    """Where CGNs that the user trained are kept, and found before the shipped ones."""
    return cache_dir() / "weights"


def check_place(path: Path, argument: str = "results") -> None:
    """Find out now, not after the work, that a file cannot be made; nothing is made.

    Args:
        path: The file.
        argument: What names another place, for the message.

    Raises:
        ValueError: If nothing can be written there, it is a folder, or its name is longer than the
            file system takes.
    """
    folder = existing(path.parent)
    if path.is_dir() or not folder.is_dir():
        odd = path if path.is_dir() else folder
        raise ValueError(
            f"{odd} is {'a' if path.is_dir() else 'no'} folder; name another `{argument}`"
        )
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST_NAME
        for name in path.absolute().relative_to(folder).parts:
            if (n_bytes := len(os.fsencode(name))) > longest:
                raise ValueError(
                    f"a name of {n_bytes} bytes is longer than the {longest} that {folder} takes: "
                    f"{name}; name a shorter one with `{argument}`"
                )
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}); name another place with `{argument}`"
        ) from None
