from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.quality.fidelity import distances, fidelity, inception_score, mask_iou


def noise(n: int, seed: int, shift: float = 0.0) -> Tensor:
    drawn = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (0.5 * drawn + shift).clamp(0, 1)


def test_the_score_of_sure_and_varied_images_is_the_number_of_their_classes() -> None:
    sure = torch.eye(10).repeat(20, 1)
    assert inception_score(sure, 1)[0] == pytest.approx(10)


def test_the_score_of_images_of_one_class_is_1_however_sure() -> None:
    assert inception_score(torch.eye(5)[torch.zeros(8, dtype=torch.int64)], 2) == (1.0, 0.0)


def test_the_score_of_two_parts_is_the_mean_of_theirs() -> None:
    first, second = torch.eye(4), torch.eye(4)[[0, 0, 0, 0]]
    mean, deviation = inception_score(torch.cat([first, second]), 2)
    assert mean == pytest.approx((4 + 1) / 2)
    assert deviation == pytest.approx(1.5)


def test_the_score_of_a_known_table_is_known() -> None:
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    marginal = p.mean(dim=0)
    divergence = (p * (p / marginal).log()).sum(dim=1).mean().item()
    assert inception_score(p, 1)[0] == pytest.approx(math.exp(divergence), rel=1e-5)


def test_too_few_images_for_the_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 images cannot make 4 parts"):
        inception_score(torch.eye(3), 4)


class Colours(nn.Module):
    """Eight features of bytes: means of the channels in parts of the image."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        pooled = nn.functional.adaptive_avg_pool2d(images.float() / 255, (2, 2)).flatten(1)
        return pooled[:, :8]


def test_the_distances_of_a_set_to_itself_are_nearly_0_and_grow_with_a_shift() -> None:
    pytest.importorskip("torchmetrics")
    real = noise(60, 0)
    found = [
        distances([noise(60, seed, shift)], real.split(20), features=Colours(), subset_size=30)
        for seed, shift in ((0, 0.0), (1, 0.0), (1, 0.3))
    ]
    assert found[0]["fid"] < 1e-4
    assert found[0]["fid"] < found[1]["fid"] < found[2]["fid"]
    assert found[1]["kid"] < found[2]["kid"]
    assert found[2].keys() == {"fid", "kid", "kid_sd"}


def test_the_distance_of_shifted_features_is_the_square_of_the_shift() -> None:
    pytest.importorskip("torchmetrics")
    shift = 51 / 255
    found = distances([noise(60, 0, shift)], [noise(60, 0)], features=Colours(), subset_size=30)
    assert found["fid"] == pytest.approx(8 * shift**2, rel=0.02)


def test_one_seed_gives_one_kid_and_leaves_the_callers_random_state_alone() -> None:
    pytest.importorskip("torchmetrics")
    before = torch.get_rng_state()
    pair = [
        distances([noise(40, 1)], [noise(40, 0)], features=Colours(), subset_size=20, seed=3)
        for _ in range(2)
    ]
    assert pair[0] == pair[1]
    assert torch.equal(torch.get_rng_state(), before)


def half_masks(n: int) -> Tensor:
    masks = torch.zeros(n, 1, 8, 8)
    masks[..., :4] = 1
    return masks


def test_two_masks_agree_as_much_as_they_share() -> None:
    left, right = half_masks(1), 1 - half_masks(1)
    quarter = left * torch.cat([torch.ones(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)], dim=2)
    none = torch.zeros_like(left)
    firsts = torch.cat([left, left, left, none, none])
    seconds = torch.cat([left, right, quarter, none, left])
    assert mask_iou(firsts > 0.5, seconds > 0.5).tolist() == [1, 0, 0.5, 1, 0]
    assert mask_iou(seconds > 0.5, firsts > 0.5).tolist() == [1, 0, 0.5, 1, 0]


def drawn_set(masks: bool = True) -> ImageSet:
    pixels = (255 * noise(6, 0)).to(torch.uint8)
    found = (255 * half_masks(6)).to(torch.uint8) if masks else None
    return ImageSet(pixels, Factors.aligned(torch.arange(6)), torch.arange(6), found)


def certain(images: Tensor) -> Tensor:
    return torch.eye(4)[torch.arange(len(images)) % 4]


def test_a_set_is_measured_with_how_many_images_and_parts_and_the_area_of_its_masks() -> None:
    scores = fidelity(drawn_set(), certain, lambda x: half_masks(len(x)), batch_size=4, n_splits=1)
    assert scores["n"] == 6
    assert scores["inception_splits"] == 1
    assert scores["mask_area"] == pytest.approx(0.5)
    assert scores["mask_iou"] == 1
    assert 3 < scores["inception_score"] < 4
    assert "mask_iou" not in fidelity(drawn_set(), certain)


def test_a_set_without_masks_is_refused() -> None:
    with pytest.raises(ValueError, match="the masks of these images are not known"):
        fidelity(drawn_set(masks=False), certain)
