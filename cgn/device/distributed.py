"""Several processes that work on one job, started by `torchrun`, or one process alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor, distributed


class ProcessGroup(NamedTuple):
    """The processes of a job.

    Attributes:
        rank: Number of this one; 0 writes what is written once.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def all_reduce_sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1:
            return
        waiting = [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in waiting:
            if work is not None:
                work.wait()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process run the block first: it may write a file for the others."""
        if not self.is_main_process:
            self.wait()
        yield
        if self.is_main_process:
            self.wait()


def dist_info() -> ProcessGroup:
    """Return the process group that this process is in.

    Example:
        >>> dist_info()
        ProcessGroup(rank=0, size=1)
    """
    if not distributed.is_initialized():
        return ProcessGroup()
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size())


def own_device(device: torch.device) -> torch.device:
    """Give each process of a machine a GPU of its own; a CPU is shared."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))


@contextmanager
def team(device: torch.device, patience: timedelta | None = None) -> Iterator[ProcessGroup]:
    """Join the processes that `torchrun` started, through NCCL on GPUs and gloo on CPUs.

    Args:
        device: That of this process; a CPU where no tensors on GPUs are exchanged.
        patience: How long one waits for another; None is PyTorch's default.

    Yields:
        The process group; of size 1 without `torchrun`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield dist_info()
        return
    own = device if device.type == "cuda" else None  # NCCL is told which GPU a process has
    if own is not None:
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own else "gloo", timeout=patience, device_id=own)
    try:
        yield dist_info()
    finally:
        distributed.destroy_process_group()
