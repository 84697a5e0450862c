"""Speeds of each device that the benchmarks in `tests/throughput` measured, kept in rows.

The benchmarks lie with the tests: they run in a checkout, and not in an installed package.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.core.environment import environment
from benchmarks.records.csv_cells import csv_text
from benchmarks.report.tables import speeds_table
from cgn.io.locks import locked
from cgn.io.writing import write_text

ROOT = Path(__file__).parents[1]
MODULE = ROOT / "tests" / "throughput" / "test_throughput.py"
# What tells the process that measures where rows go, when to end, and that small sizes will do.
ROWS, DEADLINE, QUICK = "CGN_BENCH_SPEEDS", "CGN_BENCH_DEADLINE", "CGN_BENCH_QUICK"
COMMIT = "CGN_BENCH_COMMIT"  # where the folder is no repository


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One speed of one machine. Field order is column order.

    Attributes:
        time: When, UTC, ISO 8601.
        commit: Commit of this repository; empty if unknown.
        device: "cpu" or "cuda".
        card: The GPU, or the processor.
        driver: Version of its driver; empty on a CPU.
        python: Version of Python.
        torch: Version of PyTorch.
        cuda: Version of CUDA that it was built with; empty on a CPU.
        cudnn: Version of cuDNN; empty on a CPU.
        flags: What of PyTorch decides precision and kernels.
        benchmark: What was measured.
        batch: Images at once; 0 for as many as the product takes by itself.
        form: How it was run: eager, graph, compiled, or the precision.
        median_ms: Milliseconds of a step or a call, the median over rounds.
        iqr_ms: Between their quartiles.
        rounds: How many there were.
        images_per_second: From the median.
        share_of_peak: Of the rate of a large matrix product in bfloat16, in [0, 1].
        peak_allocated_gb: Memory that tensors took at most; on a CPU the process, but libraries.
        peak_reserved_gb: Memory that was taken from the card at most.
        compile_s: Seconds of the first call once compiled.
        agreement: Relative error of results against the CPU's; NaN where they were not compared.
    """

    time: str
    commit: str
    device: str
    card: str
    driver: str
    python: str
    torch: str
    cuda: str
    cudnn: str
    flags: str
    benchmark: str
    batch: int
    form: str
    median_ms: float
    iqr_ms: float
    rounds: int
    images_per_second: float
    share_of_peak: float = math.nan
    peak_allocated_gb: float = math.nan
    peak_reserved_gb: float = math.nan
    compile_s: float = math.nan
    agreement: float = math.nan


COLUMNS = [field.name for field in fields(Speed)]
_TEXT = [field.name for field in fields(Speed) if field.type == "str"]
_SLOT = ["device", "card", "benchmark", "batch", "form"]


def flags() -> str:
    """Name what of PyTorch decides precision and kernels.

    Example:
        >>> "cudnn.benchmark" in flags()
        True
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        f"cudnn.allow_tf32={convolutions.allow_tf32} matmul.allow_tf32={products.allow_tf32} "
        f"cudnn.benchmark={convolutions.benchmark} threads={torch.get_num_threads()}"
    )


def machine(device: torch.device | str) -> dict[str, str]:
    """Describe the machine, the versions and the commit, under the names that `Speed` has."""
    device = torch.device(device)
    found = environment(device)
    cuda = device.type == "cuda"
    return {
        "time": found["time"],
        "commit": os.environ.get(COMMIT) or found["commit"],
        "device": device.type,
        "card": torch.cuda.get_device_name(device) if cuda else _processor(),
        "driver": _driver() if cuda else "",
        "python": found["python"],
        "torch": found["torch"],
        "cuda": str(torch.version.cuda) if cuda else "",
        "cudnn": str(torch.backends.cudnn.version()) if cuda else "",
    }


def _processor() -> str:
    """Name the processor and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration, IndexError):  # not on Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads"


