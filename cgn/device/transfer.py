"""Bytes between host memory and a GPU: sent while it computes, brought back while it goes on.

Only from and to pinned memory does a GPU copy while the host does something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # batches that are read before they are needed


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Send a tensor to a device; the host does not wait for a GPU to have it.

    Example:
        >>> sent(torch.ones(1), "cpu")
        tensor([1.])
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def prefetch(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply a function to items in threads, a few ahead of the caller, and keep their order.

    Example:
        >>> list(prefetch(abs, [-1, -2, -3, -4]))
        [1, 2, 3, 4]
    """
    # Several at once, for where one batch ends its last images leave most decoders idle.
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def sent_ahead(
    read: Callable[[Tensor], Tensor], indices: Sequence[Tensor], device: torch.device | str
) -> Iterator[Tensor]:
    """Read batches and send them to another device, each while it works on those before.

    They go to a GPU over a stream of their own, beside which it computes.

    Args:
        read: From indices, (B,) int64, to bytes in host memory.
        indices: Those of each batch.
        device: Any but the CPU.

    Yields:
        The batches on the device.
    """
    stream = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None

    def send(index: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        batch = read(index)
        with torch.cuda.stream(stream):
            return sent(batch, device), stream.record_event() if stream else None

    for batch, arrived in prefetch(send, indices):
        if stream is None or arrived is None:
            yield batch
            continue
        user = torch.cuda.current_stream(device)
        user.wait_event(arrived)
        yield batch
        # What is sent from now on may be given the memory of this batch.
        stream.wait_event(user.record_event())


class Mailbox:
    """Brings batches from a device into one tensor in host memory, each while the next is made.

    Attributes:
        target: Where batches go, (N, ...) on the CPU.
    """

    def __init__(self, target: Tensor) -> None:
        self.target = target
        self._coming: tuple[slice, Tensor, torch.cuda.Event] | None = None

    def put(self, span: slice, batch: Tensor) -> None:
        """Request a batch for `span`, and store the batch before."""
        if not batch.is_cuda:
            self.target[span] = batch
            return
        landing = batch.to("cpu", non_blocking=True)  # which is pinned memory
        arrived = torch.cuda.current_stream(batch.device).record_event()
        self.close()
        self._coming = span, landing, arrived

    def close(self) -> Tensor:
        """Wait for the last batch; return the tensor."""
        if self._coming is not None:
            span, landing, arrived = self._coming
            arrived.synchronize()
            self.target[span] = landing
            self._coming = None
        return self.target
