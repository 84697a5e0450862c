"""Evaluations that are interrupted go on where they were, and only where nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import patch_commands, tiny_images, tiny_suite
from torch import Tensor, nn

from benchmarks import cli
from benchmarks.core import partial_results as keeping
from benchmarks.core.context import RunContext
from benchmarks.core.evaluate import evaluate_outputs
from benchmarks.core.models import FittedModel
from benchmarks.core.partial_results import Keeper
from benchmarks.core.suite import EMBEDDED, TestSet
from benchmarks.records.predictions import load
from benchmarks.records.runs import read_runs
from benchmarks.runner import evaluate_and_record, load_test_set
from cgn.io.cache import weights_sha256

VARIANTS = {"easy": tiny_images(1), "hard": tiny_images(2)}
BATCH = 8


# Batches seen, and before which one it ends: of no network a part, for that would be another one.


class Counting(nn.Module):
    """A linear network that counts its batches, and is killed before one of them."""

    def __init__(self, killed_before: int = 10**9) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.layer.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
        self._seen = 0  # names that are private are no settings, which would make it another one
        self._killed_before = killed_before

    @property
    def seen(self) -> int:
        return self._seen

    def forward(self, images: Tensor) -> Tensor:
        if self._seen == self._killed_before:
            raise KeyboardInterrupt
        self._seen += 1
        logits: Tensor = self.layer(images.flatten(1))
        return logits


def both(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    logits = module(images)
    return {"": logits, "head": -logits}


def evaluated(module: nn.Module, path: Path | None) -> dict[str, pd.DataFrame]:
    with Keeper(path) as kept:
        tables, _ = evaluate_outputs(module, VARIANTS, both, batch_size=BATCH, kept=kept)
    return tables


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the answers of each batch."""
    monkeypatch.setattr(keeping, "KEEP_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("killed_before", [1, 4, 5, 9])
def test_an_interrupted_evaluation_goes_on_and_says_the_same(
    killed_before: int, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    whole = evaluated(Counting(), None)
    with pytest.raises(KeyboardInterrupt):
        evaluated(Counting(killed_before), path)
    rest = Counting()
    tables = evaluated(rest, path)
    assert rest.seen == 10 - killed_before
    for name, table in whole.items():
        pd.testing.assert_frame_equal(tables[name], table)


@pytest.mark.usefixtures("at_once")
def test_answers_to_batches_of_another_size_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluated(Counting(killed_before=3), path)
    rest = Counting()
    with Keeper(path) as kept:
        tables, _ = evaluate_outputs(rest, VARIANTS, both, batch_size=5, kept=kept)
    assert rest.seen == 16
    pd.testing.assert_frame_equal(tables["head"], evaluated(Counting(), None)["head"])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "line",
    [b"[]\n", b'{"variant": "easy"}\n', b'{"variant": "easy", "seconds": 1, "answers": 3}\n'],
)
def test_lines_that_are_no_answers_are_forgotten(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluated(Counting(killed_before=3), path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]) + line)
    rest = Counting()
    evaluated(rest, path)
    assert rest.seen == 8


def test_a_short_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    evaluated(Counting(), tmp_path / "cache" / "answers.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("at_once")
def test_two_evaluations_of_the_same_at_once_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Keeper(path) as first:
        first.add("easy", [{"": {"prediction": torch.tensor([1])}}])
        pd.testing.assert_frame_equal(
            evaluated(Counting(), path)["head"], evaluated(Counting(), None)["head"]
        )


def exam(folder: Path) -> tuple[TestSet, RunContext]:
    place = RunContext(torch.device("cpu"), folder / "results", folder / "cache")
    return load_test_set(tiny_suite(), EMBEDDED, place.progress), place


def fit_of(module: nn.Module, name: str = "counting") -> FittedModel:
    return FittedModel(name, module, weights_sha256(module), outputs=both)


@pytest.mark.usefixtures("at_once")
def test_a_run_that_was_killed_keeps_its_answers_until_its_rows_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    taken, place = exam(tmp_path)
    monkeypatch.setattr("benchmarks.core.evaluate._at_once", lambda *_: BATCH)
    with pytest.raises(KeyboardInterrupt):
        evaluate_and_record(taken, fit_of(Counting(killed_before=7)), place)
    assert len([*(tmp_path / "cache" / "under way").iterdir()]) == 1
    rest = Counting()
    evaluate_and_record(taken, fit_of(rest), place)
    assert rest.seen == 3
    assert len(read_runs(place.results)) == 2 * len(taken.suite.scores)
    assert [*(tmp_path / "cache" / "under way").iterdir()] == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("what", ["name", "weights", "network", "data", "precision"])
def test_answers_of_anything_else_are_not_taken_up(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.core.evaluate._at_once", lambda *_: BATCH)
    taken, place = exam(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate_and_record(taken, fit_of(Counting(killed_before=7)), place)
    rest = Counting()
    fit = fit_of(rest)
    if what == "name":
        fit = replace(fit, name="another")
    elif what == "weights":
        fit = replace(fit, weights_sha256="other")
    elif what == "network":
        rest.more = nn.Identity()
    elif what == "data":
        taken = replace(taken, data_sha256="other")
    else:
        place = replace(place, precision="bfloat16")
    evaluate_and_record(taken, fit, place)
    assert rest.seen == 10


def test_a_model_with_a_long_name_has_its_rows_and_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    taken, place = exam(tmp_path)
    name = "file:" + "x" * 300
    evaluate_and_record(taken, fit_of(Counting(), name), place)
    found = sorted(place.results.glob("predictions/*/*/*/*.parquet"))
    assert {load(each)[1].model for each in found} == {name, f"{name}/head"}
    assert max(len(part) for each in found for part in each.parts) <= 143


def test_results_that_cannot_be_written_are_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    taken, place = exam(tmp_path)
    (place.results / "predictions").mkdir(parents=True)
    (place.results / "predictions" / "tiny").write_text("a file where a folder should be")
    module = Counting()
    with pytest.raises(ValueError, match="tiny is no folder; name another `results`"):
        evaluate_and_record(taken, fit_of(module), place)
    assert module.seen == 0


def test_damaged_rows_are_found_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs.csv").write_text("no,rows\n1,2\n")

    def never(*_: object) -> None:
        raise AssertionError("work began")

    patch_commands(monkeypatch, "load_test_set", never)
    assert cli.main(["--suite", "in9", "--model", "erm", "--results", str(tmp_path)]) == 2
    assert "runs.csv has other columns" in capsys.readouterr().err
