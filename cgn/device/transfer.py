"""Bytes between host memory and a GPU: sent while it computes, brought back while it goes on.

Only from and to pinned memory does a GPU copy while the host does something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

AHEAD = 2  # batches that are read and sent before they are asked for


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Send a tensor to a device; the host does not wait for a GPU to have it.

    Example:
        >>> sent(torch.ones(1), "cpu")
        tensor([1.])
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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

    # Several at once, for where one batch ends its last images leave most decoders idle.
    with ThreadPoolExecutor(AHEAD) as readers:
        waiting = deque(readers.submit(send, index) for index in indices[:AHEAD])
        for index in (*indices[AHEAD:], *[None] * len(waiting)):
            batch, arrived = waiting.popleft().result()
            if index is not None:
                waiting.append(readers.submit(send, index))
            if stream is None or arrived is None:
                yield batch
                continue
            user = torch.cuda.current_stream(device)
            user.wait_event(arrived)
            yield batch
            # What is sent from now on may be given the memory of this batch.
            stream.wait_event(user.record_event())


class Mailbox:
    """Brings batches from a device into one tensor in host memory, each while the next is made."""

    def __init__(self, target: Tensor) -> None:
        """Name the tensor that batches go into, (N, ...) on the CPU."""
        self.target = target
        self._coming: tuple[slice, Tensor, torch.cuda.Event] | None = None

    def put(self, span: slice, batch: Tensor) -> None:
        """Send for what goes into `span`; the batch before is laid into its place."""
        if not batch.is_cuda:
            self.target[span] = batch
            return
        landing = batch.to("cpu", non_blocking=True)  # which is pinned memory
        arrived = torch.cuda.current_stream(batch.device).record_event()
        self.close()
        self._coming = span, landing, arrived

    def close(self) -> Tensor:
        """Wait for what is on its way; returns the tensor."""
        if self._coming is not None:
            span, landing, arrived = self._coming
            arrived.synchronize()
            self.target[span] = landing
            self._coming = None
        return self.target
