"""Weights that are fetched once, whole or not at all, by one process."""

from __future__ import annotations

from pathlib import Path

import torch

from cgn.io.locks import locked
from cgn.io.writing import written


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
