"""ImageNet's flat validation archive, sorted by lists of each kind that is published."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from benchmarks.data import imagenet_validation as validation
from benchmarks.data.download import fetch
from benchmarks.data.imagenet_validation import ARCHIVE, DEVKIT, published_list
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.suites.data_sets import DATA_SETS
from benchmarks.worlds.imagenet import class_table

N = 2_000
WNIDS = list(class_table()["wnid"])
# Image i is of the class CLASS[i], two of each.
CLASS = np.random.default_rng(0).permutation(np.repeat(np.arange(1_000), 2)).tolist()
NAMES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, N + 1)]
DATA = replace(
    DATA_SETS["imagenet"], suite=replace(OFFICIAL_SUITES["imagenet"], n_images={"validation": N})
)


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "N_IMAGES", N)


def packed(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_archive(root: Path) -> None:
    (root / ARCHIVE).write_bytes(packed({name: name.encode() for name in NAMES}))


def write_synsets(root: Path) -> None:
    lines = "".join(f"{WNIDS[label]}\n" for label in CLASS)
    (root / "imagenet_2012_validation_synset_labels.txt").write_text(lines)


def write_kaggles(root: Path) -> None:
    rows = [
        f"{name[:-5]},{WNIDS[label]} 85 1 499 272 {WNIDS[0]} 1 2 3 4"
        for name, label in zip(NAMES, CLASS, strict=True)
    ]
    text = "\n".join(["ImageId,PredictionString", *rows[::-1]])
    (root / "LOC_val_solution.csv").write_text(text)


def write_caffes(root: Path) -> None:
    lines = [f"{name} {label}" for name, label in zip(NAMES, CLASS, strict=True)]
    (root / "val.txt").write_text("\n".join(lines))


def write_devkit(root: Path) -> None:
    # Numbers of classes are in an order of their own; inner nodes of the tree follow.
    order = np.random.default_rng(1).permutation(1_000)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array(
        [(i + 1, WNIDS[place], "words", 0) for i, place in enumerate(order)]
        + [(1_001, "n00001740", "entity", 3)],
        dtype=kind,
    )
    meta: Any = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    numbers = {place: i + 1 for i, place in enumerate(order.tolist())}
    truth = "".join(f"{numbers[label]}\n" for label in CLASS)
    folder = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{folder}/meta.mat": meta.getvalue(),
        f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    (root / DEVKIT).write_bytes(packed(files, "w:gz"))


WRITE = (write_synsets, write_kaggles, write_caffes, write_devkit)


@pytest.mark.parametrize("write", WRITE)
def test_each_published_list_says_the_same(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    assert published_list(tmp_path, WNIDS) == [WNIDS[label] for label in CLASS]


def test_the_flat_archive_is_sorted_and_kept(tmp_path: Path) -> None:
    write_archive(tmp_path)
    write_devkit(tmp_path)
    folder = fetch(DATA, tmp_path)
    for name, label in zip(NAMES, CLASS, strict=True):
        assert (folder / "val" / WNIDS[label] / name).read_bytes() == name.encode()
    assert sum(1 for _ in folder.rglob("*.JPEG")) == N
    assert (tmp_path / ARCHIVE).is_file()


def test_a_folder_of_flat_images_is_sorted_where_it_lies_and_an_interruption_goes_on(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "imagenet"
    first = folder / WNIDS[CLASS[0]]
    first.mkdir(parents=True)
    (first / NAMES[0]).touch()  # sorted before the interruption
    for name in NAMES[1:]:
        (folder / name).touch()
    with pytest.raises(ValueError, match=r"which class an image is of is in a list .* LOC_val_sol"):
        fetch(DATA, tmp_path)
    write_synsets(tmp_path)
    fetch(DATA, tmp_path)
    for name, label in zip(NAMES, CLASS, strict=True):
        assert (folder / WNIDS[label] / name).is_file()


def test_without_archive_or_list_it_is_said_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"register at .*{ARCHIVE}.*there is no {ARCHIVE} in"):
        fetch(DATA, tmp_path)
    write_archive(tmp_path)
    with pytest.raises(ValueError, match=rf"register at .* put one of {DEVKIT}, LOC_val_solution"):
        fetch(DATA, tmp_path)
    assert not (tmp_path / "imagenet").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], "has 1,999 of them and 1,000 classes, expected 2,000"),
        (lambda lines: [*lines[1:], lines[1]], "it has 2,000 of them"),
        (lambda lines: ["n00000001", *lines[1:]], "names classes that are not .*'n00000001'"),
        (lambda lines: ["<html>"], "it has 0 of them"),
    ],
)
def test_a_list_that_is_not_the_published_one_sorts_nothing(
    spoil: Callable[[list[str]], list[str]], message: str, tmp_path: Path
) -> None:
    write_archive(tmp_path)
    write_synsets(tmp_path)
    path = tmp_path / "imagenet_2012_validation_synset_labels.txt"
    path.write_text("\n".join(spoil(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=message):
        fetch(DATA, tmp_path)
    assert not (tmp_path / "imagenet").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"\x1f\x8b\x08cut", packed({"a": b"b"}, "w:gz")],
    ids=["empty", "web page", "cut short", "another archive"],  # it holds the time it was made at
)
def test_a_development_kit_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / DEVKIT).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{DEVKIT} (cannot be read|lacks meta\.mat)"):
        published_list(tmp_path, WNIDS)
