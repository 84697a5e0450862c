from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cgn import losses


def disc(radius: float, size: int = 32) -> Tensor:
    """A filled circle in the middle, (1, 1, size, size)."""
    place = torch.arange(size) - (size - 1) / 2
    return (place[:, None] ** 2 + place**2 < radius**2).float()[None, None]


def maps(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(4, channels, 6, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mask", [0.0, 0.5, 1.0])
def test_the_entropy_of_a_plain_mask_has_a_finite_gradient(mask: float) -> None:
    plain = torch.full((2, 1, 16, 16), mask, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.mask_entropy(plain), plain)
    assert gradient.isfinite().all()


def test_the_entropy_of_a_batch_is_the_mean_over_its_masks() -> None:
    batch = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([losses.mask_entropy(mask[None]) for mask in batch])
    assert losses.mask_entropy(batch) == pytest.approx(alone.mean().item(), rel=1e-5)


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


def test_an_outline_drawn_with_certainty_costs_nothing_and_its_inverse_much() -> None:
    outline = disc(8)
    logits = 40 * (outline - 0.5)
    assert losses.reconstruction(logits, outline) < 1e-6
    assert losses.reconstruction(-logits, outline) == pytest.approx(20, rel=1e-3)


def test_an_undecided_outline_costs_a_bit_a_pixel() -> None:
    assert losses.reconstruction(torch.zeros(1, 1, 32, 32), disc(8)) == pytest.approx(math.log(2))


def test_noise_that_was_not_moved_does_not_diverge() -> None:
    assert losses.divergence(torch.zeros(3, 5), torch.ones(3, 5)) == 0


@pytest.mark.parametrize(("mean", "deviation"), [(1.5, 1.0), (0.0, 0.3), (-2.0, 2.5)])
def test_the_divergence_is_that_of_torch(mean: float, deviation: float) -> None:
    inferred = torch.distributions.Normal(torch.full((2, 7), mean), deviation)
    expected = torch.distributions.kl_divergence(inferred, torch.distributions.Normal(0.0, 1.0))
    found = losses.divergence(torch.full((2, 7), mean), torch.full((2, 7), deviation))
    assert found == pytest.approx(expected.sum(dim=1).mean().item(), rel=1e-5)


def scene(number: int, size: int = 16) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(number))


def test_colours_cost_nothing_where_they_are_those_within_the_masks() -> None:
    flat = torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16)
    masks = (torch.rand(4, 1, 16, 16) > 0.5).float()
    images = masks * flat + (1 - masks) * scene(1)
    assert losses.colours(flat, images, masks, torch.arange(4)) < 1e-6
    assert losses.colours(flat, images, 1 - masks, torch.arange(4)) > 0.01


def test_a_texture_of_the_wrong_brightness_costs_its_distance() -> None:
    gray, bright = torch.full((2, 3, 16, 16), 0.25), torch.full((2, 3, 16, 16), 0.75)
    loss = losses.colours(bright, gray, torch.ones(2, 1, 16, 16), torch.tensor([0, 1]))
    assert loss == pytest.approx(0.5 / 2)  # half of the numbers compared are deviations


def test_colours_are_compared_as_distributions_over_a_class() -> None:
    dark, gray, bright = (torch.full((1, 3, 16, 16), level) for level in (0.0, 0.5, 1.0))
    drawn, images = torch.cat([dark, bright]), torch.cat([bright, dark])
    all_of_it, same, other = torch.ones(2, 1, 16, 16), torch.tensor([3, 3]), torch.tensor([0, 1])
    assert losses.colours(drawn, images, all_of_it, same) < 1e-6
    assert losses.colours(drawn, images, all_of_it, other) == pytest.approx(0.5)
    # The mean alone would not tell twice gray from dark and bright.
    twice_gray = torch.cat([gray, gray])
    assert losses.colours(twice_gray, images, all_of_it, same) == pytest.approx(0.25)


def test_colours_of_a_texture_count_only_where_the_object_is() -> None:
    mask = (disc(8) > 0).float()
    drawn, images = torch.zeros(1, 3, 32, 32), 1 - mask.expand(1, 3, 32, 32)
    assert losses.colours(drawn, images, mask, torch.tensor([0])) < 1e-6
    assert losses.colours(drawn, images, 1 - mask, torch.tensor([0])) == pytest.approx(0.5)


def test_an_object_drawn_into_a_texture_costs_something() -> None:
    gray = torch.full((1, 3, 32, 32), 0.5)
    drawn = gray + 0.5 * disc(8)
    assert losses.colours(drawn, gray, torch.ones(1, 1, 32, 32), torch.tensor([0])) > 0.1


