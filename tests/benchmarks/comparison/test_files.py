"""Files of anyone's predictions are compared like stored ones, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import golden

from benchmarks import cli
from benchmarks.comparison.files import check_predictions, compare_predictions, read_predictions
from benchmarks.core.scores import accuracy
from benchmarks.records.compare import compare
from benchmarks.statistics import mcnemar

N, C = 60, 3
LABELS = np.arange(N) % C
LOGITS = np.random.default_rng(0).normal(size=(N, C)) + np.eye(C)[LABELS]


def table(logits: np.ndarray = LOGITS, **columns: object) -> pd.DataFrame:
    decided = {"id": np.arange(N), "label": LABELS, "prediction": logits.argmax(axis=1)}
    return pd.DataFrame(decided | columns)


def write_csv(path: Path) -> Path:
    numbered = {f"logit_{k}": LOGITS[:, k] for k in range(C)}
    pd.DataFrame({"id": range(N), "label": LABELS} | numbered).to_csv(path, index=False)
    return path


def write_parquet(path: Path) -> Path:
    columns = {"id": range(N), "label": LABELS, "logits": list(LOGITS)}
    pd.DataFrame(columns).to_parquet(path)
    return path


def write_npz(path: Path) -> Path:
    np.savez(path, id=np.arange(N), label=LABELS, logits=LOGITS)
    return path


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_npz])
def test_logits_of_every_kind_of_file_give_the_same_predictions(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = read_predictions(write(tmp_path / f"a.{write.__name__.removeprefix('write_')}"))
    expected = check_predictions(table())
    assert found.astype("int64").equals(expected.astype("int64"))


def test_a_comparison_is_that_of_stored_predictions() -> None:
    other = table(np.roll(LOGITS, 1, axis=0))
    found = compare_predictions(table(), other)
    stored = [
        [each.rename(columns={"label": "shape"}).assign(variant="v")] for each in (table(), other)
    ]
    assert found == compare(accuracy("v", chance=0.1), *stored)
    hits = np.stack([each["prediction"] == LABELS for each in (table(), other)], axis=1)
    assert found.p_value == mcnemar(hits)


def test_published_decisions_by_name_are_compared_as_classes() -> None:
    names = [f"class {k}" for k in range(16)]
    tables = []
    for network in ("resnet101", "resnet50"):
        decided = golden(network).assign(id=lambda rows: range(len(rows)))
        decided = decided.rename(columns={"shape": "label"})[["id", "label", "prediction"]]
        for column in ("label", "prediction"):
            decided[column] = decided[column].map(lambda label: names[label])
        tables.append(decided)
    right = [(each["prediction"] == each["label"]).mean() for each in tables]
    assert compare_predictions(*tables)[:3] == pytest.approx((*right, right[0] - right[1]))


def test_images_of_a_cluster_are_no_independent_images() -> None:
    rng = np.random.default_rng(0)
    easy, easier = np.repeat(rng.random((20, 2)) < (0.5, 0.7), 30, axis=0).T
    images = {"id": range(600), "label": 0}
    one, other = (
        pd.DataFrame(images | {"prediction": np.where(hit, 0, 1)}) for hit in (easier, easy)
    )
    alone = compare_predictions(one, other)
    grouped = compare_predictions(one.assign(cluster=np.arange(600) // 30), other)
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert grouped.p_value > alone.p_value


def test_several_seeds_are_averaged() -> None:
    wrong = table().assign(prediction=(LABELS + 1) % C)
    right = table().assign(prediction=LABELS)
    both = pd.concat([right.assign(seed=0), wrong.assign(seed=1)])
    assert compare_predictions(both, wrong).value == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="label"), "lacks label; it needs id, label, and prediction"),
        (lambda t: t.drop(columns="prediction"), "lacks prediction"),
        (lambda t: pd.concat([t, t.tail(1)]), "has image 59 twice with seed 0"),
        (lambda t: t.head(0), "has no rows"),
        (lambda t: t.assign(label=t["label"].where(t["id"] > 0)), "has no label in row 1"),
        (
            lambda t: pd.concat([t.assign(seed=0), t.head(3).assign(seed=1)]),
            "seeds on different images: each needs all 60",
        ),
        (
            lambda t: pd.concat([t.assign(seed=0), t.assign(seed=1, label=0)]),
            "gives image 1 several labels",
        ),
        (
            lambda t: t.drop(columns="prediction").assign(logit_0=0, logit_2=1),
            "skips some of the columns logit_0 to logit_1",
        ),
        (
            lambda t: t.drop(columns="prediction").assign(logit_0=0, logit_1=1),
            "logits of 2 classes, so labels must be whole numbers from 0 to 1",
        ),
        (
            lambda t: t.drop(columns="prediction").assign(logit_0=0, logit_1=1, logit_2=np.inf),
            "logits that are empty, infinite or NaN",
        ),
    ],
)
def test_a_table_that_cannot_be_compared_says_why(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_predictions(change(table()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.head(50), "the second predictions lack 10 of 60 images, such as 50"),
        (lambda t: t.assign(label=(t["label"] + 1) % C), "image 0 has label 0 in the first"),
        (lambda t: t.assign(cluster=0), "image 30 has cluster 1 in the first predictions and 0"),
    ],
)
def test_predictions_on_other_images_are_not_paired(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_predictions(table(cluster=np.arange(N) // 30), change(table()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"read from \*\.csv, \*\.parquet, \*\.npz, got"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.npz", b"no zip", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / name)
    with pytest.raises(ValueError, match="there is no file"):
        read_predictions(tmp_path / "none.csv")


def test_nothing_in_a_file_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", id=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read: Object arrays"):
        read_predictions(tmp_path / "a.npz")


def test_the_command_compares_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "ours.csv")
    write_npz(tmp_path / "theirs.npz")
    assert cli.main(["compare", str(tmp_path / "ours.csv"), str(tmp_path / "theirs.npz")]) == 0
    shown = capsys.readouterr().out
    assert "ours against theirs" in shown
    assert "cannot be told apart" in " ".join(shown.split())
    assert cli.main(["compare", str(tmp_path / "ours.csv"), "erm"]) == 2
    assert "is compared with another one" in capsys.readouterr().err
