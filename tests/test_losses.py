from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from cgn import losses
from cgn.train import LossWeights

# Each loss of the mask with the settings of a training run.
MASK_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mask_entropy": losses.mask_entropy,
    "mask_area": lambda mask: losses.mask_area(mask, 0.1, 0.4),
    "mask_edge": losses.mask_edge,
    "mask_spread": lambda mask: losses.mask_spread(mask, 0.05),
}
every_mask_loss = pytest.mark.parametrize("name", MASK_LOSSES)


def disc(radius: float, size: int = 32) -> Tensor:
    """A filled circle in the middle, (1, 1, size, size)."""
    place = torch.arange(size) - (size - 1) / 2
    return (place[:, None] ** 2 + place**2 < radius**2).float()[None, None]


def frame(width: int, size: int = 32) -> Tensor:
    """A band along the border, (1, 1, size, size)."""
    inner = torch.zeros(1, 1, size, size)
    inner[..., width:-width, width:-width] = 1
    return 1 - inner


def maps(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(4, channels, 6, 8, generator=torch.Generator().manual_seed(seed))


def test_every_loss_with_a_weight_is_a_function_of_its_name() -> None:
    assert all(callable(getattr(losses, field.name)) for field in fields(LossWeights))


@every_mask_loss
@pytest.mark.parametrize("mask", [0.0, 0.5, 1.0])
def test_losses_of_a_plain_mask_have_finite_gradients(name: str, mask: float) -> None:
    plain = torch.full((2, 1, 16, 16), mask, requires_grad=True)
    (gradient,) = torch.autograd.grad(MASK_LOSSES[name](plain), plain)
    assert gradient.isfinite().all()


@every_mask_loss
def test_losses_of_a_binary_mask_have_finite_gradients(name: str) -> None:
    mask = disc(6).requires_grad_()
    (gradient,) = torch.autograd.grad(MASK_LOSSES[name](mask), mask)
    assert gradient.isfinite().all()


@every_mask_loss
def test_losses_of_masks_lie_between_0_and_1(name: str) -> None:
    for mask in (disc(0), disc(8), disc(40), frame(1), torch.rand(3, 1, 32, 32)):
        assert 0 <= MASK_LOSSES[name](mask) <= 1


@every_mask_loss
def test_the_loss_of_a_batch_is_the_mean_over_its_masks(name: str) -> None:
    batch = torch.cat([disc(4), disc(14), frame(3)])
    alone = torch.stack([MASK_LOSSES[name](mask[None]) for mask in batch])
    assert MASK_LOSSES[name](batch) == pytest.approx(alone.mean().item(), rel=1e-5)


@every_mask_loss
def test_losses_of_masks_do_not_depend_on_the_orientation(name: str) -> None:
    mask = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for turned in (mask.flip(2), mask.flip(3), mask.mT):
        assert MASK_LOSSES[name](turned) == pytest.approx(MASK_LOSSES[name](mask).item(), rel=1e-4)


@every_mask_loss
def test_a_small_disc_costs_little_and_its_inverse_much(name: str) -> None:
    compact = disc(8)  # 20 % of the image
    assert MASK_LOSSES[name](compact) < 0.01
    if name != "mask_entropy":  # which takes both for equally decided
        assert MASK_LOSSES[name](1 - compact) > 0.05


def test_the_entropy_of_a_mask_and_of_its_inverse_are_equal() -> None:
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    inverse = losses.mask_entropy(1 - mask).item()
    assert losses.mask_entropy(mask) == pytest.approx(inverse, rel=1e-5)


@pytest.mark.parametrize(
    ("probability", "bits"), [(0.0, 0.0), (0.5, 1.0), (0.25, 2 - 0.75 * math.log2(3)), (1.0, 0.0)]
)
def test_the_entropy_of_known_probabilities_is_known(probability: float, bits: float) -> None:
    mask = torch.full((1, 1, 4, 4), probability)
    assert losses.mask_entropy(mask) == pytest.approx(bits, abs=2e-3)


@pytest.mark.parametrize(
    ("area", "cost"), [(0.0, 0.1), (0.05, 0.05), (0.1, 0.0), (0.4, 0.0), (0.5, 0.1), (1.0, 0.6)]
)
def test_an_area_costs_its_distance_from_the_interval(area: float, cost: float) -> None:
    mask = torch.full((2, 1, 5, 4), area)
    assert losses.mask_area(mask, 0.1, 0.4) == pytest.approx(cost, abs=1e-6)


def test_too_small_and_too_large_areas_do_not_cancel_out() -> None:
    mask = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    assert losses.mask_area(mask, 0.1, 0.4) == pytest.approx((0.1 + 0.6) / 2)


@pytest.mark.parametrize("border_px", [1, 2, 5])
def test_a_frame_of_the_borders_width_covers_all_of_the_border(border_px: int) -> None:
    assert losses.mask_edge(frame(border_px), border_px) == pytest.approx(1, abs=1e-5)
    assert losses.mask_edge(1 - frame(border_px), border_px) == pytest.approx(0, abs=1e-5)


def test_half_a_mask_covers_half_of_the_border() -> None:
    half = torch.zeros(1, 1, 16, 16)
    half[..., :8] = 1
    assert losses.mask_edge(half) == pytest.approx(0.5)


def test_a_frame_spreads_more_than_a_disc_of_the_same_area() -> None:
    wide, compact = frame(2), disc(8.75)
    assert wide.mean() == pytest.approx(compact.mean().item(), rel=0.05)
    assert losses.mask_spread(wide, 0) > 4 * losses.mask_spread(compact, 0)


def test_the_spread_of_known_masks_is_known() -> None:
    size = 64
    full = losses.mask_spread(torch.ones(1, 1, size, size), 0)
    assert full == pytest.approx(1 / 6, rel=1e-3)
    radius = 20
    # The variance of a disc is r^2 / 4 along each of the two axes.
    assert losses.mask_spread(disc(radius, size), 0) == pytest.approx(
        radius**2 / size**2 / 2, rel=0.02
    )


def test_the_spread_does_not_depend_on_where_the_object_is() -> None:
    mask = disc(5)
    moved = mask.roll((7, -4), dims=(2, 3))
    assert losses.mask_spread(moved, 0.001) == pytest.approx(
        losses.mask_spread(mask, 0.001).item(), rel=1e-3
    )


def test_the_spread_does_not_depend_on_the_resolution() -> None:
    small, large = losses.mask_spread(disc(5, 32), 0), losses.mask_spread(disc(10, 64), 0)
    assert small == pytest.approx(large.item(), rel=0.03)


def test_an_empty_mask_has_no_spread() -> None:
    assert losses.mask_spread(torch.zeros(2, 1, 16, 16), 0) == 0


def scene(number: int, size: int = 16) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(number))


