"""Image sets of the Hugging Face hub, or of a local folder in one of its formats.

Source:
    https://huggingface.co/docs/datasets
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from cgn.data.decoding import decode
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, Reader
from cgn.data.preprocessing import Preprocessing, decoders, stack_channels_last


@dataclass(frozen=True, eq=False)
class HubReader(Reader):
    """Images in a table of `datasets`.

    Attributes:
        table: The table, one row an image.
        image: Name of the column with the images.
        preprocessing: How they become squares of pixels.
    """

    table: Any
    image: str
    preprocessing: Preprocessing = field()  # needed, whereas other readers have a default

    @property
    @override
    def size_px(self) -> tuple[int, int]:
        return self.preprocessing.square_px, self.preprocessing.square_px

    def __len__(self) -> int:
        return len(self.table)

    @override
    def read(self, index: Tensor | slice) -> Tensor:
        """Decode the chosen images, (B, 3, H, W) uint8.

        Raises:
            ValueError: If one cannot be read; the message has its row.
        """
        rows = torch.arange(len(self))[index].tolist()
        files = [self._files[row][self.image] for row in rows]
        return stack_channels_last(list(decoders().map(self._decode, rows, files)))

    @override
    def select(self, index: Tensor | slice) -> HubReader:
        rows = torch.arange(len(self))[index].tolist()
        return replace(self, table=self.table.select(rows))

    @override
    def prepared(self, preprocessing: Preprocessing) -> HubReader:
        return replace(self, preprocessing=preprocessing)

    @override
    def sha256(self, factors: Factors, masks: Tensor | None) -> str:
        # `datasets` keeps a fingerprint of the rows and their order.
        return f"{self.table._fingerprint}-{len(self)}"

    @cached_property
    def _files(self) -> Any:
        """The table, its images not decoded."""
        import datasets  # a second to import

        return self.table.cast_column(self.image, datasets.Image(decode=False))

    def _decode(self, row: int, file: dict[str, Any] | None) -> Tensor:
        """Read the image of one row, (3, H, W) uint8."""
        stored = file or {"path": None, "bytes": None}
        path, content = stored["path"], stored["bytes"]
        name = f"image {row} of the set" if path is None else f"{path}, image {row} of the set,"
        try:
            if content is None and path is not None:
                content = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror or error}") from None
        # As `datasets` does, which shows photographs as the camera was held.
        return self.preprocessing.apply(decode(content or b"", name, upright=True), name)


def hub_images(
    name: str, split: str, preprocessing: Preprocessing
) -> tuple[ImageSet, tuple[str, ...]]:
    """Open a labelled image set of the hub, which is downloaded once, or of a local folder.

    Args:
        name: Its name on the hub, as in `timm/mini-imagenet`, or a folder.
        split: The split, as in `train`.
        preprocessing: How images become squares of pixels.

    Returns:
        The images, all factors of an image's class, and the names of the classes.

    Raises:
        ValueError: If it cannot be had, or has no column of images or of class labels; or the
            preprocessing cuts no square.
    """
    _ = preprocessing.square_px  # refused before anything is downloaded
    import datasets  # a second to import

    try:
        table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises errors of many kinds
        reason = " ".join(str(error).split())[:200]
        hint = "; images in folders are named without hub:" if Path(name).is_dir() else ""
        raise ValueError(f"{name} could not be had from the hub: {reason}{hint}") from None
    kinds = {type(feature): column for column, feature in reversed(table.features.items())}
    image, label = kinds.get(datasets.Image), kinds.get(datasets.ClassLabel)
    if image is None or label is None:
        raise ValueError(
            f"{name} needs a column of images and one of class labels, it has "
            f"{', '.join(f'{c} ({type(f).__name__})' for c, f in table.features.items())}"
        )
    classes = tuple(table.features[label].names)
    labels = _labels(table[label], len(classes), f"{name}, split {split}")
    images = HubReader(table, image, preprocessing)
    return ImageSet(images, Factors.aligned(labels), torch.arange(len(labels))), classes


def _labels(column: Iterable[int | None], n_classes: int, name: str) -> Tensor:
    """Check the labels of a set, (N,) int64; hidden ones are kept as -1 or as nothing."""
    labels = torch.tensor([-1 if label is None else int(label) for label in column])
    if (unknown := int((labels < 0).sum())) or not len(labels):
        raise ValueError(
            f"{name}: {unknown:,} of {len(labels):,} images have no label (it is -1), as in the "
            "test sets of competitions; name another split"
        )
    if (odd := int((labels >= n_classes).sum())) > 0:
        raise ValueError(f"{name}: {odd:,} labels are of none of its {n_classes} classes")
    return labels
