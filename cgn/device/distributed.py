"""Several processes that work on one job, started by `torchrun`, or one process alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

Answer = TypeVar("Answer")

TIMEOUT = timedelta(days=7)  # of processes that wait for what only the first one does


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

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process run the block first: it may write a file for the others."""
        if not self.is_main_process:
            self.barrier()
        yield
        if self.is_main_process:
            self.barrier()


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


def init_distributed() -> AbstractContextManager[ProcessGroup]:
    """Join the processes that `torchrun` started, to share the images of an evaluation.

    They talk through gloo, on any device: nothing but answers is exchanged.
    """
    return team(torch.device("cpu"), TIMEOUT)


def local_batches(begin: int = 0) -> slice:
    """Select this process's batches: whole ones, dealt in turn, whatever the number of processes.

    Args:
        begin: How many of its own to leave out.

    Example:
        >>> [*range(5)][local_batches()]
        [0, 1, 2, 3, 4]
    """
    return slice(dist_info().rank + begin * dist_info().size, None, dist_info().size)


def all_gather(own: Sequence[Answer]) -> list[Answer]:
    """Put the answers of all processes in the order of the batches, in every process.

    Args:
        own: This process's answers, one for each of `local_batches`.

    Example:
        >>> all_gather(["first", "second"])
        ['first', 'second']
    """
    if dist_info().size == 1:
        return list(own)
    everyones: list[Sequence[Answer]] = [[]] * dist_info().size
    distributed.all_gather_object(everyones, list(own))
    return interleaved(everyones)


def interleaved(dealt: Sequence[Sequence[Answer]]) -> list[Answer]:
    """Take back what was dealt out in turn.

    Example:
        >>> interleaved([[0, 3], [1, 4], [2]])
        [0, 1, 2, 3, 4]
    """
    n = sum(map(len, dealt))
    return [dealt[i % len(dealt)][i // len(dealt)] for i in range(n)]