@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_the_loss_of_colours_has_a_finite_gradient_at_a_plain_colour(mask: float) -> None:
    plain = torch.full((2, 3, 16, 16), 0.5, requires_grad=True)
    masks = torch.full((2, 1, 16, 16), mask)
    loss = losses.colours(plain, scene(0)[:2], masks, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(loss, plain)
    assert gradient.isfinite().all()


def style(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    return losses.style([torch.cat(each) for each in zip(real, fake, strict=True)])


def test_equal_maps_have_equal_style() -> None:
    assert style([maps(0), maps(1, 5)], [maps(0), maps(1, 5)]) == 0


def test_other_maps_have_another_style() -> None:
    assert style([maps(0)], [maps(1)]) > 0.05


def test_style_does_not_depend_on_place() -> None:
    rolled = [maps(0).roll((2, 5), dims=(2, 3))]
    assert style(rolled, [maps(0)]) < 1e-5
    assert style(rolled, [maps(1)]) == pytest.approx(style([maps(0)], [maps(1)]).item(), rel=1e-5)


def test_style_is_compared_image_by_image() -> None:
    """Paired by label: the same images in another order are another style."""
    assert style([maps(0).flip(0)], [maps(0)]) > 0.05


def test_style_does_not_depend_on_the_scale_of_the_features() -> None:
    one = style([maps(0)], [maps(1)]).item()
    assert style([10 * maps(0)], [10 * maps(1)]) == pytest.approx(one, rel=1e-5)


def test_style_adds_up_over_the_layers() -> None:
    layers = [style([maps(i)], [maps(i + 2)]).item() for i in range(2)]
    both = style([maps(0), maps(1)], [maps(2), maps(3)])
    assert both == pytest.approx(sum(layers), rel=1e-5)


def test_maps_that_are_twice_as_strong_differ_by_three_in_style() -> None:
    positive = [maps(0).abs()]
    twice = [2 * positive[0]]
    assert style(twice, positive) == pytest.approx(3, rel=1e-5)


def test_style_sends_no_gradient_to_the_real_maps() -> None:
    fake, real = maps(0).requires_grad_(), maps(1).requires_grad_()
    style([fake], [real]).backward()
    assert fake.grad is not None
    assert real.grad is not None
    assert fake.grad.any()
    assert not real.grad.any()


def test_style_of_black_maps_is_finite() -> None:
    fake = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = style([fake], [torch.zeros(2, 3, 4, 4)])
    (gradient,) = torch.autograd.grad(loss, fake)
    assert loss == 0
    assert gradient.isfinite().all()


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


def test_the_difference_of_an_image_to_its_negative_is_twice_that_of_gray() -> None:
    white = torch.ones(2, 3, 4, 4)
    assert losses.difference(white, 0 * white) == 2
    assert losses.difference(white, 0.5 * white) == 1
    assert losses.difference(white, white) == 0


def test_textures_are_the_same_wherever_they_lie() -> None:
    one = maps(0)
    moved = one.roll((2, 3), dims=(2, 3))
    assert losses.perceptual([one], [moved]) == pytest.approx(0, abs=1e-6)
    assert losses.perceptual([one], [maps(1)]) > 1e-3


def test_the_perceptual_loss_is_that_of_the_authors_formula() -> None:
    pair = maps(0), maps(1)
    grams = [torch.einsum("bihw,bjhw->bij", x, x) / (3 * 6 * 8) for x in pair]
    expected = (grams[0] - grams[1]).abs().mean().item()
    assert losses.perceptual([pair[0]], [pair[1]]) == pytest.approx(expected, rel=1e-5)
    twice = losses.perceptual([pair[0]] * 2, [pair[1]] * 2)
    assert twice == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize(
    ("area", "cost"), [(0.0, 0.1), (0.05, 0.05), (0.1, 0), (0.5, 0), (0.95, 0.05), (1.0, 0.1)]
)
def test_masks_cost_what_their_area_lacks_or_has_too_much(area: float, cost: float) -> None:
    assert losses.mask_area(torch.full((1, 1, 4, 4), area)) == pytest.approx(cost, abs=1e-6)


def test_too_small_and_too_large_masks_do_not_make_up_for_each_other() -> None:
    masks = torch.cat([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)])
    assert losses.mask_area(masks) == pytest.approx(0.1)


def test_the_background_costs_its_saliency() -> None:
    assert losses.background_saliency(torch.full((2, 1, 4, 4), 0.25)) == 0.25
