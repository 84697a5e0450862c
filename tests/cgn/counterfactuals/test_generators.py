from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cgn.counterfactuals.generators import (
    AbductingCGN,
    CGNGenerator,
    Generator,
    Paste,
    SegmentingCGN,
    SupportsIntervention,
    SupportsSegmentation,
    Workspace,
)
from cgn.counterfactuals.recombination import decompose
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import CGN, CGNConfig
from cgn.segmentation.by_colour import segment_by_colour

N_CLASSES = 3
CONFIG = CGNConfig(n_classes=N_CLASSES, image_size_px=32, width=8, noise_size=4)


def squares(*, background: bool = True) -> ImageSet:
    """Plain squares on plain ground, both in the gray of their class; ids from 100 on."""
    labels = torch.arange(30) % N_CLASSES
    pixels = torch.zeros(30, 3, 32, 32, dtype=torch.uint8)
    if background:
        pixels += (20 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    masks = torch.zeros(30, 1, 32, 32, dtype=torch.bool)
    for image, mask, label in zip(pixels, masks, labels, strict=True):
        mask[:, 10:20, 8 : 18 + 3 * label] = True  # wider by class
        image[:, 10:20, 8 : 18 + 3 * label] = 150 + 30 * label
    factors = Factors.aligned(labels)
    if not background:
        factors = factors.only(("shape", "texture"))
    return ImageSet(pixels, factors, 100 + torch.arange(30), masks.to(torch.uint8) * 255)


def paste_of(images: ImageSet, folder: Path, *, true_masks: bool = True) -> Paste:
    assert images.masks is not None
    work = Workspace(torch.device("cpu"), folder)
    return Paste(decompose(images, images.masks > 0), N_CLASSES, work, true_masks)


def by_colour(images: ImageSet) -> Tensor:
    return segment_by_colour(images.pixels, images.factors.shape)


def labels_in(pixels: Tensor) -> Factors:
    """Read the labels off images of plain squares."""
    gray = pixels[:, 0].long()
    width = (gray[:, 15] >= 150).sum(dim=1)
    return Factors((width - 10) // 3, (gray[:, 15, 12] - 150) // 30, gray[:, 0, 0] // 20)


def test_pasted_images_of_plain_colours_show_the_labels_they_claim(tmp_path: Path) -> None:
    images = paste_of(squares(), tmp_path).sample(200, seed=1)
    for shown, claimed in zip(labels_in(images.pixels), images.factors, strict=True):
        assert shown.equal(claimed)
    pairs = images.factors.shape * N_CLASSES + images.factors.background
    assert len(pairs.unique()) == N_CLASSES**2  # free of each other


def test_pasted_images_are_made_of_the_training_images_alone(tmp_path: Path) -> None:
    images = paste_of(squares(), tmp_path).sample(200, seed=1)
    assert set(images.ids.tolist()) <= set(squares().ids.tolist())
    assert set(images.pixels.unique().tolist()) <= set(squares().pixels.unique().tolist())


def test_without_a_background_label_pasted_images_have_none_and_stay_black(tmp_path: Path) -> None:
    images = paste_of(squares(background=False), tmp_path).sample(100, seed=1)
    assert images.factors.known == ("shape", "texture")
    assert labels_in(images.pixels).texture.equal(images.factors.texture)
    assert (images.pixels[:, :, 0] == 0).all()


def test_another_seed_pastes_other_images_and_the_same_seed_the_same(tmp_path: Path) -> None:
    paste = paste_of(squares(), tmp_path)
    first, again, other = (paste.sample(50, seed=seed) for seed in (1, 1, 2))
    assert first.sha256() == again.sha256() != other.sha256()


@pytest.mark.parametrize("true_masks", [True, False])
def test_an_intervention_that_changes_nothing_returns_the_image(
    tmp_path: Path, true_masks: bool
) -> None:
    images = squares()
    cgn = SegmentingCGN(CGN(CONFIG), Workspace(torch.device("cpu"), tmp_path), by_colour)
    for generator in (paste_of(images, tmp_path, true_masks=true_masks), cgn):
        same = generator.intervene(images, images.factors, seed=0)
        assert same.pixels.equal(images.pixels)
        assert same.ids.equal(images.ids)


def test_copy_and_paste_changes_the_factor_that_it_is_asked_for_and_no_other(
    tmp_path: Path,
) -> None:
    images = squares()
    other = (images.factors.shape + 1) % N_CLASSES
    for factor in ("texture", "background"):
        wanted = images.factors._replace(**{factor: other})
        changed = paste_of(images, tmp_path).intervene(images, wanted, seed=3)
        for shown, asked in zip(labels_in(changed.pixels), wanted, strict=True):
            assert shown.equal(asked)


def test_nobody_can_change_a_shape(tmp_path: Path) -> None:
    images = squares()
    other = images.factors._replace(shape=(images.factors.shape + 1) % N_CLASSES)
    with pytest.raises(ValueError, match="the shape of a real image stays"):
        paste_of(images, tmp_path).intervene(images, other, seed=0)


def test_a_cgn_leaves_a_factor_without_labels_alone(tmp_path: Path) -> None:
    images = squares(background=False)
    cgn = SegmentingCGN(CGN(CONFIG), Workspace(torch.device("cpu"), tmp_path), by_colour)
    other = (images.factors.shape + 1) % N_CLASSES
    changed = cgn.intervene(images, images.factors._replace(texture=other), seed=0)
    assert images.masks is not None
    outside = images.masks.expand(-1, 3, -1, -1) == 0
    assert changed.pixels[outside].equal(images.pixels[outside])
    assert not changed.pixels.equal(images.pixels)


def test_true_masks_have_to_be_there_if_they_are_asked_for(tmp_path: Path) -> None:
    images = squares()
    blind = ImageSet(images.pixels, images.factors, images.ids)
    with pytest.raises(ValueError, match="true masks of these images are not known"):
        paste_of(images, tmp_path).intervene(blind, images.factors, seed=0)


def test_what_a_generator_can_do_follows_from_its_methods(tmp_path: Path) -> None:
    images = squares()
    assert images.masks is not None
    work = Workspace(torch.device("cpu"), tmp_path)
    cgn = CGN(CONFIG)
    acting: list[Generator] = [
        paste_of(images, tmp_path),
        SegmentingCGN(cgn, work, by_colour),
        AbductingCGN(cgn, work, by_colour, images, images.masks > 0, 0.5),
    ]
    assert all(isinstance(each, SupportsIntervention) for each in acting)
    assert all(isinstance(each, SupportsSegmentation) for each in acting)
    assert not isinstance(CGNGenerator(cgn, work), SupportsIntervention)
    for generator in (*acting, CGNGenerator(cgn, work)):
        drawn = generator.sample(10, seed=0)
        assert len(drawn) == 10
        assert drawn.size_px == (32, 32)


def test_where_no_object_is_found_pasted_images_are_as_bad_as_the_masks(tmp_path: Path) -> None:
    images = squares()
    nothing = torch.zeros(30, 1, 32, 32, dtype=torch.bool)
    work = Workspace(torch.device("cpu"), tmp_path)
    drawn = Paste(decompose(images, nothing), N_CLASSES, work).sample(50, seed=0)
    assert labels_in(drawn.pixels).background.equal(drawn.factors.background)
    assert drawn.masks is not None
    assert not drawn.masks.any()
    strict = Paste(decompose(images, nothing), N_CLASSES, work, only_usable=True)
    with pytest.raises(ValueError, match="can give its shape"):
        strict.sample(50, seed=0)
