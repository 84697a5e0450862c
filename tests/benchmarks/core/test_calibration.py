"""Scores of confidence have known answers, and are added to old rows without a new version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import FirstRow, run_model, tiny_suite

from benchmarks.core.calibration import (
    N_BINS,
    calibration_scores,
    conflict_overconfidence,
    expected_calibration_error,
    risk_at_coverage,
)
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, Suite
from benchmarks.records.compare import compare
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.rescore import missing_rows
from benchmarks.records.runs import append, read_runs
from benchmarks.suites import ALL_SUITES
from benchmarks.suites.protocols import scores_sha256, with_diagnostics

Seen = Callable[..., pd.DataFrame]
EVERY = calibration_scores("v", chance=0.1)


def answered(
    seen: Seen, confidence: np.ndarray, hits: np.ndarray, texture: object = 0
) -> pd.DataFrame:
    prediction = np.where(hits, 0, 1)
    labels = {"shape": 0, "texture": texture, "background": -1}
    return seen(confidence=confidence, prediction=prediction, **labels)


def test_the_calibration_error_is_that_of_a_sum_over_bins(seen: Seen) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(400).round(3)
    hits = rng.random(400) < 0.5
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = [abs((hits - confidence)[bins == k].sum()) for k in range(N_BINS)]
    found = expected_calibration_error("v").compute(answered(seen, confidence, hits))
    assert found.value == pytest.approx(sum(gaps) / 400)
    assert found.n == 400


def test_a_model_that_is_always_sure_errs_by_its_error_rate(seen: Seen) -> None:
    hits = np.arange(100) < 70
    found = expected_calibration_error("v").compute(answered(seen, np.ones(100), hits))
    assert found.value == pytest.approx(0.3)
    assert found.low < 0.25 < 0.35 < found.high


def test_risk_counts_the_most_confident_images_and_shares_ties(seen: Seen) -> None:
    hits = np.array([True] * 50 + [False] * 50)
    sure = answered(seen, np.linspace(1, 0, 100), hits)
    assert risk_at_coverage("v", chance=0.1).compute(sure).value == pytest.approx(30 / 80)
    half = risk_at_coverage("v", chance=0.1, coverage=0.5)
    assert half.compute(sure).value == pytest.approx(0, abs=1e-12)
    tied = answered(seen, np.full(100, 0.9), hits)
    assert risk_at_coverage("v", chance=0.1).compute(tied).value == pytest.approx(0.5)
    shuffled = sure.sample(frac=1, random_state=np.random.RandomState(0))
    assert half.compute(shuffled) == half.compute(sure)


def test_at_full_coverage_the_risk_is_the_error_rate(seen: Seen) -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(300) < 0.8
    table = answered(seen, rng.random(300), hits)
    found = risk_at_coverage("v", chance=0.1, coverage=1.0).compute(table)
    assert found.value == pytest.approx(1 - hits.mean())


def test_overconfidence_reads_only_images_whose_factors_conflict(seen: Seen) -> None:
    hits = np.array([True, True, False, False])
    table = answered(seen, np.array([0.5, 0.9, 0.9, 0.5]), hits, texture=[0, 1, 1, 0])
    assert conflict_overconfidence("v").compute(table).value == pytest.approx(0.9 - 0.5)
    agreeing = answered(seen, np.full(4, 0.9), hits)
    assert np.isnan(conflict_overconfidence("v").compute(agreeing).value)


@pytest.mark.parametrize("score", EVERY, ids=lambda score: score.metric)
def test_predictions_without_confidence_are_refused(score: object, seen: Seen) -> None:
    table = answered(seen, np.full(4, np.nan), np.ones(4, bool))
    for each in (table, table.drop(columns="confidence")):
        with pytest.raises(ValueError, match="say nothing of confidence; run the model again"):
            score.compute(each)  # type: ignore[attr-defined]


@pytest.mark.parametrize("score", EVERY, ids=lambda score: score.metric)
def test_a_model_differs_from_itself_in_nothing(score: object, seen: Seen) -> None:
    rng = np.random.default_rng(0)
    table = answered(seen, rng.random(200), rng.random(200) < 0.5, texture=np.arange(200) % 2)
    assert compare(score, [table], [table]).value == 0  # type: ignore[arg-type]


def test_the_interval_of_the_risk_holds_the_risk_of_all_images(seen: Seen) -> None:
    rng = np.random.default_rng(0)
    score, covered = risk_at_coverage("v", chance=0.1), 0
    grid = np.linspace(0, 1, 100_001)
    truth = (0.9 - 0.6 * grid)[grid >= 0.2].mean()  # error rates, of which the surest 80 %
    for _ in range(200):
        confidence = rng.random(500)
        hits = rng.random(500) >= 0.9 - 0.6 * confidence
        found = score.compute(answered(seen, confidence, hits))
        covered += found.low <= truth <= found.high
    assert 183 <= covered <= 198  # of 200; 95 % are 190


def with_calibration(suite: Suite) -> Suite:
    return replace(suite, diagnostics=calibration_scores("hard", chance=1 / 3))


def test_old_rows_get_the_new_scores_and_leaderboards_their_columns(tmp_path: Path) -> None:
    table = evaluate(FirstRow(), tiny_suite().variants(EMBEDDED))[0]
    run_model(tmp_path, table)
    suite = with_calibration(tiny_suite())
    empty = leaderboard(read_runs(tmp_path), suite, tmp_path)
    assert empty["hard_expected_calibration_error"].isna().all()
    assert append(missing_rows(tmp_path, {"tiny": suite}), tmp_path) == 3
    board = leaderboard(read_runs(tmp_path), suite, tmp_path)
    expected = expected_calibration_error("hard").compute(table)
    assert board["hard_expected_calibration_error"].tolist() == [expected.value]
    assert missing_rows(tmp_path, {"tiny": suite}) == []


def test_diagnostics_have_a_version_of_their_own() -> None:
    plain, suite = tiny_suite(), with_calibration(tiny_suite())
    own, diagnostics = with_diagnostics([suite])
    assert scores_sha256(own) == scores_sha256(plain)
    assert diagnostics.protocol == "1+calibration-v1"
    other = replace(suite, diagnostics=calibration_scores("easy", chance=1 / 3))
    _, moved = with_diagnostics([other])
    assert scores_sha256(moved) != scores_sha256(diagnostics)


@pytest.mark.parametrize("name", ALL_SUITES)
def test_every_suite_whose_confidence_is_a_probability_has_the_scores(name: str) -> None:
    suite = ALL_SUITES[name]
    by_group = {"in9-official", "cue-conflict-official", "in9-challenge"}
    has_none = name in by_group or name.startswith("attribution")
    assert bool(suite.diagnostics) != has_none
    for other in suite.protocol_names[1:]:
        assert suite.with_protocol(other).diagnostics == ()
