from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, InMemory
from cgn.models.cgn import CGN, CGNConfig, MechanismOutputs, Noise
from cgn.quality.effectiveness import accuracy, coverage_and_diversity, sample_quality

CONFIG = CGNConfig(n_classes=5, image_size_px=16, width=8, noise_size=4, tile_px=16)
N_CLASSES = CONFIG.n_classes
Classify = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class Plain(CGN):
    """Draws labels as plain gray levels; its objects are four pixels high, wider by class."""

    def draw(
        self, noise: Noise, factors: Factors, probability: Tensor | None = None
    ) -> MechanismOutputs:
        mask = rectangles(factors.shape).float() if probability is None else probability
        return MechanismOutputs(
            mask, surface(self.painted_as(factors)), ground(factors.background), mask
        )

    def painted_as(self, factors: Factors) -> Tensor:
        """Whose surface the objects get, (B,) int64."""
        return factors.texture


def rectangles(labels: Tensor) -> Tensor:
    """Where objects of these classes are, (N, 1, 16, 16) bool."""
    columns = torch.arange(16)
    mask = torch.zeros(len(labels), 1, 16, 16, dtype=torch.bool)
    mask[:, 0, 6:10] = ((columns >= 4) & (columns <= 6 + labels[:, None]))[:, None]
    return mask


def surface(labels: Tensor) -> Tensor:
    return ((150 + 20 * labels) / 255).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def ground(labels: Tensor) -> Tensor:
    return (20 * labels / 255).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)


def painted(factors: Factors) -> ImageSet:
    """What `Plain` would draw, in bytes."""
    parts = Plain(CONFIG)(factors)
    pixels = (parts.image() * 255).round().to(torch.uint8)
    masks = parts.mask.to(torch.uint8) * 255
    return ImageSet(pixels, factors, torch.arange(len(pixels)), masks)


