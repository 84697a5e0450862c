"""The labels of an image's three factors, and how images of a class are drawn."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


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

    def only(self, names: Collection[str]) -> Factors:
        """Give all factors but the named ones the label -1, unknown.

        Example:
            >>> Factors.aligned(torch.tensor([0, 1])).only(["shape"]).texture
            tensor([-1, -1])
        """
        return Factors(
            *(
                labels if name in names else torch.full_like(labels, -1)
                for name, labels in self._asdict().items()
            )
        )

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the factors that all images have a label of.

        Example:
            >>> labels = torch.tensor([0, 1])
            >>> Factors(labels, labels, labels - 1).known
            ('shape', 'texture')
        """
        return tuple(name for name, labels in self._asdict().items() if (labels >= 0).all())


def require_same_shape(before: Factors, after: Factors) -> None:
    """Refuse an intervention on the shapes of real images.

    Raises:
        ValueError: If a shape is to change: no image shows what lies behind its object.
    """
    if not after.shape.equal(before.shape):
        raise ValueError("the shape of a real image stays; only texture and background can change")


class ByClass:
    """Images in the order of their classes, (N,) int64 on the CPU, to draw from.

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
        """Draw for each label, (B,) int64, the index of an image of that class, (B,) int64.

        Images are drawn with replacement.

        Raises:
            ValueError: If no image is of a wanted class.
        """
        sizes = pad(self._sizes, (0, max(0, int(labels.max()) + 1 - len(self._sizes))))
        if (without := labels[sizes[labels] == 0]).numel():
            raise ValueError(f"no image is of class {int(without.min())}; every class needs one")
        place = (torch.rand(len(labels), generator=generator) * sizes[labels]).long()
        return self._order[(sizes.cumsum(0) - sizes)[labels] + place]
