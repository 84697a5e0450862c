from __future__ import annotations

import pytest
import torch
from torch.nn.functional import group_norm, leaky_relu, pad

from cgn.models.mechanisms import UpBlock, Wrapped


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_wrapped_maps_and_their_gradient_are_those_of_circular_padding(
    layout: torch.memory_format,
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    maps = maps.contiguous(memory_format=layout).requires_grad_()
    seen = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)
    ours, expected = Wrapped.apply(maps), pad(maps, (1, 1, 1, 1), mode="circular")
    assert ours.equal(expected)
    first, second = (torch.autograd.grad((each * seen).sum(), maps)[0] for each in (ours, expected))
    assert torch.allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("wraps", [True, False])
def test_a_block_normalises_within_an_image_and_then_modulates(wraps: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = UpBlock(8, 16, 4, wraps=wraps)
    maps = torch.randn(3, 8, 4, 4, generator=generator)
    modulation = torch.randn(3, 32, generator=generator)
    around = pad(maps, (1, 1, 1, 1), mode="circular") if wraps else maps
    gain, offset = modulation[:, :, None, None].chunk(2, dim=1)
    normalised = group_norm(block.convolution(around), 2)
    expected = leaky_relu(normalised * (1 + gain) + offset, 0.2)
    assert torch.allclose(block(maps, modulation), expected, atol=1e-5)
