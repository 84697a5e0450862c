"""Colored, double-colored and wildlife MNIST: digits painted with colours and textures.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, and its code.
    https://arxiv.org/abs/2101.06046
    Kim et al., Learning Not to Learn, CVPR 2019 (colored MNIST).
    https://arxiv.org/abs/1812.10352
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.worlds.digits import DIGITS, Bytes, Digits, Split, digits, is_mnist
from benchmarks.worlds.textures import coats, landscapes
from cgn.data.decoding import read_image
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.data.listing import list_images, warn_of_unread
from cgn.models.cgn import compose

Labels = NDArray[np.int64]
# Added to the labels of textures and of backgrounds, modulo 10: an intervention on one of them
# that leaves all else as it is.
Shift = tuple[Labels | int, Labels | int]
Painter = Callable[..., ImageSet]

SIZE_PX = 32
CHUNK = 5_000  # images composed at once
IS_DIGIT = 0.1 * 255  # brighter pixels are of the digit


def _palette(colours: str) -> Labels:
    """Read ten colours in hexadecimal, (10, 3) int64."""
    return np.array([list(bytes.fromhex(colour)) for colour in colours.split()])


# Colored MNIST's palette is listed nowhere in the original; these ten agree with the mean object
# colours that the original authors' own CGN draws.
JITTERED = _palette("dc143c 008080 fde910 0095b6 ed9121 911ebc 46f0f0 fac5bb d2f53c 800000")
JITTER_VARIANCE = 0.02

DOUBLE_BACKGROUND = _palette(
    "006400 00008b b03060 ff4500 ffff00 deb887 00ff00 00ffff ff00ff 6495ed"
)
DOUBLE_OBJECT = np.roll(DOUBLE_BACKGROUND, 6, axis=0)  # object[i] = background[(i - 6) mod 10]
DOUBLE_SIGMA = 0.01


def enlarge(gray: Bytes) -> Bytes:
    """Resize digits from 28 to 32 pixels, nearest neighbour.

    Example:
        >>> enlarge(np.eye(28, dtype=np.uint8)[None]).shape
        (1, 32, 32)
    """
    nearest = np.arange(SIZE_PX) * 28 // SIZE_PX
    return gray[:, nearest[:, None], nearest]


def draw_agreeing_labels(
    labels: Labels, correlation: float, rng: np.random.Generator
) -> tuple[Labels, Labels]:
    """Draw texture and background labels that agree with the digit with probability rho.

    P(texture = digit) = P(background = digit) = rho, each on its own; a label that does not
    agree is uniform over the other nine.

    Args:
        labels: Of the digits, (N,) int64.
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
    other = (labels + rng.integers(1, len(DIGITS), size=differs.shape)) % len(DIGITS)
    texture, background = np.where(differs, other, labels)
    return texture, background


def _surface_labels(
    labels: Labels, correlation: float | None, shift: Shift, rng: np.random.Generator
) -> tuple[Labels, Labels]:
    """Draw texture and background labels, independent ones for None, and shift them."""
    if correlation is None:
        texture, background = rng.integers(10, size=(2, len(labels)))
    else:
        # A stream of its own: colours, crops and noise are the same at every correlation.
        texture, background = draw_agreeing_labels(labels, correlation, rng.spawn(1)[0])
    return (texture + shift[0]) % len(DIGITS), (background + shift[1]) % len(DIGITS)


