"""What memory this process, or its GPU, holds, and how much work at once that allows."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

IMAGES_ON_CPU = 100  # 1.5 times as fast as 500, which leave its caches
PIXELS_ON_CUDA = (
    4_000 * 64 * 64
)  # of the images of a batch: an H100 is 11 times as fast as with 100


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process, or its GPU, has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def trim_heap(device: torch.device) -> None:
    """Return to the system what was freed on the CPU and glibc keeps; elsewhere do nothing.

    It keeps what lies between blocks that are still in use, for later ones that may be larger.
    """
    if device.type == "cpu" and sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def offload_to_disk(module: Module) -> Module:
    """Return a copy whose weights lie in a temporary file and are read once they are touched.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> torch.equal(offload_to_disk(layer).weight, layer.weight)
        True
    """
    # A file that is open outlives its name, but not on every system.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "module.pt"
        torch.save(module, path)
        copy: Module = torch.load(path, mmap=True, weights_only=False)
    return copy


def images_at_once(device: torch.device | str, size_px: int) -> int:
    """How many images networks draw, or look at, at once where nothing else limits them.

    Args:
        device: Where they run.
        size_px: Height and width of the images.

    Example:
        >>> images_at_once("cpu", 64), images_at_once("cuda", 64), images_at_once("cuda", 256)
        (100, 4000, 250)
    """
    if torch.device(device).type != "cuda":
        return IMAGES_ON_CPU
    return max(1, PIXELS_ON_CUDA // size_px**2)


def in_batches(
    n: int,
    at_once: int,
    work: Callable[[slice], object],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Work on `n` things batch by batch; if a GPU lacks memory for a batch, go on with half of it.

    Args:
        n: How many.
        at_once: How many a batch.
        work: Given a batch's places; it may be called again with the first of them.
        progress: Called after each batch with things done and things in all.

    Raises:
        torch.OutOfMemoryError: If there is no memory for a single one.

    Example:
        >>> in_batches(5, 2, print)
        slice(0, 2, None)
        slice(2, 4, None)
        slice(4, 5, None)
    """
    start = 0
    while start < n:
        span = slice(start, min(start + at_once, n))
        try:
            work(span)
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once //= 2
            continue
        start = span.stop
        if progress is not None:
            progress(start, n)
