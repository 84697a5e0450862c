"""Networks behind a first layer that is fixed: a normalisation, a resize, or a colour removal.

`GrayscaleCNN` and `TwoMeansCNN` learn nothing that `SmallCNN` does not. A method that learns its
invariance has to score better than they do.

Source:
    Kim et al., Learning Not to Learn, CVPR 2019, whose authors' code lists grayscale beside their
    own method. https://arxiv.org/abs/1812.10352
    Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 1982.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifiers.networks.small import SmallCNN

N_ITERATIONS = 8  # of Lloyd's algorithm: two plain colours need one, the gray edges of digits more


class Normalised(nn.Module):
    """A network behind a layer that subtracts a mean and divides by a deviation, by channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        return self.network((images - self.mean) / self.deviation)  # type: ignore[no-any-return]


class Resized(nn.Module):
    """A network that takes images of one size, behind a layer that resizes them to it."""

    def __init__(self, network: nn.Module, size_px: int, interpolation: str) -> None:
        super().__init__()
        self.network, self.size_px, self.interpolation = network, size_px, interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        size = (self.size_px, self.size_px)
        resized = F.interpolate(images, size, mode=self.interpolation, antialias=True)
        return self.network(resized.clamp(0, 1))  # type: ignore[no-any-return]


class GrayscaleCNN(SmallCNN):
    """The small CNN behind a layer that removes the colour."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        return super().forward(luma(images).expand(-1, 3, -1, -1))


class TwoMeansCNN(SmallCNN):
    """The small CNN behind a layer that keeps which of two colours each pixel has."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        return super().forward(two_means(images).expand(-1, 3, -1, -1))


def luma(images: Tensor) -> Tensor:
    """Return the brightness, (B, 1, H, W) in [0, 1], of images (B, 3, H, W) in [0, 1].

    Source:
        Recommendation ITU-R BT.601.

    Example:
        >>> green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
        >>> luma(green).item()
        0.587...
    """
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return 0.299 * red + 0.587 * green + 0.114 * blue


@torch.no_grad()
def two_means(images: Tensor) -> Tensor:
    """Cluster the pixels of each image into two colours, and take one cluster for the object.

    Lloyd's algorithm with two clusters in RGB. It starts with the pixel farthest from the mean
    colour and the pixel farthest from that one, so nothing is random. The object is the cluster
    that is rarer on the image's outermost pixels; no gradient passes.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        Where the object is, (B, 1, H, W) in {0, 1}; all 0 for an image of one colour.

    Source:
        Lloyd, 1982.

    Example:
        >>> images = torch.full((1, 3, 6, 6), 0.5)
        >>> images[..., 2:4, 1:5] = 0.6
        >>> two_means(images).sum()
        tensor(8.)
    """
    first = _farthest(images, images.mean(dim=(2, 3), keepdim=True))
    second = _farthest(images, first)
    for _ in range(N_ITERATIONS):
        inside = _nearer_to_second(images, first, second)
        first, second = _mean_colour(images, 1 - inside), _mean_colour(images, inside)
    inside = _nearer_to_second(images, first, second)
    is_background = _border_share(inside) > 0.5
    return torch.where(is_background, 1 - inside, inside)


def _farthest(images: Tensor, colour: Tensor) -> Tensor:
    """Return the colour of each image's pixel that is farthest from a colour, (B, 3, 1, 1)."""
    distance = ((images - colour) ** 2).sum(dim=1).flatten(1)
    place = distance.argmax(dim=1)[:, None, None]
    return images.flatten(2).take_along_dim(place, dim=2)[..., None]


def _nearer_to_second(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mark pixels that are nearer to the second colour than to the first, (B, 1, H, W)."""
    along = ((images - (first + second) / 2) * (second - first)).sum(dim=1, keepdim=True)
    return (along > 0).to(images)


def _mean_colour(images: Tensor, share: Tensor) -> Tensor:
    """Return the mean colour of marked pixels, (B, 3, 1, 1); black if there are none."""
    total = share.sum(dim=(2, 3), keepdim=True)
    return (images * share).sum(dim=(2, 3), keepdim=True) / total.clamp(min=1)


def _border_share(inside: Tensor) -> Tensor:
    """Return how much of each image's outermost pixels is marked, (B, 1, 1, 1) in [0, 1]."""
    sides = inside[..., 0, :], inside[..., -1, :], inside[..., 1:-1, 0], inside[..., 1:-1, -1]
    return torch.cat(sides, dim=-1).mean(dim=-1)[..., None, None]
