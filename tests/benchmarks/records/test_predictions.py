from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support import RUN, FirstRow, Flip, Gives, predictions, tiny_images
from torch import Tensor, nn

from benchmarks import score
from benchmarks.core.evaluate import data_sha256, evaluate, evaluate_outputs, score_suite
from benchmarks.core.suite import Suite
from benchmarks.records.predictions import SCHEMA, load, predictions_path, save
from cgn.data.factors import Factors


def test_every_image_is_predicted_once_in_order() -> None:
    table = predictions()
    assert list(table.columns) == SCHEMA.names
    assert table["variant"].tolist() == ["easy"] * 40 + ["hard"] * 40
    assert table["index"].tolist() == [*range(40), *range(40)]
    assert (table["prediction"] == table["shape"]).all()
    assert table["confidence"].between(1 / 3, 1).all()


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    pd.testing.assert_frame_equal(predictions(batch_size=7), predictions(batch_size=500))


def test_an_output_is_predicted_as_if_it_were_the_only_one() -> None:
    def outputs(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
        return {"": module(images), "flipped": module(images).flip(1)}

    variants = {"easy": tiny_images(1), "hard": tiny_images(2)}
    tables, _ = evaluate_outputs(FirstRow(), variants, outputs, batch_size=15)
    flipped, _ = evaluate(nn.Sequential(FirstRow(), Flip()), variants)
    pd.testing.assert_frame_equal(tables[""], predictions())
    pd.testing.assert_frame_equal(tables["flipped"], flipped)


def test_progress_counts_every_image_once() -> None:
    done: list[int] = []
    evaluate(FirstRow(), {"easy": tiny_images(1)}, batch_size=15, progress=done.append)
    assert done == [15, 15, 10]


def test_each_part_of_the_module_keeps_its_own_mode() -> None:
    module = nn.Sequential(FirstRow(), nn.Dropout(), nn.Dropout())
    module[2].eval()
    first, _ = evaluate(module, {"easy": tiny_images(1)})
    assert [part.training for part in module] == [True, True, False]
    assert (first["prediction"] == first["shape"]).all()


def test_the_mode_is_restored_after_an_error() -> None:
    module = Gives(None)
    with pytest.raises(ValueError, match="it gave NoneType"):
        evaluate(module, {"easy": tiny_images(1)})
    assert module.training


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(40), r"must give logits \(40, C\), it gave \(40,\)"),
        (torch.zeros(39, 3), r"it gave \(39, 3\)"),
        ((torch.zeros(40, 3),), "it gave tuple"),
        (torch.full((40, 3), torch.nan), "NaN"),
        (torch.zeros(40, 1000), "1000 logits an image, but the suite has 3 classes"),
    ],
)
def test_what_is_no_logits_is_refused_with_what_came(answer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Gives(answer), {"easy": tiny_images(1)}, n_classes=3)


def test_a_users_module_is_scored_in_one_call(suite: Suite) -> None:
    scores = score(FirstRow(), suite, data="embedded")
    assert list(scores.to_frame().columns) == ["score", "value", "low", "high", "n"]
    assert scores.to_frame()["value"].tolist() == [1, 1, 0]
    assert scores["easy_accuracy"].n == 40
    assert "easy_accuracy" in str(scores)
    assert max(map(len, str(scores).splitlines())) <= 80
    with pytest.raises(KeyError, match="tiny has no score 'hard', only easy_accuracy, hard_acc"):
        scores["hard"]


def test_the_data_hash_sees_pixels_labels_and_names_but_not_their_order() -> None:
    one, two = tiny_images(1), tiny_images(2)
    assert data_sha256({"a": one, "b": two}) == data_sha256({"b": two, "a": one})
    assert data_sha256({"a": one}) != data_sha256({"a": two})
    assert data_sha256({"a": one}) != data_sha256({"b": one})


def test_stored_predictions_give_the_same_scores(tmp_path: Path, suite: Suite) -> None:
    table = predictions()
    table.loc[::3, "prediction"] = 0
    path = RUN.path(tmp_path)
    save(table, path, RUN)
    stored, run = load(path)
    assert run == RUN
    assert score_suite(suite, stored) == score_suite(suite, table)
    assert (stored["confidence"] - table["confidence"]).abs().max() < 0.0006


def test_stored_predictions_are_small_for_they_lie_in_git(tmp_path: Path) -> None:
    save(predictions(), tmp_path / "a.parquet", RUN)
    assert (tmp_path / "a.parquet").stat().st_size < 8_000
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_predictions_without_a_column_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        save(predictions().drop(columns="shape"), tmp_path / "a.parquet", RUN)
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save(predictions(), path, RUN)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole parquet file .* delete it"):
        load(path)


def test_a_column_whose_name_is_no_text_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save(predictions(), path, RUN)
    path.write_bytes(path.read_bytes().replace(b"texture", b"t\xffxture"))
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole parquet file .* delete it"):
        load(path)


def test_a_foreign_file_is_no_predictions(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="not predictions of this benchmark"):
        load(tmp_path / "x.parquet")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        load(tmp_path / "x.parquet")


def test_a_batch_that_the_device_has_no_memory_for_is_halved() -> None:
    class Small(FirstRow):
        """Takes seven images at most."""

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 7:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(images)

    table, _ = evaluate(Small(), {"easy": tiny_images(1), "hard": tiny_images(2)})
    assert table.equals(predictions())

    class Never(nn.Module):
        """Takes no image at all."""

        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Never(), {"easy": tiny_images(1)})


@pytest.mark.parametrize("asked", [{}, {"precision": torch.float32}, {"precision": torch.bfloat16}])
def test_a_module_runs_in_the_precision_that_is_asked_for(asked: dict[str, Any]) -> None:
    class Asks(FirstRow):
        """Notes what a matrix product gives."""

        found: torch.dtype

        def forward(self, images: Tensor) -> Tensor:
            self.found = (torch.eye(2) @ torch.eye(2)).dtype
            return super().forward(images)

    module = Asks()
    evaluate(module, {"easy": tiny_images(1)}, **asked)
    assert module.found == asked.get("precision", torch.float32)


def test_columns_are_what_is_said_of_logits_and_labels() -> None:
    def right(logits: Tensor, factors: Factors) -> Tensor:
        return (logits.argmax(dim=1) == factors.shape).long()

    images = tiny_images(1)
    table, _ = evaluate(FirstRow(), {"easy": images}, batch_size=7, columns={"rank": right})
    assert table["rank"].tolist() == (table["prediction"] == table["shape"]).astype(int).tolist()
    assert table["rank"].all()


@pytest.mark.parametrize("name", ["", ".", "..", "../embedded", "/etc", "a\\b", "official/.."])
def test_no_name_leads_out_of_the_folder_of_results(name: str) -> None:
    for names in ((name, "embedded"), ("in9", name)):
        with pytest.raises(ValueError, match="is no name of a suite, a source or a model"):
            predictions_path(Path("results"), *names, "erm", 0)
    model = predictions_path(Path("results"), "in9", "embedded", "../../../erm", 0)
    assert ".." not in model.parts
    with pytest.raises(ValueError, match="is no name"):
        predictions_path(Path("results"), "in9", "embedded", "..", 0)
