"""What stands for the streams, events, graphs and the card of a pretended CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pretended_ledger import line
from pretended_tensors import CUDA, LEDGER, RECORDINGS, Recording, wait_for


class Stream:
    """A queue of kernels; here all are done at once."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.device = CUDA

    def is_capturing(self) -> bool:
        """Tell whether a graph is being captured."""
        return bool(RECORDINGS)

    def synchronize(self) -> None:
        """Wait for all kernels."""
        wait_for("synchronize")

    def wait_stream(self, other: Stream) -> None:
        """Let kernels wait for those of another stream: the host does not wait."""

    def wait_event(self, event: Event) -> None:
        """Let kernels wait for an event: the host does not wait."""

    def record_event(self, event: Event | None = None) -> Event:
        """Mark where the stream is."""
        return event or Event()


class Event:
    """A mark in a stream."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        """Mark where a stream is."""

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream wait for the mark: the host does not wait."""

    def query(self) -> bool:
        """Tell whether the mark is reached."""
        return True

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        wait_for("synchronize")

    def elapsed_time(self, end: Event) -> float:
        """Return the milliseconds to another mark; time is not pretended."""
        return 1.0


class Graph:
    """Kernels that were captured, launched as one."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.recording = Recording()

    def replay(self) -> None:
        """Launch them."""
        LEDGER.launches[line()] += 1
        self.recording.replay()

    def reset(self) -> None:
        """Forget them."""
        self.recording = Recording()


@contextmanager
def capture(graph: Graph, *args: object, **kwargs: object) -> Iterator[None]:
    """Capture what the block launches; it counts as launched only when it is replayed."""
    if RECORDINGS:
        raise RuntimeError("CUDA graphs cannot be captured within each other")
    wait_for("capture")
    launches = LEDGER.launches.copy()
    RECORDINGS.append(graph.recording)
    try:
        yield
    finally:
        RECORDINGS.pop()
        graph.recording.finish()
        LEDGER.launches = launches


class Properties:
    """Of the pretended card: those of an H100."""

    name, total_memory, major, minor, multi_processor_count = "Pretended", 80 << 30, 9, 0, 132


def synchronize(device: object = None) -> None:
    """Wait for the device."""
    wait_for("synchronize")


# What `torch.cuda` is replaced by inside the block.
OF_CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "init": lambda: None,
    "is_bf16_supported": lambda including_emulation=True: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "device": lambda device: nullcontext(),
    "get_device_name": lambda device=None: Properties.name,
    "get_device_capability": lambda device=None: (Properties.major, Properties.minor),
    "get_device_properties": lambda device=None: Properties(),
    "mem_get_info": lambda device=None: (Properties.total_memory, Properties.total_memory),
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "memory_reserved": lambda device=None: 0,
    "max_memory_reserved": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "empty_cache": lambda: None,
    "synchronize": synchronize,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "set_rng_state": lambda state, device="cuda": None,
    "Stream": Stream,
    "current_stream": lambda device=None: Stream(),
    "default_stream": lambda device=None: Stream(),
    "stream": lambda stream: nullcontext(),
    "Event": Event,
    "CUDAGraph": Graph,
    "graph": capture,
    "graph_pool_handle": lambda: (0, 0),
    "is_current_stream_capturing": lambda: bool(RECORDINGS),
}
