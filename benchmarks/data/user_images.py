"""Images, masks and counterfactuals of the user's own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cgn.data.hub import hub_images
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import Preprocessing
from cgn.segmentation.files import masks_from_files, paths_of_masks


def load_images(source: str, split: str, size_px: int) -> tuple[ImageSet, tuple[str, ...]]:
    """Find images, and the names of their classes.

    Args:
        source: A folder with one folder a class, or `hub:NAME` for a set of the Hugging Face hub.
        split: Of a set of the hub.
        size_px: Height and width that the images are cropped to.

    Raises:
        ValueError: If there are none.
    """
    preprocessing = Preprocessing(round(size_px * 256 / 224), size_px)
    if source.startswith("hub:"):
        return hub_images(source.removeprefix("hub:"), split, preprocessing)
    return image_folder(Path(source), preprocessing)


def load_masks(images: ImageSet, folder: Path, masks: Path, size_px: int, n_classes: int) -> Tensor:
    """Read the masks of a folder of images.

    Args:
        images: From `load_images`.
        folder: Where they lie.
        masks: Folder of the masks.
        size_px: Height and width of the images.
        n_classes: Classes there are; a mask may hold their labels.

    Returns:
        Where the objects are, (N, 1, H, W) bool; some masks may be empty.

    Raises:
        ValueError: If the images are not files, a mask cannot be read, or all are empty.
    """
    if not images.paths:
        raise ValueError(
            "masks go with a folder of images; a set of the hub needs a file of counterfactuals"
        )
    paths = paths_of_masks(images.paths, folder, masks)
    objects = masks_from_files(
        paths, size_px, images.reader.preprocessing, n_labels=n_classes, images=images.paths
    )
    if not objects.any():
        raise ValueError(f"all masks in {masks} are empty, {paths[0].name!r} the first")
    return objects


def load_counterfactuals(path: Path, size_px: int, n_classes: int) -> ImageSet:
    """Read a set of counterfactuals.

    Raises:
        ValueError: If it cannot be read, or is of other classes or another size.
    """
    images = ImageSet.load(path)
    low, high = (int(end) for end in torch.stack([*images.factors]).aminmax())
    height, width = images.size_px
    if low < 0 or high >= n_classes or (height, width) != (size_px, size_px):
        raise ValueError(
            f"{path} holds images of {width} x {height} pixels with labels from {low} to {high}; "
            f"expected {size_px} x {size_px} and labels from 0 to {n_classes - 1}, for the images "
            f"have {n_classes} classes"
        )
    return images
