"""Counterfactuals of real images: shape, texture and background of different photographs.

No network draws anything here: each image is taken apart by its mask, the hole that its object
leaves is inpainted, and the parts of different images are joined by `cgn.models.cgn.compose`.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021: the composition, and textures
    made of patches from within the object. https://arxiv.org/abs/2101.06046
    Bertalmio, Bertozzi and Sapiro, Navier-Stokes, Fluid Dynamics, and Image and Video Inpainting,
    CVPR 2001. https://doi.org/10.1109/CVPR.2001.990497
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.io.cache import Store
from cgn.io.weights import load_tensors, save_tensors
from cgn.models.cgn import compose
from cgn.segmentation.boxes import AT_ONCE, WORKERS, Progress, opencv

SMALLEST_OBJECT, LARGEST_OBJECT = 0.04, 0.8  # share of the image: else it has no shape to show
LARGEST_HOLE = 0.6  # share of the image: beyond, a background would be mostly made up
SMALLEST_PATCH = 1 / 10  # of the image's side
RIM = 1 / 32  # of the image's side: so much around an object is its rim, and inpainted too

Bytes = NDArray[np.uint8]
Inpaint = Callable[[Tensor, Tensor], Tensor]


def inpaint(pixels: Tensor, masks: Tensor) -> Tensor:
    """Fill the holes that objects leave with what is around them.

    Args:
        pixels: Images, (B, 3, H, W) uint8.
        masks: Where the objects are, (B, 1, H, W) bool.

    Returns:
        Backgrounds, (B, 3, H, W) uint8. An image that is all object comes back as it is.

    Raises:
        ValueError: If OpenCV is not installed.

    Example:
        >>> pixels = torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)
        >>> pixels[..., 5:9, 5:9] = 200
        >>> inpaint(pixels, pixels[:, :1] == 200).unique()
        tensor([7], dtype=torch.uint8)
    """
    cv2 = opencv()
    rim = max(1, round(RIM * pixels.shape[-1]))
    holes = F.max_pool2d(masks.float(), 2 * rim + 1, stride=1, padding=rim) > 0

    def fill(image: Bytes, hole: Bytes) -> Bytes:
        if hole.all():
            return image
        filled: Bytes = cv2.inpaint(image, hole, 3, cv2.INPAINT_NS)
        return filled

    arrays = np.ascontiguousarray(pixels.movedim(1, -1).numpy())
    with ThreadPoolExecutor(WORKERS) as pool:
        filled = list(pool.map(fill, arrays, holes[:, 0].to(torch.uint8).numpy()))
    return torch.from_numpy(np.stack(filled)).movedim(-1, 1).contiguous()


def largest_squares(masks: Tensor) -> Tensor:
    """Find the largest square within each object.

    Args:
        masks: Where the objects are, (B, 1, H, W) bool.

    Returns:
        First row, first column and side, in pixels, (B, 3) int64; an odd side, 0 for no object.

    Example:
        >>> mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        >>> mask[..., 2:6, 1:8] = True
        >>> largest_squares(mask)
        tensor([[2, 1, 3]])
    """
    cv2 = opencv()

    def depth(mask: Bytes) -> NDArray[np.float32]:
        # The edge of the image is an edge of the object: a square must lie within both.
        found: NDArray[np.float32] = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_C, 3)
        return found[1:-1, 1:-1]

    with ThreadPoolExecutor(WORKERS) as pool:
        depths = list(pool.map(depth, masks[:, 0].to(torch.uint8).numpy()))
    deepest, place = torch.from_numpy(np.stack(depths)).long().flatten(1).max(dim=1)
    row, column = place // masks.shape[-1], place % masks.shape[-1]
    corner = (deepest - 1).clamp(min=0)
    return torch.stack([row - corner, column - corner, (2 * deepest - 1).clamp(min=0)], dim=1)


def tile_mirrored(images: Tensor, squares: Tensor, origins: Tensor) -> Tensor:
    """Cover whole images with mirrored copies of a square of each.

    Args:
        images: (B, 3, H, W).
        squares: First row, first column and side, (B, 3) int64; sides above 0.
        origins: Row and column of the plane of copies where each image begins, (B, 2) int64.

    Returns:
        (B, 3, H, W): without seams, for each copy is the mirror image of its neighbours.

    Example:
        >>> row = torch.arange(6.0).expand(1, 3, 6, 6)
        >>> square, origin = torch.tensor([[0, 2, 3]]), torch.tensor([[0, 0]])
        >>> tile_mirrored(row, square, origin)[0, 0, 0]
        tensor([2., 3., 4., 4., 3., 2.])
    """
    height, width = images.shape[2:]
    side = squares[:, 2:]
    row = squares[:, :1] + _folded(torch.arange(height, device=images.device), origins[:, :1], side)
    column = squares[:, 1:2] + _folded(
        torch.arange(width, device=images.device), origins[:, 1:], side
    )
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return images[batch, channel, row[:, None, :, None], column[:, None, None, :]]


def _folded(index: Tensor, origin: Tensor, side: Tensor) -> Tensor:
    """Fold indices into [0, side), to and fro, (B, L)."""
    place = (index + origin) % (2 * side)
    return torch.minimum(place, 2 * side - 1 - place)


@dataclass(frozen=True, eq=False)
class SegmentedImages:
    """Real images taken apart: what each can give to a counterfactual.

    Attributes:
        images: N images; their shape labels are the classes.
        masks: Where the objects are, (N, 1, H, W) bool.
        backgrounds: The images without their objects, (N, 3, H, W) uint8.
        squares: The largest square within each object, as from `largest_squares`.
    """

    images: ImageSet
    masks: Tensor
    backgrounds: Tensor
    squares: Tensor

    def usable(self) -> Factors:
        """Which images can give their shape, texture and background, each (N,) bool."""
        area = self.masks.flatten(1).float().mean(dim=1)
        side = self.squares[:, 2] / self.masks.shape[-1]
        shape = (area >= SMALLEST_OBJECT) & (area <= LARGEST_OBJECT)
        return Factors(shape, side >= SMALLEST_PATCH, area <= LARGEST_HOLE)


def decompose(
    images: ImageSet,
    masks: Tensor,
    *,
    fill: Inpaint = inpaint,
    progress: Progress = lambda done, total: None,
) -> SegmentedImages:
    """Take N real images apart by their masks, (N, 1, H, W) bool.

    `fill` makes backgrounds from images (B, 3, H, W) uint8 and masks (B, 1, H, W) bool.
    """
    backgrounds, squares, done = [], [], 0
    for span in torch.arange(len(images)).split(AT_ONCE):
        backgrounds.append(fill(images.read(span), masks[span]))
        squares.append(largest_squares(masks[span]))
        done += len(span)
        progress(done, len(images))
    return SegmentedImages(images, masks, torch.cat(backgrounds), torch.cat(squares))


def segmented_store(images: ImageSet, masks: Tensor) -> Store[SegmentedImages]:
    """Return how the results of `decompose` are kept: without the images and masks."""

    def save(segmented: SegmentedImages, path: Path) -> None:
        tensors = {"backgrounds": segmented.backgrounds, "squares": segmented.squares}
        save_tensors(path, tensors, {})

    def load(path: Path) -> SegmentedImages:
        tensors, _ = load_tensors(path, "backgrounds", "squares")
        return SegmentedImages(images, masks, tensors["backgrounds"], tensors["squares"])

    return Store(save, load)


def recombine(
    segmented: SegmentedImages,
    n: int,
    *,
    n_classes: int,
    seed: int,
    own_texture: float = 0.0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> ImageSet:
    """Join shape, texture and background of different real images.

    Args:
        segmented: From `decompose`.
        n: Number of counterfactuals.
        n_classes: Number of classes.
        seed: Fixes labels, images and where textures begin.
        own_texture: Share of the counterfactuals whose object keeps its own surface; their
            texture has the label of their shape.
        device: Where they are composed.
        progress: Called with images done and images in all.

    Returns:
        Images whose labels of shape and background are uniform and independent, and so is that
        of the texture where it is another's; which image gives a part is drawn within the class.
        Their ids are those of the images that gave the shape, their masks those they were
        composed with.

    Raises:
        ValueError: If a class has no image that can give one of the parts.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = Factors.independent(n, n_classes, generator)
    keeps = torch.rand(n, generator=generator) < own_texture
    factors = factors._replace(texture=torch.where(keeps, factors.shape, factors.texture))
    drawn = [
        _draw(labels, segmented.images.factors.shape, usable, name, generator)
        for labels, usable, name in zip(factors, segmented.usable(), Factors._fields, strict=True)
    ]
    donors = Factors(*drawn)
    donors = donors._replace(texture=torch.where(keeps, donors.shape, donors.texture))
    origins = torch.randint(4 * segmented.masks.shape[-1], (n, 2), generator=generator)
    pixels = torch.empty(n, *segmented.backgrounds.shape[1:], dtype=torch.uint8)
    for span in torch.arange(n).split(AT_ONCE):
        of_span = Factors(*(index[span] for index in donors))
        pixels[span] = _compose_batch(segmented, of_span, keeps[span], origins[span], device)
        progress(int(span[-1]) + 1, n)
    masks = segmented.masks[donors.shape].to(torch.uint8) * 255
    return ImageSet(pixels, factors, segmented.images.ids[donors.shape], masks)


