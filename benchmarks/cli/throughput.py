"""Measures speeds."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from benchmarks.cli.resolve import (
    resolve_device,
)
from benchmarks.cli.terminal import console, say
from benchmarks.data.paths import (
    check_place,
)
from benchmarks.report.tables import speeds_table
from benchmarks.throughput import (
    append_speeds,
    measure_all,
    read_speeds,
    slower,
    speeds_markdown,
)


def measure_throughput(options: argparse.Namespace) -> int:
    """Measure speeds, keep and print them; 1 if one failed or is slower than it was."""
    results: Path = options.results
    before = read_speeds(results)
    if options.table:
        if before.empty:
            raise ValueError(f"{results} holds no speeds; measure some without --table")
        for line in speeds_markdown(before).splitlines():
            say(line)
        return 0
    device = resolve_device(options.device)
    check_place(results / "throughput.csv", "--results")
    measured = measure_all(device, options.only, options.seconds, quick=options.quick)
    if measured.speeds and not options.quick:
        append_speeds(measured.speeds, results)
    if measured.speeds:
        speeds = pd.DataFrame(map(asdict, measured.speeds))
        console().print(speeds_table(speeds, measured.speeds[0].card))
    problems = [f"failed: {line}" for line in measured.failed]
    if options.compare_fail is not None and not options.quick:
        lines = slower(before, measured.speeds, options.compare_fail)
        problems += [f"slower: {line}" for line in lines]
    for problem in problems:
        say(problem)
    if measured.skipped or measured.cut:
        ended = " and one was cut short" if measured.cut else ""
        say(f"after {options.seconds} s: {measured.skipped} benchmarks were left out{ended}")
    return int(bool(problems))
