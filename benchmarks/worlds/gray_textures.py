"""Gray textures that nothing but their structure tells apart.

Every texture has the same gray values equally often: each of its pixels is given the value of its
rank. What differs is orientation, scale and kind. Diagonal stripes come in pairs that a mirror
would exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import numpy as np

from benchmarks.worlds.painting import Bytes, Labels, draw_crops
from benchmarks.worlds.textures import Pattern, cells, gaussian_noise, grain, spots, weave

ATLAS_SIZE_PX = 192
TIE_BREAK = 1e-3  # standard deviation of the noise that orders pixels of one value

fine_stripes = partial(grain, 4.5, 8.0, width=0.12)
coarse_stripes = partial(grain, 26.0, 6.0, width=0.12)

# What fits several times into a stroke of ten pixels.
FINE: Mapping[str, Pattern] = {
    "slanting stripes": fine_stripes(angle=35),
    "mirrored slanting stripes": fine_stripes(angle=-35),
    "level stripes": fine_stripes(angle=0),
    "upright stripes": fine_stripes(angle=90),
    "steep stripes": fine_stripes(angle=62),
    "mirrored steep stripes": fine_stripes(angle=-62),
    "spots": spots(6.4, 0.3),
    "cells": cells(7, 0.5),
    "checks": weave(4.8),
    "blotches": grain(4.5),
}

COARSE: Mapping[str, Pattern] = {
    "mirrored diagonal stripes": coarse_stripes(angle=-45),
    "spots": spots(27, 0.4),
    "cells": cells(36, 0.8),
    "checks": weave(24),
    "blotches": grain(30, width=0.3),
    "slanting stripes": coarse_stripes(angle=15),
    "mirrored slanting stripes": coarse_stripes(angle=-15),
    "steep stripes": coarse_stripes(angle=75),
    "mirrored steep stripes": coarse_stripes(angle=-75),
    "diagonal stripes": coarse_stripes(angle=45),
}


def gray_levels(n: int) -> Bytes:
    """Return the gray values of a texture of n pixels in ascending order, (n,) uint8.

    They are those of a sine wave, most often near black and near white, so that structure has
    much contrast.

    Example:
        >>> gray_levels(4).tolist()
        [10, 79, 176, 245]
    """
    rank = (np.arange(n) + 0.5) / n
    return np.round(127.5 * (1 - np.cos(np.pi * rank))).astype(np.uint8)


def equalise(values: np.typing.NDArray[np.float64]) -> Bytes:
    """Give each pixel the gray value of its rank.

    Args:
        values: A pattern, (S, S), no two values alike.

    Returns:
        The pattern, (S, S) uint8, whose histogram is that of `gray_levels`.

    Example:
        >>> equalise(np.array([[0.3, 0.1], [7.0, 0.2]]))
        array([[176,  10],
               [245,  79]], dtype=uint8)
    """
    gray = np.empty(values.size, dtype=np.uint8)
    gray[np.argsort(values, axis=None)] = gray_levels(values.size)
    return gray.reshape(values.shape)


@cache
def fine_textures() -> Bytes:
    """Draw the textures of gray objects, (10, 1, 192, 192) uint8, periodic and deterministic."""
    return _draw(FINE, seed=12)


@cache
def coarse_textures() -> Bytes:
    """Draw the textures of gray backgrounds, (10, 1, 192, 192) uint8, periodic, deterministic."""
    return _draw(COARSE, seed=13)


def _draw(patterns: Mapping[str, Pattern], seed: int) -> Bytes:
    """Draw and equalise one family."""
    rng, size = np.random.default_rng(seed), ATLAS_SIZE_PX
    drawn = [
        equalise(pattern(rng, size, 1.0) + TIE_BREAK * gaussian_noise(rng, size, 2.5))
        for pattern in patterns.values()
    ]
    return np.stack(drawn)[:, None]


def gray_crops(
    texture: Labels, behind: Labels, rng: np.random.Generator, *, size_px: int
) -> tuple[Bytes, Bytes]:
    """Cut pieces out of fine and of coarse gray textures, from any place, over their edges too.

    Args:
        texture: Classes of the fine ones, (N,) int64.
        behind: Classes of the coarse ones, (N,) int64.
        rng: Decides where they are cut; each pixel of a texture is equally likely anywhere.
        size_px: Height and width of the pieces.

    Returns:
        Pieces of both, each (N, 1, size_px, size_px) uint8.
    """
    around = ((0, 0), (0, 0), (0, size_px - 1), (0, size_px - 1))
    fine, coarse = (
        np.pad(each(), around, mode="wrap") for each in (fine_textures, coarse_textures)
    )
    return draw_crops(fine, texture, size_px, rng), draw_crops(coarse, behind, size_px, rng)
