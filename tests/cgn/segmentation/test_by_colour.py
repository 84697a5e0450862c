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


def test_finding_objects_is_deterministic() -> None:
    pixels, labels = painted(rectangles(12), [(200, 20), (40, 120)])
    assert torch.equal(segment_by_colour(pixels, labels), segment_by_colour(pixels, labels))
