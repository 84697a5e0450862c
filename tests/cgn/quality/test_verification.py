from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import CGN, CGNConfig
from cgn.quality.verification import accept_mask, verifier_training_set

N_CLASSES = 3


def coded(factors: Factors) -> ImageSet:
    """Images whose channels are their labels, ten levels apart."""
    pixels = (10 * torch.stack(list(factors), dim=1)).to(torch.uint8)
    return ImageSet(
        pixels[:, :, None, None].expand(-1, -1, 4, 4), factors, torch.arange(len(pixels))
    )


def read(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read the labels off such images, sure of each up to one in two hundred."""
    labels = (images[:, :, 0, 0] * 25.5).round().long().clamp(max=N_CLASSES - 1)
    logits = 6 * one_hot(labels, N_CLASSES).float()
    return logits[:, 0], logits[:, 1], logits[:, 2]


@pytest.fixture
def factors() -> Factors:
    return Factors.independent(250, N_CLASSES, torch.Generator().manual_seed(0))


def test_images_that_show_all_their_labels_are_confirmed(factors: Factors) -> None:
    assert accept_mask(coded(factors), read).all()


@pytest.mark.parametrize("factor", Factors._fields)
def test_one_wrong_label_is_enough_to_be_refused(factors: Factors, factor: str) -> None:
    wrong = torch.arange(250) % 5 == 0
    labels = getattr(factors, factor)
    shown = factors._replace(**{factor: torch.where(wrong, (labels + 1) % N_CLASSES, labels)})
    images = ImageSet(coded(shown).pixels, factors, torch.arange(250))
    assert accept_mask(images, read).equal(~wrong)
    others = tuple(name for name in Factors._fields if name != factor)
    assert accept_mask(images, read, others).all()


def test_who_is_less_sure_than_asked_confirms_nothing(factors: Factors) -> None:
    assert not accept_mask(coded(factors), read, confidence=0.999).any()


def test_a_check_learns_from_labels_of_those_factors_alone_that_real_images_have() -> None:
    torch.manual_seed(0)
    cgn = CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=16, width=8, tile_px=16)).eval()
    labels = torch.arange(30) % N_CLASSES
    pixels = torch.zeros(30, 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, 5:9, 5:9] = 200
    masks = pixels[:, :1] > 0
    real = ImageSet(pixels, Factors(labels, labels, torch.full((30,), -1)), torch.arange(30))
    assert real.factors.known == ("shape", "texture")
    told: list[tuple[int, int]] = []
    made = verifier_training_set(
        cgn, real, masks, 90, seed=0, progress=lambda *each: told.append(each)
    )
    assert len(made) == 90
    assert told == [(60, 90), (90, 90)]
    assert (made.factors.background == -1).all()
    pairs = N_CLASSES * made.factors.shape + made.factors.texture
    assert (pairs.bincount(minlength=N_CLASSES**2) > 0).all()
    # Two thirds lend the surfaces of real images, samples none.
    gray = (made.pixels[:, :, 5:9, 5:9] == 200).all(dim=(1, 2, 3))
    assert gray[:60].all()
    assert not gray[60:].any()


def test_lessons_need_an_image_of_every_class() -> None:
    cgn = CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=16, width=8, tile_px=16))
    pixels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    real = ImageSet(pixels, Factors.aligned(torch.tensor([0, 0, 1, 1])), torch.arange(4))
    with pytest.raises(ValueError, match="no image is of class 2"):
        verifier_training_set(cgn, real, pixels[:, :1] > 0, 90, seed=0)
