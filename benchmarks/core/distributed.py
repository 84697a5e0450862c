"""Test images shared by several processes, as `torchrun` starts them: who takes which batch.

Batches are dealt out whole and in turn, so that every image is seen once, in the same company as
without others, and answers don't depend on how many processes there are. How processes meet is
not here: see `cgn.device.distributed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from cgn.device.distributed import ProcessGroup, dist_info, team

Answer = TypeVar("Answer")

TIMEOUT = timedelta(days=7)  # how long the others wait for what only the first one does


def init_distributed() -> AbstractContextManager[ProcessGroup]:
    """Join the processes that `torchrun` started beside this one, if it did, inside the block.

    They talk through gloo, on any device: nothing but answers is exchanged.
    """
    return team(torch.device("cpu"), TIMEOUT)


def local_batches(begin: int = 0) -> slice:
    """Which batches are this process's, of all in their order, but for its first ones.

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
