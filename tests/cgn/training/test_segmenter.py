from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import CGN, CGNConfig, MechanismOutputs, Noise
from cgn.training import segmenter
from cgn.training.segmenter import segment_by_synthesis

CONFIG = CGNConfig(n_classes=3, image_size_px=16, width=8, noise_size=4, tile_px=16)


class Striped(CGN):
    """Draws rows on columns: every pixel is black or white in object and background alike."""

    def draw(
        self, noise: Noise, factors: Factors, probability: Tensor | None = None
    ) -> MechanismOutputs:
        mask = squares(factors.shape).float()
        rows = (torch.arange(16) % 2).float().view(1, 1, 16, 1).expand(len(mask), 3, 16, 16)
        return MechanismOutputs(mask, rows, rows.mT, mask)


def squares(labels: Tensor) -> Tensor:
    """Where objects are, (N, 1, 16, 16) bool: a square of 6, 8 or 10 pixels."""
    mask = torch.zeros(len(labels), 1, 16, 16, dtype=torch.bool)
    for own, label in zip(mask, labels.tolist(), strict=True):
        own[:, 5 - label : 11 + label, 5 - label : 11 + label] = True
    return mask


@pytest.fixture
def images() -> ImageSet:
    """Images as `Striped` draws them; nothing says where their objects are."""
    labels = torch.arange(3).repeat(4)
    parts = Striped(CONFIG)(Factors.aligned(labels))
    pixels = (255 * parts.image()).to(torch.uint8)
    return ImageSet(pixels, Factors.aligned(torch.zeros_like(labels)), torch.arange(12))


def test_objects_are_found_that_no_single_pixel_tells(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "N_SAMPLES", 200)
    masks = segment_by_synthesis(Striped(CONFIG), images, seed=0, steps=40)
    true = squares(torch.arange(3).repeat(4))
    assert masks.shape == (12, 1, 16, 16)
    assert masks.dtype == torch.bool
    assert (masks == true).float().mean() > 0.9


def test_one_seed_gives_the_same_masks(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "N_SAMPLES", 20)
    first, again, other = (
        segment_by_synthesis(Striped(CONFIG), images, seed=seed, steps=2) for seed in (0, 0, 1)
    )
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("quiet", [torch.inference_mode, torch.no_grad])
def test_it_learns_where_no_gradients_are_wanted(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch, quiet: type
) -> None:
    monkeypatch.setattr(segmenter, "N_SAMPLES", 20)
    expected = segment_by_synthesis(Striped(CONFIG), images, seed=0, steps=2)
    with quiet():
        assert segment_by_synthesis(Striped(CONFIG), images, seed=0, steps=2).equal(expected)
