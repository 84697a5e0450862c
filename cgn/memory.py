"""What memory this process, or its GPU, holds."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process, or its GPU, has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def give_back(device: torch.device) -> None:
    """Return to the system what was freed on the CPU and glibc keeps; elsewhere do nothing.

    It keeps what lies between blocks that are still in use, for later ones that may be larger.
    """
    if device.type == "cpu" and sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def on_disk(module: Module) -> Module:
    """Return a copy whose weights lie in a temporary file and are read once they are touched.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> torch.equal(on_disk(layer).weight, layer.weight)
        True
    """
    # A file that is open outlives its name, but not on every system.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "module.pt"
        torch.save(module, path)
        copy: Module = torch.load(path, mmap=True, weights_only=False)
    return copy