def _compose(
    source: Digits,
    mask: Bytes,
    foreground: Bytes | NDArray[np.float64],
    background: Bytes | NDArray[np.float64],
    labels: tuple[Labels, Labels],
) -> ImageSet:
    """Compose parts on the scale [0, 255] in double precision, the same on every machine."""
    pixels = torch.empty(len(mask), 3, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    for start in range(0, len(mask), CHUNK):
        m, f, b = (
            torch.from_numpy(part[start : start + CHUNK] / 255.0)
            for part in (mask[:, None], foreground, background)
        )
        pixels[start : start + CHUNK] = to_bytes(compose(m, f.clamp(0, 1), b.clamp(0, 1)))
    factors = Factors(*(torch.from_numpy(each) for each in (source.labels, *labels)))
    true_mask = torch.from_numpy(mask > IS_DIGIT)[:, None].to(torch.uint8) * 255
    return ImageSet(pixels, factors, torch.from_numpy(source.ids), true_mask)


def colored(
    source: Digits,
    *,
    seed: int,
    correlation: float | None,
    textures: Path | None = None,
    shift: Shift = (0, 0),
) -> ImageSet:
    """Paint gray digits in one jittered colour each, on black.

    Args:
        source: The digits.
        seed: Fixes colours and jitter.
        correlation: How closely the colour agrees with the digit, see `draw_agreeing_labels`;
            None for independent colours.
        textures: Not used.
        shift: Added to the labels of textures and backgrounds, modulo 10.

    Returns:
        Images of 32 x 32 pixels; their background is black and has the label -1.

    Source:
        Kim et al., variance 0.02.
    """
    rng = np.random.default_rng(seed)
    texture, _ = _surface_labels(source.labels, correlation, shift, rng)
    jitter = rng.normal(0, JITTER_VARIANCE**0.5, size=(len(texture), 3))
    colour = (JITTERED[texture] + 255 * jitter)[:, :, None, None]
    black, unknown = np.zeros((len(texture), 3, 1, 1)), np.full_like(texture, -1)
    return _compose(source, enlarge(source.pixels), colour, black, (texture, unknown))


def double_colored(
    source: Digits,
    *,
    seed: int,
    correlation: float | None,
    textures: Path | None = None,
    shift: Shift = (0, 0),
) -> ImageSet:
    """Paint binary digits in one palette colour on another, both with a little noise.

    Arguments are those of `colored`; None for the correlation gives two independent colours.

    Source:
        The authors' code. Differs: colours are clipped to [0, 1] and rounded to bytes, where the
        original keeps noise beyond white and black.
    """
    rng = np.random.default_rng(seed)
    texture, behind = _surface_labels(source.labels, correlation, shift, rng)
    noise = 255 * rng.normal(0, DOUBLE_SIGMA, size=(2, len(texture), 3))
    foreground = (DOUBLE_OBJECT[texture] + noise[0])[:, :, None, None]
    background = (DOUBLE_BACKGROUND[behind] + noise[1])[:, :, None, None]
    return _compose(source, _binary(source), foreground, background, (texture, behind))


def wildlife(
    source: Digits,
    *,
    seed: int,
    correlation: float | None,
    textures: Path | None = None,
    shift: Shift = (0, 0),
) -> ImageSet:
    """Cut binary digits out of animal coats and lay them on landscapes.

    Arguments are those of `colored`; `textures` is a folder with ten `object/*.jpg` and ten
    `background/*.jpg`, sorted by name, or None for procedural ones.

    Source:
        The authors' code: textures of 150 x 150 pixels with a reflected border of 3.

    Raises:
        ValueError: If the folder does not hold ten readable pictures of each kind.
    """
    rng = np.random.default_rng(seed)
    texture, behind = _surface_labels(source.labels, correlation, shift, rng)
    coat, landscape = _wildlife_textures(textures)
    foreground = _crops(coat, texture, rng)
    background = _crops(landscape, behind, rng)
    return _compose(source, _binary(source), foreground, background, (texture, behind))


def _binary(source: Digits) -> Bytes:
    """Return masks of the digits, 0 or 255."""
    return (enlarge(source.pixels) > IS_DIGIT).astype(np.uint8) * np.uint8(255)


def _crops(atlas: Bytes, labels: Labels, rng: np.random.Generator) -> Bytes:
    """Cut one 32 x 32 piece for each label out of its texture, (10, 3, 156, 156)."""
    y, x = rng.integers(atlas.shape[-1] - SIZE_PX + 1, size=(2, len(labels)))
    windows = np.lib.stride_tricks.sliding_window_view(atlas, (SIZE_PX, SIZE_PX), axis=(2, 3))
    return windows[labels, :, y, x]


@functools.cache
def _wildlife_textures(folder: Path | None) -> tuple[Bytes, Bytes]:
    """Return the two families of textures, each (10, 3, 156, 156)."""
    if folder is None:
        families = (np.asarray(coats()), np.asarray(landscapes()))
    else:
        families = (_read_textures(folder / "object"), _read_textures(folder / "background"))
    border = ((0, 0), (0, 0), (3, 3), (3, 3))
    coat, landscape = (np.pad(family, border, mode="reflect") for family in families)
    return coat, landscape


def _read_textures(folder: Path) -> Bytes:
    """Read ten pictures, file i for class i, resized to 150 x 150."""
    paths, others = list_images(folder)
    if len(paths) != len(DIGITS):
        raise ValueError(
            f"{folder} holds {len(paths)} images, expected 10, one a class; the folder of textures "
            "has the folders object and background"
        )
    warn_of_unread(folder, others)
    pictures = [Image.fromarray(read_image(path).movedim(0, -1).numpy()) for path in paths]
    nearest = [each.resize((150, 150), Image.Resampling.NEAREST) for each in pictures]
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in nearest])


