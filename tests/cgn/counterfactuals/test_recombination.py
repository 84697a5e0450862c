from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cgn.counterfactuals.recombination import (
    SegmentedImages,
    decompose,
    inpaint,
    largest_squares,
    recombine,
    tile_mirrored,
)
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, InMemory

SIZE_PX, N_CLASSES, N_EACH = 24, 3, 4
SURFACES = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=torch.uint8)
SCENES = SURFACES // 4 + 30


def plain() -> tuple[ImageSet, Tensor]:
    """Bars and squares in the colour of their class, before the darker colour of their class."""
    labels = torch.arange(N_CLASSES).repeat(N_EACH)
    figures = torch.zeros(N_CLASSES, SIZE_PX, SIZE_PX, dtype=torch.bool)
    figures[0, 8:14, 3:20] = figures[1, 3:20, 8:14] = figures[2, 6:18, 6:18] = True
    masks = figures[labels][:, None]
    pixels = torch.where(masks, SURFACES[labels][..., None, None], SCENES[labels][..., None, None])
    return ImageSet(pixels, Factors.aligned(labels), torch.arange(len(labels)) + 50), masks


@pytest.fixture(scope="module")
def cutouts() -> SegmentedImages:
    return decompose(*plain())


def test_each_part_is_of_the_class_that_its_label_names(cutouts: SegmentedImages) -> None:
    made = recombine(cutouts, 200, n_classes=N_CLASSES, seed=0)
    assert made.masks is not None
    mask = made.masks > 0
    surface, scene = (
        colours[labels][..., None, None]
        for colours, labels in ((SURFACES, made.factors.texture), (SCENES, made.factors.background))
    )
    assert torch.equal(made.pixels, torch.where(mask, surface, scene).expand(made.pixels.shape))
    own = plain()[1][made.factors.shape]
    assert torch.equal(mask, own)
    assert torch.equal((made.ids - 50) % N_CLASSES, made.factors.shape)


def test_the_three_labels_are_uniform_and_independent(cutouts: SegmentedImages) -> None:
    factors = recombine(cutouts, 5_400, n_classes=N_CLASSES, seed=1).factors
    triples = (factors.shape * N_CLASSES + factors.texture) * N_CLASSES + factors.background
    counts = triples.bincount(minlength=27)
    assert ((counts - 200) ** 2 / 200).sum() < 54.1  # chi-square, 26 degrees, 99.9 %


def test_who_keeps_their_own_surface_keeps_their_own_pixels_and_label(
    cutouts: SegmentedImages,
) -> None:
    images = cutouts.images
    marked = images.pixels + torch.arange(len(images), dtype=torch.uint8)[:, None, None, None]
    own = replace(cutouts, images=replace(images, reader=InMemory(marked)))
    made = recombine(own, 60, n_classes=N_CLASSES, seed=2, own_texture=1.0)
    assert torch.equal(made.factors.texture, made.factors.shape)
    assert made.masks is not None
    inside = (made.masks > 0).expand(made.pixels.shape)
    assert torch.equal(made.pixels[inside], marked[made.ids - 50][inside])


def test_about_as_many_as_asked_keep_their_own_surface(cutouts: SegmentedImages) -> None:
    factors = recombine(cutouts, 3_000, n_classes=N_CLASSES, seed=3, own_texture=0.4).factors
    agree = (factors.texture == factors.shape).float().mean()
    assert abs(agree - (0.4 + 0.6 / N_CLASSES)) < 0.04


def test_the_seed_decides_the_images(cutouts: SegmentedImages) -> None:
    hashes = [recombine(cutouts, 20, n_classes=3, seed=seed).sha256() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_class_whose_objects_cannot_be_used_is_named(cutouts: SegmentedImages) -> None:
    masks = cutouts.masks.clone()
    masks[cutouts.images.factors.shape == 1] = True
    with pytest.raises(ValueError, match="no image of class 1 can give its shape"):
        recombine(replace(cutouts, masks=masks), 20, n_classes=N_CLASSES, seed=0)


def test_nothing_of_the_object_is_left_in_its_background() -> None:
    images, masks = plain()
    filled = inpaint(images.pixels, masks)
    scenes = SCENES[images.factors.background][..., None, None]
    assert torch.equal(filled, scenes.expand(filled.shape))


def test_an_image_that_is_all_object_stays_as_it_is() -> None:
    images, masks = plain()
    assert torch.equal(inpaint(images.pixels, torch.ones_like(masks)), images.pixels)


def test_no_square_within_an_object_is_larger_than_the_one_that_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    blurred = torch.nn.functional.avg_pool2d(
        torch.rand(40, 1, 20, 20, generator=generator), 7, 1, 3
    )
    masks = blurred > 0.48
    squares = largest_squares(masks)
    for mask, (row, column, side) in zip(masks[:, 0], squares.tolist(), strict=True):
        assert mask[row : row + side, column : column + side].all()
        larger = side + 2  # sides are odd
        sums = torch.nn.functional.avg_pool2d(mask[None].float(), larger, stride=1)
        assert sums.numel() == 0 or sums.max() < 1


def test_tiles_show_only_the_square_and_begin_where_they_are_told() -> None:
    images = torch.arange(100.0).view(1, 1, 10, 10).expand(2, 3, 10, 10)
    squares, origins = torch.tensor([[2, 3, 3], [4, 4, 5]]), torch.tensor([[0, 0], [6, 1]])
    tiled = tile_mirrored(images, squares, origins)
    for number, (row, column, side) in enumerate(squares.tolist()):
        within = images[number, 0, row : row + side, column : column + side]
        assert set(tiled[number].flatten().tolist()) == set(within.flatten().tolist())
    assert tiled[0, 0, 0, 0] == 23
    assert tiled[1, 0, 0, 0] == 10 * (4 + 3) + 4 + 1  # 6 folds to 3
