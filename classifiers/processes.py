"""Several processes as one: what `torchrun` started becomes a process group.

How they share batches and gradients is not here: see `classifiers.fit`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

Content = TypeVar("Content")


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, inside the block; without it there is only one.

    Args:
        device: The kind of device: NCCL joins GPUs, one a process, Gloo everything else.

    Yields:
        This process's own device.

    Example:
        >>> with process_group(torch.device("cpu")) as own:
        ...     print(own, distributed.is_initialized())
        cpu False
    """
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Tell the process that writes from the others."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def first_alone(make: Callable[[], Content]) -> Content:
    """Call a function that keeps a file: first in one process, then, to open it, in the others."""
    if distributed.is_initialized() and not is_first():
        distributed.barrier()
        return make()
    made = make()
    if distributed.is_initialized():
        distributed.barrier()
    return made