def read(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read the labels off such images, as logits."""
    levels = (images[:, 0] * 255).round().long()
    width = (levels[:, 7] >= 150).sum(dim=1)
    labels = (width - 3, (levels[:, 7, 4] - 150) // 20, levels[:, 0, 0] // 20)
    shape, texture, background = (
        torch.nn.functional.one_hot(each.clamp(0, N_CLASSES - 1), N_CLASSES).float()
        for each in labels
    )
    return shape, texture, background


def sure(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Read the labels as `read` does, without a doubt."""
    shape, texture, background = read(images)
    return 20 * shape, 20 * texture, 20 * background


def quality(cgn: CGN, classify: Classify, verifier: Classify | None = None, **settings: Any) -> Any:
    """Measure 2,000 samples of a CGN."""
    samples = sample(cgn, 2_000, seed=0)
    return sample_quality(samples, classify, verifier, n_classes=N_CLASSES, **settings)


def test_a_generator_that_draws_what_it_is_told_is_fully_effective_and_leaks_nothing() -> None:
    scores = quality(Plain(CONFIG), read)
    for factor in Factors._fields:
        assert scores[f"{factor}_effectiveness"] == 1
        assert abs(scores[f"{factor}_leakage"]) < 0.03


def test_a_generator_that_draws_the_surface_of_its_shape_leaks() -> None:
    class Leaky(Plain):
        def painted_as(self, factors: Factors) -> Tensor:
            return factors.shape

    scores = quality(Leaky(CONFIG), read)
    assert scores["texture_effectiveness"] == pytest.approx(1 / N_CLASSES, abs=0.03)
    assert scores["texture_leakage"] == pytest.approx((1 - 1 / N_CLASSES) / 2, abs=0.03)


def test_the_judges_own_accuracy_counts_what_it_finds_of_the_factors_that_are_known() -> None:
    shape = torch.arange(40) % N_CLASSES
    images = painted(Factors(shape, shape.flip(0), shape))
    wrong = replace(images, factors=Factors(shape, shape.flip(0).clamp(max=3), shape.clamp(max=-1)))
    assert accuracy(images, read) == dict.fromkeys(
        ("shape_judge", "texture_judge", "background_judge"), 1.0
    )
    assert accuracy(wrong, read) == {"shape_judge": 1.0, "texture_judge": 0.8}


def test_what_a_check_confirms_is_measured_apart() -> None:
    class Careless(Plain):
        """Draws every fifth surface of another class."""

        def painted_as(self, factors: Factors) -> Tensor:
            wrong = torch.arange(len(factors.texture)) % 5 == 0
            return torch.where(wrong, (factors.texture + 1) % N_CLASSES, factors.texture)

    scores = quality(Careless(CONFIG), read, sure)
    assert scores["texture_effectiveness"] == pytest.approx(0.8)
    assert scores["verified_share"] == pytest.approx(0.8)
    assert scores["verified_texture_effectiveness"] == 1
    assert "verified_share" not in quality(Careless(CONFIG), read)


def test_only_factors_that_the_images_have_are_judged_and_leak_into_each_other() -> None:
    class Leaky(Plain):
        def painted_as(self, factors: Factors) -> Tensor:
            return factors.shape

    scores = quality(Leaky(CONFIG), read, factors=("shape", "texture"))
    assert not [name for name in scores if name.startswith("background")]
    assert scores["texture_leakage"] == pytest.approx(1 - 1 / N_CLASSES, abs=0.03)


def test_a_check_is_asked_only_about_factors_that_the_images_have() -> None:
    def blind(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape, texture, background = sure(images)
        return shape, texture, torch.zeros_like(background)

    there = ("shape", "texture")
    assert quality(Plain(CONFIG), read, blind)["verified_share"] == 0
    assert quality(Plain(CONFIG), read, blind, factors=there)["verified_share"] == 1


def test_a_check_that_confirms_nothing_leaves_nothing_to_measure() -> None:
    scores = quality(Plain(CONFIG), read, read)  # its logits are 0 and 1: it is never sure
    assert scores["verified_share"] == 0
    assert not [name for name in scores if name.startswith("verified_shape")]


def points(n: int, seed: int, scale: float = 1.0) -> ImageSet:
    """Images whose features, their first row of pixels, are normally distributed."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 128 + 20 * scale * torch.randn(n, 3, 1, 8, generator=generator)
    labels = torch.arange(n) % N_CLASSES
    return ImageSet(pixels.clamp(0, 255).to(torch.uint8), Factors.aligned(labels), torch.arange(n))


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_images_drawn_from_the_truth_cover_what_chance_allows_and_are_as_diverse() -> None:
    scores = coverage_and_diversity(points(2_000, 2), points(2_000, 3), flat)
    assert scores["coverage"] == pytest.approx(1 - 0.5**5, abs=0.01)
    assert scores["diversity"] == pytest.approx(1, abs=0.02)


def test_images_that_are_all_alike_cover_little_and_are_not_diverse() -> None:
    one = points(400, 0).select(torch.zeros(400, dtype=torch.int64))
    alike = replace(one, factors=points(400, 0).factors)
    scores = coverage_and_diversity(alike, points(400, 1), flat)
    assert scores["coverage"] < 0.1
    assert scores["diversity"] == 0


def test_images_twice_as_far_apart_are_twice_as_diverse() -> None:
    scores = coverage_and_diversity(points(400, 0, scale=1.0), points(400, 1, scale=0.5), flat)
    assert scores["diversity"] == pytest.approx(2, rel=0.03)


def test_coverage_of_a_handful_of_true_images_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 5 true images, got 4"):
        coverage_and_diversity(points(400, 0), points(4, 1), flat)


def test_diversity_does_not_count_distances_between_classes() -> None:
    drawn = points(400, 0)
    apart = (drawn.pixels + 60 * (drawn.factors.shape[:, None, None, None] == 0)).to(torch.uint8)
    scores = coverage_and_diversity(replace(drawn, reader=InMemory(apart)), drawn, flat)
    assert scores["diversity"] == pytest.approx(1, rel=0.02)