def _driver() -> str:
    """Ask for the version of the GPU's driver; empty if nobody answers."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.split("\n")[0].strip()


@dataclass(frozen=True)
class Measured:
    """What came of measuring.

    Attributes:
        speeds: What was measured.
        failed: Benchmarks that failed, each with the last line of why.
        skipped: How many were left out because there was no time.
        cut: Whether the time was up in the middle of one.
    """

    speeds: list[Speed]
    failed: list[str]
    skipped: int
    cut: bool


def measure_all(
    device: torch.device, only: str = "", seconds: float = 0.0, *, quick: bool = False
) -> Measured:
    """Run the benchmarks in a process of their own; what one does to the device ends with it.

    A row is kept as soon as it is measured, so that neither a failure nor the end of the time costs
    those before.

    Args:
        device: Where.
        only: An expression of `pytest -k`; empty for all.
        seconds: After how many to stop; 0 for never.
        quick: Small sizes, one round: only whether they still run.

    Raises:
        ValueError: If this is no checkout of the repository, pytest is missing, or nothing fits
            `only`.
    """
    if not MODULE.is_file():
        raise ValueError(
            f"the benchmarks are not in an installed package: run this in a checkout, {MODULE} is "
            "missing"
        )
    chosen = f"{device.type} and ({only})" if only else device.type
    command = [sys.executable, "-m", "pytest", str(MODULE), "-k", f"test_speed and {chosen}"]
    command += ["--benchmark-only", "-p", "no:cacheprovider", "-W", "default", "-rfs", "--tb=line"]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        place = {ROWS: str(rows), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
        place |= {DEADLINE: str(time.time() + seconds)} if seconds else {}
        place |= {QUICK: "1"} if quick else {}
        cut = False
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | place,
                capture_output=True,
                text=True,
                timeout=seconds or None,
            )
            said, code = done.stdout + done.stderr, done.returncode
        except subprocess.TimeoutExpired as ended:
            cut, code = True, 0
            said = ended.stdout.decode(errors="replace") if ended.stdout else ""
        found = rows.read_text(encoding="utf-8").splitlines() if rows.is_file() else []
    failed = [line.removeprefix("FAILED ") for line in said.splitlines() if "FAILED " in line]
    if not (found or failed or cut):
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        raise ValueError(f"nothing was measured; pytest says: {last}")
    if code not in (0, 1):  # as of a process that the system ended
        failed.append(f"pytest ended with {code}")
    about: dict[str, Any] = dict(machine(device))
    return Measured(
        [Speed(**about, **_cells(json.loads(line))) for line in found], failed, _skipped(said), cut
    )


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Take what was not measured for undefined."""
    return {name: math.nan if cell is None else cell for name, cell in row.items()}


def _skipped(said: str) -> int:
    """Count the benchmarks that there was no time for: "SKIPPED [3] …: no time left"."""
    lines = [line for line in said.splitlines() if "no time left" in line and "[" in line]
    return sum(int(line.split("[")[1].split("]")[0]) for line in lines)


def append_speeds(speeds: Iterable[Speed], results: Path) -> None:
    """Add rows to `throughput.csv`; the file is replaced as a whole under a lock.

    Raises:
        ValueError: If the file is not one of ours.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = results / "throughput.csv"
    with locked(path):
        new = pd.DataFrame([asdict(speed) for speed in speeds], columns=COLUMNS)
        old = read_speeds(results)
        write_text(path, csv_text(pd.concat([old, new]) if len(old) else new))


def read_speeds(results: Path) -> pd.DataFrame:
    """Read `throughput.csv`, oldest row first; empty if there is none.

    Raises:
        ValueError: If the file is not one of ours.
    """
    path = results / "throughput.csv"
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT, str),
            keep_default_na=False,
            na_values={n: [""] for n in COLUMNS if n not in _TEXT},
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from git") from None
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} has other columns than {COLUMNS}; restore it from git")
    return table


def slower(before: pd.DataFrame, speeds: Sequence[Speed], ratio: float) -> list[str]:
    """Name what is slower than the newest row of the same card, benchmark, batch and form.

    Args:
        before: From `read_speeds`, without the new ones.
        speeds: The new ones.
        ratio: What share of the old speed is still good enough.

    Returns:
        A line each; what has no row from before cannot be slower.
    """
    newest = before.drop_duplicates(_SLOT, keep="last").set_index(_SLOT)["images_per_second"]
    lines = []
    for speed in speeds:
        cells = asdict(speed)
        slot = tuple(cells[name] for name in _SLOT)
        old = newest.get(slot)
        if old is not None and speed.images_per_second < ratio * old:
            share = speed.images_per_second / old
            lines.append(
                f"{speed.benchmark} batch {speed.batch} {speed.form}: {share:.2f} of the "
                f"{old:,.1f} images/s before"
            )
    return lines


def speeds_markdown(table: pd.DataFrame) -> str:
    """Write the newest row of each benchmark as Markdown, a table for each card.

    Args:
        table: From `read_speeds`.
    """
    newest = table.drop_duplicates(_SLOT, keep="last")
    parts = []
    for card, rows in newest.groupby("card", sort=False):
        last = rows.iloc[-1]
        versions = f"PyTorch {last['torch']}"
        if last["device"] == "cuda":
            versions += f", CUDA {last['cuda']}, cuDNN {last['cudnn']}, driver {last['driver']}"
        body = speeds_table(rows.sort_values(["benchmark", "batch"])).to_markdown()
        parts.append(f"{card}, {versions}:\n\n{body}")
    return "\n\n".join(parts)
