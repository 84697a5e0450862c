"""How long something takes, how much memory it needs, and what share of the device it uses."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cgn.memory import give_back

# Full sizes and what is only worth measuring then; as an ordinary test each case runs once, small.
FULL = "--benchmark-only" in sys.argv
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


def measure(
    benchmark: BenchmarkFixture,
    run: Callable[[], object],
    n_images: int,
    device: str,
    rounds: int = 3,
) -> None:
    """Time `run`, waiting for the device to finish; before several calls one is not measured.

    As an ordinary test there is one call: then it only has to work.
    """
    rounds = rounds if FULL else 1

    def synchronised() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    forget_peak(device)
    benchmark.pedantic(synchronised, rounds=rounds, warmup_rounds=rounds > 1)  # type: ignore[no-untyped-call]
    info = benchmark.extra_info
    info |= {"device": device, "threads": torch.get_num_threads()}
    info |= {"peak_bytes": peak(device), "library_bytes": LIBRARIES}
    if benchmark.stats is None:  # as with --benchmark-disable
        return
    seconds = benchmark.stats.stats.mean
    info["images_per_second"] = n_images / seconds
    if FULL:
        with FlopCounterMode(display=False) as counted:
            run()
        info["share_of_matrix_product_peak"] = (
            counted.get_total_flops() / seconds / matrix_product_peak(device)
        )


def of_rounds(calls: list[float], rounds: int) -> Tensor:
    """Keep of what each call under `measure` noted that of its rounds, (rounds,).

    Not of the call that warms up, nor of that in which operations are counted.
    """
    return torch.tensor(calls[1 : 1 + rounds] if FULL else calls)


@cache
def matrix_product_peak(device: str) -> float:
    """Floating-point operations a second of a large matrix product in bfloat16, the best of 5."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def forget_peak(device: str) -> None:
    """Begin to measure the peak of memory anew."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    give_back(torch.device(device))
    with suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak(device: str) -> int | None:
    """Bytes held at most since `forget_peak`; None where nobody counts them.

    On a CPU without what Python and the libraries hold that were imported by then, for on a GPU
    they don't count either.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    most = _resident("VmHWM")
    return None if most is None or LIBRARIES is None else most - LIBRARIES


def _resident(field: str) -> int | None:
    """Bytes of this process that lie in memory; None where nobody counts them."""
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        kilobytes = next(line for line in status.splitlines() if line.startswith(field))
        return 1024 * int(kilobytes.split()[1])
    return None


LIBRARIES = _resident("VmRSS")
