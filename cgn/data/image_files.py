"""Images in files of their own, decoded when their pixels are asked for."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from cgn.data.decoding import read_image, sides
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, Reader
from cgn.data.listing import class_folders, list_images, some, warn_of_unread
from cgn.data.preprocessing import AS_IT_IS, Preprocessing, decoders, stack_channels_last
from cgn.io.writing import file_sha256

SPLITS = frozenset({"train", "val", "valid", "validation", "test"})


@dataclass(frozen=True, eq=False)
class FileReader(Reader):
    """Images in files of their own.

    Attributes:
        paths: The files, in the order of the images.
        side_px: Height and width of every image once it is prepared.
        preprocessing: How it is.
    """

    paths: Sequence[Path] = field()  # needed, whereas other readers have none
    side_px: int
    preprocessing: Preprocessing = AS_IT_IS

    @property
    @override
    def size_px(self) -> tuple[int, int]:
        return self.side_px, self.side_px

    def __len__(self) -> int:
        return len(self.paths)

    @override
    def read(self, index: Tensor | slice) -> Tensor:
        """Decode the chosen images, (B, 3, H, W) uint8.

        Raises:
            ValueError: If a file is no image, or of another size.
        """
        return stack_channels_last(list(decoders().map(self._decode, self.select(index).paths)))

    @override
    def select(self, index: Tensor | slice) -> FileReader:
        rows = torch.arange(len(self))[index].tolist()
        return replace(self, paths=[self.paths[row] for row in rows])

    @override
    def prepared(self, preprocessing: Preprocessing) -> FileReader:
        return FileReader(self.paths, preprocessing.square_px, preprocessing)

    @override
    def sha256(self, factors: Factors, masks: Tensor | None) -> str:
        digest = hashlib.sha256()
        for path, content in zip(self.paths, decoders().map(file_sha256, self.paths), strict=True):
            digest.update(f"{path.parent.name}/{path.name} {content}\n".encode())
        for tensor in (*factors, *(() if masks is None else (masks,))):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def _decode(self, path: Path) -> Tensor:
        """Read one image, (3, H, W) uint8."""
        pixels = self.preprocessing.apply(read_image(path), path)
        if pixels.shape[1:] != self.size_px:
            height, width = pixels.shape[1:]
            raise ValueError(
                f"{path} is {width} x {height} pixels, expected {self.side_px} x {self.side_px}: "
                "these images are taken as they are"
            )
        return pixels


def image_folder(folder: Path, preprocessing: Preprocessing) -> tuple[ImageSet, tuple[str, ...]]:
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
    side_px = preprocessing.square_px
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
    listings = [list_images(path, deep=True) for path in classes]
    for path, listing in zip(classes, listings, strict=True):
        if not listing.images:
            raise ValueError(
                f"the class folder {path} has no image, it holds "
                f"{some(path.name for path in listing.others)}; take it away, or fill it"
            )
    unread = [*beside.images, *(path for path in beside.others if path not in classes)]
    warn_of_unread(folder, [*unread, *(path for listing in listings for path in listing.others)])
    paths = [path for listing in listings for path in listing.images]
    n_images = torch.tensor([len(listing.images) for listing in listings])
    labels = torch.arange(len(classes)).repeat_interleave(n_images)
    reader = FileReader(paths, side_px, preprocessing)
    images = ImageSet(reader, Factors.aligned(labels), torch.arange(len(paths)))
    return images, tuple(path.name for path in classes)


def load_authors_folder(folder: Path, mode: str = "x_gen") -> ImageSet:
    """Open counterfactuals that the original authors' code drew.

    Args:
        folder: With `labels.csv` and `ims/<name>_<mode>.jpg`.
        mode: Which of the images.

    Returns:
        The images as they are, each with its three labels.

    Raises:
        ValueError: If a file is missing, or the labels cannot be read.
    """
    path = folder / "labels.csv"
    if not path.is_file():
        raise ValueError(f"{folder} holds no counterfactuals of the original code: no labels.csv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        labels = torch.tensor([[int(label) for label in row[2:5]] for row in rows]).view(-1, 3)
    except (ValueError, TypeError, RuntimeError, csv.Error):
        raise ValueError(f"{path} has a row that is not ,NAME,SHAPE,TEXTURE,BACKGROUND") from None
    names = [row[1] for row in rows]
    paths = [folder / "ims" / f"{name}_{mode}.jpg" for name in names]
    if missing := [each.name for each in paths if not each.is_file()]:
        raise ValueError(f"{folder}/ims lacks {len(missing)} images, {missing[0]} first")
    if not paths:
        raise ValueError(f"{path} names no images")
    reader = FileReader(paths, sides(paths[0])[1])
    return ImageSet(reader, Factors(*labels.unbind(1)), torch.arange(len(paths)))
