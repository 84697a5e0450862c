from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.segmentation.boxes import masks_from_boxes

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
        (colour + noise).to(torch.uint8), Factors.aligned(torch.zeros(n).long()), torch.arange(n)
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
    images = ImageSet(plain, Factors.aligned(torch.tensor([0])), torch.tensor([0]))
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
