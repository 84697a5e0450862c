"""Silhouettes of photographed things in one palette colour on another, as double-colored MNIST.

The photographs are the stamps of Tux Paint; nothing but their transparency is used. The ten classes
are the folders of the stamps, with the folders in them, that hold one kind of thing each and, among
these, the most pictures, at least five. Left out are balls, whose outlines are those of fruit, and
single pictures that show another kind of thing than their folder says or only a part of one:
lobster, shrimp, slug, woodlouse, mammals of the sea, a toy bear, wheels, holly leaves, a pinecone.
In each class the third of the pictures with the lowest sha256, two at least, is held out for
testing. `silhouettes.csv` names them.

Source:
    Tux Paint's stamps, GPL-2, as Debian's package tuxpaint-stamps-default 2022.06.04 has them.
    https://packages.debian.org/bookworm/tuxpaint-stamps-default
"""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from benchmarks.core.suite import DataSource
from benchmarks.worlds.mnists import double_colours
from benchmarks.worlds.painting import (
    Bytes,
    Labels,
    Shapes,
    affine_maps,
    lay_tiles,
    paint_shapes,
    painted_domain,
    pose_generator,
)
from cgn.data.image_set import ImageSet
from cgn.data.listing import some

Split = Literal["train", "test"]

SIZE_PX = 64
TILE_PX = 128
N_PER_CLASS: dict[Split, int] = {"train": 600, "test": 100}
DIAMETER_PX = (52.0, 76.0)  # a silhouette's longer side in the image
TURN_DEGREES = 15.0  # largest rotation, either way
SHIFT_PX = 7.0  # largest distance of a silhouette's centre from the image's, along either axis
FAINT = 8  # of 255: what is no more opaque than this is not of the object, where it is cropped
LARGEST_PX = 320  # of a cut-out: larger ones are shrunk

PACKAGE = "tuxpaint-stamps-default 2022.06.04"
STAMPS = Path("usr/share/tuxpaint/stamps")  # where the package unpacks to
CUTOUTS = "cutouts"
ADVICE = (
    f"unpack Debian's package {PACKAGE} (`apt-get download`, `dpkg -x`) and name the folder that "
    "it was unpacked to"
)


class Silhouettes(NamedTuple):
    """The silhouettes of one split.

    Attributes:
        tiles: How opaque each pixel is, (N, 1, 128, 128) float64 in [0, 1], the longer side of
            each silhouette as long as its tile.
        labels: Their classes, (N,) int64.
        ids: Their rows in `silhouettes.csv`, (N,) int64.
    """

    tiles: Tensor
    labels: Labels
    ids: Labels


@functools.cache
def picture_table() -> pd.DataFrame:
    """Read which pictures belong to the world.

    Returns:
        Columns file (within the package's folder of stamps), class, held_out ("yes" or "no"),
        sha256_of_original and sha256_of_cutout.
    """
    return pd.read_csv(Path(__file__).with_suffix(".csv"))


CLASSES = tuple(sorted(set(picture_table()["class"])))


def silhouettes(source: DataSource, split: Split) -> Silhouettes:
    """Read the silhouettes of a split.

    Args:
        source: Names a folder, as for `read_silhouettes`.
        split: "train", or "test" for those that are held out.

    Raises:
        ValueError: If the source names no folder, or a picture is missing or is another.
    """
    if source.folder is None:
        raise ValueError(f"silhouettes do not come with the packages: {ADVICE}")
    table = picture_table()
    held_out = "yes" if split == "test" else "no"
    return read_silhouettes(source.folder, table[table["held_out"] == held_out])


def read_silhouettes(folder: Path, table: pd.DataFrame) -> Silhouettes:
    """Read the silhouettes of pictures.

    Args:
        folder: Where the package is unpacked, or its folder of stamps; or a folder that has their
            cut-outs in `cutouts`, `animals/fish/x.png` as `animals__fish__x.png`. Both give the
            same silhouettes.
        table: The pictures, with the columns and the index of `picture_table`.

    Raises:
        ValueError: If a picture is missing, or its sha256 is not that of the table.
    """
    tiles = np.stack([_tile(picture) for picture in _pictures(folder, table)])
    labels = np.array([CLASSES.index(name) for name in table["class"]])
    ids = table.index.to_numpy(dtype=np.int64)
    return Silhouettes(torch.from_numpy(tiles / 255.0)[:, None], labels, ids)


class Picture(NamedTuple):
    """A file, the sha256 that it must have, and whether it is cut out already."""

    path: Path
    sha256: str
    is_cutout: bool


