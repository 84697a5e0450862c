"""Runs come back with their generators, and only those of the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import ROW, predictions

from benchmarks.core.suite import Suite
from benchmarks.records.predictions import save
from benchmarks.records.runs import Row, append, run_of
from benchmarks.records.stored_runs import load_stored_runs


def store(results: Path, row: Row, answer: int) -> None:
    """Keep a run whose answers are all alike."""
    run = run_of(row.__dict__)
    save(predictions().assign(prediction=answer), run.path(results), run)
    append([row], results)


def test_runs_come_back_by_model_in_the_order_of_their_seeds(tmp_path: Path, suite: Suite) -> None:
    for seed in (10, 2):
        store(tmp_path, replace(ROW, model="a", seed=seed, generator_seed=f"g{seed}"), seed)
    store(tmp_path, replace(ROW, model="b"), 0)
    first, second, absent = load_stored_runs(tmp_path, suite, "embedded", ["a", "b", "c"])
    assert [(run.seed, run.generator) for run in first] == [(2, "g2"), (10, "g10")]
    assert [set(run.predictions["prediction"]) for run in first] == [{2}, {10}]
    assert (len(second), absent) == (1, [])


def test_runs_on_other_images_are_not_mixed(tmp_path: Path, suite: Suite) -> None:
    store(tmp_path, replace(ROW, model="a"), 0)
    store(tmp_path, replace(ROW, model="b", data_sha256="others"), 0)
    with pytest.raises(ValueError, match="of a, b on tiny are of different data"):
        load_stored_runs(tmp_path, suite, "embedded", ["a", "b"])


def test_predictions_of_other_weights_than_the_newest_row_are_refused(
    tmp_path: Path, suite: Suite
) -> None:
    store(tmp_path, ROW, 0)
    append([replace(ROW, weights_sha256="newer", value=0.6)], tmp_path)
    with pytest.raises(ValueError, match=r"seed0\.parquet is not of the run in runs\.csv"):
        load_stored_runs(tmp_path, suite, "embedded", ["erm"])
