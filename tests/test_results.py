"""What is promised of all committed rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import ATTRIBUTIONS, OFFICIAL_SUITES, SUITES, T10K
from benchmarks.leaderboard import ENOUGH_SEEDS, leaderboard, read_runs, with_few_seeds

RESULTS = Path(__file__).parents[1] / "results"
TRAINED_HERE = SUITES | T10K | ATTRIBUTIONS
OFFICIAL = {suite.name: suite for suite in OFFICIAL_SUITES.values()}

# Models that still lack seeds, on which data; whoever adds the seeds takes them out.
ONE_SEED_SO_FAR = {
    "embedded": set(),
    "official": {
        *("erm", "grayscale", "two-means", "irm", "group-dro", "lntl", "jtt"),
        *("oracle", "oracle-mask"),
    },
}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return read_runs(RESULTS)


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_every_ranked_row_stands_on_enough_seeds_or_is_listed_here(
    name: str, runs: pd.DataFrame
) -> None:
    for named in with_few_seeds(runs, TRAINED_HERE[name]):
        _, source, model = named.split(" ")
        assert model.partition("@")[0] in ONE_SEED_SO_FAR[source.partition("+")[0]], (
            f"{named} has fewer than {ENOUGH_SEEDS} seeds"
        )


@pytest.mark.parametrize("name", TRAINED_HERE | OFFICIAL)
def test_every_score_of_every_row_has_an_interval(name: str, runs: pd.DataFrame) -> None:
    suite = (TRAINED_HERE | OFFICIAL)[name]
    board = leaderboard(runs, suite)
    for score in suite.scores:
        value, low, high = (board[f"{score.key}{end}"] for end in ("", "_low", "_high"))
        assert ((low <= value) & (value <= high) | value.isna()).all(), score.key


def test_rows_of_one_seed_are_named_and_shipped_weights_are_not() -> None:
    runs = read_runs(RESULTS)
    suite = SUITES["in9"]
    one = runs[(runs["suite"] == "in9") & (runs["seed"] == 0)]
    assert "in9 embedded erm" in with_few_seeds(one, suite)
    renamed = one.assign(model="shipped:" + one["model"])
    assert with_few_seeds(renamed, suite) == []
    assert with_few_seeds(one, OFFICIAL_SUITES["in9"]) == []
