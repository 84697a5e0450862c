"""Work that is killed, or done by several at once, ends as if nobody had disturbed it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from support import ROOT, TINY_SHA256, FirstRow, run_model, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.check import check
from benchmarks.records.runs import read_runs

PREDICTIONS = evaluate(FirstRow(), tiny_suite().variants(EMBEDDED))[0]


@pytest.mark.parametrize("options", [["--n", "9"], ["--together", "2"]])
def test_nothing_is_lost_doubled_or_left_behind(options: list[str]) -> None:
    """Many more kills: `PYTHONPATH=. python tests/kills.py --n 200`."""
    if sys.platform == "win32":
        pytest.skip("processes are forked")
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kills.py"), *options],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith(": 0 with problems\n"), done.stdout + done.stderr


def write(results: Path, models: list[str], begin: Event) -> None:
    begin.wait()
    for model in models:
        run_model(results, PREDICTIONS, model=model)


def look(results: Path, begin: Event, ended: Event, found: Path) -> None:
    """Check the results again and again while others write them."""
    begin.wait()
    suites = {"tiny": tiny_suite()}
    while not ended.is_set():
        if read_runs(results).empty:
            continue
        found.open("a").writelines(
            f"{line}\n" for line in check(results, suites, {"tiny": TINY_SHA256})
        )


def test_eight_writers_at_once_leave_what_one_after_the_other_does_and_raise_no_alarm(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    begin, ended = context.Event(), context.Event()
    together, alone, found = tmp_path / "together", tmp_path / "alone", tmp_path / "found"
    found.touch()
    models = [f"model{number}" for number in range(8)]
    writers = [
        context.Process(target=write, args=(together, [model, "shared"], begin)) for model in models
    ]
    looker = context.Process(target=look, args=(together, begin, ended, found))
    for process in (*writers, looker):
        process.start()
    begin.set()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    ended.set()
    looker.join()
    assert looker.exitcode == 0
    assert found.read_text() == ""
    write(alone, [*models, "shared"], begin)
    assert sorted_rows(together) == sorted_rows(alone)
    for name in ("tiny.csv", *(f"predictions/tiny/embedded/{m}/seed0.parquet" for m in models)):
        assert (together / name).read_bytes() == (alone / name).read_bytes()
    names = {path.relative_to(together) for path in together.rglob("*")}
    assert names == {path.relative_to(alone) for path in alone.rglob("*")}


def sorted_rows(results: Path) -> list[list[object]]:
    """Rows without what is of the moment, in an order that does not depend on who came first."""
    table = read_runs(results).drop(columns=["time"])
    rows: list[list[object]] = table.values.tolist()
    return sorted(rows, key=str)
