"""Masks that somebody else made: pictures or arrays, one an image, of the image's name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cgn.data.decoding import formats, opened, reason, require_pixels, sides, to_pixels
from cgn.data.listing import list_images, some
from cgn.data.preprocessing import AS_IT_IS, Preprocessing, decoders
from cgn.io.errors import HEAD_BYTES

log = logging.getLogger(__name__)

ARRAY = ".npy"
WHITE = (255, 65_535)  # of objects in masks that know no labels
CHANNELS = (1, 3, 4)  # that an array may have


def masks_from_files(
    paths: Sequence[Path],
    size_px: int,
    preprocessing: Preprocessing = AS_IT_IS,
    *,
    n_labels: int = 1,
    images: Sequence[Path] | None = None,
) -> Tensor:
    """Read masks that somebody else made.

    What is not 0 is object: a mask has the labels 0 to `n_labels`, as numbers or colours of a
    palette; or it is black and white; or its array is boolean.

    Args:
        paths: Files, one an image: NumPy arrays (`.npy`), or pictures.
        size_px: Height and width of every mask once it is prepared.
        preprocessing: As of the images that they belong to, so that both are cut alike.
        n_labels: The highest label that a mask may hold.
        images: Files of these images; if they are given, masks must be of their shape.

    Returns:
        Where the objects are, (N, 1, H, W) bool. Masks may be empty.

    Raises:
        ValueError: If a file is no mask, holds other values, or is of another size.
    """

    def read(path: Path, image: Path | None) -> Tensor:
        shape = None if image is None else sides(image)
        return _read_mask(path, shape, preprocessing, n_labels)

    masks = list(decoders().map(read, paths, images or [None] * len(paths)))
    for path, mask in zip(paths, masks, strict=True):
        if mask.shape[1:] != (size_px, size_px):
            came = tuple(mask.shape[1:])
            raise ValueError(f"{path} is a mask of {came}, expected {(size_px, size_px)}")
    return torch.stack(masks)


def _read_mask(
    path: Path, shape: tuple[int, int] | None, preprocessing: Preprocessing, n_labels: int
) -> Tensor:
    """Read one mask of an image of a height and width, (1, H, W) bool."""
    try:
        values = _array(path) if path.suffix.lower() == ARRAY else _picture(path)
        mask = _objects(values, n_labels)
    except Exception as error:  # readers raise errors of many kinds
        raise ValueError(f"{path} cannot be read as a mask: {_reason(path, error)}") from None
    height, width = mask.shape
    # One of another scale is resized as its image is; one of another shape would be cut elsewhere.
    if shape is not None and abs(height * shape[1] - width * shape[0]) > max(shape):
        raise ValueError(
            f"{path} is a mask of {width} x {height} pixels, and its image has {shape[1]} x "
            f"{shape[0]}; make it anew for this image"
        )
    white = to_pixels(Image.fromarray(np.uint8(255) * mask))
    return preprocessing.apply(white, path)[:1] > 127


def _reason(path: Path, error: Exception) -> str:
    """Say in one line why a mask cannot be read."""
    if not path.is_file():
        return "there is no such file"
    with path.open("rb") as file:
        return reason(file.read(HEAD_BYTES), error)


def _array(path: Path) -> NDArray[Any]:
    """Read the values of a mask in an array, (H, W)."""
    # Nothing is read before it is known to be there, and to be no more than it should.
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    if array.dtype.kind not in "biuf":
        raise ValueError("it is no array of numbers")
    if array.ndim not in (2, 3):
        raise ValueError(f"it is an array of shape {array.shape}, expected (H, W)")
    require_pixels(array.size // max(1, array.shape[-1]), array.shape[-1])
    if array.ndim == 2:
        return np.array(array)
    if array.shape[0] in CHANNELS and array.shape[-1] not in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.shape[-1] not in CHANNELS:
        raise ValueError(f"it is an array of shape {array.shape}, expected (H, W)")
    return _one_channel(np.array(array))


def _picture(path: Path) -> NDArray[Any]:
    """Read the values of a mask in a picture, (H, W): of a palette, the places of its colours."""
    with path.open("rb") as file, opened(file) as image:
        image.load()
        if image.mode == "P" and _black(image):
            image = image.convert("RGB")
        values = np.asarray(image)
        if values.ndim == 2:
            return values
        if image.mode in ("LA", "PA", "RGBA"):
            if (values[..., -1] != 255).any():
                raise ValueError("it is partly transparent; save it as black and white")
            if image.mode == "PA":
                return values[..., 0]
            return _one_channel(values[..., :-1])
        return _one_channel(np.asarray(image.convert("RGB")))


def _black(image: Image.Image) -> bool:
    """Whether a picture with a palette has black pixels that are not of its first colour."""
    palette = np.array(image.getpalette()).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    return bool(palette[0].any() and not palette[used[used < len(palette)]].any(axis=1).all())


def _one_channel(values: NDArray[Any]) -> NDArray[Any]:
    """Take (H, W) from (H, W, C), where all channels are alike or only two colours occur."""
    if (values == values[..., :1]).all():
        return values[..., 0]
    largest: NDArray[Any] = values.max(axis=-1)
    if {*np.unique(values).tolist()} <= {0, *WHITE}:  # red objects on black, say
        return largest
    raise ValueError("it has several colours; save it with two values, 0 and 255")


def _objects(values: NDArray[Any], n_labels: int) -> NDArray[np.bool_]:
    """Tell objects from background, (H, W) bool."""
    if values.size == 0:
        raise ValueError("it has no pixels")
    unique = np.unique(values)
    whole = bool((unique == np.round(unique)).all() and np.isfinite(unique).all())
    black_and_white = len(unique) <= 2 and any({*unique.tolist()} <= {0, white} for white in WHITE)
    if not black_and_white and not (whole and unique[0] >= 0 and unique[-1] <= n_labels):
        labels = "0 and 1" if n_labels == 1 else f"0 to {n_labels}"
        raise ValueError(
            f"it holds {some(unique.tolist())}; expected {labels}, where what is not 0 is object, "
            "or 0 and 255; save it so"
        )
    objects: NDArray[np.bool_] = values != 0
    return objects


def paths_of_masks(images: Sequence[Path], folder: Path, masks: Path) -> list[Path]:
    """Find the mask of each image in a folder: the file of the same name in a folder `masks`.

    Both folders have the same layout; masks of no image are said in the log.

    Raises:
        ValueError: If an image has no mask, or two.
    """
    files = list_images(masks, endings={ARRAY, *formats()}, deep=True).images
    by_name = {path.relative_to(masks).with_suffix(""): path for path in files}
    names = [path.relative_to(folder).with_suffix("") for path in images]
    if missing := [image for image, name in zip(images, names, strict=True) if name not in by_name]:
        wanted = masks / missing[0].relative_to(folder).with_suffix("")
        raise ValueError(
            f"{missing[0]} has no mask, nor have {len(missing) - 1} more images; expected {wanted} "
            "with the ending .npy, .png or that of another kind of picture"
        )
    if unused := sorted(by_name.keys() - {*names}):
        log.warning("%s: %d masks are of no image, such as %r", masks, len(unused), str(unused[0]))
    return [by_name[name] for name in names]
