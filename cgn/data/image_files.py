"""Image sets on disk: files that are decoded when their pixels are asked for.

Source:
    Resizing and cropping are torchvision's, as in its reference evaluation, but on the bytes that
    Pillow decodes and not on its images: nearly four times as fast, and within one level of 255.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cgn.data.decoding import pixel_limit, read_image
from cgn.data.image_set import Factors, ImageSet
from cgn.data.listing import class_folders, list_images, say_left_out, some
from cgn.io.cache import cache_key
from cgn.io.identity import sources, versions

SPLITS = frozenset({"train", "val", "valid", "validation", "test"})
# Threads; decoders work without Python's lock, but more of them would wait for it in between: on 16
# cores, 12 decode fewer images a second than 8.
DECODERS = min(8, os.cpu_count() or 1)
# Other versions, and other code, may give other pixels.
DECODED_BY = cache_key(versions("numpy", "pillow", "simplejpeg", "torchvision"), sources(__name__))


@cache
def decoders() -> ThreadPoolExecutor:
    """Return the threads that decode images, the same for all who read any."""
    return ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")


if hasattr(os, "register_at_fork"):  # threads do not live on in a process that is forked off
    os.register_at_fork(after_in_child=decoders.cache_clear)


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes a square of pixels, before a network normalises it.

    Attributes:
        resize_px: What the shorter side is resized to, antialiased; None leaves it alone.
        crop_px: Side of the square that is cut from the middle; None cuts nothing.
        interpolation: Of the resizing.
        squash: Whether the longer side is resized to `resize_px` too, so that nothing is cut off.

    Raises:
        ValueError: If a size is not positive, or there is no such interpolation.
    """

    resize_px: int | None
    crop_px: int | None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        for name in ("resize_px", "crop_px"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be positive or None, got {size}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"interpolation must be bilinear or bicubic, got {self.interpolation!r}"
            )

    def apply(self, pixels: Tensor, name: object = "the image") -> Tensor:
        """Turn the pixels of an image, (3, H, W) uint8, into a square of them.

        Args:
            pixels: The image.
            name: What to call it in an error message.

        Raises:
            ValueError: If it is so long and narrow that resizing it would fill the memory.

        Example:
            >>> IMAGENET.apply(torch.zeros(3, 400, 500, dtype=torch.uint8)).shape
            torch.Size([3, 224, 224])
        """
        from torchvision.transforms import InterpolationMode  # seconds to import
        from torchvision.transforms.v2 import functional as transforms

        if self.resize_px is not None:
            short, long = sorted(pixels.shape[1:])
            if not self.squash and long * self.resize_px**2 > short * pixel_limit():
                raise ValueError(
                    f"{name} is {long:,} pixels long and {short:,} across, too narrow to be "
                    f"resized to {self.resize_px:,}; take it away, or crop it"
                )
            mode = InterpolationMode(self.interpolation)
            sides = [self.resize_px, self.resize_px] if self.squash else [self.resize_px]
            pixels = transforms.resize(pixels, sides, mode)
        if self.crop_px is not None:
            pixels = transforms.center_crop(pixels, [self.crop_px, self.crop_px])
        return pixels


AS_IT_IS = Preprocessing(None, None)
IMAGENET = Preprocessing(256, 224)


