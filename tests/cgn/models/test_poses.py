from __future__ import annotations

import pytest
import torch
from support import rectangles

from benchmarks.suites import SUITES
from cgn.models.encoder import ShapeEncoder
from cgn.models.poses import FILL, measure, normalise, place
from cgn.quality.fidelity import mask_iou

MNISTS = [name for name in SUITES if name.endswith("mnist")]


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
    masks = rectangles(10)
    outlines = normalise(masks, measure(masks), 40)
    assert torch.allclose(measure(outlines)[:, 2], torch.tensor(FILL), atol=2 / 40)
    assert torch.allclose(measure(outlines)[:, :2], torch.zeros(10, 2), atol=2 / 40)


@pytest.mark.parametrize(("canvas_px", "size_px"), [(32, 32), (48, 64), (64, 64)])
def test_placing_an_outline_brings_the_mask_back(canvas_px: int, size_px: int) -> None:
    masks = rectangles(20, size_px)
    poses = measure(masks)
    outlines = normalise(masks, poses, canvas_px).float()
    assert mask_iou(place(outlines, poses, size_px) > 0.5, masks).mean() > 0.9


def test_the_pose_of_an_empty_mask_is_that_of_a_full_one() -> None:
    empty = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    assert measure(empty).tolist() == measure(~empty).tolist() == [[0, 0, 1]]


def test_inferred_noise_varies_around_its_mean_as_far_as_its_deviation_says() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ShapeEncoder(2, 32, width=8, noise_size=4)
    outline, label = rectangles(1).float(), torch.tensor([1])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        posterior = encoder(outline, label)
        noise = posterior.sample(torch.randn(4_000, 4, generator=generator))
    assert torch.allclose(noise.mean(dim=0), posterior.mean[0], atol=0.1)
    assert torch.allclose(noise.std(dim=0), posterior.deviation[0], rtol=0.1)
