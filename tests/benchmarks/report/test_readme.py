"""The tables of the README and of docs are computed from the results."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import ROOT

from benchmarks.records.predictions import load, save
from benchmarks.report.readme import documents, readme_blocks, rewritten
from benchmarks.suites import ALL_SUITES, GROUPS, SUITES
from cgn.counterfactuals.sampling import SHIPPED
from cgn.io.weights import load_tensors
from cgn.training.small import PRESETS, LossWeights, TrainConfig
from classifiers import MODELS

SHOWN = (list(SUITES.values()), list(MODELS))
README = ROOT / "README.md"


def test_every_table_between_marks_is_what_the_command_makes_of_the_committed_rows(
    committed_results: Path,
) -> None:
    # Whoever is about to commit rows has the tables of these already.
    states = (ROOT / "results", committed_results)
    fresh = [documents(README, readme_blocks(state, *SHOWN, SHIPPED)) for state in states]
    files = {path: path.read_text(encoding="utf-8") for path in fresh[0]}
    assert files in fresh, "python bench.py list --readme README.md writes them anew"


def test_shipped_cgns_were_trained_by_the_command_that_the_readme_shows() -> None:
    for world in {suite.world.name for suite in SUITES.values()}:
        about: Mapping[str, Any] = load_tensors(SHIPPED / f"{world}.safetensors")[1]
        settings = dict(about["config"])
        # A setting that is gone was at what is now the only way; one that is younger than the
        # weights was at what is its default now.
        assert settings.pop("style_features", "critic") == "critic"
        weights = LossWeights(**settings.pop("weights"))
        assert TrainConfig(**settings, weights=weights) == PRESETS[world]


def test_changed_predictions_change_every_table_that_shows_it(
    tmp_path: Path, committed_results: Path
) -> None:
    for each in committed_results.glob("*.csv"):
        shutil.copy(each, tmp_path)
    (tmp_path / "predictions").mkdir()
    for each in (committed_results / "predictions").iterdir():
        if not each.name.startswith("wildlife-mnist"):
            (tmp_path / "predictions" / each.name).symlink_to(each)
        else:
            shutil.copytree(each, tmp_path / "predictions" / each.name)
    for path in (tmp_path / "predictions").glob("wildlife-mnist*/*/cgn/*.parquet"):
        predictions, run = load(path)
        save(predictions.assign(prediction=(predictions["shape"] + 1) % 10), path, run)
    before = readme_blocks(committed_results, *SHOWN, SHIPPED)
    after = readme_blocks(tmp_path, *SHOWN, SHIPPED)
    assert {name for name in before if before[name] != after[name]} == set(before) - {
        "CGNs",
        "generators",
        "every seed",  # which shows values of rows
    }


def test_marks_that_are_missing_or_doubled_are_an_error() -> None:
    for text in ("<!-- a --> 1", "<!-- a -->1<!-- /a --><!-- a -->2<!-- /a -->"):
        with pytest.raises(ValueError, match=r"must have <!-- a --> and <!-- /a --> once each"):
            rewritten(text, {"a": "new"})
    assert rewritten("x<!-- a -->1<!-- /a -->y", {"a": r"\1"}) == "x<!-- a -->\n\\1\n<!-- /a -->y"


def test_a_table_goes_into_the_file_that_has_its_marks(tmp_path: Path) -> None:
    readme, page = tmp_path / "README.md", tmp_path / "docs/page.md"
    page.parent.mkdir()
    readme.write_text("<!-- a --><!-- /a -->")
    page.write_text("<!-- b --><!-- /b -->")
    texts = documents(readme, {"a": "1", "b": "2"})
    assert texts == {readme: "<!-- a -->\n1\n<!-- /a -->", page: "<!-- b -->\n2\n<!-- /b -->"}
    with pytest.raises(ValueError, match="no file has a place for <!-- c -->"):
        documents(readme, {"a": "1", "c": "3"})


def test_the_examples_for_the_results_count_the_newest_row_of_a_slot_alone(
    monkeypatch: pytest.MonkeyPatch, committed_results: Path
) -> None:
    monkeypatch.chdir(committed_results.parent)
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    runs = names["in9"]
    assert not runs.duplicated(["protocol", "source", "model", "seed"]).any()
    board = pd.read_csv(committed_results / "in9.csv").set_index("model")["mixed_rand_accuracy"]
    current = runs[runs["protocol"].eq(SUITES["in9"].protocol)]
    assert current.groupby("model")["value"].mean()["cgn"] == pytest.approx(board["cgn"])


def test_the_python_example_scores_a_module_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    example = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    assert "mixed_rand" in capsys.readouterr().out
    assert {"score", "value", "low", "high", "n"} <= set(names["table"].columns)


@pytest.mark.parametrize("name", [*SUITES, *GROUPS["attributions"]])
def test_every_committed_leaderboard_reads_without_arguments(
    name: str, committed_results: Path
) -> None:
    table = pd.read_csv(committed_results / f"{name}.csv")
    primary = ALL_SUITES[name].primary
    assert {"rank_low", "rank_high", "model", "n", primary, "protocol", "source"} <= set(
        table.columns
    )
    assert {"erm", "cgn-abduct", "cgn-ensemble", "oracle"} <= set(table["model"])
