"""Histograms of colours, class by class, in which segmentation looks colours up."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cgn.device.transfer import sent

COLOURS_A_CHANNEL = 32  # cells of a class's colour histogram, along each of three axes


def histogram_bins(pixels: Tensor, labels: Tensor) -> Tensor:
    """Number each pixel's cell in the histograms of all classes, (N, H, W) int64."""
    red, green, blue = (pixels.long() * COLOURS_A_CHANNEL // 256).unbind(1)
    colour = (red * COLOURS_A_CHANNEL + green) * COLOURS_A_CHANNEL + blue
    return colour + labels[:, None, None] * COLOURS_A_CHANNEL**3


def histograms(cells: Tensor, weights: Tensor, n_classes: int) -> Tensor:
    """Distribution of colours in each class, smoothed over neighbouring cells, (cells,)."""
    length = n_classes * COLOURS_A_CHANNEL**3
    counts = torch.bincount(cells.flatten(), weights.flatten(), minlength=length)
    cube = counts.cpu().view(n_classes, *[COLOURS_A_CHANNEL] * 3).numpy()
    for axis in (1, 2, 3):
        cube = ndimage.convolve1d(cube, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    total = cube.sum(axis=(1, 2, 3), keepdims=True)
    smooth = torch.from_numpy(cube / np.maximum(total, 1e-12)).float().flatten()
    return sent(smooth, cells.device)
