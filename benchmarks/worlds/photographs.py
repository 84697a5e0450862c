"""Tiny ImageNet's photographs of ImageNet-9's classes, 64 pixels a side, as a training domain.

Tiny ImageNet has 500 training and 50 validation images of each of 200 classes, with a box around
the object; 42 of the classes belong to one of ImageNet-9's nine.

Source:
    Le and Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N, Stanford 2015.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import cv2
import pandas as pd
import torch
from torch import Tensor

from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.archives import require_sizes
from benchmarks.data.class_folders import names_in
from benchmarks.worlds.imagenet import classes_of
from cgn.data import image_set
from cgn.data.decoding import decode
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.data.listing import some
from cgn.models import cgn
from cgn.segmentation import boxes
from cgn.segmentation.boxes import WORKERS, masks_from_boxes

IN9_CLASSES = tuple(classes_of("in9"))
SIZE_PX = 64
NAME = "tiny-in9"
BOXES = "boxes.csv"
MOST_BYTES = 16 << 20  # of a file
COLUMNS = ("x0", "y0", "x1", "y1")
# What cuts objects out takes minutes: other code may change without doing it again.
CODE = (Path(__file__), *(Path(str(module.__file__)) for module in (image_set, boxes, cgn)))


def archive(source: DataSource) -> Traversable:
    """Find the images: `tiny-in9.zip`, or its unpacked folder, or the folder that holds either.

    Raises:
        ValueError: If there is none, or it is cut short, or holds something else.
    """
    folder = source.folder
    if folder is not None:
        for place in (folder, folder / NAME):
            if (place / BOXES).is_file():
                return place
        if (folder / f"{NAME}.zip").is_file():
            return _opened(folder / f"{NAME}.zip")
    there = f"{folder} holds {some(names_in(folder))}" if folder else "there is none"
    raise ValueError(
        f"{NAME} needs the folder that holds {NAME}.zip, or train/, val/ and boxes.csv; {there}; "
        "name another folder"
    )


def _opened(path: Path) -> Traversable:
    """Open the archive, at the place of its tables of boxes."""
    try:
        place = zipfile.Path(path)
        members = place.root.infolist()
    except Exception as error:  # zipfile raises errors of many kinds
        raise ValueError(f"{path} is no whole zip archive: {error}; fetch it anew") from None
    require_sizes(path, members)
    for within in (place, place / NAME):
        if (within / BOXES).is_file():
            return within
    raise ValueError(
        f"{path} holds {some(sorted(each.name for each in place.iterdir()))}, expected train/, "
        f"val/ and {BOXES}, at its top or in a folder {NAME}; fetch it anew"
    )


def _content(place: Traversable, name: str) -> bytes:
    """Read one file of the folder or archive.

    Raises:
        ValueError: If it is not there, or damaged.
    """
    file = place / name
    try:
        if (size := _size(file)) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, and no more than {MOST_BYTES:,} are expected")
        return file.read_bytes()
    except Exception as error:  # zipfile and its decompressors raise errors of many kinds
        said = f"it is not there ({error})" if isinstance(error, (KeyError, OSError)) else error
        raise ValueError(f"{name!r} of {place} cannot be read: {said}; fetch it anew") from None


def _size(file: Traversable) -> int:
    """Tell how large a file of the folder or archive is, before it is unpacked."""
    if isinstance(file, zipfile.Path):
        return file.root.getinfo(file.at).file_size
    assert isinstance(file, Path)
    return file.stat().st_size


def fingerprint(source: DataSource, *code: Path) -> str:
    """Hash the archive, or all files of its folder, and the code that makes images of them.

    Args:
        source: Names the folder of the archive.
        code: Source files that decide the images beside this module.
    """
    place = archive(source)
    digest = hashlib.sha256(cv2.__version__.encode())
    for path in (*CODE, *code):
        digest.update(path.read_bytes())
    if isinstance(place, zipfile.Path):
        digest.update(Path(str(place.root.filename)).read_bytes())
        return digest.hexdigest()
    assert isinstance(place, Path)
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(place)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def photographs(source: DataSource, part: Literal["train", "val"]) -> tuple[ImageSet, Tensor]:
    """Read one part of the images and cut out their objects.

    Returns:
        The images, all factors of an image's class, with the masks that GrabCut makes of the
        boxes; and the boxes, (N, 4) int64: first column and row, last column and row.

    Raises:
        ValueError: If images or boxes are missing, or are of another form.
    """
    place = archive(source)
    table = _boxes(place)
    table = table[table["file"].str.startswith(f"{part}/")].sort_values("file")
    labels = table["file"].str.split("/").str[1].map({c: i for i, c in enumerate(IN9_CLASSES)})
    if labels.isna().any() or set(labels) != set(range(len(IN9_CLASSES))):
        raise ValueError(f"{part}/ of {place} must have a folder for each of {IN9_CLASSES}")
    with ThreadPoolExecutor(WORKERS) as pool:
        pixels = torch.stack(list(pool.map(partial(_decoded, place), table["file"])))
    images = ImageSet(
        pixels, Factors.aligned(torch.tensor(labels.tolist())), torch.arange(len(table))
    )
    boxes = torch.tensor(table[[*COLUMNS]].to_numpy().tolist())
    masks = masks_from_boxes(images, boxes)
    return replace(images, masks=masks.to(torch.uint8) * 255), boxes


def _boxes(place: Traversable) -> pd.DataFrame:
    """Read the table of boxes: a file and four whole numbers in each row."""
    name = f"{BOXES} of {place}"
    content = _content(place, BOXES)
    try:
        table = pd.read_csv(io.BytesIO(content), dtype={"file": str})
    except Exception as error:  # pandas has errors of its own
        raise ValueError(f"{name} is no table: {' '.join(str(error).split())}") from None
    if lacking := {"file", *COLUMNS} - set(table.columns):
        raise ValueError(f"{name} lacks the columns {sorted(lacking)}")
    whole = all(pd.api.types.is_integer_dtype(table[column]) for column in COLUMNS)
    if not whole or table["file"].isna().any():
        raise ValueError(f"{name} has rows without a file or without four whole numbers")
    if (twice := table["file"].duplicated()).any():
        raise ValueError(f"{name} names {table['file'][twice].iloc[0]!r} twice")
    return table


def _decoded(place: Traversable, name: str) -> Tensor:
    """Read one image, (3, 64, 64)."""
    pixels = decode(_content(place, name), f"{name!r} of {place}").contiguous()
    if pixels.shape != (3, SIZE_PX, SIZE_PX):
        raise ValueError(
            f"{name!r} of {place} has {tuple(pixels.shape[1:])} pixels, expected {SIZE_PX} a side"
        )
    return pixels


def train(source: DataSource) -> ImageSet:
    """Read the training images; their masks are what GrabCut found, not the truth."""
    return photographs(source, "train")[0]


def unbiased(source: DataSource) -> ImageSet:
    """Refuse: nobody has photographs whose factors are independent."""
    raise ValueError(f"{NAME} has no images with independent factors; leave out the oracle")


TINY_IN9 = TrainingDomain(
    name=NAME,
    classes=IN9_CLASSES,
    image_size_px=SIZE_PX,
    train=train,
    unbiased=unbiased,
    fingerprint=fingerprint,
    masks_are_predicted=True,
    data_folder=".",  # the suites take images from several folders within it
)
