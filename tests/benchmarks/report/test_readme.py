"""The README says what the repository does."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import ROOT

from benchmarks.records.check import results_at_revision
from benchmarks.report.readme import readme_blocks, rewritten
from benchmarks.suites import ATTRIBUTIONS, SUITES
from cgn.counterfactuals.sampling import SHIPPED
from cgn.io.weights import load_tensors
from cgn.training.small import PRESETS, LossWeights, TrainConfig
from classifiers import MODELS

SHOWN = (list(SUITES.values()), list(MODELS))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def states() -> Iterator[list[Path]]:
    """The folder of results as it is and as it was committed: whoever runs a model adds rows."""
    now = ROOT / "results"
    try:
        with results_at_revision(now, "HEAD") as committed:
            yield [now, committed]
    except ValueError:  # no git here
        yield [now]


def test_every_table_between_marks_is_what_the_command_makes_of_the_committed_rows(
    states: list[Path],
) -> None:
    fresh = [rewritten(README, readme_blocks(state, *SHOWN, SHIPPED)) for state in states]
    assert README in fresh, "python bench.py list --readme README.md makes them anew"


def test_shipped_cgns_were_trained_by_the_command_that_the_readme_shows() -> None:
    for world in {suite.world.name for suite in SUITES.values()}:
        about: Mapping[str, Any] = load_tensors(SHIPPED / f"{world}.safetensors")[1]
        settings = dict(about["config"])
        # A setting that is gone was at what is now the only way; one that is younger than the
        # weights was at what is its default now.
        assert settings.pop("style_features", "critic") == "critic"
        weights = LossWeights(**settings.pop("weights"))
        assert TrainConfig(**settings, weights=weights) == PRESETS[world]


def test_a_changed_row_changes_every_table_that_shows_it(tmp_path: Path) -> None:
    text = (ROOT / "results/runs.csv").read_text(encoding="utf-8")
    runs = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    moved = (runs["suite"] == "wildlife-mnist") & (runs["model"] == "cgn")
    runs.loc[moved, "value"] = "0.123"
    runs.to_csv(tmp_path / "runs.csv", index=False)
    before = readme_blocks(ROOT / "results", *SHOWN, SHIPPED)
    after = readme_blocks(tmp_path, *SHOWN, SHIPPED)
    assert {name for name in before if before[name] != after[name]} == set(before) - {"CGNs"}


def test_marks_that_are_missing_or_doubled_are_an_error() -> None:
    for text in ("<!-- a --> 1", "<!-- a -->1<!-- /a --><!-- a -->2<!-- /a -->"):
        with pytest.raises(ValueError, match=r"must have <!-- a --> and <!-- /a --> once each"):
            rewritten(text, {"a": "new"})
    assert rewritten("x<!-- a -->1<!-- /a -->y", {"a": r"\1"}) == "x<!-- a -->\n\\1\n<!-- /a -->y"


@pytest.mark.parametrize("name", MODELS)
def test_every_model_stands_in_the_readmes_table_of_models(name: str) -> None:
    table = README.split("| model | trained on |")[1].split("\n\n")[0]
    assert f"`{name}`" in table


def test_the_examples_for_the_results_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})


def test_the_python_example_scores_a_module_of_ones_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = README.split("```python\n")[1].split("```")[0]
    own = "torch.nn.Sequential(torch.nn.AvgPool2d(64), torch.nn.Flatten(), torch.nn.Linear(3, 9))"
    assert "my_module = ...  #" in example
    exec("import torch\n" + example.replace("my_module = ...", f"my_module = {own}"), {})
    assert "mixed_rand" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*SUITES, *ATTRIBUTIONS])
def test_every_committed_leaderboard_reads_without_arguments(name: str) -> None:
    table = pd.read_csv(ROOT / "results" / f"{name}.csv")
    primary = (SUITES | ATTRIBUTIONS)[name].primary
    assert {"rank", "model", "n", primary, "protocol", "source"} <= set(table.columns)
    assert {"erm", "cgn", "cgn-ensemble", "oracle"} <= set(table["model"])
