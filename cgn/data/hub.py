"""Image sets of the Hugging Face hub, or of a local folder in one of its formats.

Source:
    https://huggingface.co/docs/datasets
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgn.data.decoding import decode
from cgn.data.image_files import DECODED_BY, Preprocessing, decoders, stacked
from cgn.data.image_set import Factors, ImageSet


class HubImages(ImageSet):
    """A set of labelled images that lie in a table of `datasets`, decoded where they are touched.

    Attributes:
        table: The table; one row an image.
        files: The same table, its images not decoded.
        image: Name of the column with the images.
        preprocessing: How they become squares of pixels.
    """

    in_memory = False
    table: Any
    files: Any
    image: str
    preprocessing: Preprocessing

    def __init__(
        self, table: Any, labels: Tensor, *, image: str, preprocessing: Preprocessing
    ) -> None:
        if preprocessing.crop_px is None:
            raise ValueError(f"{preprocessing} cuts no square from images of any size")
        import datasets  # a second to import

        files = table.cast_column(image, datasets.Image(decode=False))
        own = {"table": table, "files": files, "image": image, "preprocessing": preprocessing}
        rest = {"factors": Factors.aligned(labels), "ids": torch.arange(len(labels)), "masks": None}
        for name, value in (own | rest).items():
            object.__setattr__(self, name, value)  # as all image sets, these don't change

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pixels(self) -> Tensor:
        """Decode all images at once, (N, 3, H, W) uint8."""
        return self.read(slice(None))

    def read(self, index: Tensor | slice) -> Tensor:
        """Decode the chosen images, (B, 3, H, W) uint8.

        Raises:
            ValueError: If one cannot be read; the message has its row.
        """
        order = torch.arange(len(self))[index].tolist()
        files = [self.files[i][self.image] for i in order]
        return stacked(list(decoders().map(self._decode, order, files)))

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

    def select(self, index: Tensor | slice) -> HubImages:
        """Return the set of the chosen images."""
        rows = torch.arange(len(self))[index].tolist()
        labels = self.factors.shape[index]
        return HubImages(
            self.table.select(rows), labels, image=self.image, preprocessing=self.preprocessing
        )

    def sha256(self) -> str:
        """Name the table by the fingerprint that `datasets` keeps of its rows and their order."""
        return f"{self.table._fingerprint}-{len(self)}"

    def fingerprint(self) -> str:
        """Name the files, what decodes them, and how they are prepared."""
        return f"{self.sha256()} {DECODED_BY} {self.preprocessing}"


def hub_images(
    name: str, split: str, preprocessing: Preprocessing
) -> tuple[HubImages, tuple[str, ...]]:
    """Open a labelled image set of the hub, which is downloaded once, or of a local folder.

    Args:
        name: Its name on the hub, as in `timm/mini-imagenet`, or a folder.
        split: The split, as in `train`.
        preprocessing: How images become squares of pixels.

    Returns:
        The images, all factors of an image's class, and the names of the classes.

    Raises:
        ValueError: If it cannot be had, or has no column of images or of class labels.
    """
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
    return HubImages(table, labels, image=image, preprocessing=preprocessing), classes


def _labels(column: Iterable[int | None], n_classes: int, name: str) -> Tensor:
    """Check the labels of a set, (N,) int64; hidden ones are kept as -1 or as nothing."""
    labels = torch.tensor([-1 if label is None else int(label) for label in column])
    if (unknown := int((labels < 0).sum())) or not len(labels):
        raise ValueError(
            f"{name}: {unknown:,} of {len(labels):,} images have no label (it is -1), as in the "
            "test sets of competitions; name another split with --split"
        )
    if (odd := int((labels >= n_classes).sum())) > 0:
        raise ValueError(f"{name}: {odd:,} labels are of none of its {n_classes} classes")
    return labels
