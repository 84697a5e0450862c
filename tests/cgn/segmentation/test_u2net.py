from __future__ import annotations

import pytest
import torch
from imagenet_networks import tiny_u2net
from support import published_tensors
from torch import nn

from cgn.segmentation.u2net import U2Net, halved, resized, saliency


def test_its_tensors_are_those_of_the_published_file() -> None:
    prefix = "u2net."
    expected = {
        name.removeprefix(prefix): shape
        for name, shape in published_tensors().items()
        if name.startswith(prefix)
    }
    with torch.device("meta"):
        found = {name: str(tuple(t.shape)) for name, t in U2Net().state_dict().items()}
    assert len(found) == 798
    assert found == expected


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (64, 32)])
def test_it_finds_something_between_0_and_1_in_images_of_any_size(size: tuple[int, int]) -> None:
    found = tiny_u2net()(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, 1, *size)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.std() > 0


def test_a_folded_network_finds_the_same_without_normalisation() -> None:
    network = tiny_u2net()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fused = network.fused()
    assert not [each for each in fused.modules() if isinstance(each, nn.BatchNorm2d)]
    assert torch.allclose(fused(images), network(images), atol=1e-5)
    assert (network.fused(torch.bfloat16)(images) - network(images)).abs().mean() < 0.02
    assert [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]


def test_halving_an_odd_size_keeps_the_last_row() -> None:
    maps = torch.arange(15.0).view(1, 1, 3, 5)
    assert halved(maps)[0, 0].tolist() == [[6, 8, 9], [11, 13, 14]]
    assert resized(maps, maps) is maps


def test_saliency_goes_from_0_to_1_in_each_image_whatever_its_brightness() -> None:
    images = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    network = tiny_u2net()
    found = saliency(network, images)
    assert found.shape == (2, 1, 40, 24)
    assert found.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert torch.allclose(found.amax(dim=(1, 2, 3)), torch.ones(2))
    assert torch.allclose(saliency(network, 0.5 * images), found, atol=1e-3)
