"""How long the parts of a step take, without stopping a GPU to find out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Times named parts of a step, each the last time that it ran."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._events: dict[str, tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block."""
        if self._on_cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events[name] = begin, end
            return
        started = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part; on a GPU this waits for the last one."""
        for name, (begin, end) in self._events.items():
            end.synchronize()
            self._seconds[name] = begin.elapsed_time(end) / 1e3
        return dict(self._seconds)