def test_backgrounds_cost_nothing_where_colours_are_those_of_the_borders() -> None:
    flat = torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16)
    objects = flat.clone()
    objects[..., 3:-3, 3:-3] = 1
    assert losses.background(flat, objects, torch.tensor([0, 1, 2, 3])) < 1e-6


def test_a_background_of_the_wrong_brightness_costs_its_distance() -> None:
    gray, bright = torch.full((2, 3, 16, 16), 0.25), torch.full((2, 3, 16, 16), 0.75)
    loss = losses.background(bright, gray, torch.tensor([0, 1]))
    assert loss == pytest.approx(0.5 / 2)  # half of the numbers compared are deviations


def test_backgrounds_are_compared_as_means_of_a_class() -> None:
    dark, bright = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    drawn, images = torch.cat([dark, bright]), torch.cat([bright, dark])
    assert losses.background(drawn, images, torch.tensor([3, 3])) < 1e-6
    assert losses.background(drawn, images, torch.tensor([0, 1])) == pytest.approx(0.5)


def test_an_object_drawn_into_a_background_costs_something() -> None:
    gray = torch.full((1, 3, 32, 32), 0.5)
    drawn = gray + 0.5 * disc(8)
    assert losses.background(drawn, gray, torch.tensor([0])) > 0.1


