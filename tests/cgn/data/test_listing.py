"""Folders of images: every kind counts once, hidden ones never, and the rest is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from cgn.data.image_files import image_folder
from cgn.data.listing import list_images
from cgn.data.preprocessing import Preprocessing

SMALL = Preprocessing(8, 8)


def write(*paths: Path, colour: int = 0) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (colour, 0, 0)).save(path)


def test_images_of_all_kinds_and_cases_are_listed_by_name(tmp_path: Path) -> None:
    names = ["a.JPG", "b.webp", "c.PNG", "d.tiff", "e.bmp", "f.jpeg", "g.gif", "h.Jpg"]
    write(*(tmp_path / name for name in names))
    (tmp_path / "notes.txt").write_text("x")
    found = list_images(tmp_path)
    assert [path.name for path in found.images] == names
    assert [path.name for path in found.others] == ["notes.txt"]


def test_what_is_hidden_is_passed_over_and_folders_within_are_told(tmp_path: Path) -> None:
    write(tmp_path / "a.png", tmp_path / ".b.png", tmp_path / "in" / "c.png")
    write(tmp_path / ".ipynb_checkpoints" / "a.png", tmp_path / "__MACOSX" / "d.png")
    (tmp_path / "Thumbs.db").write_text("x")
    flat, deep = list_images(tmp_path), list_images(tmp_path, deep=True)
    assert [path.name for path in flat.images] == ["a.png"]
    assert [path.name for path in flat.others] == ["in"]
    assert [path.name for path in deep.images] == ["a.png", "c.png"]
    assert deep.others == []


def test_two_images_that_differ_in_their_ending_alone_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x.jpg", tmp_path / "x.png", tmp_path / "y.png")
    with pytest.raises(ValueError, match=r"holds 'x\.jpg' and 'x\.png', which may be one image"):
        list_images(tmp_path)
    (tmp_path / "x.png").unlink()
    write(tmp_path / "x.PNG")
    with pytest.raises(ValueError, match=r"holds 'x\.PNG' and 'x\.jpg'"):
        list_images(tmp_path)


def test_a_link_that_leads_back_is_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert len(list_images(tmp_path / "a", deep=True).images) == 1


def test_images_are_in_the_order_that_torchvision_has(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    names = ["b/2.png", "b/10.png", "a/z/1.png", "a/z b/3.png", "a/0.png", "a/q.png", "a/z.x/4.png"]
    write(*(tmp_path / name for name in names))
    images, classes = image_folder(tmp_path, SMALL)
    theirs = ImageFolder(tmp_path)
    assert [str(path) for path in images.paths] == [path for path, _ in theirs.samples]
    assert images.factors.shape.tolist() == theirs.targets
    assert list(classes) == theirs.classes


def test_hidden_folders_are_no_classes_and_what_is_not_read_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.webp", tmp_path / "loose.png")
    write(tmp_path / ".ipynb_checkpoints" / "1-checkpoint.png")
    (tmp_path / "cat" / "notes, #2.txt").write_text("x")
    with caplog.at_level(logging.WARNING):
        images, classes = image_folder(tmp_path, SMALL)
    assert classes == ("cat", "dog")
    assert len(images) == 2
    assert "2 files or folders in it are not read, such as 'loose.png'" in caplog.text


def test_a_class_without_images_is_named_with_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.txt").write_text("x")
    with pytest.raises(ValueError, match=r"dog has no image, it holds '1\.txt'; take it away"):
        image_folder(tmp_path, SMALL)


def test_commas_and_hashes_in_names_are_names(tmp_path: Path) -> None:
    folder = tmp_path / "a,b #1 [x] 100%"
    write(folder / "cat, big" / "1#2.png", folder / "dog*" / "[1].png")
    images, classes = image_folder(folder, SMALL)
    assert classes == ("cat, big", "dog*")
    assert images.pixels.shape == (2, 3, 8, 8)


def test_a_folder_of_splits_is_not_taken_for_one_of_classes(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat" / "1.png", tmp_path / "val" / "cat" / "2.png")
    with pytest.raises(ValueError, match=r"holds splits and no classes: 'train', 'val'; name one"):
        image_folder(tmp_path, SMALL)