def _draw(
    labels: Tensor, classes: Tensor, usable: Tensor, part: str, generator: torch.Generator
) -> Tensor:
    """Draw a usable image of each label, (n,) int64."""
    drawn = torch.empty_like(labels)
    for label in labels.unique().tolist():
        of_class = (usable & (classes == label)).nonzero()[:, 0]
        if len(of_class) == 0:
            raise ValueError(
                f"no image of class {label} can give its {part}: its objects' masks are empty, or "
                "leave nothing of the image; look at them"
            )
        here = labels == label
        chosen = torch.randint(len(of_class), (int(here.sum()),), generator=generator)
        drawn[here] = of_class[chosen]
    return drawn


def _compose_batch(
    segmented: SegmentedImages,
    donors: Factors,
    keeps: Tensor,
    origins: Tensor,
    device: torch.device | str,
) -> Tensor:
    """Compose one batch, (B, 3, H, W) uint8."""
    read = segmented.images.read
    own, others = (to_images(read(index).to(device)) for index in (donors.shape, donors.texture))
    # A square of side 0 is never laid: an object that keeps its own surface needs none.
    squares = segmented.squares[donors.texture].clamp(min=torch.tensor([0, 0, 1]))
    tiled = tile_mirrored(others, squares.to(device), origins.to(device))
    foreground = torch.where(keeps.to(device)[:, None, None, None], own, tiled)
    mask = segmented.masks[donors.shape].to(device).float()
    background = to_images(segmented.backgrounds[donors.background].to(device))
    return to_bytes(compose(mask, foreground, background)).cpu()
