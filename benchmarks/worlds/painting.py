"""How shapes become biased, unbiased and counterfactual images, whatever they are painted with.

Parts are joined in float64 before they are rounded to bytes, so that a set has the same bytes on
every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.core.suite import DataSource, TrainingDomain
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.models.cgn import compose

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
# Added to the labels of textures and of backgrounds, modulo the number of classes: an intervention
# on one of them that leaves all else as it is.
Shift = tuple[Labels | int, Labels | int]
# (N, 1 or 3, H, W) on the scale [0, 255]; one pixel in place of H and W is of one colour.
Surface = Bytes | Floats
SurfacePainter = Callable[[Labels, Labels, np.random.Generator], tuple[Surface, Surface]]
"""From the labels of textures and of backgrounds, each (N,) int64, to both surfaces."""

CHUNK = 1_250  # images composed at once
IS_OBJECT = 0.1 * 255  # pixels of a mask above it are of the object
N_CLASSES = 10
POSE_STREAM = 1  # beside a set's seed
SHIFTS: Mapping[str, Shift] = {"do_texture": (1, 0), "do_background": (0, 1)}


class Shapes(NamedTuple):
    """Where the objects of N images are: masks in bytes, their classes, and what they are from.

    Attributes:
        masks: How much of each pixel is object, (N, H, W) uint8, 255 for all of it.
        labels: Classes, (N,) int64.
        ids: See `ImageSet.ids`, (N,) int64.
    """

    masks: Bytes
    labels: Labels
    ids: Labels


class SplitPainter(Protocol):
    """Paints the shapes of one split of a source."""

    def __call__(
        self,
        source: DataSource,
        split: Any,
        *,
        seed: int,
        correlation: float | None,
        shift: Shift = (0, 0),
    ) -> ImageSet:
        """Paint the split; None for the correlation gives independent factors."""


def draw_agreeing_labels(
    labels: Labels, correlation: float, rng: np.random.Generator
) -> tuple[Labels, Labels]:
    """Draw texture and background labels that agree with the shape with probability rho.

    P(texture = shape) = P(background = shape) = rho, each on its own; a label that does not
    agree is uniform over the other nine.

    Args:
        labels: Of the shapes, (N,) int64.
        correlation: rho, in (0.1, 1].
        rng: Decides which do not agree, and their labels. With the same state, a label that does
            not agree at one rho is the same at every lower one, so that a sweep is smooth.

    Returns:
        Labels of textures and of backgrounds, each (N,) int64.

    Example:
        >>> texture, background = draw_agreeing_labels(
        ...     np.zeros(10_000, np.int64), 0.9, np.random.default_rng(0)
        ... )
        >>> float((texture == 0).mean().round(2)), float((background == 0).mean().round(2))
        (0.9, 0.9)
    """
    differs = rng.random((2, len(labels))) >= correlation
    other = (labels + rng.integers(1, N_CLASSES, size=differs.shape)) % N_CLASSES
    texture, background = np.where(differs, other, labels)
    return texture, background


def draw_surface_labels(
    labels: Labels, correlation: float | None, shift: Shift, rng: np.random.Generator
) -> tuple[Labels, Labels]:
    """Draw texture and background labels, independent ones for None, and shift them.

    Args:
        labels: Of the shapes, (N,) int64.
        correlation: See `draw_agreeing_labels`; None for independent, uniform labels.
        shift: Added to the labels of textures and of backgrounds, modulo 10.
        rng: Decides the labels; it is in the same state afterwards at every correlation.

    Returns:
        Labels of textures and of backgrounds, each (N,) int64.

    Example:
        >>> draw_surface_labels(np.array([0, 9]), 1.0, (1, 0), np.random.default_rng(0))
        (array([1, 0]), array([0, 9]))
    """
    if correlation is None:
        texture, background = rng.integers(N_CLASSES, size=(2, len(labels)))
    else:
        # A stream of its own: colours, crops and noise are the same at every correlation.
        texture, background = draw_agreeing_labels(labels, correlation, rng.spawn(1)[0])
    return (texture + shift[0]) % N_CLASSES, (background + shift[1]) % N_CLASSES


def draw_crops(atlas: Bytes, labels: Labels, size_px: int, rng: np.random.Generator) -> Bytes:
    """Cut one square piece for each label out of its texture.

    Args:
        atlas: Textures of the classes, (C, channels, H, W) uint8.
        labels: Classes of the pieces, (N,) int64.
        size_px: Height and width of the pieces.
        rng: Decides where they are cut; every place is equally likely.

    Returns:
        Pieces, (N, channels, size_px, size_px) uint8.

    Example:
        >>> atlas = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1).repeat(8, 2).repeat(8, 3)
        >>> draw_crops(atlas, np.array([1, 0]), 4, np.random.default_rng(0)).mean(axis=(1, 2, 3))
        array([1., 0.])
    """
    y, x = rng.integers(atlas.shape[-1] - size_px + 1, size=(2, len(labels)))
    windows = np.lib.stride_tricks.sliding_window_view(atlas, (size_px, size_px), axis=(2, 3))
    return windows[labels, :, y, x]


def pose_generator(seed: int) -> np.random.Generator:
    """Return the random numbers of a set's poses, which are not those of its surfaces."""
    return np.random.default_rng([seed, POSE_STREAM])


