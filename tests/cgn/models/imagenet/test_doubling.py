from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from cgn.models.imagenet.upsampling import add_upsampled, upsample


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_maps_and_gradients_are_those_of_interpolation(memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(2, 3, 4, 5, generator=generator).contiguous(memory_format=memory_format)
    large = torch.randn(2, 3, 8, 10, generator=generator).contiguous(memory_format=memory_format)
    pair = [small.clone().requires_grad_() for _ in range(2)]
    added = [add_upsampled(large, pair[0]), large + interpolate(pair[1], scale_factor=2)]
    alone = [upsample(pair[0]), interpolate(pair[1], scale_factor=2)]
    for found, expected in (added, alone):
        assert torch.equal(found, expected)
    for results in zip(added, alone, strict=True):
        sum((each * large).sum() for each in results).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(pair[0].grad, pair[1].grad)


def test_maps_whose_channels_lie_last_stay_so() -> None:
    maps = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    for found in (upsample(maps), add_upsampled(upsample(maps), maps)):
        assert found.is_contiguous(memory_format=torch.channels_last)
