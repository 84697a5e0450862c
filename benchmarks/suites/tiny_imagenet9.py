"""tiny-in9 and in9-64px: the Backgrounds Challenge on real photographs of 64 pixels.

Tiny ImageNet has 500 training and 50 validation images of each of 200 classes, with a box around
the object; 42 of the classes belong to one of ImageNet-9's nine. Here these are a world to train
on and a suite to be tested on, in the form of ImageNet-9; `in9-64px` asks the same classifiers
about ImageNet-9's own images, made as small. How objects are cut out is not here: see
`cgn.segmentation.boxes`.

Source:
    Le and Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N, Stanford 2015.
    Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds in Object
    Recognition, ICLR 2021. https://arxiv.org/abs/2006.09994
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

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.core.scores import accuracy, paired_difference
from benchmarks.core.suite import DataSource, Suite, TrainingDomain
from benchmarks.data.archives import require_sizes
from benchmarks.suites import imagenet9
from benchmarks.suites.imagenet9 import CHANCE, IN9, tile_over
from benchmarks.suites.official import IN9_CLASSES, OFFICIAL_SUITES, in9_variants, names_in
from cgn.data import image_set
from cgn.data.decoding import decode
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.data.listing import some
from cgn.data.preprocessing import Preprocessing
from cgn.models import cgn
from cgn.models.cgn import compose
from cgn.segmentation import boxes
from cgn.segmentation.boxes import WORKERS, masks_from_boxes, opencv

SIZE_PX = 64
NAME = "tiny-in9"
BOXES = "boxes.csv"
MOST_BYTES = 16 << 20  # of a file
COLUMNS = ("x0", "y0", "x1", "y1")
LARGEST_BOX = 0.9  # share of the image: beyond, nothing is left to make a background of
SMALLEST_MASK = 0.04  # share of the image
SEED = 30
# What cuts objects out takes minutes: other code may change without doing it again.
MADE_BY = (imagenet9, image_set, boxes, cgn)
CODE = (Path(__file__), *(Path(str(module.__file__)) for module in MADE_BY))


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
        "name it with --data"
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


def fingerprint(source: DataSource) -> str:
    """Hash the archive, or all files of its folder, and the code that makes images of them."""
    place = archive(source)
    digest = hashlib.sha256(opencv().__version__.encode())
    for path in CODE:
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


def variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the four test sets from the validation part."""
    return with_other_backgrounds(*photographs(source, "val"))


def with_other_backgrounds(images: ImageSet, boxes: Tensor) -> dict[str, ImageSet]:
    """Lay objects over backgrounds of other images: the same objects, told apart by ids.

    Images are left out whose box leaves no room for a background, or whose object was not found.
    Backgrounds are tiled as in ImageNet-9, and not inpainted as those of the recombined training
    images are: an artefact of the one is not to be recognised in the other.

    Args:
        images: Photographs with masks.
        boxes: Their objects' boxes, (N, 4) int64.

    Returns:
        By ImageNet-9's names, sets of equal size in the same order.

    Raises:
        ValueError: If the images have no masks.
    """
    if images.masks is None:
        raise ValueError("objects are laid over other backgrounds by their masks; there are none")
    box = inside(boxes)
    share = images.masks.flatten(1).float().mean(dim=1) / 255
    usable = (box.flatten(1).float().mean(dim=1) <= LARGEST_BOX) & (share >= SMALLEST_MASK)
    images, box = images.select(usable), box[usable]
    labels = images.factors.shape
    rng = np.random.default_rng(SEED)
    tiled = tile_over(images.pixels, box)
    same = another_of_class(labels, labels, rng)
    classes = torch.from_numpy(rng.integers(len(IN9_CLASSES), size=len(labels)))
    random = another_of_class(labels, classes, rng)
    unknown = torch.full_like(labels, -1)
    return {
        "original": replace(images, masks=None),
        "mixed_same": _before(images, tiled[same], labels),
        "mixed_rand": _before(images, tiled[random], classes),
        "only_bg_t": ImageSet(tiled, Factors(labels, unknown, labels), images.ids),
    }


