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

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cgn.data.factors import Factors, require_same_shape
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.io.cache import Store
from cgn.io.weights import load_tensors, save_tensors
from cgn.models.cgn import compose
from cgn.segmentation.boxes import AT_ONCE, WORKERS, Progress

SMALLEST_OBJECT, LARGEST_OBJECT = 0.04, 0.8  # share of the image: else it has no shape to show
LARGEST_HOLE = 0.6  # share of the image: beyond, a background would be mostly made up
SMALLEST_PATCH = 1 / 10  # of the image's side
OWN = -1  # in place of a donor: the image keeps this part of itself
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

    Example:
        >>> pixels = torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)
        >>> pixels[..., 5:9, 5:9] = 200
        >>> inpaint(pixels, pixels[:, :1] == 200).unique()
        tensor([7], dtype=torch.uint8)
    """
    rim = max(1, round(RIM * pixels.shape[-1]))
    holes = F.max_pool2d(masks.float(), 2 * rim + 1, stride=1, padding=rim) > 0

    def fill(image: Bytes, hole: Bytes) -> Bytes:
        if hole.all():
            return image
        return np.asarray(cv2.inpaint(image, hole, 3, cv2.INPAINT_NS), np.uint8)

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

    def depth(mask: Bytes) -> NDArray[np.float32]:
        # The edge of the image is an edge of the object: a square must lie within both.
        padded = np.asarray(cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_C, 3), np.float32)
        return padded[1:-1, 1:-1]

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

    def draw(
        self, factors: Factors, generator: torch.Generator, *, only_usable: bool = True
    ) -> Factors:
        """Draw for each label of each factor a usable image of that class, each (n,) int64.

        Where the label is -1, the place of an image is `OWN`.

        Args:
            factors: The labels.
            generator: Decides which images.
            only_usable: Whether a class without usable images is an error; else any image of it is
                drawn.

        Raises:
            ValueError: If it is one.
        """
        classes, usable = self.images.factors.shape, self.usable()
        if not only_usable:
            usable = usable.map(lambda can_give: can_give | _without(can_give, classes))
        return Factors(
            *(
                _draw(labels, classes, can_give, part, generator)
                for labels, can_give, part in zip(factors, usable, Factors._fields, strict=True)
            )
        )

    def draw_origins(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw where mirrored textures begin, (n, 2) int64 in pixels."""
        return torch.randint(4 * self.masks.shape[-1], (n, 2), generator=generator)


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
    only_usable: bool = True,
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
        only_usable: Whether a class without an image that can give a part is an error; else its
            parts are taken from any image, as bad as its mask is.
        device: Where they are composed.
        progress: Called with images done and images in all.

    Returns:
        Images whose labels of shape and background are uniform and independent, and so is that
        of the texture where it is another's; which image gives a part is drawn within the class.
        Their ids are those of the images that gave the shape, their masks those they were
        composed with.

    Raises:
        ValueError: If a class has no image that can give one of the parts.

    Example:
        >>> pixels = torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
        >>> pixels[:, :, 8:20, 8:20] = torch.tensor([100, 200], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> images = ImageSet(pixels, Factors.aligned(torch.tensor([0, 1])), torch.arange(2))
        >>> recombined = recombine(decompose(images, pixels[:, :1] > 7), 50, n_classes=2, seed=0)
        >>> textures = recombined.factors.texture
        >>> recombined.pixels[:, 0, 12, 12].equal((100 + 100 * textures).to(torch.uint8))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    factors = Factors.independent(n, n_classes, generator)
    keeps = torch.rand(n, generator=generator) < own_texture
    factors = factors._replace(texture=torch.where(keeps, factors.shape, factors.texture))
    donors = segmented.draw(factors, generator, only_usable=only_usable)
    chosen, masks = segmented.images.select(donors.shape), segmented.masks[donors.shape]
    donors = donors._replace(texture=torch.where(keeps, OWN, donors.texture))
    origins = segmented.draw_origins(n, generator)
    pixels = _paste(segmented, chosen, masks, donors, origins, device, progress)
    return ImageSet(pixels, factors, chosen.ids, masks.to(torch.uint8) * 255)


def repaint(
    segmented: SegmentedImages,
    images: ImageSet,
    masks: Tensor,
    factors: Factors,
    *,
    seed: int,
    only_usable: bool = True,
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total: None,
) -> ImageSet:
    """Give images the textures and backgrounds of other real images, where their labels change.

    A factor whose label does not change stays as it is, pixel by pixel.

    Args:
        segmented: From `decompose`; what is new comes from its images.
        images: The images, and the labels that their factors have now.
        masks: Where their objects are, (N, 1, H, W) bool.
        factors: What to make of them, each (N,) int64; the shape's must be that of the images.
        seed: Fixes which images give what is new, and where textures begin.
        only_usable: As for `recombine`.
        device: Where the images are composed.
        progress: Called with images done and images in all.

    Returns:
        The counterfactuals, with the ids of the images and the masks they were composed with.

    Raises:
        ValueError: If a shape is to change, or a class has no image that can give one of the parts.

    Example:
        >>> pixels = torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
        >>> pixels[:, :, 8:20, 8:20] = torch.tensor([100, 200], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> images = ImageSet(pixels, Factors.aligned(torch.tensor([0, 1])), torch.arange(2))
        >>> masks = pixels[:, :1] > 7
        >>> swapped = images.factors._replace(texture=torch.tensor([1, 0]))
        >>> repaint(decompose(images, masks), images, masks, swapped, seed=0).pixels[:, 0, 12, 12]
        tensor([200, 100], dtype=torch.uint8)
    """
    require_same_shape(images.factors, factors)
    generator = torch.Generator().manual_seed(seed)
    changes = zip(images.factors, factors, strict=True)
    new = Factors(*(torch.where(before == after, OWN, after) for before, after in changes))
    donors = segmented.draw(new, generator, only_usable=only_usable)
    origins = segmented.draw_origins(len(images), generator)
    pixels = _paste(segmented, images, masks, donors, origins, device, progress)
    return ImageSet(pixels, factors, images.ids, masks.to(torch.uint8) * 255)


def _without(usable: Tensor, classes: Tensor) -> Tensor:
    """Mark the images of classes of which none is usable, (N,) bool."""
    counts = torch.zeros(int(classes.max()) + 1, dtype=torch.int64)
    return counts.index_add_(0, classes, usable.long())[classes] == 0


def _draw(
    labels: Tensor, classes: Tensor, usable: Tensor, part: str, generator: torch.Generator
) -> Tensor:
    """Draw a usable image of each label, (n,) int64."""
    drawn = torch.full_like(labels, OWN)
    for label in labels[labels >= 0].unique().tolist():
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


def _paste(
    segmented: SegmentedImages,
    images: ImageSet,
    masks: Tensor,
    donors: Factors,
    origins: Tensor,
    device: torch.device | str,
    progress: Progress,
) -> Tensor:
    """Compose objects of images with what donors, or `OWN`, give, (N, 3, H, W) uint8."""
    pixels = torch.empty(len(images), 3, *images.size_px, dtype=torch.uint8)
    read = segmented.images.read
    # A square of side 0 is never laid: an object that keeps its own surface needs none.
    squares = segmented.squares.clamp(min=torch.tensor([0, 0, 1]))
    for span in torch.arange(len(images)).split(AT_ONCE):
        texture, background = (index[span] for index in (donors.texture, donors.background))
        own, others, behind = (
            to_images(part.to(device))
            for part in (
                images.read(span),
                read(texture.clamp(min=0)),
                segmented.backgrounds[background],
            )
        )
        tiled = tile_mirrored(others, squares[texture].to(device), origins[span].to(device))
        foreground, around = (
            torch.where((donor == OWN).to(device)[:, None, None, None], own, new)
            for donor, new in ((texture, tiled), (background, behind))
        )
        mask = masks[span].to(device).float()
        pixels[span] = to_bytes(compose(mask, foreground, around)).cpu()
        progress(int(span[-1]) + 1, len(images))
    return pixels