def paint_split(paint: Painter, source: DataSource, split: Split, **settings: Any) -> ImageSet:
    """Paint the digits of a split with a source's textures."""
    return paint(digits(source, split), textures=source.textures, **settings)


def interventions(paint: Painter, source: DataSource) -> dict[str, ImageSet]:
    """Paint test digits with all factors of one class, and again with each combination changed.

    What a factor is changed to is uniform over the other classes, and over the digits of the class.

    Args:
        paint: `colored`, `double_colored` or `wildlife`.
        source: Where the digits come from.

    Returns:
        `base`; `do_shape`, `do_texture`, `do_shape_texture`; and, where there is a background,
        these with `background` and `do_background`; in one order and with the same ids: colours,
        crops and noise are those of `base`.
    """
    test = digits(source, "test")
    rng = np.random.default_rng(5)
    shape, texture, background = rng.integers(1, len(DIGITS), size=(3, len(test.labels)))
    chosen = _digits_of(test.labels, (test.labels + shape) % len(DIGITS), rng)
    others = Digits(test.pixels[chosen], test.labels[chosen], test.ids)
    sets = {}
    for digit, back in product((False, True), (False,) if paint is colored else (False, True)):
        for surface in (False, True):
            painted = others if digit else test
            # Surfaces follow the digit that is painted; the shift makes them follow the old one.
            kept = test.labels - painted.labels
            changes = {"shape": digit, "texture": surface, "background": back}
            name = "_".join(["do", *(factor for factor, is_new in changes.items() if is_new)])
            sets[name if any(changes.values()) else "base"] = paint(
                painted,
                seed=6,
                correlation=1.0,
                textures=source.textures,
                shift=(kept + surface * texture, kept + back * background),
            )
    return sets


def _digits_of(labels: Labels, wanted: Labels, rng: np.random.Generator) -> Labels:
    """Draw a digit of each wanted class, uniformly; indices, (N,) int64.

    Raises:
        ValueError: If there is no digit of a class.
    """
    counts = np.bincount(labels, minlength=len(DIGITS))
    if not counts.all():
        raise ValueError(f"there is no digit {int(counts.argmin())} to change others to")
    by_class, starts = np.argsort(labels, kind="stable"), np.cumsum(counts) - counts
    places = (rng.random(len(wanted)) * counts[wanted]).astype(np.int64)
    return np.asarray(by_class[starts[wanted] + places])


def _domain(name: str, paint: Painter) -> TrainingDomain:
    """Build the training domain of one painter."""
    shifts: dict[str, Shift] = {"do_texture": (1, 0), "do_background": (0, 1)}
    if paint is colored:  # black behind every digit
        del shifts["do_background"]
    return TrainingDomain(
        name=name,
        classes=DIGITS,
        image_size_px=SIZE_PX,
        train=lambda source: paint_split(
            paint, source, "train", seed=1, correlation=source.correlation
        ),
        unbiased=lambda source: paint_split(paint, source, "train", seed=2, correlation=None),
        true_counterfactuals=lambda source: {
            action: paint_split(paint, source, "train", seed=1, correlation=1.0, shift=shift)
            for action, shift in shifts.items()
        },
        supports_correlation=True,
        is_official=is_mnist,
        data_folder="mnist",
        official_files="MNIST's idx files",
        takes_textures=paint is wildlife,
    )


COLORED_MNIST = _domain("colored-mnist", colored)
DOUBLE_COLORED_MNIST = _domain("double-colored-mnist", double_colored)
WILDLIFE_MNIST = _domain("wildlife-mnist", wildlife)
