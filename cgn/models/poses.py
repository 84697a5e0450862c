"""Where an object lies and how large it is: parted from its outline, and joined with it again.

A pose is three numbers: column and row of the centre, from -1 to 1 over the image, and half the
side of the object's bounding square, 1 for one that fills the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FILL = 0.9  # share of a canvas's side that an object takes: its own border stays free
CHUNK = 1_000  # images moved at once: more only costs memory


def measure(masks: Tensor) -> Tensor:
    """Measure the pose of each object.

    Args:
        masks: Where the objects are, (N, 1, H, W) bool, H = W.

    Returns:
        Poses, (N, 3); an empty mask gets that of a full one.

    Example:
        >>> mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        >>> mask[..., 0:4, 2:4] = True  # four rows at the top, two columns left of the middle
        >>> measure(mask)
        tensor([[-0.2500, -0.5000,  0.5000]])
    """
    masks = masks | ~masks.any(dim=(2, 3), keepdim=True)
    spans = []
    for axis in (2, 3):  # over the rows: which columns are occupied; then the other way round
        occupied = masks[:, 0].any(dim=axis - 1).float()
        length = occupied.shape[1]
        first, last = occupied.argmax(dim=1), length - occupied.flip(1).argmax(dim=1)
        spans.append(((first + last) / length - 1, (last - first) / length))
    (column, width), (row, height) = spans
    return torch.stack([column, row, torch.maximum(width, height)], dim=1)


def normalise(masks: Tensor, poses: Tensor, canvas_px: int) -> Tensor:
    """Take the pose out: move each object to the middle of a canvas of its own and fill it.

    Args:
        masks: Where the objects are, (N, 1, H, W) bool.
        poses: From `measure`, (N, 3).
        canvas_px: Height and width of the canvas.

    Returns:
        Outlines, (N, 1, canvas_px, canvas_px) bool.
    """
    pieces = []
    for mask, pose in zip(masks.split(CHUNK), poses.split(CHUNK), strict=True):
        centre, scale = pose[:, :2], pose[:, 2] / FILL
        pieces.append(_warp(mask.to(poses), scale, centre, canvas_px) > 0.5)
    return torch.cat(pieces)


def place(canvases: Tensor, poses: Tensor, size_px: int) -> Tensor:
    """Put the pose back in: move what is drawn on a canvas to its place in the image.

    Args:
        canvases: Any maps whose borders are empty, (B, K, S, S).
        poses: Where they belong, (B, 3).
        size_px: Height and width of the image.

    Returns:
        (B, K, size_px, size_px); beyond the canvas its border goes on.

    Example:
        >>> pose = torch.tensor([[0.25, -0.25, 0.5]])
        >>> disc = place(torch.ones(1, 1, 32, 32), pose, 64)
        >>> disc.shape
        torch.Size([1, 1, 64, 64])
    """
    scale = FILL / poses[:, 2]
    return _warp(canvases, scale, -scale[:, None] * poses[:, :2], size_px)


def _warp(maps: Tensor, scale: Tensor, shift: Tensor, size_px: int) -> Tensor:
    """Read maps (B, K, H, W) at scale * place + shift for each place of a new image."""
    first = 1 / size_px - 1  # the middle of the first pixel
    places = torch.linspace(first, -first, size_px, device=maps.device)
    columns, rows = torch.addcmul(shift[:, :, None], scale[:, None, None], places).unbind(1)
    shape = len(maps), size_px, size_px
    grid = torch.stack([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
