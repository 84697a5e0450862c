"""Where a suite's data comes from."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from benchmarks.core.suite import DataSource, Suite
from benchmarks.data.paths import official_folder
from cgn.io.schema import user_path

log = logging.getLogger(__name__)


def choose_source(
    suite: Suite,
    data: str | os.PathLike[str] | None = None,
    textures: Path | None = None,
    correlation: float = 1.0,
) -> DataSource:
    """Choose a suite's data as asked; else the official data if it is there.

    Args:
        suite: The suite.
        data: "embedded", "official", or a folder in the official layout; None as above.
        textures: Of `DataSource`; left out for worlds that take none.
        correlation: Of `DataSource`.

    Raises:
        ValueError: If there is no such folder, or the suite's world has no correlation.

    Example:
        >>> from benchmarks.suites import get_suite
        >>> choose_source(get_suite("in9"), "embedded").name
        'embedded'
    """
    official = official_folder(suite)
    folder: Path | None = official if official.is_dir() else None
    if data == "embedded":
        folder = None
    elif data is not None:
        folder = official if data == "official" else user_path(str(data))
        if not folder.is_dir():
            raise ValueError(
                f"there is no folder {folder}; name another as `data`, or leave it out"
            )
    if correlation < 1 and not suite.world.supports_correlation:
        raise ValueError(
            f"`correlation` is for digits and silhouettes, and the images of {suite.name} "
            "follow their class; leave out either"
        )
    textures = textures if suite.world.takes_textures else None
    source = DataSource(folder=folder, textures=textures, correlation=correlation)
    if folder is None or suite.world.is_official(DataSource(folder=folder)):
        return source
    log.warning(
        "%s holds other data under the file names of %s: its rows are marked `custom`",
        folder,
        suite.world.name,
    )
    return replace(source, custom=True)
