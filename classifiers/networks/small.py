"""The small CNN and the invariant ensemble: from images to logits.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classifiers.networks.joins import Heads, Join, build_join

N_FEATURES = 128  # of the backbone
NEG_LOGIT = -1e4  # a logit of probability 0


class Contrast(nn.Module):
    """Concatenates each image with itself, every channel standardised over its pixels.

    In one of ten images of double-colored MNIST object and background share a palette colour and
    differ by its noise alone, two or three of 255 levels: only the standardised image shows the
    object. The image itself stays, so that a network can still rely on colour.
    """

    FLOOR = 1e-3  # a quarter of a level: a plain image stays plain

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into (B, 6, H, W): in [-1, 1], then any numbers."""
        centred = images - images.mean(dim=(2, 3), keepdim=True)
        # On a CPU 1.5 times as fast as `torch.std` on channels-last images.
        deviation = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
        return torch.cat([2 * images - 1, centred / (deviation + self.FLOOR)], dim=1)


def backbone(image_size_px: int) -> nn.Sequential:
    """Build the convolutions of the small networks.

    The first layer turns blocks of pixels into channels, so that every other layer costs the same
    at any size. The last layer keeps places apart: a mean over them would lose the shape.

    Args:
        image_size_px: Height and width of the images, a multiple of 16.

    Returns:
        A module from images, (B, 3, H, W) in [0, 1], to features, (B, 128).

    Raises:
        ValueError: If the size is no multiple of 16.

    Example:
        >>> backbone(32)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 128])
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
        *_layer(64, N_FEATURES, stride=2),
        nn.Flatten(),
        nn.Linear(16 * N_FEATURES, N_FEATURES),
        nn.ReLU(inplace=True),
    )


def _layer(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    """Return convolution, batch norm and ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)


class SmallCNN(nn.Module):
    """Backbone and one linear layer: images (B, 3, H, W) in [0, 1] to logits (B, C)."""

    def __init__(self, n_classes: int, image_size_px: int) -> None:
        super().__init__()
        self.backbone = backbone(image_size_px)
        self.head = nn.Linear(N_FEATURES, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (B, C)."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


class InvariantEnsemble(nn.Module):
    """One backbone with a head for each factor, and a join of their answers into the deployed one.

    Attributes:
        backbone: From images to features.
        classifiers: One linear layer for each factor.
        join: From the heads' logits to the deployed ones.
    """

    def __init__(
        self,
        n_classes: int,
        image_size_px: int,
        *,
        features: nn.Module | None = None,
        n_features: int = N_FEATURES,
        join: Join = "alignment",
    ) -> None:
        super().__init__()
        self.backbone = backbone(image_size_px) if features is None else features
        self.classifiers = nn.ModuleList(nn.Linear(n_features, n_classes) for _ in Heads._fields)
        self.join = build_join(join, n_classes)

    def heads(self, images: Tensor) -> Heads:
        """Return the logits of each head for images (B, 3, H, W) in [0, 1]."""
        features = self.backbone(images)
        return Heads(*(classifier(features) for classifier in self.classifiers))

    def forward(self, images: Tensor) -> Tensor:
        """Return the deployed logits, (B, C)."""
        return self.join(self.heads(images))  # type: ignore[no-any-return]


def as_ensemble(network: nn.Module) -> InvariantEnsemble:
    """Return the network, which must be an ensemble.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(network, InvariantEnsemble):
        raise ValueError(f"expected an ensemble of three heads, got a {type(network).__name__}")
    return network


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


def embed_in_label_space(network: nn.Module, places: Sequence[int], n_outputs: int) -> nn.Module:
    """Copy a network of few classes into one of many outputs, the others of probability 0.

    Args:
        network: An ensemble, or an `nn.Sequential` that ends in its one head.
        places: Which of the many outputs each of its classes is, in their order.
        n_outputs: How many there are.
    """
    wide = copy.deepcopy(network)
    linear: Any = wide.classifiers if isinstance(wide, InvariantEnsemble) else wide
    for i, layer in enumerate(linear):
        if isinstance(layer, nn.Linear):
            linear[i] = nn.Linear(layer.in_features, n_outputs).requires_grad_(False)
            nn.init.zeros_(linear[i].weight)[list(places)] = layer.weight.detach()
            nn.init.constant_(linear[i].bias, NEG_LOGIT)[list(places)] = layer.bias.detach()
    return wide.eval()