def _pictures(folder: Path, table: pd.DataFrame) -> list[Picture]:
    """Find the file of each picture of a table."""
    cutouts = table["file"].str.replace("/", "__")
    layouts = (
        (folder / STAMPS, table["file"], "sha256_of_original"),
        (folder, table["file"], "sha256_of_original"),
        (folder / CUTOUTS, cutouts, "sha256_of_cutout"),
    )
    lacking: dict[Path, list[str]] = {}
    for place, names, column in layouts:
        lacking[place] = [name for name in names if not (place / name).is_file()]
        if not lacking[place]:
            pairs = zip(names, table[column], strict=True)
            return [Picture(place / name, sha, names is cutouts) for name, sha in pairs]
    place, missing = min(lacking.items(), key=lambda each: len(each[1]))
    raise ValueError(
        f"{place} lacks {some(missing)} of the {len(table)} pictures of silhouettes; {ADVICE}"
    )


@functools.cache
def _tile(picture: Picture) -> Bytes:
    """Read one picture's opacity into a square whose side is its longer one, (128, 128)."""
    content = picture.path.read_bytes()
    if (came := hashlib.sha256(content).hexdigest()) != picture.sha256:
        raise ValueError(
            f"{picture.path} is not the picture of {PACKAGE}: its sha256 is {came}, expected "
            f"{picture.sha256}; {ADVICE}"
        )
    opacity = Image.open(io.BytesIO(content)).convert("RGBA").getchannel("A")
    if not picture.is_cutout:
        opacity = _cut_out(opacity)
    scale = TILE_PX / max(opacity.size)
    width, height = (max(1, round(scale * side)) for side in opacity.size)
    tile = Image.new("L", (TILE_PX, TILE_PX))
    corner = ((TILE_PX - width) // 2, (TILE_PX - height) // 2)
    tile.paste(opacity.resize((width, height), Image.Resampling.BILINEAR), corner)
    return np.asarray(tile)


def _cut_out(opacity: Image.Image) -> Image.Image:
    """Crop a picture's opacity to its object, and shrink it as the cut-outs were."""
    opacity = opacity.crop(opacity.point(lambda value: 255 * (value > FAINT)).getbbox())
    opacity.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    return opacity


def draw_poses(n: int, rng: np.random.Generator) -> Tensor:
    """Draw size, rotation, flip and place of silhouettes, many of them over the image's edge.

    Returns:
        Affine maps from image to tile, (N, 2, 3) float64.
    """
    shrink = SIZE_PX / rng.uniform(*DIAMETER_PX, n)
    angle = np.deg2rad(TURN_DEGREES) * rng.uniform(-1, 1, n)
    flip = rng.choice([-1.0, 1.0], n)
    shift = 2 * SHIFT_PX / SIZE_PX * rng.uniform(-1, 1, (n, 2))
    return affine_maps(shrink, angle, flip, shift)


def draw_shapes(every: Silhouettes, n_per_class: int, seed: int) -> Shapes:
    """Draw silhouettes of each class, in random poses.

    Args:
        every: Those to draw from.
        n_per_class: Shapes of each class; all its silhouettes are equally likely.
        seed: Fixes silhouettes and poses.

    Returns:
        Masks of 64 x 64 pixels, 0 or 255, class by class.
    """
    rng = pose_generator(seed)
    of_class = [np.flatnonzero(every.labels == label) for label in range(len(CLASSES))]
    index = np.concatenate([rng.choice(each, n_per_class) for each in of_class])
    maps = draw_poses(len(index), rng)
    masks = lay_tiles(every.tiles[index], maps, SIZE_PX)[:, 0] >= 0.5
    mask_bytes = masks.numpy().astype(np.uint8) * np.uint8(255)
    return Shapes(mask_bytes, every.labels[index], every.ids[index])


def painted(source: DataSource, split: Split, *, seed: int, **settings: Any) -> ImageSet:
    """Paint silhouettes in one palette colour on another, as in double-colored MNIST.

    Args:
        source: Where the pictures are, see `silhouettes`.
        split: "train", or "test" for silhouettes that are held out.
        seed: Fixes silhouettes, poses, colours and noise.
        settings: Of `paint_shapes`.

    Returns:
        Images of 64 x 64 pixels, 600 a class for training and 100 for testing; their ids are rows
        of `silhouettes.csv`.
    """
    shapes = draw_shapes(silhouettes(source, split), N_PER_CLASS[split], seed)
    return paint_shapes(shapes, double_colours, seed=seed, **settings)


SILHOUETTES = painted_domain(
    "silhouettes",
    painted,
    classes=CLASSES,
    size_px=SIZE_PX,
    data_folder="photographs",
    official_files=f"the unpacked pictures of Debian's package {PACKAGE}",
)
