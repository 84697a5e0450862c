from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import ROW, predictions, run_model, tiny_suite

from benchmarks.core.scores import worst_group
from benchmarks.core.suite import Suite
from benchmarks.records.leaderboard import leaderboard, write_leaderboards
from benchmarks.records.runs import Row, append, read_runs


def table(results: Path, suite: Suite, *rows: Row) -> pd.DataFrame:
    append(rows, results)
    return leaderboard(read_runs(results), suite, results)


def test_one_seed_keeps_the_interval_over_images(tmp_path: Path, suite: Suite) -> None:
    row = table(tmp_path, suite, ROW).iloc[0]
    assert row["interval"] == "images, one seed"
    assert tuple(row[["hard_accuracy", "hard_accuracy_low", "hard_accuracy_high"]]) == (
        0.5,
        0.4,
        0.6,
    )


def test_seeds_without_predictions_add_to_what_images_vary(tmp_path: Path, suite: Suite) -> None:
    rows = [replace(ROW, seed=seed, value=0.4 + 0.1 * seed) for seed in range(3)]
    row = table(tmp_path, suite, *rows).iloc[0]
    assert row["interval"] == "images, 3 seeds, from rows alone"
    assert row["seeds"] == 3
    assert row["hard_accuracy"] == pytest.approx(0.5)
    images, seeds = (0.1 / 1.96) ** 2, 0.1**2 / 3
    assert row["sd_images"] == pytest.approx(images**0.5, rel=1e-3)
    assert row["sd_seeds"] == pytest.approx(seeds**0.5)
    # t(0.975, 2) = 4.303 for what seeds vary, 1.96 for what images do
    quantile = (1.96 * images + 4.303 * seeds) / (images + seeds)
    half = quantile * (images + seeds) ** 0.5
    assert row["hard_accuracy_high"] == pytest.approx(0.5 + half, abs=1e-3)


def test_predictions_of_several_seeds_tell_what_images_vary_together(tmp_path: Path) -> None:
    """Runs that err on the same images say no more about images than one of them."""
    right = predictions()
    missed = right["index"] % 4 == 0
    one = right.assign(prediction=right["shape"].where(~missed, (right["shape"] + 1) % 3))
    for seed in range(3):
        run_model(tmp_path, one, seed=seed)
    row = leaderboard(read_runs(tmp_path), tiny_suite(), tmp_path).iloc[0]
    assert row["interval"] == "images, 3 seeds"
    assert row["clusters"] == row["n"] == 40
    assert row["hard_accuracy"] == 0.75
    assert row["sd_images"] == pytest.approx((0.75 * 0.25 / 39) ** 0.5)
    assert row["sd_seeds"] == 0
    assert np.isnan(row["sd_generators"])


@pytest.mark.parametrize(("seeds", "generators"), [(("", ""), 0), (("3", "3"), 1), (("0", "1"), 2)])
def test_the_table_says_how_many_generators_the_seeds_were_trained_on(
    seeds: tuple[str, ...], generators: int, tmp_path: Path, suite: Suite
) -> None:
    rows = [replace(ROW, seed=i, generator_seed=seed) for i, seed in enumerate(seeds)]
    assert table(tmp_path, suite, *rows)["generators"].tolist() == [generators]


@pytest.mark.parametrize(
    ("rules", "shown"),
    [(("nothing", "nothing"), "nothing"), (("", ""), ""), (("", "nothing"), "nothing")],
)
def test_the_table_says_what_settings_were_selected_on(
    rules: tuple[str, ...], shown: str, tmp_path: Path, suite: Suite
) -> None:
    rows = [replace(ROW, seed=i, selected_on=rule) for i, rule in enumerate(rules)]
    assert table(tmp_path, suite, *rows)["selected_on"].tolist() == [shown]


def test_an_interval_ends_where_the_score_ends(tmp_path: Path, suite: Suite) -> None:
    rows = [replace(ROW, seed=seed, value=0.9 + 0.1 * seed) for seed in range(2)]
    gaps = [replace(row, variant="easy-hard", metric="gap") for row in rows]
    row = table(tmp_path, suite, *rows, *gaps).iloc[0]
    assert 0.3 < row["hard_accuracy_low"] < row["hard_accuracy_high"] == 1
    assert 0.3 < row["easy-hard_gap_low"] < row["easy-hard_gap_high"] == 1


def test_the_primary_score_ranks_and_heads_are_listed_unranked(
    tmp_path: Path, suite: Suite
) -> None:
    high = {"value": 0.8, "low": 0.7, "high": 0.9}
    rows = [
        ROW,
        replace(ROW, model="cgn-ensemble", **high),  # type: ignore[arg-type]
        replace(ROW, model="cgn-ensemble/shape", value=0.9, low=0.85, high=0.95),
        replace(ROW, model="oracle", **high),  # type: ignore[arg-type]
    ]
    ours = table(tmp_path, suite, *rows)
    assert ours["model"].tolist() == ["cgn-ensemble", "oracle", "erm", "cgn-ensemble/shape"]
    assert ours["rank_low"].tolist()[:3] == [1, 1, 3]
    assert ours["rank_high"].tolist()[:3] == [2, 2, 3]
    assert ours["rank_low"].isna().tolist() == [False, False, False, True]


