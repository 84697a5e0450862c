from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cgn import masks as masking
from cgn.files import AS_IT_IS, Preprocessing
from cgn.images import Factors, ImageSet
from cgn.masks import (
    masks_from_boxes,
    masks_from_boxes_cached,
    masks_from_files,
    opencv,
    paths_of_masks,
)

pytest.importorskip("cv2", reason="the extra `images` is not installed")
SIZE_PX = 48


def discs(radius: int = 12, n: int = 4) -> tuple[ImageSet, Tensor, Tensor]:
    """Reddish discs before greenish noise, their true masks, and boxes around them."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(SIZE_PX), torch.arange(SIZE_PX), indexing="ij")
    reach = max(0, 20 - radius)
    centre = 24 + torch.randint(-reach, reach + 1, (n, 2), generator=generator)
    distance = (rows - centre[:, :1, None]) ** 2 + (columns - centre[:, 1:, None]) ** 2
    inside = (distance <= radius**2)[:, None]
    colour = torch.where(
        inside,
        torch.tensor([180, 60, 60])[:, None, None],
        torch.tensor([60, 150, 80])[:, None, None],
    )
    noise = torch.randint(-30, 31, (n, 3, SIZE_PX, SIZE_PX), generator=generator)
    images = ImageSet(
        (colour + noise).to(torch.uint8), Factors.tied(torch.zeros(n).long()), torch.arange(n)
    )
    corners = [centre.flip(1) - radius - 1, centre.flip(1) + radius + 1]
    around = torch.cat(corners, dim=1).clamp(0, SIZE_PX - 1)
    return images, inside, around


def overlap(found: Tensor, true: Tensor) -> Tensor:
    """Intersection over union of masks."""
    return (found & true).sum((1, 2, 3)) / (found | true).sum((1, 2, 3))


def test_an_object_is_found_in_a_loose_box() -> None:
    images, true, boxes = discs()
    assert overlap(masks_from_boxes(images, boxes), true).min() > 0.9


def test_a_box_that_is_the_whole_image_still_leaves_a_background() -> None:
    images, true, _ = discs(radius=22)
    whole = torch.tensor([0, 0, SIZE_PX - 1, SIZE_PX - 1]).expand(len(images), 4)
    assert overlap(masks_from_boxes(images, whole), true).min() > 0.9


def test_a_mask_lies_within_its_box_and_holds_its_middle_even_where_nothing_is_to_be_seen() -> None:
    plain = torch.full((1, 3, SIZE_PX, SIZE_PX), 90, dtype=torch.uint8)
    images = ImageSet(plain, Factors.tied(torch.tensor([0])), torch.tensor([0]))
    (mask,) = masks_from_boxes(images, torch.tensor([[10, 20, 31, 41]]))
    assert mask[0, 31, 21]
    assert not mask[0, :20].any()
    assert not mask[0, :, 32:].any()


def test_one_image_has_one_mask_whatever_is_cut_beside_it() -> None:
    images, _, boxes = discs()
    alone = [masks_from_boxes(images.select(slice(i, i + 1)), boxes[i : i + 1]) for i in range(4)]
    assert torch.equal(torch.cat(alone), masks_from_boxes(images, boxes))


@pytest.mark.parametrize("box", [[0, 0, SIZE_PX, 5], [-1, 0, 4, 5], [6, 0, 5, 5]])
def test_a_box_that_is_none_of_the_images_is_refused(box: list[int]) -> None:
    images, _, boxes = discs()
    boxes[2] = torch.tensor(box)
    with pytest.raises(ValueError, match="expected a box of first and last column and row within"):
        masks_from_boxes(images, boxes)


def test_masks_are_cut_once_and_anew_for_other_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _, boxes = discs()
    first = masks_from_boxes_cached(images, boxes, tmp_path)
    cut: list[int] = []

    def counted(*given: Any, **rest: Any) -> Tensor:
        cut.append(1)
        return masks_from_boxes(*given, **rest)

    monkeypatch.setattr(masking, "masks_from_boxes", counted)
    assert torch.equal(masks_from_boxes_cached(images, boxes, tmp_path), first)
    assert not cut
    masks_from_boxes_cached(images, boxes - 1, tmp_path)
    assert cut == [1]


def test_without_opencv_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"cgn-bench\[images\]"):
        opencv()


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
