from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import SUITES
from benchmarks.published import FACTS, beside, published

FACT_TABLE = pd.read_csv(FACTS, keep_default_na=False)


def board(value: float, source: str = "official", model: str = "cgn") -> pd.DataFrame:
    key = "unbiased_accuracy"
    return pd.DataFrame(
        [{"source": source, "model": model, key: value, f"{key}_low": 0.1, f"{key}_high": 0.9}]
    )


def verdicts(board: pd.DataFrame) -> dict[str, str]:
    rows = beside(SUITES["wildlife-mnist"], board)
    return dict(zip(rows["model"], rows["verdict"], strict=True))


def test_every_fact_is_of_a_score_that_a_suite_has_and_names_its_source() -> None:
    for fact in FACT_TABLE.to_dict("records"):
        assert fact["score"] in {score.key for score in SUITES[fact["suite"]].scores}
        assert 0 < fact["value"] < 1
        assert fact["n"] > 0
        assert fact["source"]
        assert fact["kind"] in ("published", "reproduction")


@pytest.mark.parametrize("name", ["colored-mnist", "double-colored-mnist", "wildlife-mnist"])
def test_the_papers_rows_are_on_record_for_each_mnist(name: str) -> None:
    assert set(published(SUITES[name])["measured"]) == {"erm", "cgn", ""}


@pytest.mark.parametrize(
    ("here", "verdict"),
    [
        (0.814, "inside"),
        (0.820, "inside"),  # Wilson at 81.4 % of 10,000: 80.6 to 82.2
        (0.875, "5.3 points above"),
        (0.800, "0.6 points below"),
        (0.806, "less than 0.1 points below"),
    ],
)
def test_the_verdict_follows_from_the_published_interval(here: float, verdict: str) -> None:
    assert verdicts(board(here))["CNN, CGN images"] == verdict


def test_what_was_not_run_says_why() -> None:
    found = verdicts(board(0.8))
    assert found["CNN, original images"] == "not run: erm on official data"
    assert found["CNN, GAN images"] == "not run: no such model here"


def test_rows_on_embedded_data_meet_no_published_score() -> None:
    found = verdicts(board(0.814, source="embedded"))
    assert found["CNN, CGN images"] == "not run: cgn on official data"
    with_textures = verdicts(board(0.814, source="official+textures"))
    assert with_textures["CNN, CGN images"] == "inside"
