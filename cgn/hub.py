"""Image sets of the Hugging Face hub, or of a local folder in one of its formats.

Source:
    https://huggingface.co/docs/datasets
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cgn.files import DECODERS, Preprocessing, stacked, to_pixels
from cgn.images import Factors, ImageSet
from cgn.io.identity import DECODED_BY, versions


class HubImages(ImageSet):
    """A set of labelled images that lie in a table of `datasets`, decoded where they are touched.

    Attributes:
        table: The table; one row an image.
        image: Name of the column with the images.
        preprocessing: How they become squares of pixels.
    """

    table: Any
    image: str
    preprocessing: Preprocessing

    def __init__(
        self, table: Any, labels: Tensor, *, image: str, preprocessing: Preprocessing
    ) -> None:
        if preprocessing.crop_px is None:
            raise ValueError(f"{preprocessing} cuts no square from images of any size")
        own = {"table": table, "image": image, "preprocessing": preprocessing}
        rest = {"factors": Factors.tied(labels), "ids": torch.arange(len(labels)), "masks": None}
        for name, value in (own | rest).items():
            object.__setattr__(self, name, value)  # as all image sets, these don't change

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pixels(self) -> Tensor:
        """Decode all images at once, (N, 3, H, W) uint8."""
        return self.read(slice(None))

    def read(self, index: Tensor | slice) -> Tensor:
        """Decode the chosen images, (B, 3, H, W) uint8."""
        order = torch.arange(len(self))[index].tolist()
        images = [self.table[i][self.image] for i in order]
        with ThreadPoolExecutor(DECODERS) as pool:
            return stacked(list(pool.map(self._prepare, images)))

    def _prepare(self, image: Image.Image) -> Tensor:
        """Turn an image into its pixels, (3, H, W) uint8."""
        return self.preprocessing.apply(to_pixels(image))

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

    def made_of(self) -> dict[str, object]:
        """Say all that decides pixels and labels: rows, how they are prepared, and by what."""
        prepared = {"image": self.image, "preprocessing": asdict(self.preprocessing)}
        return super().made_of() | prepared | versions(*DECODED_BY)


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
        raise ValueError(f"{name} could not be had from the hub: {reason}") from None
    kinds = {type(feature): column for column, feature in reversed(table.features.items())}
    image, label = kinds.get(datasets.Image), kinds.get(datasets.ClassLabel)
    if image is None or label is None:
        raise ValueError(
            f"{name} needs a column of images and one of class labels, it has "
            f"{', '.join(f'{c} ({type(f).__name__})' for c, f in table.features.items())}"
        )
    labels = torch.tensor(table[label])
    images = HubImages(table, labels, image=image, preprocessing=preprocessing)
    return images, tuple(table.features[label].names)
