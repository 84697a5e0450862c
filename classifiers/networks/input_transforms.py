"""Networks whose first layer is fixed: it throws away what somebody knows to mislead.

They learn nothing that `SmallCNN` does not. What a method that learns its invariance must beat is
a row of theirs.

Source:
    Kim et al., Learning Not to Learn, CVPR 2019, whose authors' code lists grayscale beside their
    own method. https://arxiv.org/abs/1812.10352
    Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 1982.
"""

from __future__ import annotations

import torch
from torch import Tensor

from classifiers.networks.small import SmallCNN

# Two plain colours are told apart at once; the gray edges of a digit move the means a little.
ROUNDS = 8


class GrayscaleCNN(SmallCNN):
    """The small CNN behind a layer that takes the colour away."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (B, C)."""
        return super().forward(luma(images).expand(-1, 3, -1, -1))


class TwoMeansCNN(SmallCNN):
    """The small CNN behind a layer that keeps which of two colours each pixel has."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (B, C)."""
        return super().forward(two_means(images).expand(-1, 3, -1, -1))


def luma(images: Tensor) -> Tensor:
    """Turn images gray.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        How bright each pixel is, (B, 1, H, W) in [0, 1].

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
    """Part the pixels of each image into two colours, and take one of them for the object.

    Lloyd's algorithm with two clusters in RGB. It begins with the pixel farthest from the mean
    colour and the pixel farthest from that one, so that nothing is drawn at random. The object
    is the cluster that is rarer on the image's outermost pixels; no gradient passes.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        Where the object is, (B, 1, H, W) in {0, 1}; 0 all over an image of one colour.

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
    for _ in range(ROUNDS):
        inside = _nearer_to_second(images, first, second)
        first, second = _mean_colour(images, 1 - inside), _mean_colour(images, inside)
    inside = _nearer_to_second(images, first, second)
    is_background = _share_on_border(inside) > 0.5
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


def _share_on_border(inside: Tensor) -> Tensor:
    """Return how much of each image's outermost pixels is marked, (B, 1, 1, 1) in [0, 1]."""
    sides = inside[..., 0, :], inside[..., -1, :], inside[..., 1:-1, 0], inside[..., 1:-1, -1]
    return torch.cat(sides, dim=-1).mean(dim=-1)[..., None, None]
