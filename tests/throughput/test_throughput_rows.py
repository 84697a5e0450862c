"""What rows cost when there are many: appending the rows of a run, and one leaderboard.

    python -m pytest tests/throughput/test_throughput_rows.py --benchmark-only

measures both beside 10^6 rows; as an ordinary test there are 2,000. The peak of memory is that of
the process without its libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from measuring import FULL, measure
from pytest_benchmark.fixture import BenchmarkFixture
from support import ROW, tiny_suite

from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.runs import COLUMNS, Row, append

N_ROWS = 1_000_000 if FULL else 2_000
N_SEEDS = 5
VARIANTS = [f"variant{number}" for number in range(8)] + ["easy", "hard"]


def lines(n_suites: int) -> Iterator[str]:
    """Rows of suites, models and seeds, as they stand in the file."""
    about = ",".join(str(getattr(ROW, name)) for name in COLUMNS[COLUMNS.index("n") :])
    for number in range(N_ROWS):
        model, place = divmod(number, N_SEEDS * len(VARIANTS))
        seed, variant = divmod(place, len(VARIANTS))
        suite = "tiny" if model % n_suites == 0 else f"suite{model % n_suites}"
        yield (
            f"{suite},1,embedded,{'d' * 64},model{model},{number:064x},{seed},"
            f"{VARIANTS[variant]},accuracy,{number / N_ROWS},0.25,0.75,{about}\n"
        )


@pytest.fixture(scope="module", params=[20, 1], ids=["20 suites", "1 suite"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    with (folder / "runs.csv").open("w") as file:
        file.write(",".join(COLUMNS) + "\n")
        file.writelines(lines(request.param))
    append([replace(ROW, model="first")], folder)  # makes the index
    return folder


def test_speed_of_appending_the_rows_of_a_run(benchmark: BenchmarkFixture, results: Path) -> None:
    numbers = count()

    def run() -> None:
        model = f"new{next(numbers)}"
        rows = [replace(ROW, model=model, metric=f"metric{i}") for i in range(20)]
        assert append(rows, results) == len(rows)

    measure(benchmark, run, n_images=20, device="cpu", rounds=10, flops=0.0)


def test_speed_of_appending_what_is_there(benchmark: BenchmarkFixture, results: Path) -> None:
    rows: list[Row] = [replace(ROW, metric=f"metric{i}") for i in range(20)]
    append(rows, results)

    def run() -> None:
        assert append(rows, results) == 0

    measure(benchmark, run, n_images=20, device="cpu", rounds=10, flops=0.0)


def test_speed_of_one_leaderboard(benchmark: BenchmarkFixture, results: Path) -> None:
    def run() -> None:
        assert write_leaderboards(results, [tiny_suite()]) == [results / "tiny.csv"]

    measure(benchmark, run, n_images=N_ROWS, device="cpu", flops=0.0)
