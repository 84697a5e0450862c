"""The README says what the repository does."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import ATTRIBUTIONS, SUITES
from benchmarks.gate import earlier
from benchmarks.leaderboard import markdown
from benchmarks.tables import percent
from cgn.images import Factors, load_tensors
from cgn.train import PRESETS
from classifiers import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def states() -> Iterator[list[Path]]:
    """The folder of results as it is and as it was committed: whoever runs a model adds rows."""
    now = ROOT / "results"
    try:
        with earlier(now, "HEAD") as committed:
            yield [now, committed]
    except ValueError:  # no git here
        yield [now]


def test_the_leaderboard_in_the_readme_follows_from_the_committed_rows(states: list[Path]) -> None:
    begin, end = "<!-- leaderboard: python bench.py list --markdown -->", "<!-- /leaderboard -->"
    shown = README.split(begin)[1].split(end)[0].strip()
    assert shown in [markdown(state, list(SUITES.values())) for state in states]


def test_the_table_of_cgns_in_the_readme_follows_from_their_files() -> None:
    for world in {suite.world for suite in SUITES.values()}:
        about = load_tensors(ROOT / "cgn/weights" / f"{world.name}.safetensors")[1]
        quality: Any = about["quality"]
        config: Any = about["config"]
        cells = [world.name, f"{config['steps']:,}", f"{about['seconds']:,.0f}"]
        cells += [f"{100 * quality[f'{factor}_effectiveness']:.1f}" for factor in Factors._fields]
        if world.name == "colored-mnist":
            cells[-1] = "-"  # its background is always black
        assert f"| {' | '.join(cells)} |" in README
        assert config == asdict(PRESETS[world.name]), (
            "the README says: trained by just that command"
        )


@pytest.mark.parametrize("model", ["erm", "cgn", "cgn-abduct", "oracle"])
def test_the_figures_for_full_mnist_follow_from_the_committed_rows(
    model: str, states: list[Path]
) -> None:
    rows = [f"(`{model}`) | {' | '.join(official_cells(state, model))} |" for state in states]
    assert any(row in README for row in rows)


def official_cells(results: Path, model: str) -> list[str]:
    """Seeds and scores of a model on the three MNISTs' official data."""
    cells: list[str] = []
    seeds: set[int] = set()
    for name in ("colored-mnist", "double-colored-mnist", "wildlife-mnist"):
        board = pd.read_csv(results / f"{name}.csv")
        official = board[board["source"].str.startswith("official")].set_index("model")
        ends = [f"unbiased_accuracy{end}" for end in ("", "_low", "_high")]
        cells.append(percent(*official.loc[model, ends]))
        seeds.add(int(official["seeds"][model]))
    return [", ".join(map(str, sorted(seeds))), *cells]


def correlated_cells(results: Path, model: str) -> list[str]:
    """Scores of a model on the three MNISTs' official data, at correlation 1 and 0.99."""
    cells = []
    for name in ("colored-mnist", "double-colored-mnist", "wildlife-mnist"):
        board = pd.read_csv(results / f"{name}.csv")
        official = board[board["source"].str.startswith("official")].set_index("model")
        ends = [f"unbiased_accuracy{end}" for end in ("", "_low", "_high")]
        for row in (model, f"{model}@0.99"):
            cells.append(percent(*official.loc[row, ends]) if row in official.index else "-")
    return cells


@pytest.mark.parametrize("model", MODELS)
def test_the_table_of_models_on_full_mnist_follows_from_the_committed_rows(
    model: str, states: list[Path]
) -> None:
    rows = [f"| `{model}` | {' | '.join(correlated_cells(state, model))} |" for state in states]
    assert any(row in README for row in rows) or rows[0].endswith("| - | - | - | - | - | - |")


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
