from __future__ import annotations

import colorsys

import pytest
import torch

from benchmarks.core.suite import EMBEDDED
from benchmarks.worlds.digits import digits
from benchmarks.worlds.mnists import colored, double_colored
from cgn.data.image_set import ImageSet
from classifiers.networks.input_transforms import GrayscaleCNN, TwoMeansCNN, luma, two_means
from classifiers.networks.small import SmallCNN


@pytest.fixture(scope="module")
def test_digits() -> ImageSet:
    return double_colored(digits(EMBEDDED, "test"), correlation=None, seed=4)


def intersection_over_union(images: ImageSet) -> torch.Tensor:
    assert images.masks is not None
    found, true = two_means(images.images()).bool(), images.masks > 0
    return (found & true).sum(dim=(1, 2, 3)) / (found | true).sum(dim=(1, 2, 3))


def test_two_means_finds_every_double_colored_digit_that_can_be_seen(test_digits: ImageSet) -> None:
    plain = test_digits.pixels.flatten(2)
    visible = (plain != plain[..., :1]).any(dim=2).any(dim=1)
    assert visible.sum() >= 995  # on a few, object and background have the very same colour
    assert (intersection_over_union(test_digits)[visible] == 1).all()
    assert two_means(test_digits.images())[~visible].sum() == 0


def test_two_means_finds_the_bright_part_of_every_colored_digit() -> None:
    images = colored(digits(EMBEDDED, "test"), correlation=None, seed=4)
    found = two_means(images.images()).bool()
    assert images.masks is not None
    assert not (found & (images.masks == 0)).any()  # the true masks hold the gray edges too
    assert intersection_over_union(images).min() > 0.5


@pytest.mark.parametrize("inside", [0.2, 0.8])
def test_the_object_is_what_is_not_on_the_border_bright_or_dark(inside: float) -> None:
    images = torch.full((1, 3, 8, 8), 0.5)
    images[..., 1:7, 1:7] = inside  # more pixels than the background has
    assert two_means(images)[0, 0].sum() == 36
    assert two_means(images)[0, 0, 1:7, 1:7].all()


def test_a_mask_does_not_depend_on_what_else_is_in_the_batch(test_digits: ImageSet) -> None:
    images = test_digits.images(slice(20))
    alone = torch.cat([two_means(image[None]) for image in images])
    assert torch.equal(two_means(images), alone)


def test_means_move_to_where_the_colours_are() -> None:
    images = torch.zeros(1, 3, 10, 10)
    images[..., 2:8, 2:8] = 0.6
    images[..., 2, 2] = 1.0  # where the second mean begins: farther from 0.45 than from black
    images[..., 3, 2:8] = 0.45
    assert two_means(images).sum() == 36


def test_two_means_networks_see_no_colour(test_digits: ImageSet) -> None:
    images = test_digits.images(slice(20))
    network = TwoMeansCNN(10, 32).eval()
    with torch.no_grad():
        assert torch.allclose(network(images), network(1 - images), atol=1e-5)
        assert not torch.allclose(network(images), network(images.flip(3)), atol=1e-5)


def test_grayscale_ignores_hue() -> None:
    hues = [colorsys.hsv_to_rgb(h / 6, 1.0, 1.0) for h in range(6)]
    images = torch.tensor(hues).view(6, 3, 1, 1).expand(-1, -1, 32, 32)
    images = images * (0.1 / luma(images))  # alike in luma, in nothing else
    network = GrayscaleCNN(10, 32).eval()
    with torch.no_grad():
        logits = network(images)
        assert torch.allclose(logits, logits[:1].expand(6, -1), atol=1e-5)
        assert not torch.allclose(network(2 * images), logits, atol=1e-4)
        plain = SmallCNN(10, 32).eval()(images)
        assert not torch.allclose(plain, plain[:1].expand(6, -1), atol=1e-4)


def test_white_is_as_bright_as_it_was() -> None:
    assert luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(1)
