"""Images in [0, 1] with three labels each: the one data type of the project.

How images come about is not here: real ones are made in `benchmarks`, generated ones in
`cgn.counterfactuals.sampling`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from cgn.device.transfer import sent, sent_ahead
from cgn.io.schema import checked
from cgn.io.weights import read_safetensors
from cgn.io.writing import written

TOGETHER = 8  # batches that are read at once on a CPU, so that they keep all its cores busy
RESIDENT_BYTES = 2**31  # sets of more are sent to a GPU batch by batch


class Factors(NamedTuple):
    """Class labels of the three factors of a batch of images, each (B,) int64, -1 if unknown.

    Attributes:
        shape: Class of the object's outline.
        texture: Class of the object's surface.
        background: Class of what is behind it.

    Example:
        >>> Factors.aligned(torch.tensor([3, 1])).texture
        tensor([3, 1])
    """

    shape: Tensor
    texture: Tensor
    background: Tensor

    @classmethod
    def aligned(cls, labels: Tensor) -> Factors:
        """Give all three factors the same labels, as in biased data."""
        return cls(labels, labels, labels)

    @classmethod
    def independent(cls, n: int, n_classes: int, generator: torch.Generator) -> Factors:
        """Draw `n` labels for each factor, uniformly and independently of the others."""
        return cls(*torch.randint(n_classes, (3, n), generator=generator))

    def map(self, function: Callable[[Tensor], Tensor]) -> Factors:
        """Apply `function` to each of the three label tensors."""
        return Factors(*(function(labels) for labels in self))

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the factors that all images have a label of.

        Example:
            >>> labels = torch.tensor([0, 1])
            >>> Factors(labels, labels, labels - 1).known
            ('shape', 'texture')
        """
        return tuple(name for name, labels in self._asdict().items() if (labels >= 0).all())


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set of labelled images: biased, unbiased and counterfactual data alike.

    Pixels are kept as bytes, so that a set has the same hash on every machine; a set that was
    loaded from disk is memory-mapped and read only where it is touched.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        factors: Labels of the images, each (N,) int64.
        ids: What each image was made from, (N,) int64: images of one id (a digit, a foreground)
            depend on each other, and intervals resample ids.
        masks: True object masks, (N, 1, H, W) uint8 with 255 on the object, where known. For
            measuring only: nothing but the oracle of `as_masks` is trained on them.
        in_memory: Whether the pixels are at hand, or decoded each time that they are asked for.

    Raises:
        ValueError: If the tensors do not fit together.
    """

    pixels: Tensor
    factors: Factors
    ids: Tensor
    masks: Tensor | None = None
    in_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(
                "pixels must be (N, 3, H, W) uint8, got "
                f"{tuple(self.pixels.shape)} {self.pixels.dtype}; see `to_bytes`"
            )
        lengths = {len(self.pixels), len(self.ids), *map(len, self.factors)}
        if self.masks is not None:
            lengths.add(len(self.masks))
        if len(lengths) != 1:
            raise ValueError(f"images, ids, labels and masks differ in number: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen images, (B, 3, H, W) in [0, 1]."""
        return to_images(self.read(index))

    def read(self, index: Tensor | slice) -> Tensor:
        """Return the chosen images as bytes, (B, 3, H, W) uint8."""
        return self.pixels[index]

    def select(self, index: Tensor | slice) -> ImageSet:
        """Return the set of the chosen images."""
        masks = None if self.masks is None else self.masks[index]
        factors = self.factors.map(lambda labels: labels[index])
        return replace(
            self, pixels=self.pixels[index], factors=factors, ids=self.ids[index], masks=masks
        )

    def resident(self, device: torch.device | str) -> ImageSet:
        """Lay images and labels on a GPU, as bytes and once, where they lie in memory and fit.

        Args:
            device: Where networks will look at them.

        Returns:
            The set without masks, its tensors on the device; or, on a CPU or where it is too large
            or lies in files, the set itself.
        """
        on_gpu = torch.device(device).type == "cuda"
        if not on_gpu or not self.in_memory or self.pixels.nbytes > RESIDENT_BYTES:
            return self
        factors = self.factors.map(lambda labels: sent(labels, device))
        return replace(self, pixels=self.pixels.to(device), factors=factors, masks=None)

    def as_masks(self) -> ImageSet:
        """Show the true masks in place of the images: white objects on black.

        Raises:
            ValueError: If the set has no masks.

        Example:
            >>> black = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
            >>> mask = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
            >>> labels = Factors.aligned(torch.tensor([0]))
            >>> ImageSet(black, labels, torch.tensor([0]), mask).as_masks().images()[0, :, 0]
            tensor([[0., 1.],
                    [0., 1.],
                    [0., 1.]])
        """
        if self.masks is None:
            raise ValueError("the true masks of these images are not known")
        return replace(self, pixels=self.masks.expand(-1, 3, -1, -1))

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
        there. On the CPU several are read at once before it works on them: side by side, what
        decodes and what computes would only take the cores from each other.

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
        told = list(zip(*(own.split(batch_size) for own in labels), strict=True))[part]
        if order.is_cuda:
            each: Iterator[Tensor] = map(self.read, indices)
        elif torch.device(device).type == "cpu":
            each = _read_together(self.read, indices)
        else:
            each = sent_ahead(self.read, indices, device)
        for pixels, factors in zip(each, told, strict=True):
            yield to_images(pixels.to(device)), Factors(*factors)

    def sha256(self) -> str:
        """Hash pixels and labels; masks and ids do not count, for no classifier sees them.

        Example:
            >>> black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
            >>> labels = Factors.aligned(torch.tensor([0]))
            >>> ImageSet(black, labels, torch.tensor([0])).sha256()[:8]
            '560a1c1c'
        """
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, *self.factors):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Name all that decides what `read` gives, and the labels; it may move with versions."""
        return self.sha256()

    def save(self, path: Path, metadata: dict[str, object] | None = None) -> None:
        """Write the set to one safetensors file, atomically.

        Args:
            path: The file; its folder is made if it is missing.
            metadata: Anything JSON can hold, for example how the images were made.
        """
        save_tensors(path, _parts(self), metadata or {})

    @classmethod
    def load(cls, path: Path) -> ImageSet:
        """Open a set written by `save`, memory-mapped.

        Raises:
            ValueError: If the file is no such set, or cut short.
        """
        return _from_parts(load_tensors(path)[0], path)


def _parts(images: ImageSet) -> dict[str, Tensor]:
    """Return the tensors of a set by name."""
    parts = {"pixels": images.pixels, "ids": images.ids} | images.factors._asdict()
    return parts if images.masks is None else parts | {"masks": images.masks}


def _from_parts(parts: Mapping[str, Tensor], path: Path) -> ImageSet:
    """Join what `_parts` took apart; the path is for the error message."""
    try:
        factors = Factors(*(parts[name] for name in Factors._fields))
        return ImageSet(parts["pixels"], factors, parts["ids"], parts.get("masks"))
    except (KeyError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} holds no image set: {reason}") from None


@dataclass(frozen=True)
class SetNames:
    """The header of a file of several sets: their names."""

    sets: list[str]


def save_sets(path: Path, sets: Mapping[str, ImageSet]) -> None:
    """Write several sets to one safetensors file, atomically.

    Args:
        path: The file; its folder is made if it is missing.
        sets: The sets by name.
    """
    tensors = {
        f"{name}/{part}": tensor
        for name, images in sets.items()
        for part, tensor in _parts(images).items()
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
        own = [key for key in tensors if key.startswith(f"{name}/")]
        parts = {key.removeprefix(f"{name}/"): tensors[key] for key in own}
        sets[name] = _from_parts(parts, path)
    return sets


def _read_together(read: Callable[[Tensor], Tensor], indices: Sequence[Tensor]) -> Iterator[Tensor]:
    """Read several batches at once, then hand out one after the other."""
    for start in range(0, len(indices), TOGETHER):
        several = indices[start : start + TOGETHER]
        yield from read(torch.cat(tuple(several))).split([len(index) for index in several])


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


class ByClass:
    """Images in the order of their classes, to draw from.

    Attributes:
        classes: Their classes, (N,) int64, on the CPU.

    Example:
        >>> images = ByClass(torch.tensor([1, 0, 1, 0]))
        >>> drawn = images.draw(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
        >>> images.classes[drawn]
        tensor([0, 1])
    """

    def __init__(self, classes: Tensor) -> None:
        self.classes = classes
        self._order, self._sizes = classes.argsort(stable=True), classes.bincount()

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for each label an image of that class, with replacement.

        Args:
            labels: Wanted classes, (B,) int64.
            generator: Decides which.

        Returns:
            Indices, (B,) int64.

        Raises:
            ValueError: If no image is of a wanted class.
        """
        sizes = pad(self._sizes, (0, max(0, int(labels.max()) + 1 - len(self._sizes))))
        if (without := labels[sizes[labels] == 0]).numel():
            raise ValueError(f"no image is of class {int(without.min())}; every class needs one")
        place = (torch.rand(len(labels), generator=generator) * sizes[labels]).long()
        return self._order[(sizes.cumsum(0) - sizes)[labels] + place]


def concatenate(sets: list[ImageSet]) -> ImageSet:
    """Join sets of equal image size, in order; masks are dropped."""
    factors = Factors(
        *(torch.cat(labels) for labels in zip(*(s.factors for s in sets), strict=True))
    )
    return ImageSet(torch.cat([s.pixels for s in sets]), factors, torch.cat([s.ids for s in sets]))


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, object]) -> None:
    """Write tensors and a JSON-able header to a safetensors file, atomically."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with written(path) as place:
        save_file(plain, place, {"json": json.dumps(metadata)})


def load_tensors(path: Path, *needed: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: tensors, memory-mapped, and the header.

    Args:
        path: The file.
        needed: Names of tensors that it must have.

    Raises:
        ValueError: If there is no such file, it is not a whole safetensors file, or lacks one.
    """
    tensors, header = read_safetensors(path)
    if lacking := [name for name in needed if name not in tensors]:
        raise ValueError(f"{path} lacks {lacking[0]}; delete it and make it anew")
    return tensors, header
