"""Images in [0, 1] with three labels each: the one data type of the project.

The pixels come from a reader: they lie in memory, or are decoded from files when they are touched.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from cgn.data.factors import Factors
from cgn.data.preprocessing import AS_IT_IS, DECODED_BY, Preprocessing
from cgn.device.transfer import sent, sent_ahead
from cgn.io.cache import Store, cache_key, sources
from cgn.io.schema import checked
from cgn.io.weights import load_tensors, save_tensors

TOGETHER = 8  # batches that are read at once on a CPU, so that they keep all its cores busy
RESIDENT_BYTES = 2**31  # sets of more are sent to a GPU batch by batch


class Reader(ABC):
    """Where the pixels of an image set lie; those that decode files override the defaults.

    Attributes:
        paths: The file of each image; empty where images have no files of their own.
        preprocessing: How decoded images become squares of pixels.
    """

    paths: Sequence[Path] = ()
    preprocessing: Preprocessing = AS_IT_IS

    @property
    @abstractmethod
    def size_px(self) -> tuple[int, int]:
        """Height and width of every image."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: Tensor | slice) -> Tensor:
        """Return the chosen images, (B, 3, H, W) uint8."""

    @abstractmethod
    def select(self, index: Tensor | slice) -> Reader:
        """Return a reader of the chosen images."""

    @abstractmethod
    def sha256(self, factors: Factors, masks: Tensor | None) -> str:
        """Hash contents and labels; how images are decoded and prepared does not count."""

    def prepared(self, preprocessing: Preprocessing) -> Reader:
        """Return a reader that prepares images otherwise; pixels in memory stay as they are."""
        return self

    def resident(self, device: torch.device | str) -> Reader:
        """Return a reader whose pixels lie on a GPU, if they are in memory and fit there."""
        return self

    def fingerprint(self, factors: Factors, masks: Tensor | None) -> str:
        """Name all that decides the pixels, the versions and code of decoders included."""
        code = cache_key(DECODED_BY, sources(type(self).__module__))
        return f"{self.sha256(factors, masks)} {code} {self.preprocessing}"


@dataclass(frozen=True, eq=False)
class InMemory(Reader):
    """Pixels in memory; those that were loaded from disk are memory-mapped.

    Attributes:
        pixels: (N, 3, H, W) uint8.

    Raises:
        ValueError: If they are of another shape or type.
    """

    pixels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(
                "pixels must be (N, 3, H, W) uint8, got "
                f"{tuple(self.pixels.shape)} {self.pixels.dtype}; see `to_bytes`"
            )

    @property
    @override
    def size_px(self) -> tuple[int, int]:
        height, width = self.pixels.shape[2:]
        return height, width

    def __len__(self) -> int:
        return len(self.pixels)

    @override
    def read(self, index: Tensor | slice) -> Tensor:
        return self.pixels[index]

    @override
    def select(self, index: Tensor | slice) -> InMemory:
        return InMemory(self.pixels[index])

    @override
    def resident(self, device: torch.device | str) -> InMemory:
        if torch.device(device).type != "cuda" or self.pixels.nbytes > RESIDENT_BYTES:
            return self
        return InMemory(self.pixels.to(device))

    @override
    def sha256(self, factors: Factors, masks: Tensor | None) -> str:
        # Masks do not count: no classifier sees them.
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, *factors):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    @override
    def fingerprint(self, factors: Factors, masks: Tensor | None) -> str:
        return self.sha256(factors, masks)


