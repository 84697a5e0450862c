from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from support import TINY_SHA256, FirstRow, run_model, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, Suite
from benchmarks.records.published import (
    FACTS,
    compare_to_published,
    missing_runs,
    models_to_run,
    published,
)
from benchmarks.records.runs import read_runs
from benchmarks.suites import OFFICIAL_SUITES, SUITES

KNOWN = SUITES | {suite.name: suite for suite in OFFICIAL_SUITES.values()}
FACT_TABLE = pd.read_csv(FACTS, keep_default_na=False)


def board(value: float, source: str = "official", model: str = "cgn") -> pd.DataFrame:
    key = "unbiased_accuracy"
    return pd.DataFrame(
        [
            {
                "source": source,
                "model": model,
                "seeds": 3,
                key: value,
                f"{key}_low": 0.1,
                f"{key}_high": 0.9,
            }
        ]
    )


def verdicts(board: pd.DataFrame) -> dict[str, str]:
    rows = compare_to_published(SUITES["wildlife-mnist"], board)
    return dict(zip(rows["model"], rows["verdict"], strict=True))


def test_every_fact_is_of_a_score_that_a_suite_has_and_names_its_source() -> None:
    for fact in FACT_TABLE.to_dict("records"):
        assert fact["score"] in {score.key for score in KNOWN[fact["suite"]].scores}
        assert 0 <= fact["value"] < 1
        assert fact["n"] > 0
        assert fact["source"]
        assert fact["kind"] in ("published", "reproduction")


@pytest.mark.parametrize("suite", OFFICIAL_SUITES.values(), ids=OFFICIAL_SUITES)
def test_networks_held_against_what_was_published_are_named_by_pinned_specs(suite: Suite) -> None:
    measured = set(published(suite)["measured"]) - {""}
    assert measured
    assert all(
        re.fullmatch(r"timm:\w+\.\w+|tv:\w+@IMAGENET1K_V1|geirhos:\w+", name) for name in measured
    )


def test_rows_on_a_part_of_the_images_meet_no_published_score() -> None:
    found = verdicts(board(0.814, source="official-part"))
    assert found["CNN, CGN images"] == "not run: cgn on official data"


@pytest.mark.parametrize("name", ["colored-mnist", "double-colored-mnist", "wildlife-mnist"])
def test_the_papers_rows_are_on_record_for_each_mnist(name: str) -> None:
    assert set(published(SUITES[name])["measured"]) == {"erm", "gan", "cgn", "cgn+original", ""}


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
    assert found["CNN, original and GAN images"] == "not run: gan on official data"
    assert found["CNN, GAN images"] == "not run: no such model here"


def test_rows_on_embedded_data_meet_no_published_score() -> None:
    found = verdicts(board(0.814, source="embedded"))
    assert found["CNN, CGN images"] == "not run: cgn on official data"
    with_textures = verdicts(board(0.814, source="official+textures"))
    assert with_textures["CNN, CGN images"] == "inside"


def test_rows_with_the_published_textures_go_before_rows_without() -> None:
    both = pd.concat([board(0.814, source="official+textures"), board(0.5)])
    assert verdicts(both)["CNN, CGN images"] == "inside"


def test_models_nobody_published_are_listed_with_what_was_measured() -> None:
    rows = compare_to_published(
        SUITES["wildlife-mnist"], board(0.5, model="oracle"), ["oracle", "cgn-abduct"]
    )
    ours = rows.set_index("measured").loc[["oracle", "cgn-abduct"]]
    assert ours["verdict"].tolist() == ["nothing published", "not run: cgn-abduct on official data"]
    assert ours["here"].tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert ours["seeds"].tolist() == [3, 0]
    assert ours["value"].isna().all()


def test_what_is_to_be_measured_are_published_models_that_are_known_and_three_more() -> None:
    known = ["mine", "oracle", "cgn-ensemble", "cgn+original", "cgn", "erm"]
    names = models_to_run(SUITES["colored-mnist"], known)
    assert names == ["erm", "cgn+original", "cgn", "cgn-ensemble", "oracle"]


def test_runs_that_are_there_are_not_lacking_and_runs_on_other_images_are(tmp_path: Path) -> None:
    suite, predictions = tiny_suite(), evaluate(FirstRow(), tiny_suite().variants(EMBEDDED))[0]
    for seed in (0, 2):
        run_model(tmp_path, predictions, model="erm", seed=seed)
    run_model(tmp_path, predictions, model="cgn", seed=0)
    runs = read_runs(tmp_path)

    def left(source: str = "embedded", data: str = TINY_SHA256) -> dict[int, list[str]]:
        return missing_runs(runs, suite, source, data, ["erm", "cgn"], 3)

    assert left() == {1: ["erm", "cgn"], 2: ["cgn"]}
    everything = {seed: ["erm", "cgn"] for seed in range(3)}
    assert left(source="official") == left(data="other") == everything
    assert missing_runs(runs, suite, "embedded", TINY_SHA256, ["erm"], 1) == {}