def test_ranks_are_sets_and_an_undefined_model_comes_last(tmp_path: Path, suite: Suite) -> None:
    values = {"a": (0.8, 0.75, 0.85), "b": (0.76, 0.71, 0.81), "c": (0.5, 0.45, 0.55)}
    rows = [
        replace(ROW, model=model, value=value, low=low, high=high)
        for model, (value, low, high) in values.items()
    ]
    undefined = replace(ROW, model="d", value=np.nan, low=np.nan, high=np.nan)
    ours = table(tmp_path, suite, undefined, *rows)
    assert ours["model"].tolist() == ["a", "b", "c", "d"]
    assert ours["rank_low"].tolist() == [1, 1, 3, 4]
    assert ours["rank_high"].tolist() == [2, 2, 3, 4]


def test_models_on_the_same_images_are_ranked_by_their_paired_differences(tmp_path: Path) -> None:
    """Accuracies 10 points apart overlap over 40 images, and never come in another order."""
    right = predictions()
    for model, share in (("a", 40), ("b", 30)):
        missed = right["index"] >= share
        answer = right["shape"].where(~missed, (right["shape"] + 1) % 3)
        run_model(tmp_path, right.assign(prediction=answer), model=model)
    ours = leaderboard(read_runs(tmp_path), tiny_suite(), tmp_path)
    assert ours["model"].tolist() == ["a", "b"]
    assert ours["rank_low"].tolist() == ours["rank_high"].tolist() == [1, 2]


def test_where_lower_is_better_the_lowest_comes_first(tmp_path: Path, suite: Suite) -> None:
    suite = replace(suite, primary="easy-hard_gap")
    gap = replace(ROW, variant="easy-hard", metric="gap", value=0.1, low=0.05, high=0.15)
    ours = table(tmp_path, suite, gap, replace(gap, model="cgn", value=0.02, low=0.0, high=0.04))
    assert ours["model"].tolist() == ["cgn", "erm"]
    assert ours["rank_low"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "change", [{"source": "official"}, {"source": "custom"}, {"data_sha256": "d1"}]
)
def test_other_test_images_share_no_ranking(
    tmp_path: Path, suite: Suite, change: dict[str, str]
) -> None:
    other = replace(ROW, model="cgn", value=0.9, **change)  # type: ignore[arg-type]
    assert table(tmp_path, suite, ROW, other)["rank_high"].tolist() == [1, 1]


def test_rows_of_an_older_protocol_leave_the_table(tmp_path: Path) -> None:
    append([ROW], tmp_path)
    ours = table(tmp_path, tiny_suite(protocol="2"), replace(ROW, protocol="2", value=0.7))
    assert ours["hard_accuracy"].tolist() == [0.7]


def test_the_newest_weights_of_a_model_win(tmp_path: Path, suite: Suite) -> None:
    old, new = ROW, replace(ROW, weights_sha256="w1", value=0.7)
    assert table(tmp_path, suite, old, new)["hard_accuracy"].tolist() == [0.7]
    assert table(tmp_path, suite, old)["hard_accuracy"].tolist() == [0.5]


def test_a_score_undefined_for_one_seed_has_no_mean(tmp_path: Path, suite: Suite) -> None:
    ours = table(tmp_path, suite, ROW, replace(ROW, seed=1, value=np.nan))
    assert np.isnan(ours["hard_accuracy"][0])
    assert ours["rank_low"].tolist() == [1]


def test_pandas_reads_a_leaderboard_without_arguments(tmp_path: Path, suite: Suite) -> None:
    append([ROW, replace(ROW, suite="other")], tmp_path)
    assert write_leaderboards(tmp_path, [suite, tiny_suite("unseen")]) == [tmp_path / "tiny.csv"]
    ours = pd.read_csv(tmp_path / "tiny.csv")
    assert ours["rank_low"].tolist() == [1]
    assert list(ours.columns)[:12] == [
        "protocol", "source", "data_sha256", "rank_low", "rank_high", "model", "seeds",
        "generators", "selected_on", "clusters", "n", "hard_accuracy",
    ]  # fmt: skip
    assert {"interval", "easy_accuracy", "easy-hard_gap_high"} <= set(ours.columns)


def test_the_ends_of_a_worst_group_are_the_means_of_the_seeds_own(tmp_path: Path) -> None:
    scores = (*tiny_suite().scores, worst_group("hard", chance=0.1))
    row = replace(ROW, metric="worst_group_accuracy")
    other = replace(row, seed=1, value=0.3, low=0.1, high=0.5)
    board = table(tmp_path, replace(tiny_suite(), scores=scores), row, other)
    ends = [f"hard_worst_group_accuracy{end}" for end in ("", "_low", "_high")]
    assert board[ends].iloc[0].tolist() == pytest.approx([0.4, 0.25, 0.55])
