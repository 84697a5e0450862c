from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.core.statistics import Estimate
from benchmarks.records.effective_robustness import LinearFit, effective_robustness, fits
from benchmarks.records.runs import COLUMNS
from benchmarks.suites import OFFICIAL_SUITES

SKETCH, HARD = fits()
SUITES_BY_NAME = {suite.name: suite for suite in OFFICIAL_SUITES.values()}


def row(suite: str, key: str, value: float, model: str = "net", source: str = "official") -> dict:  # type: ignore[type-arg]
    variant, _, metric = key.partition("_")
    protocol = next(each.protocol for each in OFFICIAL_SUITES.values() if each.name == suite)
    cells = dict.fromkeys(COLUMNS, "") | {"suite": suite, "protocol": protocol, "seed": 0, "n": 9}
    cells |= {"variant": variant, "metric": metric, "model": model, "source": source}
    return cells | {"value": value, "low": value - 0.01, "high": value + 0.01}


def table(*rows: dict) -> pd.DataFrame:  # type: ignore[type-arg]
    return pd.DataFrame(list(rows), columns=COLUMNS)


@pytest.mark.parametrize(
    ("fit", "clean", "shifted", "points"),
    [
        (SKETCH, 0.7459, 0.2970, 6.9),  # trained on SIN and ImageNet
        (SKETCH, 0.6018, 0.3006, 17.4),  # trained on SIN
        (HARD, 0.9534, 0.3207, 15.9),  # a ViT-B/16
        (SKETCH, 0.8179, 0.3576, 4.0),  # the same
        (SKETCH, 0.6330, 0.4237, 28.0),  # CLIP B/32
        (HARD, 0.8742, 0.3139, 29.2),  # the same
    ],
)
def test_networks_lie_as_far_from_the_fit_as_was_published(
    fit: LinearFit, clean: float, shifted: float, points: float
) -> None:
    assert 100 * (shifted - fit.expected(clean)) == pytest.approx(points, abs=0.06)


def test_the_scores_that_a_fit_is_about_are_scores_of_these_suites() -> None:
    keys = {each.name: [s.key for s in each.scores] for each in OFFICIAL_SUITES.values()}
    for fit in fits():
        assert fit.score in keys[fit.suite]
        assert fit.clean_score in keys["imagenet"]


def test_the_interval_is_wider_than_that_of_either_score() -> None:
    shifted, clean = Estimate(0.3, 0.28, 0.33, 100), Estimate(0.7, 0.65, 0.74, 100)
    found = SKETCH.effective(shifted, clean)
    assert found.value - found.low > 0.02
    assert found.high - found.value > 0.03
    sure = SKETCH.effective(shifted, Estimate(0.7, 0.7, 0.7, 100))
    assert (sure.value - sure.low, sure.high - sure.value) == pytest.approx((0.02, 0.03))


def test_a_network_needs_both_scores_on_one_kind_of_source() -> None:
    clean = row("imagenet", SKETCH.clean_score, 0.7)
    shifted = row(SKETCH.suite, SKETCH.score, 0.45)
    (found,) = effective_robustness(table(clean, shifted), SUITES_BY_NAME, {"imagenet"}).to_dict(
        "records"
    )
    assert found["verdict"] == "better than standard networks"
    assert found["value"] == pytest.approx(0.45 - SKETCH.expected(0.7))
    others = ({"model": "other"}, {"source": "official-part"}, {"protocol": "imagenet@v9"})
    for other in (clean | each for each in others):
        assert effective_robustness(table(other, shifted), SUITES_BY_NAME, {SKETCH.suite}).empty
    assert effective_robustness(table(clean, shifted), SUITES_BY_NAME, {"in9-official"}).empty


def test_a_network_outside_the_range_of_the_fit_gets_a_warning() -> None:
    rows = table(row("imagenet", SKETCH.clean_score, 0.9), row(SKETCH.suite, SKETCH.score, 0.5))
    (found,) = effective_robustness(rows, SUITES_BY_NAME, {"imagenet"}).to_dict("records")
    assert str(found["verdict"]).endswith("outside 56.5-78.3 %, where the fit is known")