class ImageFiles(ImageSet):
    """A set of labelled images that lie in files and are decoded where they are touched.

    Attributes:
        paths: The files, in the order of the images.
        size_px: Height and width of every image once it is prepared.
        preprocessing: How it is.
    """

    in_memory = False
    paths: Sequence[Path]
    size_px: int
    preprocessing: Preprocessing

    def __init__(
        self,
        paths: Sequence[Path],
        factors: Factors,
        ids: Tensor,
        *,
        size_px: int,
        preprocessing: Preprocessing = AS_IT_IS,
        masks: Tensor | None = None,
    ) -> None:
        """Name the files; nothing is read yet.

        Raises:
            ValueError: If files, labels, ids and masks differ in number.
        """
        lengths = {len(paths), len(ids), *map(len, factors)}
        lengths |= set() if masks is None else {len(masks)}
        if len(lengths) != 1:
            raise ValueError(f"files, ids and labels differ in number: {sorted(lengths)}")
        own = {"paths": paths, "size_px": size_px, "preprocessing": preprocessing}
        for name, value in (own | {"factors": factors, "ids": ids, "masks": masks}).items():
            object.__setattr__(self, name, value)  # as all image sets, these don't change

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def pixels(self) -> Tensor:
        """Decode all images at once, (N, 3, H, W) uint8."""
        return self.read(slice(None))

    def read(self, index: Tensor | slice) -> Tensor:
        """Decode the chosen images, (B, 3, H, W) uint8.

        Raises:
            ValueError: If a file is no image, or of another size.
        """
        order = torch.arange(len(self))[index].tolist()
        return stacked(list(decoders().map(self._decode, [self.paths[i] for i in order])))

    def select(self, index: Tensor | slice) -> ImageFiles:
        """Return the set of the chosen images."""
        paths = [self.paths[i] for i in torch.arange(len(self))[index].tolist()]
        factors = self.factors.map(lambda labels: labels[index])
        return ImageFiles(
            paths,
            factors,
            self.ids[index],
            size_px=self.size_px,
            preprocessing=self.preprocessing,
            masks=None if self.masks is None else self.masks[index],
        )

    def prepared(self, preprocessing: Preprocessing) -> ImageFiles:
        """Return the same images, prepared otherwise.

        Raises:
            ValueError: If the preprocessing cuts no square, so that sizes would differ.
        """
        if preprocessing.crop_px is None:
            raise ValueError(f"{preprocessing} cuts no square from images of any size")
        return ImageFiles(
            self.paths,
            self.factors,
            self.ids,
            size_px=preprocessing.crop_px,
            preprocessing=preprocessing,
        )

    def sha256(self) -> str:
        """Hash names and contents of the files, labels, and masks if they are there.

        How the images are prepared does not count.
        """
        digest = hashlib.sha256()
        for path, content in zip(self.paths, decoders().map(_hash, self.paths), strict=True):
            digest.update(f"{path.parent.name}/{path.name} {content}\n".encode())
        for tensor in (*self.factors, *(() if self.masks is None else (self.masks,))):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Name the files, what decodes them, and how they are prepared."""
        return f"{self.sha256()} {DECODED_BY} {self.preprocessing}"

    def _decode(self, path: Path) -> Tensor:
        """Read one image, (3, H, W) uint8."""
        pixels = self.preprocessing.apply(read_image(path), path)
        if pixels.shape[1:] != (self.size_px, self.size_px):
            height, width = pixels.shape[1:]
            raise ValueError(
                f"{path} is {width} x {height} pixels, expected {self.size_px} x {self.size_px}: "
                "these images are taken as they are"
            )
        return pixels


def image_folder(folder: Path, preprocessing: Preprocessing) -> tuple[ImageFiles, tuple[str, ...]]:
    """Find images in one folder a class; what else is there is said in the log.

    Args:
        folder: It holds one folder a class, with images at any depth.
        preprocessing: How they become squares of pixels; it must cut them.

    Returns:
        The images, all factors of an image's class, and the sorted names of the classes, which is
        the order of their labels.

    Raises:
        ValueError: If there is no such folder, or a class without any image.
    """
    if preprocessing.crop_px is None:
        raise ValueError(f"{preprocessing} cuts no square from images of any size")
    classes = class_folders(folder)
    beside = list_images(folder)
    if not classes:
        raise ValueError(
            f"{folder} has no folder of images for each class; it holds "
            f"{some(path.name for path in (*beside.images, *beside.others))}"
        )
    if len(classes) > 1 and {path.name.lower() for path in classes} <= SPLITS:
        raise ValueError(
            f"{folder} holds splits and no classes: {some(path.name for path in classes)}; name "
            "one of them"
        )
    within = [list_images(each, deep=True) for each in classes]
    for each, found in zip(classes, within, strict=True):
        if not found.images:
            raise ValueError(
                f"the class folder {each} has no image, it holds "
                f"{some(path.name for path in found.others)}; take it away, or fill it"
            )
    odd = [*beside.images, *(path for path in beside.others if path not in classes)]
    say_left_out(folder, [*odd, *(path for found in within for path in found.others)])
    paths = [path for found in within for path in found.images]
    sizes = torch.tensor([len(found.images) for found in within])
    images = ImageFiles(
        paths,
        Factors.aligned(torch.arange(len(sizes)).repeat_interleave(sizes)),
        torch.arange(len(paths)),
        size_px=preprocessing.crop_px,
        preprocessing=preprocessing,
    )
    return images, tuple(path.name for path in classes)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Make a batch (B, 3, H, W) of images (3, H, W), their colours side by side in memory.

    So decoders leave them and convolutions want them: nothing is laid out twice.

    Example:
        >>> stacked([torch.zeros(3, 4, 4)] * 2).is_contiguous(memory_format=torch.channels_last)
        True
    """
    return torch.stack([image.movedim(0, -1) for image in images]).movedim(-1, 1)


def _hash(path: Path) -> str:
    """Hash one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
