"""How long something takes, how much memory it needs, and what share of the device it uses."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.throughput import DEADLINE, QUICK, ROWS
from cgn.device.memory import trim_heap

# Full sizes and what is only worth measuring then; as an ordinary test each case runs once, small.
MEASURING = "--benchmark-only" in sys.argv
FULL = MEASURING and QUICK not in os.environ
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
# Whoever compiles is told that products could be in TF32. They are not, so that numbers are what
# they say they are: see `cgn.device.precision`.
allows_tf32_warning = pytest.mark.filterwarnings(
    "ignore:TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled"
)


def measure(
    benchmark: BenchmarkFixture,
    run: Callable[[], object],
    n_images: int,
    device: str,
    rounds: int = 3,
    *,
    warm_up: int = 1,
    flops: float | None = None,
    seconds: Callable[[], float] | None = None,
) -> None:
    """Time `run`, waiting for the device to finish; before several calls some are not measured.

    As an ordinary test there is one call: then it only has to work. On CUDA what counts is the time
    between two events there.

    Args:
        benchmark: The fixture; its extra information gets what was measured.
        run: What is timed.
        n_images: How many images a call gets through.
        device: "cpu" or "cuda".
        rounds: Calls that count.
        warm_up: Calls before, where there are several that count.
        flops: Floating-point operations of a call; None counts those of one more.
        seconds: How long the part of the call took that is asked for; None for all of it.
    """
    rounds = rounds if FULL else 1
    milliseconds: list[float] = []

    def timed() -> None:
        milliseconds.append(milliseconds_of(run, device))
        if seconds is not None:
            milliseconds[-1] = 1e3 * seconds()

    forget_peak(device)
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        timed, rounds=rounds, warmup_rounds=warm_up if rounds > 1 else 0
    )
    counted = torch.tensor(milliseconds[-rounds:])
    low, median, high = counted.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    info = benchmark.extra_info
    info |= {"device": device, "threads": torch.get_num_threads(), "rounds": rounds}
    info |= {"median_ms": median, "iqr_ms": high - low}
    info |= {"peak_bytes": peak(device), "library_bytes": LIBRARIES}
    info["images_per_second"] = 1e3 * n_images / median
    if device == "cuda":
        info["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    if FULL:
        flops = flops_of(run) if flops is None else flops
        info["share_of_matrix_product_peak"] = 1e3 * flops / median / matrix_product_peak(device)


def milliseconds_of(run: Callable[[], object], device: str) -> float:
    """Time one call."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def flops_of(run: Callable[[], object]) -> float:
    """Count the floating-point operations of a call; those of a graph are not seen."""
    with FlopCounterMode(display=False) as counted:
        run()
    return float(counted.get_total_flops())


def seconds_left() -> float:
    """How long there is still time to measure."""
    return float(os.environ.get(DEADLINE, "inf")) - time.time()


def keep_row(**cells: Any) -> None:
    """Write what was measured to where `bench.py throughput` reads it, whatever happens next."""
    if ROWS in os.environ:
        with Path(os.environ[ROWS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(cells) + "\n")


def of_rounds(calls: list[float], rounds: int) -> Tensor:
    """Keep of what each call under `measure` noted that of its rounds, (rounds,).

    Not of the call that warms up, nor of that in which operations are counted.
    """
    return torch.tensor(calls[1 : 1 + rounds] if FULL else calls)


@cache
def matrix_product_peak(device: str) -> float:
    """Floating-point operations a second of a large matrix product in bfloat16, the best of 5."""
    size = (8192 if device == "cuda" else 2048) if FULL else 64
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2e3 * size**3 / min(milliseconds_of(lambda: a @ b, device) for _ in range(6))


def forget_peak(device: str) -> None:
    """Begin to measure the peak of memory anew."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    trim_heap(torch.device(device))
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
