"""The critic that tells real from generated images, and the features that style is measured in.

Source:
    Miyato and Koyama, cGANs with Projection Discriminator, ICLR 2018.
    https://arxiv.org/abs/1802.05637
    Lin et al., PacGAN: The power of two samples in generative adversarial networks, NeurIPS 2018.
    https://arxiv.org/abs/1712.04086
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cgn.efficientnet import efficientnet_lite

VGG_WEIGHTS = ("IMAGENET1K_V1", "IMAGENET1K_FEATURES")  # torchvision's names


class Critic(nn.Module):
    """Scores how real a pair of images of one class looks: projection, spectral norm, packing.

    It sees two images at once, so that a class drawn always alike looks unreal.
    """

    def __init__(self, n_classes: int, image_size_px: int, width: int = 24) -> None:
        super().__init__()
        widths = [2 * 3, width]
        while image_size_px // 2 ** (len(widths) - 1) > 4:
            widths.append(min(2 * widths[-1], 4 * width))
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in pairwise(widths)
        )
        self.score = spectral_norm(nn.Linear(widths[-1], 1))
        self.embedding = spectral_norm(nn.Embedding(n_classes, widths[-1]))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps after each layer, finest first.

        Args:
            images: (B, 3, H, W) in [0, 1], B even; image i is packed with image i + B/2.

        Returns:
            Maps of B/2 pairs.
        """
        maps, all_maps = 2 * torch.cat(images.chunk(2), dim=1) - 1, []
        for layer in self.layers:
            maps = nn.functional.leaky_relu(layer(maps), 0.2)
            all_maps.append(maps)
        return all_maps

    def scores(self, features: list[Tensor], labels: Tensor) -> Tensor:
        """Score pairs from their features, (B/2,): the higher, the more real."""
        pooled = features[-1].sum(dim=(2, 3))
        match = (self.embedding(labels) * pooled).sum(dim=1)
        return self.score(pooled).squeeze(1) + match  # type: ignore[no-any-return]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Score pairs of images (B, 3, H, W) in [0, 1], labels (B/2,) int64; returns (B/2,)."""
        return self.scores(self.features(images), labels)


class EfficientNetFeatures(nn.Module):
    """Frozen ImageNet features for the style loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = efficientnet_lite(0).requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return three maps, at 1/2, 1/4 and 1/8 of the size, of images (B, 3, H, W) in [0, 1]."""
        maps = self.network.bn1(self.network.conv_stem(2 * images - 1))
        all_maps = []
        for block in self.network.blocks[:3]:
            maps = block(maps)
            all_maps.append(maps)
        return all_maps


def _draw_weights(layer: nn.Module) -> None:
    """Draw weights that keep maps about as large as they are."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class VGGFeatures(nn.Module):
    """Frozen ImageNet features in which the ImageNet CGN's textures are compared.

    Source:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
        ICLR 2015. https://arxiv.org/abs/1409.1556
    """

    def __init__(self, weights: str | None = "IMAGENET1K_V1") -> None:
        """Load the network.

        Args:
            weights: One of `VGG_WEIGHTS`, fetched once; None draws random ones.

        Raises:
            ValueError: If there are no such weights.
        """
        super().__init__()
        if weights not in (None, *VGG_WEIGHTS):
            raise ValueError(f"VGG16 has weights {', '.join(VGG_WEIGHTS)}, not {weights!r}")
        from torchvision.models import VGG16_Weights, vgg16  # seconds to import

        with torch.device("meta"):  # of the 138 million weights 7.6 million are needed
            layers = vgg16().features
        if weights is None:
            layers.to_empty(device="cpu").apply(_draw_weights)
        else:
            state = VGG16_Weights[weights].get_state_dict(progress=False, check_hash=True)
            own = {name.removeprefix("features."): weight for name, weight in state.items()}
            layers.load_state_dict({name: own[name] for name in layers.state_dict()}, assign=True)
        ends = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][:4]
        self.stages = nn.ModuleList(
            layers[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        )
        self.requires_grad_(False)

    def forward(self, images: Tensor, n_stages: int = 4) -> list[Tensor]:
        """Return the maps before each pooling: relu1_2, relu2_2, relu3_3, relu4_3.

        Args:
            images: (B, 3, H, W) in [0, 1].
            n_stages: How many of the four to compute.

        Source:
            That colours are not normalised as the network learned it is as in the authors' code,
            for whose maps the weights of the losses were chosen.
        """
        maps, all_maps = (2 * images - 1).to(self.stages[0][0].weight.dtype), []  # type: ignore[index]
        for stage in self.stages[:n_stages]:
            maps = stage(maps)
            all_maps.append(maps)
        return all_maps
