"""Texture without shape: small patches of an image's object, laid side by side.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, texture loss; sizes are from
    the authors' code. https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

RANKED_PX = 128  # size at which patches are ranked and cut
PATCH_PX = 15
N_BEST = 100  # patches that the mask covers most
GRID = 6  # patches side by side, and one below the other


def draw_patches(n: int, generator: torch.Generator) -> Tensor:
    """Draw which of the best patches make up each image's grid.

    Args:
        n: How many images.
        generator: Decides.

    Returns:
        (n, 36) int64 in [0, 100), with replacement.
    """
    return torch.randint(N_BEST, (n, GRID * GRID), generator=generator)


@torch.no_grad()
def patch_grid(images: Tensor, masks: Tensor, chosen: Tensor) -> Tensor:
    """Lay patches of each image's object side by side.

    All patches are ranked by how much of them the mask covers.

    Args:
        images: x, (B, 3, H, W) in [0, 1].
        masks: Where the object is, (B, 1, H, W) in [0, 1].
        chosen: Which of the best to take, (B, 36) int64 in [0, 100).

    Returns:
        (B, 3, H, W) in [0, 1], without a gradient.

    Example:
        >>> images = torch.zeros(1, 3, 64, 64)
        >>> images[..., 16:48, 16:48] = 1
        >>> chosen = draw_patches(1, torch.Generator().manual_seed(0))
        >>> patch_grid(images, images[:, :1], chosen).min()  # nothing but object
        tensor(1.)
    """
    small, covered = (_resized(each, RANKED_PX) for each in (images, masks))
    rank = avg_pool2d(covered, PATCH_PX, stride=1)
    best = rank.flatten(1).topk(N_BEST).indices.gather(1, chosen)
    within = torch.arange(PATCH_PX, device=images.device)
    rows = (best // rank.shape[-1])[:, :, None, None] + within[:, None]
    columns = (best % rank.shape[-1])[:, :, None, None] + within
    image = torch.arange(len(images), device=images.device)[:, None, None, None]
    patches = small.movedim(1, -1)[image, rows, columns]  # (B, 36, 15, 15, 3)
    grid = patches.unflatten(1, (GRID, GRID)).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    return _resized(grid, images.shape[-1])


def _resized(images: Tensor, size_px: int) -> Tensor:
    """Interpolate images to a square; cubic curves overshoot, colours don't."""
    return interpolate(images, size=(size_px, size_px), mode="bicubic").clamp(0, 1)
