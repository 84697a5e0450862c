"""What is promised of all committed rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.records.leaderboard import ENOUGH_SEEDS, leaderboard, with_few_seeds
from benchmarks.records.runs import read_runs
from benchmarks.suites import ALL_SUITES, GROUPS, OFFICIAL_SUITES, SUITES

TRAINED_HERE = {
    name: ALL_SUITES[name]
    for group in ("all", "t10k", "attributions", "natural")
    for name in GROUPS[group]
}
OFFICIAL = {suite.name: suite for suite in OFFICIAL_SUITES.values()}


@pytest.fixture(scope="module")
def runs(committed_results: Path) -> pd.DataFrame:
    return read_runs(committed_results)


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_every_ranked_row_stands_on_enough_seeds(name: str, runs: pd.DataFrame) -> None:
    few = with_few_seeds(runs, TRAINED_HERE[name])
    assert not few, f"fewer than {ENOUGH_SEEDS} seeds: {', '.join(few)}"


@pytest.mark.parametrize("name", TRAINED_HERE | OFFICIAL)
def test_every_score_of_every_row_has_an_interval(
    name: str, runs: pd.DataFrame, committed_results: Path
) -> None:
    suite = (TRAINED_HERE | OFFICIAL)[name]
    board = leaderboard(runs, suite, committed_results)
    for score in suite.scores:
        value, low, high = (board[f"{score.key}{end}"] for end in ("", "_low", "_high"))
        assert ((low <= value) & (value <= high) | value.isna()).all(), score.key


def test_rows_of_one_seed_are_named_and_shipped_weights_are_not(runs: pd.DataFrame) -> None:
    suite = SUITES["in9"]
    one = runs[(runs["suite"] == "in9") & (runs["seed"] == 0)]
    assert "in9 embedded erm" in with_few_seeds(one, suite)
    renamed = one.assign(model="shipped:" + one["model"])
    assert with_few_seeds(renamed, suite) == []
    assert with_few_seeds(one, OFFICIAL_SUITES["in9"]) == []