def test_the_background_loss_has_a_finite_gradient_at_a_plain_colour() -> None:
    plain = torch.full((2, 3, 16, 16), 0.5, requires_grad=True)
    loss = losses.background(plain, scene(0)[:2], torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(loss, plain)
    assert gradient.isfinite().all()


def test_equal_maps_have_equal_style() -> None:
    assert losses.style([maps(0), maps(1, 5)], [maps(0), maps(1, 5)]) == 0


def test_other_maps_have_another_style() -> None:
    assert losses.style([maps(0)], [maps(1)]) > 0.05


def test_style_does_not_depend_on_place() -> None:
    rolled = [maps(0).roll((2, 5), dims=(2, 3))]
    assert losses.style(rolled, [maps(0)]) < 1e-5
    assert losses.style(rolled, [maps(1)]) == pytest.approx(
        losses.style([maps(0)], [maps(1)]).item(), rel=1e-5
    )


def test_style_is_compared_image_by_image() -> None:
    """Paired by label: the same images in another order are another style."""
    assert losses.style([maps(0).flip(0)], [maps(0)]) > 0.05


def test_style_does_not_depend_on_the_scale_of_the_features() -> None:
    one = losses.style([maps(0)], [maps(1)]).item()
    assert losses.style([10 * maps(0)], [10 * maps(1)]) == pytest.approx(one, rel=1e-5)


def test_style_adds_up_over_the_layers() -> None:
    layers = [losses.style([maps(i)], [maps(i + 2)]).item() for i in range(2)]
    both = losses.style([maps(0), maps(1)], [maps(2), maps(3)])
    assert both == pytest.approx(sum(layers), rel=1e-5)


def test_maps_that_are_twice_as_strong_differ_by_three_in_style() -> None:
    positive = [maps(0).abs()]
    twice = [2 * positive[0]]
    assert losses.style(twice, positive) == pytest.approx(3, rel=1e-5)


def test_style_sends_no_gradient_to_the_real_maps() -> None:
    fake, real = maps(0).requires_grad_(), maps(1).requires_grad_()
    losses.style([fake], [real]).backward()
    assert fake.grad is not None
    assert real.grad is None


def test_style_of_black_maps_is_finite() -> None:
    fake = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = losses.style([fake], [torch.zeros(2, 3, 4, 4)])
    (gradient,) = torch.autograd.grad(loss, fake)
    assert loss == 0
    assert gradient.isfinite().all()


def test_a_missing_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        losses.style([maps(0), maps(1)], [maps(0)])


def test_a_gram_matrix_is_symmetric_and_holds_mean_squares() -> None:
    matrix = losses.gram(maps(0))
    assert torch.allclose(matrix, matrix.mT, atol=1e-6)
    squares = maps(0).square().mean(dim=(2, 3))
    assert torch.allclose(matrix.diagonal(dim1=1, dim2=2), squares, atol=1e-5)


@pytest.mark.parametrize(
    ("real", "fake", "loss"),
    [(1.0, -1.0, 0.0), (5.0, -5.0, 0.0), (0.0, 0.0, 2.0), (-1.0, 1.0, 4.0), (1.0, 1.0, 2.0)],
)
def test_the_critics_loss_of_known_scores_is_known(real: float, fake: float, loss: float) -> None:
    assert losses.critic_hinge(torch.full((3,), real), torch.full((3,), fake)) == loss


def test_the_critic_does_not_gain_from_scores_beyond_the_margin() -> None:
    scores = torch.tensor([1.5, 3.0], requires_grad=True)
    losses.critic_hinge(scores, -scores).backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() == 0


def test_the_generator_gains_by_each_score_alike() -> None:
    scores = torch.tensor([-2.0, 9.0], requires_grad=True)
    losses.adversarial(scores).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [-0.5, -0.5]
