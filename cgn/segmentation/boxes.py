"""Where the objects of real images are, from their boxes.

Source:
    Rother, Kolmogorov and Blake, GrabCut: Interactive Foreground Extraction using Iterated Graph
    Cuts, SIGGRAPH 2004. https://doi.org/10.1145/1186562.1015720
    Boxes become masks by OpenCV's implementation, https://docs.opencv.org
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgn.data.image_set import ImageSet

Progress = Callable[[int, int], None]

ROUNDS = 3  # of GrabCut; five give the same masks but for single pixels
CORE = 0.4  # of the box's sides: the ellipse that is surely object
MARGIN = 0.04  # of the image's side: where a box reaches the edge, so much is background to begin
NO_BOX = (0, 0, 0, 0)  # what is surely background stands in the mask
WORKERS = os.cpu_count() or 1  # threads: OpenCV works without Python's lock
AT_ONCE = 512  # images read together


def masks_from_boxes(
    images: ImageSet, boxes: Tensor, *, progress: Progress = lambda done, total: None
) -> Tensor:
    """Cut each object out of its box: GrabCut, with two mixtures of colours an image.

    Args:
        images: N images.
        boxes: First column, first row, last column and last row of each object, in pixels,
            (N, 4) int64.
        progress: Called with images done and images in all.

    Returns:
        Where the objects are, (N, 1, H, W) bool: one part each, without holes, with the middle of
        its box.

    Raises:
        ValueError: If a box does not lie within its image.

    Example:
        >>> from cgn.data.image_set import Factors
        >>> pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        >>> pixels[:, 0, 8:20, 10:18] = 255
        >>> images = ImageSet(pixels, Factors.aligned(torch.tensor([0])), torch.tensor([0]))
        >>> masks_from_boxes(images, torch.tensor([[6, 5, 22, 23]])).sum()
        tensor(96)
    """
    n, size = len(images), images.size_px[1] if len(images) else 1
    first, last = boxes[:, :2], boxes[:, 2:]
    inside = (first >= 0).all() and (last < size).all() and (first <= last).all()
    if boxes.shape != (n, 4) or not inside:
        raise ValueError(
            f"expected a box of first and last column and row within {size} pixels for each of "
            f"{n} images, got {tuple(boxes.shape)} in [{boxes.min()}, {boxes.max()}]"
        )
    masks = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for span in torch.arange(n).split(AT_ONCE):
            pixels = images.read(span).movedim(1, -1).numpy()
            masks += list(pool.map(_grab_cut, pixels, boxes[span].numpy()))
            progress(len(masks), n)
    stack = np.stack(masks) if masks else np.zeros((0, size, size), bool)
    return torch.from_numpy(stack)[:, None]


def _grab_cut(pixels: NDArray[np.uint8], box: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Cut one object out of an image (H, W, 3), (H, W)."""
    left, top, right, bottom = box.tolist()
    state = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    state[top : bottom + 1, left : right + 1] = cv2.GC_PR_FGD
    # With the whole image for its box there would be no background to compare with.
    margin = max(1, round(MARGIN * len(pixels)))
    edge = np.ones_like(state, bool)
    edge[margin:-margin, margin:-margin] = False
    state[edge & (state == cv2.GC_PR_FGD)] = cv2.GC_PR_BGD
    # Without it, an object of the colours that are around it would be lost.
    state[_ellipse(state.shape, box)] = cv2.GC_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(pixels), state, NO_BOX, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return _without_islands((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD))


def _without_islands(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest part of a mask (H, W) and close its holes."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask)
    largest = 1 + np.bincount(parts.ravel())[1:].argmax()
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(parts == largest)
    return filled


def _ellipse(shape: tuple[int, ...], box: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Fill the core of a box, an ellipse with at least its middle pixel, (H, W)."""
    left, top, right, bottom = box.tolist()
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    across = (columns - (left + right) / 2) / max(1, CORE * (right - left + 1) / 2)
    down = (rows - (top + bottom) / 2) / max(1, CORE * (bottom - top + 1) / 2)
    inside: NDArray[np.bool_] = across**2 + down**2 <= 1
    return inside
