from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from benchmarks.core.suite import EMBEDDED
from benchmarks.suites import SUITES
from cgn.data.image_set import ImageSet
from cgn.models.poses import FILL, measure, normalise, place
from cgn.segmentation.by_colour import ShapeEncoder, segment_by_colour

MNISTS = [name for name in SUITES if name.endswith("mnist")]


def overlap(found: Tensor, true: Tensor) -> float:
    """Mean intersection over union of masks, (N, 1, H, W) bool."""
    both, either = (found & true).sum(dim=(1, 2, 3)), (found | true).sum(dim=(1, 2, 3))
    return (both / either).mean().item()


def blocks(n: int, size_px: int = 32, seed: int = 0) -> Tensor:
    """Random rectangles that leave the border free, (n, 1, size_px, size_px) bool."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 1, size_px, size_px, dtype=torch.bool)
    for mask in masks:
        top, left = torch.randint(3, size_px // 2, (2,), generator=generator).tolist()
        height, width = torch.randint(6, size_px // 2 - 3, (2,), generator=generator).tolist()
        mask[0, top : top + height, left : left + width] = True
    return masks


def painted(masks: Tensor, colours: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Gray objects on gray, a pair of grays a class: pixels and labels."""
    labels = torch.arange(len(masks)) % len(colours)
    inside, outside = (
        torch.tensor(colours, dtype=torch.uint8)[labels].view(-1, 2, 1, 1, 1).unbind(1)
    )
    return torch.where(masks, inside, outside).expand(-1, 3, -1, -1), labels


@pytest.mark.parametrize("colours", [[(255, 0)], [(0, 255), (200, 90), (90, 200)]])
def test_an_object_of_another_colour_is_found_exactly(colours: list[tuple[int, int]]) -> None:
    masks = blocks(30)
    assert torch.equal(segment_by_colour(*painted(masks, colours)), masks)


def test_a_colour_that_is_object_in_one_class_may_be_background_in_another() -> None:
    masks = blocks(40)
    pixels, labels = painted(masks, [(30, 220), (220, 30)])
    assert torch.equal(segment_by_colour(pixels, labels), masks)


def test_small_holes_and_islands_are_noise() -> None:
    masks = blocks(20)
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
    assert overlap(found, train.masks > 127) > 0.9


def test_objects_of_embedded_digits_are_those_that_rows_were_made_with() -> None:
    images = SUITES["colored-mnist"].world.train(EMBEDDED).select(slice(None, None, 8))
    found = segment_by_colour(images.pixels, images.factors.shape)
    digest = hashlib.sha256(found.numpy().data).hexdigest()
    assert digest == "a411acd29f57a7ad98c3616f44fadcb8899bb796001785fc2849cd443639d2b1"


def test_finding_objects_is_deterministic() -> None:
    pixels, labels = painted(blocks(12), [(200, 20), (40, 120)])
    assert torch.equal(segment_by_colour(pixels, labels), segment_by_colour(pixels, labels))


@pytest.mark.parametrize("shift", [(0, 0), (3, -4), (-5, 6)])
def test_a_moved_object_has_the_same_outline(shift: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    mask[..., 8:20, 10:16] = True
    moved = mask.roll(shift, dims=(2, 3))
    pose, pose_moved = measure(mask), measure(moved)
    assert torch.equal(normalise(mask, pose, 32), normalise(moved, pose_moved, 32))
    difference = (pose_moved - pose)[0]
    expected = torch.tensor([shift[1] / 16, shift[0] / 16, 0])
    assert torch.allclose(difference, expected, atol=1e-6)


def test_an_outline_fills_its_canvas_but_for_the_border() -> None:
    masks = blocks(10)
    outlines = normalise(masks, measure(masks), 40)
    assert torch.allclose(measure(outlines)[:, 2], torch.tensor(FILL), atol=2 / 40)
    assert torch.allclose(measure(outlines)[:, :2], torch.zeros(10, 2), atol=2 / 40)


@pytest.mark.parametrize(("canvas_px", "size_px"), [(32, 32), (48, 64), (64, 64)])
def test_placing_an_outline_brings_the_mask_back(canvas_px: int, size_px: int) -> None:
    masks = blocks(20, size_px)
    poses = measure(masks)
    outlines = normalise(masks, poses, canvas_px).float()
    assert overlap(place(outlines, poses, size_px) > 0.5, masks) > 0.9


def test_the_pose_of_an_empty_mask_is_that_of_a_full_one() -> None:
    empty = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    assert measure(empty).tolist() == measure(~empty).tolist() == [[0, 0, 1]]


def test_inferred_noise_varies_around_its_mean_as_far_as_its_deviation_says() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ShapeEncoder(2, 32, width=8, noise_size=4)
    outline, label = blocks(1).float(), torch.tensor([1])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        posterior = encoder(outline, label)
        noise = posterior.sample(torch.randn(4_000, 4, generator=generator))
    assert torch.allclose(noise.mean(dim=0), posterior.mean[0], atol=0.1)
    assert torch.allclose(noise.std(dim=0), posterior.deviation[0], rtol=0.1)
