"""Masks that somebody else made: what they hold is object, refused, or said to be empty."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgn.data.preprocessing import AS_IT_IS, Preprocessing
from cgn.segmentation.files import masks_from_files, paths_of_masks


def test_arrays_and_pictures_of_one_mask_read_alike_and_are_cut_as_their_images(
    tmp_path: Path,
) -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 5:40] = True
    np.save(tmp_path / "flat.npy", mask)
    np.save(tmp_path / "colours.npy", np.repeat(mask[..., None], 3, axis=2))
    Image.fromarray(mask).save(tmp_path / "picture.png")
    paths = [tmp_path / name for name in ("flat.npy", "colours.npy", "picture.png")]
    half = masks_from_files(paths, 20, Preprocessing(20, 20))
    assert torch.equal(half[0], half[1])
    assert torch.equal(half[0], half[2])
    assert half.shape == (3, 1, 20, 20)
    assert half[0, 0, 5:15, :15].all()
    assert not half[0, 0, :, 16:].any()


def test_a_mask_of_another_size_and_what_is_no_mask_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((9, 9), bool))
    with pytest.raises(ValueError, match=r"is a mask of \(9, 9\), expected \(8, 8\)"):
        masks_from_files([tmp_path / "mask.npy"], 8, AS_IT_IS)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a mask"):
        masks_from_files([tmp_path / "text.png"], 8, AS_IT_IS)


def test_each_image_has_the_mask_of_its_name_or_is_named_in_the_error(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    (masks / "dog").mkdir(parents=True)
    np.save(masks / "dog" / "1.npy", np.ones((2, 2)))
    paths = [images / "dog" / "1.JPEG", images / "dog" / "2.JPEG"]
    assert paths_of_masks(paths[:1], images, masks) == [masks / "dog" / "1.npy"]
    with pytest.raises(ValueError, match=r"2\.JPEG has no mask"):
        paths_of_masks(paths, images, masks)


SQUARE = np.zeros((20, 20), np.uint8)
SQUARE[5:15, 5:15] = 1


def palette(values: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(values, "L").convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette(colours)
    return picture


def read(path: Path, n_labels: int = 2) -> np.ndarray:
    return masks_from_files([path], 20, AS_IT_IS, n_labels=n_labels)[0, 0].numpy()


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(SQUARE),
        Image.fromarray(SQUARE * 2),
        Image.fromarray(SQUARE * 255),
        Image.fromarray(SQUARE.astype(np.uint16)),
        Image.fromarray(SQUARE.astype(np.uint16) * 65_535),
        Image.fromarray(SQUARE.astype(bool)),
        Image.fromarray(SQUARE * 255).convert("RGB"),
        Image.fromarray(SQUARE * 255).convert("RGBA"),
        Image.merge("RGB", [Image.fromarray(SQUARE * white) for white in (255, 0, 0)]),
        palette(SQUARE, [0, 0, 0, 128, 0, 0]),
        palette(SQUARE * 2, [0, 0, 0, 128, 0, 0, 0, 0, 0]),
        palette(SQUARE, [30, 30, 30, 128, 0, 0]),
        palette(1 - SQUARE, [255, 255, 255, 0, 0, 0]),
    ],
    ids=[
        *("labels", "second label", "black and white", "16-bit labels", "16-bit white", "bits"),
        *("rgb", "opaque", "red", "palette", "two blacks", "no black", "white first"),
    ],
)
def test_what_is_not_0_is_object_in_every_kind_of_picture(
    picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path / "x.png"), SQUARE == 1)


@pytest.mark.parametrize(
    "array",
    [
        *(SQUARE.astype(kind) for kind in (bool, np.uint8, np.int64, np.float32, ">u2")),
        SQUARE * 255,
        SQUARE[None],
        np.repeat(SQUARE[None] * 255, 3, axis=0),
    ],
    ids=["bool", "byte", "whole", "fraction", "big-endian", "white", "first", "colours first"],
)
def test_what_is_not_0_is_object_in_every_kind_of_array(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(read(tmp_path / "x.npy"), SQUARE == 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (SQUARE * 3, r"it holds 0, 3; expected 0 to 2"),
        (SQUARE * 128, r"it holds 0, 128; expected 0 to 2, where what is not 0 is object"),
        (SQUARE * 15 + np.eye(20, dtype=np.uint8) * 240, r"it holds 0, 15, 240 and 1 more"),
        (SQUARE * -1.0, r"it holds -1.0"),
        (SQUARE * 0.5, r"it holds 0.0, 0.5"),
        (SQUARE * np.nan, r"it holds nan"),
        (SQUARE.astype("S1"), r"it is no array of numbers"),
        (SQUARE[None, None], r"it is an array of shape \(1, 1, 20, 20\), expected \(H, W\)"),
        (np.stack([SQUARE, SQUARE * 2, SQUARE], 2), r"it has several colours"),
        (np.zeros((0, 20), bool), r"x\.npy cannot be read as a mask"),
        (SQUARE.astype(object), r"x\.npy cannot be read as a mask"),
    ],
)
def test_a_mask_whose_objects_are_not_plain_is_refused_and_named(
    array: np.ndarray, message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "x.npy")
    assert "pickle" not in str(caught.value)


def test_an_array_that_claims_more_than_its_file_has_is_refused_at_once(tmp_path: Path) -> None:
    header = "{'descr': '|b1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    path = tmp_path / "big.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(ValueError, match=r"big\.npy cannot be read as a mask"):
        read(path)
    with path.open("ab") as file:
        file.truncate(10**12 + 1_000)  # a hole
    with pytest.raises(ValueError, match=r"claims 1,000,000 x 1,000,000 pixels.*MAX_PIXELS"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>", b"\x80\x04.", b"\x93NUMPY\x09"])
def test_what_is_no_array_is_named_without_advice_to_switch_safety_off(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy cannot be read as a mask") as caught:
        read(tmp_path / "x.npy")
    assert "pickle" not in str(caught.value)


def test_a_partly_transparent_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([SQUARE * 255] * 4)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="it is partly transparent"):
        read(tmp_path / "x.png")


def test_a_mask_is_of_the_shape_of_its_image_at_any_scale(tmp_path: Path) -> None:
    Image.new("RGB", (60, 41)).save(tmp_path / "image.png")
    for name, size in (("half", (30, 20)), ("turned", (41, 60))):
        Image.new("1", size, 1).save(tmp_path / f"{name}.png")
    square = Preprocessing(20, 20)
    images = [tmp_path / "image.png"]
    assert masks_from_files([tmp_path / "half.png"], 20, square, images=images).all()
    with pytest.raises(ValueError, match=r"a mask of 41 x 60 pixels, and its image has 60 x 41"):
        masks_from_files([tmp_path / "turned.png"], 20, square, images=images)


def test_masks_of_no_image_are_said_and_two_of_one_image_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    masks.mkdir()
    np.save(masks / "2.npy", SQUARE)
    Image.fromarray(SQUARE).save(masks / "1.PNG")
    with caplog.at_level(logging.WARNING):
        assert paths_of_masks([images / "1.jpg"], images, masks)[0].stem == "1"
    assert "1 masks are of no image, such as '2'" in caplog.text
    np.save(masks / "1.npy", SQUARE)
    with pytest.raises(ValueError, match=r"holds '1\.PNG' and '1\.npy', which may be one image"):
        paths_of_masks([images / "1.jpg"], images, masks)
