"""Digits that neither colours nor a free border give away: gray wildlife and cropped MNIST.

Gray wildlife MNIST has thick strokes in which a texture's structure is visible. Cropped MNIST has
large digits of two colours that reach over the image's edge.
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
from benchmarks.worlds.mnists import digit_domain, double_colours
from benchmarks.worlds.painting import Shapes, affine_maps, lay_tiles, paint_shapes, pose_generator
from cgn.data.image_set import ImageSet

GRAY_SIZE_PX = 64
MARGIN_PX = 1  # of MNIST's 28 pixels, which digits hardly reach
INK = 102  # brighter pixels are of the digit, before its strokes are made thicker
N_PAINTINGS = 2  # of each training digit: so many that a classifier learns the shape
STROKE_PX = 2  # by which strokes grow on either side

CROPPED_SIZE_PX = 32
CANVAS_PX = (38.0, 50.0)  # side of MNIST's 28 pixels in the image; digits span 5/7 of it
SHIFT_PX = 5.0  # largest distance of a canvas's centre from the image's, along either axis


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
    large = F.interpolate(gray, size=(GRAY_SIZE_PX, GRAY_SIZE_PX), mode="bilinear")
    ink = F.max_pool2d((large > INK).float(), 2 * STROKE_PX + 1, stride=1, padding=STROKE_PX)
    return Shapes(ink[:, 0].numpy().astype(np.uint8) * np.uint8(255), source.labels, source.ids)


def gray_shapes(source: DataSource, split: Split) -> Shapes:
    """Make the thick digits of a split, those for training as often as they are painted."""
    n_paintings = N_PAINTINGS if split == "train" else 1
    shapes = thick(digits(source, split))
    return Shapes(*(np.concatenate([each] * n_paintings) for each in shapes))


def gray_wildlife(source: DataSource, split: Split, **settings: Any) -> ImageSet:
    """Cut thick digits out of fine gray textures and lay them on coarse ones.

    Args:
        source: Where the digits come from.
        split: Which of them.
        settings: Of `paint_shapes`.

    Returns:
        Images of 64 x 64 pixels, three equal channels, two of each training digit and one of each
        test digit. Gray values are distributed alike in
        objects and backgrounds of all classes: only structure tells them apart.
    """
    surfaces = partial(gray_crops, size_px=GRAY_SIZE_PX)
    return paint_shapes(gray_shapes(source, split), surfaces, **settings)


def posed(source: Digits, seed: int) -> Shapes:
    """Enlarge and move digits until the image's edge cuts most of them.

    Args:
        source: The digits.
        seed: Fixes size and place of each.

    Returns:
        Masks of 32 x 32 pixels.
    """
    rng, n = pose_generator(seed), len(source.labels)
    canvas = rng.uniform(*CANVAS_PX, n)
    shift = 2 * SHIFT_PX / CROPPED_SIZE_PX * rng.uniform(-1, 1, (n, 2))
    maps = affine_maps(CROPPED_SIZE_PX / canvas, np.zeros(n), np.ones(n), shift)
    tiles = torch.from_numpy(source.pixels.astype(np.float64))[:, None]
    ink = lay_tiles(tiles, maps, CROPPED_SIZE_PX)[:, 0] > INK
    return Shapes(ink.numpy().astype(np.uint8) * np.uint8(255), source.labels, source.ids)


def cropped(source: DataSource, split: Split, *, seed: int, **settings: Any) -> ImageSet:
    """Paint large, cut digits in one palette colour on another, as in double-colored MNIST.

    Args:
        source: Where the digits come from.
        split: Which of them.
        seed: Fixes poses, colours and noise.
        settings: Of `paint_shapes`.

    Returns:
        Images of 32 x 32 pixels.
    """
    return paint_shapes(posed(digits(source, split), seed), double_colours, seed=seed, **settings)


GRAY_WILDLIFE_MNIST = digit_domain("gray-wildlife-mnist", gray_wildlife, size_px=GRAY_SIZE_PX)
CROPPED_MNIST = digit_domain("cropped-mnist", cropped, size_px=CROPPED_SIZE_PX)
