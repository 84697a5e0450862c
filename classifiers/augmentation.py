"""What is done to training images: pure functions of images and uniform random numbers.

The numbers are drawn by the training loop for a whole batch, so that processes that share a batch
change each image just as a single one would.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

N_NUMBERS = 5  # random numbers an image

# From images (B, 3, H, W) in [0, 1] and numbers (B, N_NUMBERS) in [0, 1) to images.
Augmentation = Callable[[Tensor, Tensor], Tensor]

SHIFT = 1 / 8  # of the image's side
SMALLEST_CROP = 0.35  # share of the image's area


def identity(images: Tensor, numbers: Tensor) -> Tensor:
    """Leave images as they are.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> identity(images, torch.rand(2, N_NUMBERS)) is images
        True
    """
    return images


def flip_and_shift(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirror half of the images, and move each by up to an eighth of its side.

    Args:
        images: (B, 3, H, W) in [0, 1].
        numbers: (B, N_NUMBERS) in [0, 1).

    Returns:
        (B, 3, H, W) in [0, 1]; what moves in from outside is the mirrored edge.

    Example:
        >>> images = torch.arange(8.0).expand(1, 3, 8, 8) / 8
        >>> flip_and_shift(images, torch.tensor([[0.9, 0.5, 0.5, 0.0, 0.0]]))[0, 0, 0, :3] * 8
        tensor([7., 6., 5.])
    """
    size = images.shape[-1]
    reach = round(SHIFT * size)
    flipped = torch.where(numbers[:, 0, None, None, None] > 0.5, images.flip(-1), images)
    padded = F.pad(flipped, [reach] * 4, mode="reflect")
    start = (numbers[:, 1:3] * (2 * reach + 1)).long()
    index = torch.arange(size, device=images.device)
    rows, columns = (start[:, axis, None] + index for axis in (0, 1))
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return padded[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]


def flip_and_crop(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirror half of the images, and stretch a random part of each over its place.

    Args:
        images: (B, 3, H, W) in [0, 1].
        numbers: (B, N_NUMBERS) in [0, 1).

    Returns:
        (B, 3, H, W) in [0, 1]: bilinear cuts of 35 to 100 % of the area, their sides in a ratio
        of 3:4 to 4:3.

    Source:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, with a larger smallest part.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 0.5)
        >>> round(flip_and_crop(images, torch.rand(1, N_NUMBERS)).std().item(), 5)
        0.0
    """
    area = SMALLEST_CROP + (1 - SMALLEST_CROP) * numbers[:, 1]
    ratio = (4 / 3) ** (2 * numbers[:, 2] - 1)
    across, down = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
    sign = torch.where(numbers[:, 0] > 0.5, -1.0, 1.0)
    zero = torch.zeros_like(area)
    to_x, to_y = ((1 - side) * (2 * numbers[:, 3 + i] - 1) for i, side in enumerate((across, down)))
    rows = [torch.stack(row, dim=1) for row in ((sign * across, zero, to_x), (zero, down, to_y))]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    cut = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return cut.clamp(0, 1)
