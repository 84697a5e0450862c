from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cgn.counterfactuals.abduction import Donors, intervene, real_image_counterfactuals
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import CGN, CGNConfig

CONFIG = CGNConfig(n_classes=3, image_size_px=32, width=8, noise_size=4, n_exemplars=2)
OBJECT = (slice(None), slice(None), slice(10, 20), slice(8, 24))


@pytest.fixture(scope="module")
def cgn() -> CGN:
    torch.manual_seed(0)
    return CGN(CONFIG).eval()


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Bright rectangles on dark ground, a colour a class, with a little noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(12) % 3
    pixels = torch.randint(30, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(12), labels, 10:20, 8:24] += 200
    return ImageSet(pixels, Factors.aligned(labels), torch.arange(100, 112))


@pytest.fixture(scope="module")
def masks(images: ImageSet) -> Tensor:
    found = torch.zeros(len(images), 1, 32, 32, dtype=torch.bool)
    found[OBJECT] = True
    return found


def do(cgn: CGN, images: ImageSet, masks: Tensor, factors: Factors, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    return intervene(cgn, images, masks, factors, generator=generator)


def test_an_image_on_which_nobody_acts_comes_back_byte_for_byte(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    assert do(cgn, images, masks, images.factors).pixels.equal(images.pixels)


@pytest.mark.parametrize("factor", ["texture", "background"])
def test_acting_on_one_factor_leaves_the_pixels_of_the_other_alone(
    cgn: CGN, images: ImageSet, masks: Tensor, factor: str
) -> None:
    other = (images.factors.shape + 1) % 3
    made = do(cgn, images, masks, images.factors._replace(**{factor: other}))
    acted_on = masks if factor == "texture" else ~masks
    changed = (made.pixels != images.pixels).any(dim=1, keepdim=True)
    assert not (changed & ~acted_on).any()
    assert (changed & acted_on).sum() > 0.9 * acted_on.sum()


def test_a_new_surface_is_drawn_for_the_label_it_was_asked_for(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    labels = images.factors.shape
    one, two = (
        do(cgn, images, masks, images.factors._replace(texture=(labels + by) % 3)) for by in (1, 2)
    )
    assert not one.pixels[OBJECT].equal(two.pixels[OBJECT])


def test_the_shape_of_a_real_image_cannot_be_changed(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    wrong = images.factors._replace(shape=(images.factors.shape + 1) % 3)
    with pytest.raises(ValueError, match="the shape of a real image stays"):
        do(cgn, images, masks, wrong)


def test_counterfactuals_keep_shape_mask_and_id_of_their_image(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    masks = masks.clone()
    masks[:, :, 0, 0] = torch.arange(12)[:, None] % 2 == 1
    made = real_image_counterfactuals(cgn, images, masks, 12, seed=0)
    index = made.ids - 100
    assert sorted(index.tolist()) == list(range(12))
    assert made.factors.shape.equal(images.factors.shape[index])
    assert made.masks is not None
    assert (made.masks > 0).equal(masks[index])


def test_more_counterfactuals_than_images_use_each_image_as_often(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    made = real_image_counterfactuals(cgn, images, masks, 36, seed=0)
    assert (made.ids.bincount()[100:] == 3).all()


def test_texture_and_background_labels_are_free_of_the_shape_and_of_each_other(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    factors = real_image_counterfactuals(cgn, images, masks, 900, seed=0).factors
    for first, second in (
        (factors.shape, factors.texture),
        (factors.shape, factors.background),
        (factors.texture, factors.background),
    ):
        assert ((3 * first + second).bincount(minlength=9) > 70).all()


def test_texture_and_background_labels_of_real_images_are_never_read(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    unknown = torch.full((len(images),), -1)
    blind = replace(images, factors=images.factors._replace(texture=unknown, background=unknown))
    told, not_told = (
        real_image_counterfactuals(cgn, each, masks, 24, seed=0) for each in (images, blind)
    )
    assert told.sha256() == not_told.sha256()


def test_one_seed_gives_the_same_counterfactuals_and_another_seed_others(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    hashes = [
        real_image_counterfactuals(cgn, images, masks, 12, seed=seed).sha256() for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_lent_surfaces_and_backgrounds_are_pixels_of_other_images_of_the_class_they_are_to_have(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    made = real_image_counterfactuals(cgn, images, masks, 60, seed=0, swap_fraction=1.0)
    # All objects are alike in shape here, so that lenders show all there is.
    for pixels, texture, background in zip(made.pixels, *made.factors[1:], strict=True):
        surfaces = images.pixels[images.factors.shape == texture]
        behind = images.pixels[images.factors.shape == background]
        inside = (pixels == surfaces) | ~masks[0]
        outside = (pixels == behind) | masks[0]
        assert inside.all(dim=(1, 2, 3)).any()
        assert outside.all(dim=(1, 2, 3)).any()


def test_where_a_lender_shows_nothing_the_mechanisms_draw(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    nothing = torch.zeros_like(masks)
    everything = torch.ones_like(masks)
    labels = images.factors.shape
    new = images.factors._replace(texture=(labels + 1) % 3, background=(labels + 2) % 3)
    index = torch.arange(len(images))
    made = [
        intervene(
            cgn,
            images,
            masks,
            new,
            generator=torch.Generator().manual_seed(0),
            donors=None if shown is None else Donors(images, shown, index, index),
        ).pixels
        for shown in (None, nothing, everything)
    ]
    drawn, hidden_surfaces, hidden_backgrounds = made
    assert torch.where(masks, hidden_surfaces, drawn).equal(drawn)
    assert torch.where(masks, images.pixels, hidden_surfaces).equal(images.pixels)
    assert torch.where(masks, drawn, hidden_backgrounds).equal(drawn)
    assert torch.where(masks, hidden_backgrounds, images.pixels).equal(images.pixels)


def test_a_share_of_counterfactuals_borrows_and_the_others_are_drawn(
    cgn: CGN, images: ImageSet, masks: Tensor
) -> None:
    made = real_image_counterfactuals(cgn, images, masks, 300, seed=0, swap_fraction=0.5)
    new = made.factors.texture != made.factors.shape
    pure = images.pixels[..., 14, 14]
    borrowed = (made.pixels[new][:, None, :, 14, 14] == pure).all(dim=2).any(dim=1)
    assert 0.4 < borrowed.float().mean() < 0.6


def test_a_class_without_an_image_cannot_be_lent(cgn: CGN, images: ImageSet, masks: Tensor) -> None:
    two = images.factors.shape < 2
    with pytest.raises(ValueError, match="no image is of class 2; every class needs one"):
        real_image_counterfactuals(
            cgn, images.select(two), masks[two], 60, seed=0, swap_fraction=1.0
        )
