"""Nearest-neighbour upsampling by 2, in fewer and faster launches than `interpolate` takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class _Repeat(torch.autograd.Function):
    """Repeat each pixel of maps 2 x 2 times; the gradient sums them by a fast pooling."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """From (B, C, H, W) to a view, (B, H, 2, W, 2, C)."""
        places = maps.movedim(1, -1)[:, :, None, :, None]
        return places.expand(-1, -1, 2, -1, 2, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """From (B, H, 2, W, 2, C) to (B, C, H, W)."""
        return avg_pool2d(_flatten_blocks(gradients[0]), 2, divisor_override=1)


def _view_blocks(maps: Tensor) -> Tensor:
    """View maps of even height and width in the layout of `_Repeat`."""
    places: Tensor = maps.movedim(1, -1).unflatten(2, (-1, 2))
    places = places.unflatten(1, (-1, 2))
    return places


def _flatten_blocks(spread: Tensor) -> Tensor:
    """Turn (B, H, 2, W, 2, C) into maps of twice the height and width."""
    flat: Tensor = spread.flatten(1, 2).flatten(2, 3)
    flat = flat.movedim(-1, 1)
    return flat


def upsample(maps: Tensor) -> Tensor:
    """Repeat each pixel of maps, (B, C, H, W), 2 x 2 times.

    Example:
        >>> upsample(torch.tensor([[1.0, 2.0]]).view(1, 1, 1, 2))[0, 0]
        tensor([[1., 1., 2., 2.],
                [1., 1., 2., 2.]])
    """
    return _flatten_blocks(_Repeat.apply(maps))


def add_upsampled(maps: Tensor, small: Tensor) -> Tensor:
    """Add to maps, (B, C, 2 H, 2 W), small ones, (B, C, H, W), upsampled."""
    return _flatten_blocks(_view_blocks(maps) + _Repeat.apply(small))
