"""One run on several processes, as `torchrun` starts them: who takes which batch.

Batches are dealt out whole and in turn, so that every image is seen once, in the same company as
without others, and answers don't depend on how many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from torch import distributed

Answer = TypeVar("Answer")

PATIENCE = timedelta(days=7)  # how long the others wait for what only the first one does


def number() -> int:
    """Which process this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def how_many() -> int:
    """How many processes share the work; 1 without `torchrun`."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return number() == 0


def number_here() -> int:
    """Which process of this machine this is: each takes a GPU of its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that `torchrun` started beside this one, if it did, inside the block.

    They talk through gloo, on any device: nothing but answers is exchanged.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process go through the block before all others: it may download something."""
    if how_many() > 1 and not is_first():
        distributed.barrier()
    yield
    if how_many() > 1 and is_first():
        distributed.barrier()


def own_batches() -> slice:
    """Which batches are this process's, of all in their order.

    Example:
        >>> [*range(5)][own_batches()]
        [0, 1, 2, 3, 4]
    """
    return slice(number(), None, how_many())


def together(own: Sequence[Answer]) -> list[Answer]:
    """Put the answers of all processes in the order of the batches, in every process.

    Args:
        own: This process's answers, one for each of `own_batches`.

    Example:
        >>> together(["first", "second"])
        ['first', 'second']
    """
    if how_many() == 1:
        return list(own)
    everyones: list[Sequence[Answer]] = [[]] * how_many()
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
