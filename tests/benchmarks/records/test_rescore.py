"""Scores that rows lack are added from predictions, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import TINY_SHA256, FirstRow, run_model, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.scores import worst_group
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.check import check
from benchmarks.records.history import check_history
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.predictions import load, save
from benchmarks.records.rescore import missing_rows
from benchmarks.records.runs import append, read_runs

OLD = tiny_suite()
NEW = replace(OLD, scores=(*OLD.scores, worst_group("hard", chance=1 / 3)))
PREDICTIONS = evaluate(FirstRow(), OLD.variants(EMBEDDED))[0]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two seeds of a model, and a head of it, scored before the suite had its newest score."""
    for seed in (0, 1):
        for model in ("erm", "erm/shape"):
            run_model(tmp_path, PREDICTIONS, model=model, seed=seed)
    return tmp_path


def rescore(results: Path) -> int:
    added = append(missing_rows(results, {"tiny": NEW}), results)
    write_leaderboards(results, [NEW])
    return added


def test_a_rescored_folder_holds_again(results: Path) -> None:
    hashes = {"tiny": TINY_SHA256}
    assert any(
        "lacks the row of hard worst_group" in p for p in check(results, {"tiny": NEW}, hashes)
    )
    assert rescore(results) == 4
    problems = check(results, {"tiny": NEW}, hashes)
    assert [each for each in problems if "changes that are in no commit" not in each] == []


def test_old_rows_stay_where_they_are(
    results: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = tmp_path_factory.mktemp("before")
    (before / "runs.csv").write_bytes((results / "runs.csv").read_bytes())
    rescore(results)
    assert check_history(before, results) == []


def test_a_second_time_adds_nothing_and_changes_no_file(results: Path) -> None:
    rescore(results)
    files = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert rescore(results) == 0
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == files


def test_a_new_row_is_of_the_old_run_and_of_todays_commit(results: Path) -> None:
    rescore(results)
    runs = read_runs(results)
    old, new = runs.iloc[0], runs[runs["metric"] == "worst_group_accuracy"].iloc[0]
    changed = ["variant", "metric", "value", "low", "high", "n", "commit", "time"]
    assert old.drop(changed).equals(new.drop(changed))
    assert old["commit"] == "c0" != new["commit"]
    assert new["time"] >= old["time"]


def test_the_value_is_that_of_the_stored_predictions(results: Path) -> None:
    (row, *_) = missing_rows(results, {"tiny": NEW})
    expected = worst_group("hard", chance=1 / 3).compute(PREDICTIONS)
    assert (row.value, row.low, row.high, row.n) == expected


def test_other_suites_and_older_protocols_are_left_alone(results: Path) -> None:
    assert missing_rows(results, {}) == []
    assert missing_rows(results, {"tiny": replace(NEW, protocol="2")}) == []


def test_predictions_of_another_run_are_refused(results: Path) -> None:
    path = next(results.rglob("seed1.parquet"))
    table, run = load(path)
    save(table, path, replace(run, weights_sha256="others"))
    with pytest.raises(ValueError, match=r"is not of the run in runs.csv; run erm.* on tiny again"):
        missing_rows(results, {"tiny": NEW})
    path.unlink()
    with pytest.raises(ValueError, match="there is no file"):
        missing_rows(results, {"tiny": NEW})


def test_progress_counts_runs(results: Path) -> None:
    seen: list[tuple[int, int]] = []
    missing_rows(results, {"tiny": NEW}, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_empty_folder_lacks_nothing(tmp_path: Path) -> None:
    assert missing_rows(tmp_path, {"tiny": NEW}) == []
    assert isinstance(read_runs(tmp_path), pd.DataFrame)
