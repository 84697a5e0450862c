"""How a decoded image becomes a square of pixels.

Source:
    Resizing and cropping are torchvision's, as in its reference evaluation, but on the bytes that
    Pillow decodes and not on its images: nearly four times as fast, and within one level of 255.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from cgn.data.decoding import pixel_limit
from cgn.io.cache import cache_key, sources, versions

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

    @property
    def square_px(self) -> int:
        """Height and width of what it cuts.

        Raises:
            ValueError: If it cuts nothing.
        """
        if self.crop_px is None:
            raise ValueError(f"{self} cuts no square from images of any size")
        return self.crop_px

    def apply(self, pixels: Tensor, name: object = "the image") -> Tensor:
        """Resize and crop an image, (3, H, W) uint8.

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


def stack_channels_last(images: Sequence[Tensor]) -> Tensor:
    """Make a batch (B, 3, H, W) of images (3, H, W), their colours side by side in memory.

    So decoders leave them and convolutions want them: nothing is laid out twice.

    Example:
        >>> stack_channels_last([torch.zeros(3, 4, 5)] * 2).stride()
        (60, 1, 15, 3)
    """
    return torch.stack([image.movedim(0, -1) for image in images]).movedim(-1, 1)
