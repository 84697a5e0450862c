"""Digits of 64 pixels in which generators are asked for more than colours and borders tell.

Gray wildlife MNIST has thick strokes in which a texture's structure is visible.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.core.suite import DataSource
from benchmarks.worlds.digits import Digits, Split, digits
from benchmarks.worlds.gray_textures import gray_crops
from benchmarks.worlds.mnists import digit_domain
from benchmarks.worlds.painting import Shapes, paint_shapes
from cgn.data.image_set import ImageSet

SIZE_PX = 64
MARGIN_PX = 1  # of MNIST's 28 pixels, which digits hardly reach
INK = 102  # brighter pixels are of the digit, before its strokes are made thicker
STROKE_PX = 2  # by which strokes grow on either side


def thick(source: Digits) -> Shapes:
    """Enlarge digits from 26 of their 28 pixels to 64, with strokes of about a dozen pixels.

    Example:
        >>> bar = np.zeros((1, 28, 28), dtype=np.uint8)
        >>> bar[:, 4:24, 13:15] = 255
        >>> shapes = thick(Digits(bar, np.array([1]), np.array([0])))
        >>> shapes.masks.shape, int((shapes.masks[0, 32] > 0).sum())
        ((1, 64, 64), 10)
    """
    inner = source.pixels[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    gray = torch.from_numpy(inner.astype(np.float64))[:, None]
    # Exact on every machine: 26 / 64 and bytes have few binary digits.
    large = F.interpolate(gray, size=(SIZE_PX, SIZE_PX), mode="bilinear")
    ink = F.max_pool2d((large > INK).float(), 2 * STROKE_PX + 1, stride=1, padding=STROKE_PX)
    return Shapes(ink[:, 0].numpy().astype(np.uint8) * np.uint8(255), source.labels, source.ids)


def gray_wildlife(source: DataSource, split: Split, **settings: Any) -> ImageSet:
    """Cut thick digits out of fine gray textures and lay them on coarse ones.

    Args:
        source: Where the digits come from.
        split: Which of them.
        settings: Of `paint_shapes`.

    Returns:
        Images of 64 x 64 pixels, three equal channels. Gray values are distributed alike in
        objects and backgrounds of all classes: only structure tells them apart.
    """
    surfaces = partial(gray_crops, size_px=SIZE_PX)
    return paint_shapes(thick(digits(source, split)), surfaces, **settings)


GRAY_WILDLIFE_MNIST = digit_domain("gray-wildlife-mnist", gray_wildlife, size_px=SIZE_PX)
