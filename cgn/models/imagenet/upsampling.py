"""Maps of twice the height and width, in fewer and faster launches than `interpolate` takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class _Spread(torch.autograd.Function):
    """Show each place of maps as 2 x 2; its gradient is their sum, by a fast way to sum them."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """From (B, C, H, W) to a view, (B, H, 2, W, 2, C)."""
        places = maps.movedim(1, -1)[:, :, None, :, None]
        return places.expand(-1, -1, 2, -1, 2, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """From (B, H, 2, W, 2, C) to (B, C, H, W)."""
        return avg_pool2d(_maps(gradients[0]), 2, divisor_override=1)


def _spread(maps: Tensor) -> Tensor:
    """View maps of even height and width as `_Spread` does."""
    places: Tensor = maps.movedim(1, -1).unflatten(2, (-1, 2))
    places = places.unflatten(1, (-1, 2))
    return places


def _maps(spread: Tensor) -> Tensor:
    """Turn (B, H, 2, W, 2, C) into maps of twice the height and width."""
    flat: Tensor = spread.flatten(1, 2).flatten(2, 3)
    flat = flat.movedim(-1, 1)
    return flat


def doubled(maps: Tensor) -> Tensor:
    """Make maps, (B, C, H, W), twice as high and wide, each place four times the same.

    Example:
        >>> doubled(torch.tensor([[1.0, 2.0]]).view(1, 1, 1, 2))[0, 0]
        tensor([[1., 1., 2., 2.],
                [1., 1., 2., 2.]])
    """
    return _maps(_Spread.apply(maps))


def added_doubled(maps: Tensor, small: Tensor) -> Tensor:
    """Add to maps, (B, C, 2 H, 2 W), others of half the height and width, each place four times."""
    return _maps(_spread(maps) + _Spread.apply(small))
