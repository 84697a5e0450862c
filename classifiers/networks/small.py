"""Networks that map images to logits: the small CNN and the invariant ensemble.

How they are fitted is not here: see `classifiers.fit`.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

FEATURES = 128  # numbers that the backbone gives for an image

# The shape head weighs as much as both others together: it overrules each of them where it is
# sure, and where it is not, texture and background still tell.
HEAD_WEIGHTS = (0.5, 0.25, 0.25)


class Heads(NamedTuple):
    """Logits of the three heads, each (B, C)."""

    shape: Tensor
    texture: Tensor
    background: Tensor


class Contrast(nn.Module):
    """Lays beside each image the same image with every channel standardised over its pixels.

    In one of ten images of double-colored MNIST object and background have the same palette
    colour, apart only by its noise: two or three of 255 levels. As they are, such images are
    plain to a network; standardised, they show their object. The image itself stays in sight, so
    that a network can still rely on colour if its training images tell it to.
    """

    FLOOR = 1e-3  # a quarter of a level: a plain image stays plain

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into (B, 6, H, W): in [-1, 1], then any numbers."""
        centred = images - images.mean(dim=(2, 3), keepdim=True)
        # On a CPU 1.5 times as fast as `torch.std` on channels-last images.
        deviation = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
        return torch.cat([2 * images - 1, centred / (deviation + self.FLOOR)], dim=1)


def backbone(image_size_px: int) -> nn.Sequential:
    """Build the convolutions that all our classifiers share.

    Blocks of pixels become channels at once, so that every layer costs the same at 32 and at
    64 pixels. The last layer sees the whole image with its places kept apart: a mean over them
    would leave of a shape only its parts.

    Args:
        image_size_px: Height and width of the images, a multiple of 16.

    Returns:
        A module from images, (B, 3, H, W) in [0, 1], to features, (B, 128).

    Raises:
        ValueError: If the size is no multiple of 16.
    """
    block_px, odd = divmod(image_size_px, 16)
    if odd or block_px < 1:
        raise ValueError(f"image_size_px must be a multiple of 16, got {image_size_px}")
    return nn.Sequential(
        Contrast(),
        nn.PixelUnshuffle(block_px),
        *_layer(6 * block_px**2, 32, stride=1),
        *_layer(32, 64, stride=2),
        *_layer(64, 64, stride=1),
        *_layer(64, FEATURES, stride=2),
        nn.Flatten(),
        nn.Linear(16 * FEATURES, FEATURES),
        nn.ReLU(inplace=True),
    )


def _layer(before: int, after: int, stride: int) -> tuple[nn.Module, ...]:
    """Return convolution, batch norm and ReLU."""
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


class SmallCNN(nn.Module):
    """Backbone and one linear layer: images (B, 3, H, W) in [0, 1] to logits (B, C)."""

    def __init__(self, n_classes: int, image_size_px: int) -> None:
        super().__init__()
        self.backbone = backbone(image_size_px)
        self.head = nn.Linear(FEATURES, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (B, C)."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


class InvariantEnsemble(nn.Module):
    """One backbone with a head for each factor; deployed as their weighted mean.

    Differs: the original weighs the heads alike; here shape weighs as much as both others, so
    that neither of them alone can outvote it at equal confidence.

    Attributes:
        backbone: From images to features.
        classifiers: One linear layer a factor.
        head_weights: How much each head counts in the deployed answer.
    """

    def __init__(
        self,
        n_classes: int,
        image_size_px: int,
        *,
        features: nn.Module | None = None,
        n_features: int = FEATURES,
        head_weights: tuple[float, float, float] = HEAD_WEIGHTS,
    ) -> None:
        super().__init__()
        self.backbone = backbone(image_size_px) if features is None else features
        self.classifiers = nn.ModuleList(nn.Linear(n_features, n_classes) for _ in Heads._fields)
        self.head_weights = head_weights

    def heads(self, images: Tensor) -> Heads:
        """Return the logits of each head for images (B, 3, H, W) in [0, 1]."""
        features = self.backbone(images)
        return Heads(*(classifier(features) for classifier in self.classifiers))

    def forward(self, images: Tensor) -> Tensor:
        """Return the deployed logits, (B, C)."""
        return self.join(self.heads(images))

    def join(self, heads: Heads) -> Tensor:
        """Weigh the heads' answers into the deployed one, (B, C)."""
        return aggregate_heads(heads, self.head_weights)


def as_ensemble(network: nn.Module) -> InvariantEnsemble:
    """Return the network, which must be an ensemble.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(network, InvariantEnsemble):
        raise ValueError(f"expected an ensemble of three heads, got a {type(network).__name__}")
    return network


def aggregate_heads(heads: Heads, weights: tuple[float, float, float] = HEAD_WEIGHTS) -> Tensor:
    """Weigh the heads' log-probabilities into the ensemble's one answer.

    Args:
        heads: Logits, each (B, C).
        weights: How much each counts.

    Returns:
        Logits, (B, C).

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])
        >>> aggregate_heads(Heads(sure, sure.flip(1), unsure)).argmax(dim=1)
        tensor([0])
    """
    weighted = [
        weight * logits.log_softmax(dim=1) for weight, logits in zip(weights, heads, strict=True)
    ]
    return torch.stack(weighted).sum(dim=0)


def outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return all that a network answers, from one pass through its backbone.

    Args:
        network: Any network; only the ensemble has heads.
        images: Images (B, 3, H, W) in [0, 1].

    Returns:
        Logits, each (B, C): the deployed output, named "", and those of the heads.

    Example:
        >>> images = torch.zeros(1, 3, 32, 32)
        >>> list(outputs(InvariantEnsemble(10, 32).eval(), images))
        ['', 'shape', 'texture', 'background']
        >>> list(outputs(SmallCNN(10, 32).eval(), images))
        ['']
    """
    if not isinstance(network, InvariantEnsemble):
        return {"": network(images)}
    heads = network.heads(images)
    return {"": network.join(heads)} | heads._asdict()
