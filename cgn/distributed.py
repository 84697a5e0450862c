"""Several processes that work on one job, started by `torchrun`, or one process alone.

What they work on is not here: see `cgn.imagenet_training` and `cgn.shards`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, distributed


class Team(NamedTuple):
    """The processes of a job.

    Attributes:
        rank: Number of this one; 0 writes what is written once.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
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


def own_device(device: torch.device) -> torch.device:
    """Give each process of a machine a GPU of its own; a CPU is shared."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """Join the processes that `torchrun` started, through NCCL on GPUs and gloo on CPUs.

    Args:
        device: That of this process.

    Yields:
        The team; of one, where nothing was started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
