from __future__ import annotations

import hashlib

import pytest
import torch
from support import rectangles
from torch import Tensor

from benchmarks.core.suite import EMBEDDED
from benchmarks.suites import SUITES
from cgn.data.image_set import ImageSet
from cgn.quality.fidelity import mask_iou
from cgn.segmentation.by_colour import segment_by_colour

MNISTS = [name for name in SUITES if name.endswith("mnist")]


def painted(masks: Tensor, colours: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Gray objects on gray, a pair of grays a class: pixels and labels."""
    labels = torch.arange(len(masks)) % len(colours)
    inside, outside = (
        torch.tensor(colours, dtype=torch.uint8)[labels].view(-1, 2, 1, 1, 1).unbind(1)
    )
    return torch.where(masks, inside, outside).expand(-1, 3, -1, -1), labels


@pytest.mark.parametrize("colours", [[(255, 0)], [(0, 255), (200, 90), (90, 200)]])
def test_an_object_of_another_colour_is_found_exactly(colours: list[tuple[int, int]]) -> None:
    masks = rectangles(30)
    assert torch.equal(segment_by_colour(*painted(masks, colours)), masks)


def test_a_colour_that_is_object_in_one_class_may_be_background_in_another() -> None:
    masks = rectangles(40)
    pixels, labels = painted(masks, [(30, 220), (220, 30)])
    assert torch.equal(segment_by_colour(pixels, labels), masks)


def test_small_holes_and_islands_are_noise() -> None:
    masks = rectangles(20)
    specked = masks.clone()
    specked[:, :, 2, 2] = True
    row, column = masks[0, 0].nonzero().float().mean(dim=0).long().tolist()
    specked[0, 0, row, column] = False
    pixels, labels = painted(specked, [(200, 20)])
    assert torch.equal(segment_by_colour(pixels, labels), masks)


def test_an_image_of_one_colour_holds_no_object() -> None:
    pixels = torch.full((4, 3, 16, 16), 77, dtype=torch.uint8)
    assert not segment_by_colour(pixels, torch.zeros(4, dtype=torch.int64)).any()


@pytest.mark.parametrize("name", MNISTS)
def test_digits_are_found_in_biased_images(name: str) -> None:
    train: ImageSet = SUITES[name].world.train(EMBEDDED)
    assert train.masks is not None
    found = segment_by_colour(train.pixels, train.factors.shape)
    assert mask_iou(found, train.masks > 127).mean() > 0.9


def test_objects_of_embedded_digits_are_those_that_rows_were_made_with() -> None:
    images = SUITES["colored-mnist"].world.train(EMBEDDED).select(slice(None, None, 8))
    found = segment_by_colour(images.pixels, images.factors.shape)
    digest = hashlib.sha256(found.numpy().data).hexdigest()
    assert digest == "a411acd29f57a7ad98c3616f44fadcb8899bb796001785fc2849cd443639d2b1"


def bars(n: int, size_px: int = 24) -> Tensor:
    """Upright bars from the middle over an edge of the image, every other one over the lower."""
    masks = torch.zeros(n, 1, size_px, size_px, dtype=torch.bool)
    for i, column in enumerate(torch.arange(n) * 7 % (size_px - 8)):
        rows = slice(8, None) if i % 2 else slice(None, -8)
        masks[i, :, rows, column + 2 : column + 6] = True
    return masks


@pytest.mark.parametrize("colours", [[(255, 0)], [(30, 220), (220, 30)]])
def test_an_object_that_the_border_cuts_is_found_to_the_edge(
    colours: list[tuple[int, int]],
) -> None:
    masks = bars(40)
    assert torch.equal(segment_by_colour(*painted(masks, colours)), masks)


def test_a_shape_that_fills_its_image_is_found_to_the_edge() -> None:
    masks = bars(40)
    masks[:4] = True
    found = segment_by_colour(*painted(masks, [(200, 40)]))
    assert torch.equal(found, masks)


def test_a_class_that_the_border_cuts_leaves_the_others_as_they_are() -> None:
    whole, cut = rectangles(20), bars(20, rectangles(1).shape[-1])
    pixels, labels = painted(torch.stack([whole, cut], dim=1).flatten(0, 1), [(9, 99), (180, 70)])
    alone = segment_by_colour(pixels[::2], labels[::2])
    found = segment_by_colour(pixels, labels)
    assert torch.equal(found[::2], alone)
    assert torch.equal(found[1::2], cut)


@pytest.mark.parametrize(
    ("name", "least"), [("double-colored-mnist", 0.98), ("wildlife-mnist", 0.93)]
)
def test_digits_that_a_crop_cuts_are_found(name: str, least: float) -> None:
    train = SUITES[name].world.train(EMBEDDED).select(slice(None, None, 4))
    assert train.masks is not None
    middle = (..., slice(4, 28), slice(4, 28))
    found = segment_by_colour(train.pixels[middle], train.factors.shape)
    assert mask_iou(found, train.masks[middle] > 127).mean() > least


def test_finding_objects_is_deterministic() -> None:
    pixels, labels = painted(rectangles(12), [(200, 20), (40, 120)])
    assert torch.equal(segment_by_colour(pixels, labels), segment_by_colour(pixels, labels))