def affine_maps(shrink: Floats, angle: Floats, flip: Floats, shift: Floats) -> Tensor:
    """Build maps from places in an image to places in the tile that is laid there.

    Args:
        shrink: How many halves of a tile a half of the image spans, (N,).
        angle: Rotation of the tile in radians, (N,).
        flip: -1 where the tile is mirrored, else 1, (N,).
        shift: Where the tile's centre lies, x and y in halves of an image from its centre, (N, 2).

    Returns:
        Affine maps, (N, 2, 3) float64, as in `torch.nn.functional.affine_grid`.

    Example:
        >>> zero, one = np.zeros(1), np.ones(1)
        >>> affine_maps(2 * one, zero, -one, np.array([[0.5, 0]])).tolist()
        [[[-2.0, -0.0, 1.0], [-0.0, 2.0, 0.0]]]
    """
    cos, sin = shrink * np.cos(angle), shrink * np.sin(angle)
    linear = np.stack([np.stack([flip * cos, flip * sin], -1), np.stack([-sin, cos], -1)], 1)
    return torch.from_numpy(np.concatenate([linear, -linear @ shift[:, :, None]], axis=2))


def lay_tiles(tiles: Tensor, maps: Tensor, size_px: int) -> Tensor:
    """Draw each tile into an empty image; what reaches over the edge is cut off.

    Args:
        tiles: (N, K, T, T) float64.
        maps: See `affine_maps`.
        size_px: Height and width of the images.

    Returns:
        Images (N, K, size_px, size_px) float64, interpolated linearly, 0 beside the tile.

    Example:
        >>> upright = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
        >>> lay_tiles(torch.eye(2, dtype=torch.float64)[None, None], upright, 2)[0, 0].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    grid = F.affine_grid(maps, [len(maps), 1, size_px, size_px], align_corners=False)
    return F.grid_sample(tiles, grid, align_corners=False)


def compose_bytes(
    shapes: Shapes, foreground: Surface, background: Surface, labels: tuple[Labels, Labels]
) -> ImageSet:
    """Compose shapes and their surfaces to images with true masks.

    Args:
        shapes: Where the objects are, and their classes.
        foreground: Of the objects, on the scale [0, 255].
        background: Of the backgrounds, alike.
        labels: Of the textures and of the backgrounds, each (N,) int64.

    Returns:
        Images of the size of the shapes. Pixels of which more than a tenth is object are of the
        mask.

    Example:
        >>> zero = np.zeros(1, np.int64)
        >>> shapes = Shapes(np.eye(2, dtype=np.uint8)[None] * np.uint8(255), zero, zero)
        >>> white, black = np.full((1, 3, 1, 1), 255.0), np.zeros((1, 3, 1, 1))
        >>> compose_bytes(shapes, white, black, (zero, zero)).pixels[0, 0].tolist()
        [[255, 0], [0, 255]]
    """
    n, height, width = shapes.masks.shape
    pixels = torch.empty(n, 3, height, width, dtype=torch.uint8)
    for start in range(0, n, CHUNK):
        m, f, b = (
            torch.from_numpy(part[start : start + CHUNK] / 255.0)
            for part in (shapes.masks[:, None], foreground, background)
        )
        pixels[start : start + CHUNK] = to_bytes(compose(m, f.clamp(0, 1), b.clamp(0, 1)))
    true_mask = torch.from_numpy(shapes.masks > IS_OBJECT)[:, None].to(torch.uint8) * 255
    factors = Factors(*(torch.from_numpy(each) for each in (shapes.labels, *labels)))
    return ImageSet(pixels, factors, torch.from_numpy(shapes.ids), true_mask)


def paint_shapes(
    shapes: Shapes,
    surfaces: SurfacePainter,
    *,
    seed: int,
    correlation: float | None,
    shift: Shift = (0, 0),
) -> ImageSet:
    """Paint shapes with a texture on a background.

    Args:
        shapes: Where the objects are, and their classes.
        surfaces: Draws textures and backgrounds of given labels.
        seed: Fixes labels and surfaces.
        correlation: How closely texture and background agree with the shape, see
            `draw_agreeing_labels`; None for independent ones.
        shift: Added to the labels of textures and backgrounds, modulo 10.
    """
    rng = np.random.default_rng(seed)
    labels = draw_surface_labels(shapes.labels, correlation, shift, rng)
    foreground, background = surfaces(*labels, rng)
    return compose_bytes(shapes, foreground, background, labels)


def painted_domain(
    name: str,
    paint: SplitPainter,
    *,
    classes: tuple[str, ...],
    size_px: int,
    shifts: Mapping[str, Shift] = SHIFTS,
    **of_data: Any,
) -> TrainingDomain:
    """Build the training domain of shapes that one painter paints.

    Args:
        name: Of the domain.
        paint: Paints its split "train".
        classes: Names of the ten classes.
        size_px: Height and width of the images.
        shifts: The interventions for which true counterfactuals exist, by action.
        of_data: Fields of `TrainingDomain` about the user's data.
    """
    return TrainingDomain(
        name=name,
        classes=classes,
        image_size_px=size_px,
        train=lambda source: paint(source, "train", seed=1, correlation=source.correlation),
        unbiased=lambda source: paint(source, "train", seed=2, correlation=None),
        true_counterfactuals=lambda source: {
            action: paint(source, "train", seed=1, correlation=1.0, shift=shift)
            for action, shift in shifts.items()
        },
        supports_correlation=True,
        **of_data,
    )