@dataclass(frozen=True, eq=False, init=False)
class ImageSet:
    """A set of labelled images: biased, unbiased and counterfactual data alike.

    Pixels are bytes, so that a set has the same hash on every machine.

    Attributes:
        reader: Where the pixels lie.
        factors: Labels of the images, each (N,) int64.
        ids: What each image was made from, (N,) int64: images of one id (a digit, a foreground)
            depend on each other, and intervals resample ids.
        masks: True object masks, (N, 1, H, W) uint8 with 255 on the object, where known. For
            measuring only: nothing but the oracle of `as_masks` is trained on them.

    Raises:
        ValueError: If the tensors do not fit together.

    Example:
        >>> pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        >>> images = ImageSet(pixels, Factors.aligned(torch.tensor([0, 1])), torch.arange(2))
        >>> images.images(slice(1)).shape
        torch.Size([1, 3, 4, 4])
    """

    reader: Reader
    factors: Factors
    ids: Tensor
    masks: Tensor | None

    def __init__(
        self, reader: Reader | Tensor, factors: Factors, ids: Tensor, masks: Tensor | None = None
    ) -> None:
        if isinstance(reader, Tensor):
            reader = InMemory(reader)
        lengths = {len(reader), len(ids), *map(len, factors)}
        lengths |= set() if masks is None else {len(masks)}
        if len(lengths) != 1:
            raise ValueError(f"images, ids, labels and masks differ in number: {sorted(lengths)}")
        fields = {"reader": reader, "factors": factors, "ids": ids, "masks": masks}
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the way to set fields of a frozen dataclass

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def pixels(self) -> Tensor:
        """All images, (N, 3, H, W) uint8; those in files are decoded at once."""
        return self.read(slice(None))

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of every image."""
        return self.reader.size_px

    @property
    def paths(self) -> Sequence[Path]:
        """The file of each image; empty where images have no files of their own."""
        return self.reader.paths

    def read(self, index: Tensor | slice) -> Tensor:
        """Return the chosen images as bytes, (B, 3, H, W) uint8."""
        return self.reader.read(index)

    def images(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen images, (B, 3, H, W) in [0, 1]."""
        return to_images(self.read(index))

    def select(self, index: Tensor | slice) -> ImageSet:
        """Return the set of the chosen images."""
        factors = self.factors.map(lambda labels: labels[index])
        masks = None if self.masks is None else self.masks[index]
        return ImageSet(self.reader.select(index), factors, self.ids[index], masks)

    def prepared(self, preprocessing: Preprocessing) -> ImageSet:
        """Return the same images, prepared otherwise and without masks, if they lie in files.

        Raises:
            ValueError: If the preprocessing cuts no square, so that sizes would differ.
        """
        reader = self.reader.prepared(preprocessing)
        return self if reader is self.reader else ImageSet(reader, self.factors, self.ids)

    def resident(self, device: torch.device | str) -> ImageSet:
        """Lay images and labels on a GPU, without masks, where they lie in memory and fit."""
        reader = self.reader.resident(device)
        if reader is self.reader:
            return self
        return ImageSet(reader, self.factors.map(lambda labels: sent(labels, device)), self.ids)

    def as_masks(self) -> ImageSet:
        """Show the true masks in place of the images: white objects on black.

        Raises:
            ValueError: If the set has no masks.

        Example:
            >>> black = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
            >>> mask = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
            >>> labels = Factors.aligned(torch.tensor([0]))
            >>> ImageSet(black, labels, torch.tensor([0]), mask).as_masks().images()[0, 0]
            tensor([[0., 1.]])
        """
        if self.masks is None:
            raise ValueError("the true masks of these images are not known")
        return replace(self, reader=InMemory(self.masks.expand(-1, 3, -1, -1)))

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Iterator[tuple[Tensor, Factors]]:
        """Go through the set once, in order or, with a generator, shuffled.

        While a GPU works on a batch, the next ones are read and sent, unless they are `resident`
        there. On the CPU several are read at once before it works on them: decoding and computing
        would only take the cores from each other.

        Args:
            batch_size: Images a batch; the last batch may be shorter.
            device: Where the batches go; bytes are moved there before they become floats.
            generator: Decides the order.
            part: Which of the batches, of all in their order; the others are not read.

        Yields:
            Images (B, 3, H, W) in [0, 1] and their labels.
        """
        order = torch.arange(len(self))
        if generator is not None:
            order = torch.randperm(len(self), generator=generator)
        order = sent(order, self.factors.shape.device)
        indices = order.split(batch_size)[part]
        labels = self.factors.map(lambda own: sent(own[order], device))
        factors = list(zip(*(own.split(batch_size) for own in labels), strict=True))[part]
        if order.is_cuda:
            batches: Iterator[Tensor] = map(self.read, indices)
        elif torch.device(device).type == "cpu":
            batches = self._read_together(indices)
        else:
            batches = sent_ahead(self.read, indices, device)
        for pixels, of_batch in zip(batches, factors, strict=True):
            yield to_images(pixels.to(device)), Factors(*of_batch)

    def _read_together(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """Read several batches at once, then hand out one after the other."""
        for start in range(0, len(indices), TOGETHER):
            several = indices[start : start + TOGETHER]
            yield from self.read(torch.cat(tuple(several))).split([len(i) for i in several])

    def sha256(self) -> str:
        """Hash images and labels; ids do not count, nor how images in files are prepared.

        Example:
            >>> black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
            >>> labels = Factors.aligned(torch.tensor([0]))
            >>> ImageSet(black, labels, torch.tensor([0])).sha256()[:8]
            '560a1c1c'
        """
        return self.reader.sha256(self.factors, self.masks)

    def fingerprint(self) -> str:
        """Name all that decides what `read` gives, and the labels; it may move with versions."""
        return self.reader.fingerprint(self.factors, self.masks)

    def save(self, path: Path, metadata: Mapping[str, object] | None = None) -> None:
        """Write the set, and metadata that JSON can hold, to a safetensors file, atomically."""
        save_tensors(path, _tensors(self), metadata or {})

    @classmethod
    def load(cls, path: Path) -> ImageSet:
        """Open a set written by `save`, memory-mapped.

        Raises:
            ValueError: If the file is no such set, or cut short.
        """
        return _from_tensors(load_tensors(path)[0], path)


IMAGES: Store[ImageSet] = Store(ImageSet.save, ImageSet.load)


def _tensors(images: ImageSet) -> dict[str, Tensor]:
    """Return the tensors of a set by name."""
    tensors = {"pixels": images.pixels, "ids": images.ids} | images.factors._asdict()
    return tensors if images.masks is None else tensors | {"masks": images.masks}


def _from_tensors(tensors: Mapping[str, Tensor], path: Path) -> ImageSet:
    """Undo `_tensors`; the path is for the error message."""
    try:
        factors = Factors(*(tensors[name] for name in Factors._fields))
        return ImageSet(tensors["pixels"], factors, tensors["ids"], tensors.get("masks"))
    except (KeyError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} holds no image set: {reason}") from None


@dataclass(frozen=True)
class SetNames:
    """The header of a file of several sets."""

    sets: list[str]


def save_sets(path: Path, sets: Mapping[str, ImageSet]) -> None:
    """Write several sets, by name, to one safetensors file, atomically."""
    tensors = {
        f"{name}/{part}": tensor
        for name, images in sets.items()
        for part, tensor in _tensors(images).items()
    }
    save_tensors(path, tensors, {"sets": list(sets)})


def load_sets(path: Path) -> dict[str, ImageSet]:
    """Open the sets written by `save_sets`, in the same order, memory-mapped.

    Raises:
        ValueError: If the file holds no such sets, or is cut short.
    """
    tensors, metadata = load_tensors(path)
    sets = {}
    for name in checked(SetNames, metadata, f"the header of {path}").sets:
        prefix = f"{name}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        sets[name] = _from_tensors(own, path)
    return sets


def concatenate(sets: Sequence[ImageSet]) -> ImageSet:
    """Join sets of equal image size, in order; masks are dropped."""
    labels = zip(*(images.factors for images in sets), strict=True)
    factors = Factors(*(torch.cat(of_factor) for of_factor in labels))
    pixels, ids = ([images.pixels for images in sets], [images.ids for images in sets])
    return ImageSet(torch.cat(pixels), factors, torch.cat(ids))


def to_images(pixels: Tensor) -> Tensor:
    """Turn bytes into images in [0, 1].

    Example:
        >>> to_images(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    return pixels.to(torch.float32, copy=True).div_(255)


def to_bytes(images: Tensor) -> Tensor:
    """Turn images in [0, 1] into the nearest bytes.

    Raises:
        ValueError: If a value lies outside [0, 1].

    Example:
        >>> to_bytes(torch.tensor([0.0, 0.2, 1.0]))
        tensor([  0,  51, 255], dtype=torch.uint8)
        >>> to_bytes(torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ValueError: images must lie in [0, 1], got [0, 255]; divide uint8 images by 255
    """
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        low, high = images.min().item(), images.max().item()
        raise ValueError(
            f"images must lie in [0, 1], got [{low:g}, {high:g}]; divide uint8 images by 255"
        )
    return (images * 255).round().to(torch.uint8)
