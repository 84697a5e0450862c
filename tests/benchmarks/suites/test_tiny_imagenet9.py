"""tiny-in9 on images of its format: nine classes, each with a surface and a scene of its own."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support import SHARED, patch_commands
from torch import Tensor

from benchmarks import cli
from benchmarks.core.suite import DataSource
from benchmarks.data import archives
from benchmarks.data.rendered import training_cached, variants_cached
from benchmarks.suites import ALL_SUITES, GROUPS
from benchmarks.suites.imagenet9 import IN9_CLASSES, IN9_VARIANTS
from benchmarks.suites.tiny_imagenet9 import (
    another_of_class,
    inside,
    small_in9_variants,
    variants,
    with_other_backgrounds,
)
from benchmarks.worlds.photographs import COLUMNS, TINY_IN9, archive, photographs, train
from cgn.data.image_set import ImageSet
from classifiers import MODELS

N_TRAIN, N_VAL = 4, 3
BOX = (18, 22, 45, 49)


def drawn(label: int, seed: int) -> Image.Image:
    """A disc in the colour of its class before a darker plain of another one, with some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    disc = ((rows - 35.5) ** 2 + (columns - 31.5) ** 2 <= 14**2)[..., None]
    hue = np.array([label % 3, label // 3, 2])
    picture = np.where(disc, 150 + 35 * hue, 20 + 35 * hue[::-1])
    return Image.fromarray(np.uint8(picture + rng.integers(0, 12, (64, 64, 3))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny-in9` unpacked, and one of ImageNet-9 beside it."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for part, n in (("train", N_TRAIN), ("val", N_VAL)):
        for label, name in enumerate(IN9_CLASSES):
            (root / "tiny-in9" / part / name).mkdir(parents=True)
            for number in range(n):
                file = f"{part}/{name}/n{label:08}_{number}.JPEG"
                drawn(label, 100 * label + number).save(root / "tiny-in9" / file, quality=95)
                rows.append([file, f"n{label:08}", *BOX])
    table = pd.DataFrame(rows, columns=["file", "wnid", *COLUMNS])
    table.to_csv(root / "tiny-in9" / "boxes.csv", index=False)
    for variant in IN9_VARIANTS:
        for label, name in enumerate(IN9_CLASSES):
            place = root / "in9" / "bg_challenge" / variant / "val" / name
            place.mkdir(parents=True)
            drawn(label, label).resize((224, 224)).save(place / f"n{label:08}_0.JPEG")
    return root


@pytest.fixture(scope="module")
def source(folder: Path) -> DataSource:
    return DataSource(folder=folder)


@pytest.fixture(scope="module")
def sets(source: DataSource) -> dict[str, ImageSet]:
    return variants(source)


def colours(label: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colours of the surface and of the scene of each class, (N, 3)."""
    hue = torch.stack([label % 3, label // 3, torch.full_like(label, 2)], dim=1)
    return 155.5 + 35 * hue, 25.5 + 35 * hue.flip(1)


def test_the_same_objects_stand_before_backgrounds_of_the_labelled_class(
    sets: dict[str, ImageSet],
) -> None:
    for name, images in sets.items():
        assert torch.equal(images.ids, sets["original"].ids)
        assert torch.equal(images.factors.shape, sets["original"].factors.shape)
        surface, _ = colours(images.factors.shape)
        _, scene = colours(images.factors.background)
        centre = images.pixels[:, :, 30:40, 26:36].float().mean(dim=(2, 3))
        corner = images.pixels[:, :, :10, :10].float().mean(dim=(2, 3))
        expected = scene if name == "only_bg_t" else surface
        assert (centre - expected).abs().max() < 6, name
        assert (corner - scene).abs().max() < 6, name


def test_backgrounds_are_of_the_own_class_or_of_any_and_never_ones_own(
    sets: dict[str, ImageSet],
) -> None:
    own, any_ = sets["mixed_same"].factors, sets["mixed_rand"].factors
    assert torch.equal(own.background, own.shape)
    assert len(any_.background.unique()) > 4
    assert (sets["only_bg_t"].factors.texture == -1).all()
    assert not torch.equal(sets["mixed_same"].pixels, sets["original"].pixels)


def test_another_image_is_of_the_wanted_class_and_another_one() -> None:
    labels = torch.arange(6).repeat(5)
    for wanted in (labels, labels.flip(0), torch.zeros_like(labels)):
        found = another_of_class(labels, wanted, np.random.default_rng(0))
        assert torch.equal(labels[found], wanted)
        assert not (found == torch.arange(len(labels))).any()


def test_images_whose_box_leaves_no_background_are_left_out(source: DataSource) -> None:
    images, boxes = photographs(source, "val")
    boxes[0] = torch.tensor([0, 0, 63, 63])
    assert 0 not in with_other_backgrounds(images, boxes)["original"].ids.tolist()
    assert images.masks is not None
    images.masks[1] = 0
    assert 1 not in with_other_backgrounds(images, boxes)["original"].ids.tolist()


def test_a_box_has_both_its_ends() -> None:
    (box,) = inside(torch.tensor([BOX]))
    assert box.sum() == (45 - 18 + 1) * (49 - 22 + 1)
    assert box[0, 22, 18]
    assert box[0, 49, 45]


def test_archive_and_unpacked_folder_hold_the_same_images(
    folder: Path, tmp_path: Path, source: DataSource
) -> None:
    with zipfile.ZipFile(tmp_path / "tiny-in9.zip", "w") as file:
        for path in sorted((folder / "tiny-in9").rglob("*.*")):
            file.write(path, path.relative_to(folder / "tiny-in9"))
    zipped = train(DataSource(folder=tmp_path))
    assert zipped.sha256() == train(source).sha256()
    assert zipped.factors.shape.bincount().tolist() == [N_TRAIN] * 9
    assert zipped.masks is not None
    assert 0.1 < zipped.masks.float().mean() / 255 < 0.2


@pytest.mark.parametrize("make", [archive, small_in9_variants])
def test_a_folder_without_the_images_is_an_error_that_says_what_it_needs(
    make: Any, tmp_path: Path
) -> None:
    for source in (DataSource(folder=tmp_path), DataSource()):
        with pytest.raises(ValueError, match=r"(tiny-in9|in9-64px) needs .*tiny-in9"):
            make(source)


def test_imagenet9_is_found_beside_and_made_small(source: DataSource) -> None:
    sets = small_in9_variants(source)
    assert set(sets) == set(IN9_VARIANTS)
    assert sets["original"].images().shape == (9, 3, 64, 64)


def test_what_has_a_fingerprint_is_kept_until_its_material_changes(
    folder: Path, source: DataSource, tmp_path: Path
) -> None:
    suite, made = ALL_SUITES["tiny-in9"], []

    def counted(source: DataSource) -> ImageSet:
        made.append(source)
        return train(source).select(slice(3))

    world = replace(TINY_IN9, train=counted)
    for _ in range(2):
        training_cached(world, "train", source, tmp_path)
    assert len(made) == 1
    (folder / "tiny-in9" / "note.txt").write_text("new")
    training_cached(world, "train", source, tmp_path)
    (folder / "tiny-in9" / "note.txt").unlink()
    assert len(made) == 2
    kept = variants_cached(suite, source, tmp_path)
    assert kept["mixed_rand"].sha256() == variants(source)["mixed_rand"].sha256()


def test_one_command_recombines_fits_and_scores_both_suites(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    names = ("erm-resnet", "recombined-ensemble")
    short = {name: replace(MODELS[name], steps=2, epochs=0, batch_size=8) for name in names}
    patch_commands(monkeypatch, "MODELS", short)
    monkeypatch.setattr("benchmarks.data.generators.N_COUNTERFACTUALS", 30)
    command = ["--suite", "natural", "--model", ",".join(names), "--data", str(folder)]
    assert cli.main([*command, "--results", str(tmp_path)]) == 0, capsys.readouterr().err
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert set(runs["suite"]) == set(GROUPS["natural"])
    heads = {f"{names[1]}/{head}" for head in ("shape", "texture", "background")}
    assert set(runs["model"]) == {*names, *heads}
    assert set(runs["source"]) == {"official", "official-part"}
    board = pd.read_csv(tmp_path / "tiny-in9.csv")
    assert board["rank_low"].notna().sum() == 2
    assert board["mixed_same-mixed_rand_bg_gap"].notna().all()


@pytest.mark.shared("tiny-in9.zip")
def test_the_real_images_are_read_with_their_boxes() -> None:
    place = archive(DataSource(folder=SHARED))
    with (place / "boxes.csv").open() as file:
        table = pd.read_csv(file)
    boxes = torch.tensor(table[[*COLUMNS]].to_numpy())
    assert len(boxes) == 23_100
    assert inside(boxes[:500]).flatten(1).any(dim=1).all()
    assert boxes.min() == 0
    assert boxes.max() == 63


def packed(folder: Path, path: Path, within: str = "") -> Path:
    """Zip the files of `tiny-in9`."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / "tiny-in9").rglob("*.*")):
            archive.write(file, within + file.relative_to(folder / "tiny-in9").as_posix())
    return path


def test_an_archive_with_a_folder_in_it_holds_the_same_images(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "tiny-in9.zip", within="tiny-in9/")
    found = photographs(DataSource(folder=tmp_path), "val")[0]
    assert torch.equal(found.pixels, photographs(DataSource(folder=folder), "val")[0].pixels)


def test_an_archive_that_is_cut_short_nested_or_a_bomb_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = DataSource(folder=tmp_path), tmp_path / "tiny-in9.zip"
    whole = packed(folder, path).read_bytes()
    path.write_bytes(whole[:-500])
    with pytest.raises(ValueError, match=r"tiny-in9\.zip is no whole zip archive: .* fetch it"):
        photographs(source, "val")
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("tiny-in9.zip", whole)
    with pytest.raises(ValueError, match=r"holds 'tiny-in9\.zip', expected train/, val/ and boxes"):
        photographs(source, "val")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("boxes.csv", bytes(20 << 20))
    with pytest.raises(ValueError, match=r"boxes.csv' of .* it has 20,971,520 bytes, and no more"):
        photographs(source, "val")
    monkeypatch.setattr(archives, "SPARED_BYTES", 1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("boxes.csv", bytes(9 << 20))
    with pytest.raises(ValueError, match=r"tiny-in9\.zip would unpack to more than .*MAX_GROWTH"):
        photographs(source, "val")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,x0,y0,x1\n", "boxes.csv of .* lacks the columns"),
        ("file,x0,y0,x1,y1\nval/a,1,2,3,x\n", "without four whole numbers"),
        ("file,x0,y0,x1,y1\nval/a,1,2,3,\n", "without four whole numbers"),
        ("file,x0,y0,x1,y1\n,1,2,3,4\n", "rows without a file"),
        ("file,x0,y0,x1,y1\nval/a,1,2,3,4\nval/a,1,2,3,4\n", "names 'val/a' twice"),
        ('file,x0\n"', "is no table"),
        ("", "is no table|lacks the columns"),
        ("file,x0,y0,x1,y1\nval/00_dog/1.JPEG,1,2,3,4\n", "must have a folder for each of"),
    ],
)
def test_a_table_of_boxes_of_another_form_is_named(
    table: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "boxes.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        photographs(DataSource(folder=tmp_path), "val")


def test_an_image_that_the_table_names_and_the_archive_lacks_is_named(
    folder: Path, tmp_path: Path
) -> None:
    packed(folder, tmp_path / "whole.zip")
    with (
        zipfile.ZipFile(tmp_path / "whole.zip") as whole,
        zipfile.ZipFile(tmp_path / "tiny-in9.zip", "w") as part,
    ):
        for name in whole.namelist():
            if not name.startswith("val/03_"):
                part.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match=r"'val/03_reptile/.*tiny-in9\.zip.* it is not there"):
        photographs(DataSource(folder=tmp_path), "val")
