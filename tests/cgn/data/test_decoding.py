"""Image files of every kind: read as their values mean, or refused in a sentence."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cgn.data import decoding
from cgn.data.decoding import decode, formats, sides
from cgn.data.preprocessing import IMAGENET

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header claims a size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"),
        ("RGB", "BMP"), ("P", "GIF"), ("RGB", "WEBP"), ("CMYK", "TIFF"), ("RGB", "TIFF"),
        ("RGB", "PPM"),
    ],
)  # fmt: skip
def test_images_of_eight_bits_have_the_pixels_that_pillow_has(mode: str, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    file = written(Image.fromarray(noise).convert(mode), kind)
    with Image.open(io.BytesIO(file)) as image:
        theirs = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(file).movedim(0, -1).numpy(), theirs)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_gray_of_sixteen_bits_is_the_same_gray_in_eight(kind: str) -> None:
    file = written(Image.fromarray(RAMP.astype(np.uint16) * 257), kind)
    found = decode(file)
    assert found.shape == (3, 16, 16)
    assert np.array_equal(found.numpy(), np.stack([RAMP] * 3))


def test_sixteen_bits_of_the_other_byte_order_are_the_same() -> None:
    deep = Image.fromarray((RAMP.astype(np.uint16) * 257).astype(">u2"))
    assert deep.mode == "I;16B"
    assert np.array_equal(decode(written(deep, "TIFF"))[0].numpy(), RAMP)


def test_fractions_from_0_to_1_are_scaled_and_others_refused() -> None:
    fractions = RAMP.astype(np.float32) / 255
    assert np.array_equal(decode(written(Image.fromarray(fractions), "TIFF"))[0].numpy(), RAMP)
    for values in (fractions * 255, fractions - 0.5, fractions * np.nan):
        with pytest.raises(ValueError, match=r"x\.tif cannot .* pixels are fractions in \["):
            decode(written(Image.fromarray(values.astype(np.float32)), "TIFF"), "x.tif")


def test_whole_numbers_of_an_unknown_range_are_refused() -> None:
    file = written(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 255\], which do not say what is"):
        decode(file)


@pytest.mark.parametrize(("width", "height"), [(65_500, 65_500), (15_000, 15_000), (400_000, 400)])
def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100_000_000)
    with pytest.raises(ValueError, match=r"big\.png .* more than 100,000,000 .*BENCH_MAX_PIXELS"):
        decode(claiming(width, height), "big.png")


def test_a_photograph_that_claims_too_many_pixels_is_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(Image.new("RGB", (64, 48)), "JPEG")
    monkeypatch.setenv("CGN_BENCH_MAX_PIXELS", "3000")
    with pytest.raises(ValueError, match=r"claims .* pixels, and more than 3,000 are refused"):
        decode(file)
    monkeypatch.setenv("CGN_BENCH_MAX_PIXELS", "3072")
    assert decode(file).shape == (3, 48, 64)
    monkeypatch.setenv("CGN_BENCH_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="must be a whole number above 0, got 'many'"):
        decode(file)


def test_a_picture_too_narrow_to_be_resized_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line\.png is 1,000,000 pixels long and 1 across"):
        IMAGENET.apply(torch.zeros(3, 1, 1_000_000, dtype=torch.uint8), "line.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git-LFS pointer, .*; run `git lfs"),
        (b"hello", "of no kind of picture that is read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "of no kind of picture"),
        (written(Image.fromarray(RAMP), "PNG")[:50], "x.png cannot be read as an image: "),
        (written(Image.fromarray(RAMP), "TIFF")[:100], "x.png cannot be read as an image: "),
        (written(Image.fromarray(RAMP), "JPEG")[:200], "x.png cannot be read as an image: "),
    ],
)
def test_what_is_no_whole_image_is_named_with_what_it_is(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decode(content, "x.png")
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whatever_bytes_a_file_has_it_is_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    kinds = ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX", "SGI")
    files = [np.frombuffer(written(Image.fromarray(RAMP), kind), np.uint8) for kind in kinds]
    for number in range(400):
        spoiled: NDArray[np.uint8] = files[number % len(files)].copy()
        places = rng.integers(0, min(len(spoiled), 200), 4)
        spoiled[places] = rng.integers(0, 256, 4, np.uint8)
        file = spoiled[: rng.integers(1, len(spoiled) + 1)].tobytes()
        with suppress(ValueError):  # any other error fails
            found = decode(file, "x")
            assert found.dtype == torch.uint8
            assert found.shape[0] == 3


def test_the_sides_of_a_file_are_read_without_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(claiming(300, 200))
    assert sides(tmp_path / "x.png") == (200, 300)
    (tmp_path / "no.png").write_text("hello")
    with pytest.raises(ValueError, match=r"no\.png cannot be read as an image"):
        sides(tmp_path / "no.png")


def test_formats_that_run_programs_are_not_among_those_that_are_read() -> None:
    assert {".png", ".jpeg", ".webp", ".tif", ".bmp", ".gif", ".avif", ".pgm"} <= formats().keys()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5"} & formats().keys()