def inside(boxes: Tensor) -> Tensor:
    """Mark boxes (N, 4) in images of 64 pixels, (N, 1, 64, 64) bool.

    Example:
        >>> inside(torch.tensor([[0, 0, 1, 2]])).sum()
        tensor(6)
    """
    first, last = boxes[:, :2, None], boxes[:, 2:, None]
    index = torch.arange(SIZE_PX)
    column, row = ((index >= first) & (index <= last)).unbind(dim=1)
    return (row[:, :, None] & column[:, None, :])[:, None]


def another_of_class(labels: Tensor, wanted: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw for each image another image of the wanted class.

    Args:
        labels: Classes of the images, (N,) int64.
        wanted: Classes of the images that are drawn, (N,) int64.
        rng: Decides which.

    Returns:
        Indices, (N,) int64; none is its own.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> another_of_class(labels, labels, np.random.default_rng(0))
        tensor([1, 0, 3, 2])
    """
    drawn = torch.empty_like(labels)
    for label in wanted.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        here = (wanted == label).nonzero()[:, 0]
        place = torch.from_numpy(rng.integers(len(members), size=len(here)))
        # Whoever drew themselves takes one of the others, all alike.
        shift = torch.from_numpy(rng.integers(1, max(2, len(members)), size=len(here)))
        own = members[place] == here
        drawn[here] = members[torch.where(own, (place + shift) % len(members), place)]
    return drawn


def _before(images: ImageSet, backgrounds: Tensor, classes: Tensor) -> ImageSet:
    """Lay the objects of images over backgrounds (N, 3, H, W) uint8 of these classes."""
    assert images.masks is not None
    parts = (to_images(each) for each in (images.masks, images.pixels, backgrounds))
    factors = images.factors._replace(background=classes)
    return ImageSet(to_bytes(compose(*parts)), factors, images.ids)


def small_in9_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find ImageNet-9's variants and make them 64 pixels a side.

    Raises:
        ValueError: If there is no `bg_challenge` in the folder nor in one within it.
    """
    folder = source.folder
    places = [] if folder is None else [folder, *sorted(folder.iterdir())]
    found = [place for place in places if (place / "bg_challenge").is_dir()]
    if not found:
        raise ValueError(
            f"in9-64px needs ImageNet-9's bg_challenge, and {NAME} for training, in one folder; "
            f"it is not in {folder or 'no folder'} nor one folder below; name it with --data"
        )
    sets = in9_variants(replace(source, folder=found[0]))
    small = Preprocessing(SIZE_PX, SIZE_PX)
    made = {}
    for name, images in sets.items():
        # So small, all of them fit into memory, and each model need not decode them again.
        made[name] = ImageSet(images.prepared(small).pixels, images.factors, images.ids)
    return made


TINY_IN9 = TrainingDomain(
    name=NAME,
    classes=IN9_CLASSES,
    image_size_px=SIZE_PX,
    train=train,
    unbiased=unbiased,
    fingerprint=fingerprint,
    masks_are_predicted=True,
    data_folder=".",  # images come from several folders within it
)

NATURAL = {
    suite.name: suite
    for suite in (
        Suite(
            name=NAME,
            question="When the background of a photograph changes, is the object still seen?",
            protocol="tiny-in9@grabcut-v1",
            world=TINY_IN9,
            variants=variants,
            scores=(
                accuracy("mixed_rand", chance=CHANCE),
                accuracy("original", chance=CHANCE),
                accuracy("mixed_same", chance=CHANCE),
                paired_difference("mixed_same", "mixed_rand", metric="bg_gap"),
                accuracy(
                    "mixed_rand", chance=CHANCE, metric="background_decisions", factor="background"
                ),
                replace(accuracy("only_bg_t", chance=CHANCE), higher_is_better=False),
            ),
            primary=IN9.primary,
            standard=IN9.standard,
            embedded=False,
            fingerprint=fingerprint,
        ),
        Suite(
            name="in9-64px",
            question="The same, on ImageNet-9's own images, made as small as those of tiny-in9",
            protocol="in9@madry-64px-v1",
            world=TINY_IN9,
            variants=small_in9_variants,
            scores=OFFICIAL_SUITES["in9"].scores,
            primary=IN9.primary,
            standard=IN9.standard,
            embedded=False,
            n_images=OFFICIAL_SUITES["in9"].n_images,
        ),
    )
}
