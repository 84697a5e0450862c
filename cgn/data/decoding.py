"""Image files of any kind as RGB bytes.

Source:
    Photographs are decoded by libjpeg-turbo, everything else by Pillow. https://pillow.readthedocs.io
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cgn.io.errors import HEAD_BYTES, stand_in

MAX_PIXELS = 178_956_970  # of an image, as many as Pillow takes
MAX_PIXELS_VARIABLE = "CGN_BENCH_MAX_PIXELS"
# Formats that run other programs (EPS), are drawings, films or tables, or are only recognised.
NOT_READ = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"})
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
# Of these formats Pillow gives pixels of 16 bits as numbers of 32.
WIDENED = ("PNG", "PPM")
ORIENTATION, BITS_PER_SAMPLE = 274, 258  # tags of Exif and of TIFF


def limit(variable: str, usual: int) -> int:
    """Return a limit that an environment variable moves.

    Raises:
        ValueError: If the variable is no whole number above 0.

    Example:
        >>> limit("CGN_BENCH_NO_SUCH_LIMIT", 7)
        7
    """
    text = os.environ.get(variable) or str(usual)
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{variable} must be a whole number above 0, got {text!r}")
    return int(text)


def pixel_limit() -> int:
    """Give the most pixels that an image or a mask may have; `CGN_BENCH_MAX_PIXELS` moves it."""
    return limit(MAX_PIXELS_VARIABLE, MAX_PIXELS)


def require_pixels(height: int, width: int) -> None:
    """Refuse a picture that is too large to be meant.

    Raises:
        ValueError: If it has more pixels than `pixel_limit`.
    """
    if height * width > pixel_limit():
        raise ValueError(_too_large(f"{width:,} x {height:,}"))


def _too_large(claim: str) -> str:
    """Say that a picture has too many pixels, and how to read it all the same."""
    return (
        f"it claims {claim} pixels, and more than {pixel_limit():,} are refused; if it is meant to "
        f"be so large, set the environment variable {MAX_PIXELS_VARIABLE}"
    )


@cache
def formats() -> dict[str, str]:
    """Give the formats that are read, by the endings of their files in lower case."""
    Image.init()
    known = Image.registered_extensions().items()
    return {end: name for end, name in known if name in Image.OPEN and name not in NOT_READ}


@contextmanager
def opened(file: BinaryIO) -> Iterator[Image.Image]:
    """Open an image file of one of the formats that are read; no pixel is decoded yet.

    Raises:
        Exception: Of any kind, if it is none; see `reason`.
    """
    Image.MAX_IMAGE_PIXELS = pixel_limit()  # where Pillow begins to warn, it is refused here
    known = sorted({*formats().values()})
    with Image.open(file, formats=known) as image:
        require_pixels(image.height, image.width)
        yield image


def decode(file: bytes, name: object = "the file", *, upright: bool = False) -> Tensor:
    """Decode the content of an image file, (3, H, W) uint8: the pixels that Pillow has for it.

    Args:
        file: Its content.
        name: What to call it in an error message.
        upright: Whether a picture that says how the camera was held is turned accordingly.

    Raises:
        ValueError: If it is no image, too large, or of a kind whose black and white are unknown.
    """
    try:
        return _decoded(file, upright)
    except Exception as error:  # decoders raise errors of many kinds
        raise ValueError(f"{name} cannot be read as an image: {reason(file, error)}") from None


def read_image(path: Path) -> Tensor:
    """Decode an image file, (3, H, W) uint8.

    Raises:
        ValueError: As `decode` does, or if the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    return decode(content, path)


def sides(path: Path) -> tuple[int, int]:
    """Read height and width of an image file from its header.

    Raises:
        ValueError: If it is no image.
    """
    try:
        with path.open("rb") as file, opened(file) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise errors of many kinds
        head = path.read_bytes()[:HEAD_BYTES] if path.is_file() else b"."
        raise ValueError(f"{path} cannot be read as an image: {reason(head, error)}") from None


def _decoded(file: bytes, upright: bool) -> Tensor:
    """Decode an image file, (3, H, W) uint8."""
    if simplejpeg.is_jpeg(file) and not upright:
        # Pillow gives the same pixels in nearly twice the time. It knows what to do with other
        # colours and says what is wrong with broken files.
        with suppress(ValueError):
            height, width, colours, _ = simplejpeg.decode_jpeg_header(file)
            require_pixels(height, width)
            if colours in ("YCbCr", "Gray"):
                return torch.from_numpy(simplejpeg.decode_jpeg(file)).movedim(-1, 0)
    with opened(io.BytesIO(file)) as image:
        image.load()
        turned = upright and image.getexif().get(ORIENTATION) is not None
        return to_pixels(ImageOps.exif_transpose(image) if turned else image)


def reason(file: bytes, error: Exception) -> str:
    """Say in one line why a decoder raised an error over a file's content, and what to do.

    Example:
        >>> reason(b"", ValueError())
        'it is empty; fetch it anew or take it away'
    """
    if not file:
        return "it is empty; fetch it anew or take it away"
    if fault := stand_in(file[:HEAD_BYTES]):
        return f"it {fault[0]}; {fault[1]}"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        claimed = re.search(r"(\d+) pixels", str(error))
        return _too_large(f"{int(claimed[1]):,}" if claimed else "too many")
    if isinstance(error, UnidentifiedImageError):
        return "its content is of no kind of picture that is read; fetch it anew or take it away"
    said = " ".join(str(error).split())[:200]
    if isinstance(error, (OSError, SyntaxError)) or not said:
        return f"{said or type(error).__name__}; fetch it anew or take it away"
    return said


def to_pixels(image: Image.Image) -> Tensor:
    """Turn an image of any mode into RGB pixels, (3, H, W) uint8.

    Gray of 16 bits is scaled from 65,535 to 255; fractions are taken if they lie in [0, 1].

    Raises:
        ValueError: If the values of its pixels do not say what is black and what is white.

    Example:
        >>> to_pixels(Image.new("L", (500, 400), 7)).unique()
        tensor([7], dtype=torch.uint8)
        >>> to_pixels(Image.new("I;16", (500, 400), 65_535)).unique()
        tensor([255], dtype=torch.uint8)
    """
    gray = _gray(image)
    if gray is not None:
        return torch.from_numpy(gray).expand(3, -1, -1)
    colored = image if image.mode == "RGB" else image.convert("RGB")  # it copies in any case
    return torch.from_numpy(np.array(colored)).movedim(-1, 0)


def _gray(image: Image.Image) -> NDArray[np.uint8] | None:
    """Scale gray of more than eight bits to bytes, (H, W); None for any other image."""
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in WIDENED):
        white = _white(image)
        values = np.asarray(image).astype(np.int64)
        return ((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if image.mode not in ("I", "F"):
        return None
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    kind = "fractions" if image.mode == "F" else "whole numbers"
    raise ValueError(
        f"its pixels are {kind} in [{low:g}, {high:g}], which do not say what is white; save it "
        "with 8 or 16 bits, or as fractions in [0, 1]"
    )


def _white(image: Image.Image) -> int:
    """Largest value of gray of 16 bits; a TIFF file may use fewer of them."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    return int((1 << int(bits[0])) - 1)
