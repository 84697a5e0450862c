"""U²-Net: finds the salient object of an image; the ImageNet CGN's masks come from it.

Layers bear the names of the published file, so that it loads as it is.

Source:
    Qin et al., U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection,
    Pattern Recognition 2020. https://arxiv.org/abs/2005.09007
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

WIDTH = 64  # of the published network
SIZE_PX = 320  # at which the published network was trained, and finds most
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


class Convolution(nn.Module):
    """A 3 x 3 convolution, batch normalisation, and ReLU."""

    def __init__(self, before: int, after: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation)
        self.bn_s1: nn.Module = nn.BatchNorm2d(after)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same height and width."""
        return torch.relu_(self.bn_s1(self.conv_s1(maps)))


class UBlock(nn.Module):
    """A small U: down to coarse maps and up again, added to its own input.

    Attributes:
        dilations: Of the convolutions on the way down; they pool between them if all but the
            last are 1, and keep height and width if not.
    """

    def __init__(self, dilations: Sequence[int], before: int, inner: int, after: int) -> None:
        super().__init__()
        self.depth, self.pools = len(dilations), max(dilations) <= 2
        self.rebnconvin = Convolution(before, after)
        for i, dilation in enumerate(dilations, 1):
            self.add_module(
                f"rebnconv{i}", Convolution(after if i == 1 else inner, inner, dilation)
            )
        for i in range(self.depth - 1, 0, -1):
            last = after if i == 1 else inner
            self.add_module(f"rebnconv{i}d", Convolution(2 * inner, last, dilations[i - 1]))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps, (B, after, H, W)."""
        start = maps = self.rebnconvin(maps)
        skips = []
        for i in range(1, self.depth + 1):
            if self.pools and 1 < i < self.depth:
                maps = halved(maps)
            maps = self.get_submodule(f"rebnconv{i}")(maps)
            skips.append(maps)
        maps = skips.pop()
        for i in range(self.depth - 1, 0, -1):
            beside = skips.pop()
            maps = torch.cat([resized(maps, beside), beside], dim=1)
            maps = self.get_submodule(f"rebnconv{i}d")(maps)
        return cast(Tensor, maps + start)


def _block(depth: int, before: int, inner: int, after: int) -> UBlock:
    """Make a block that pools."""
    return UBlock([1] * (depth - 1) + [2], before, inner, after)


def _flat_block(before: int, inner: int, after: int) -> UBlock:
    """Make a block that dilates, for maps that are too small to pool."""
    return UBlock([1, 2, 4, 8], before, inner, after)


class U2Net(nn.Module):
    """Finds the salient object: a U of small Us."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        w, half = width, width // 2
        self.stage1 = _block(7, 3, half, w)
        self.stage2 = _block(6, w, half, 2 * w)
        self.stage3 = _block(5, 2 * w, w, 4 * w)
        self.stage4 = _block(4, 4 * w, 2 * w, 8 * w)
        self.stage5 = _flat_block(8 * w, 4 * w, 8 * w)
        self.stage6 = _flat_block(8 * w, 4 * w, 8 * w)
        self.stage5d = _flat_block(16 * w, 4 * w, 8 * w)
        self.stage4d = _block(4, 16 * w, 2 * w, 4 * w)
        self.stage3d = _block(5, 8 * w, w, 2 * w)
        self.stage2d = _block(6, 4 * w, half, w)
        self.stage1d = _block(7, 2 * w, w // 4, w)
        for i, n_channels in enumerate((w, w, 2 * w, 4 * w, 8 * w, 8 * w), 1):
            self.add_module(f"side{i}", nn.Conv2d(n_channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Find the object.

        Args:
            images: (B, 3, H, W), normalised as `saliency` does, or as a network that learned to
                speak to this one likes.

        Returns:
            How salient each pixel is, (B, 1, H, W) in [0, 1].
        """
        maps = images.to(self.stage1.rebnconvin.conv_s1.weight.dtype)
        down = []
        for i in range(1, 7):
            maps = self.get_submodule(f"stage{i}")(maps if i == 1 else halved(maps))
            down.append(maps)
        maps = down.pop()
        sides = [self.get_submodule("side6")(maps)]
        for i in range(5, 0, -1):
            beside = down.pop()
            maps = torch.cat([resized(maps, beside), beside], dim=1)
            maps = self.get_submodule(f"stage{i}d")(maps)
            sides.append(self.get_submodule(f"side{i}")(maps))
        sides = [resized(side, images) for side in reversed(sides)]
        return torch.sigmoid(self.outconv(torch.cat(sides, dim=1)).float())

    def fused(self, dtype: torch.dtype = torch.float32) -> U2Net:
        """Return a frozen network that finds the same, normalisation fused into convolutions."""
        frozen = copy.deepcopy(self).requires_grad_(False).eval()
        for module in frozen.modules():
            if isinstance(module, Convolution) and isinstance(module.bn_s1, nn.BatchNorm2d):
                module.conv_s1 = fuse_conv_bn_eval(module.conv_s1, module.bn_s1)
                module.bn_s1 = nn.Identity()
        frozen = frozen.requires_grad_(False).to(dtype)
        return frozen.to(memory_format=torch.channels_last)


def halved(maps: Tensor) -> Tensor:
    """Take the largest of each 2 x 2 places; of an odd size the last row stays.

    Example:
        >>> halved(torch.arange(9.0).view(1, 1, 3, 3))[0, 0]
        tensor([[4., 5.],
                [7., 8.]])
    """
    return max_pool2d(maps, 2, ceil_mode=True)


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Interpolate maps to the height and width of others."""
    if maps.shape[2:] == like.shape[2:]:
        return maps
    return interpolate(maps, size=like.shape[2:], mode="bilinear")


@torch.no_grad()
def saliency(network: U2Net, images: Tensor) -> Tensor:
    """Find the salient object of real images as the published network expects them.

    Args:
        network: With the published weights.
        images: (B, 3, H, W) in [0, 1], of any size.

    Returns:
        (B, 1, H, W) in [0, 1], each from 0 to 1; all 0 where the network answers the same
        everywhere.
    """
    small = interpolate(images, size=(SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)
    small = small / small.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8)
    mean, deviation = (images.new_tensor(each).view(3, 1, 1) for each in (MEAN, DEVIATION))
    maps = resized(network((small - mean) / deviation), images)
    low, high = (f(maps, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    return (maps - low) / (high - low).clamp(min=1e-8)
