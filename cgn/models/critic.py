"""The critic that tells real from generated images, and the features that style is measured in.

Source:
    Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018.
    https://arxiv.org/abs/1802.05957
    Miyato and Koyama, cGANs with Projection Discriminator, ICLR 2018.
    https://arxiv.org/abs/1802.05637
    Lin et al., PacGAN: The power of two samples in generative adversarial networks, NeurIPS 2018.
    https://arxiv.org/abs/1712.04086
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Judgement(NamedTuple):
    """What the critic sees in pairs of images.

    Attributes:
        maps: After each layer, finest first, each (P, K, H, W).
        scores: How real they look, (P,): the higher, the more.
    """

    maps: list[Tensor]
    scores: Tensor


def packed(images: Tensor) -> Tensor:
    """Put image i and image i + B/2 on top of each other, (B/2, 6, H, W)."""
    return torch.cat(images.chunk(2), dim=1)


VGG_WEIGHTS = ("IMAGENET1K_V1", "IMAGENET1K_FEATURES")  # torchvision's names


class Critic(nn.Module):
    """Scores how real a pair of images of one class looks: projection, spectral norm, packing.

    It sees two images at once, so that a class drawn always alike looks unreal. Each call takes
    one step of the power iteration that bounds the largest singular value of each weight by 1:
    judge all images of a step of training in one call.
    """

    def __init__(self, n_classes: int, image_size_px: int, width: int = 24) -> None:
        super().__init__()
        widths = [2 * 3, width]
        while image_size_px // 2 ** (len(widths) - 1) > 4:
            widths.append(min(2 * widths[-1], 4 * width))
        layers: list[nn.Conv2d | nn.Linear | nn.Embedding] = [
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)
        ]
        layers += [nn.Linear(widths[-1], 1), nn.Embedding(n_classes, widths[-1])]
        self.layers = nn.ModuleList(layers)
        for i, layer in enumerate(layers):
            # Fifteen steps begin near the singular vectors, as PyTorch's own `spectral_norm` does.
            right = torch.randn(layer.weight[0].numel())
            for _ in range(15):
                right = _iterated([layer.weight.detach()], [right])[1][0]
            self.register_buffer(f"right_{i}", right)

    def forward(self, pairs: Tensor, labels: Tensor) -> Judgement:
        """Judge pairs of images.

        Args:
            pairs: From `packed`, (P, 6, H, W) in [0, 1].
            labels: The class of each pair, (P,) int64.
        """
        *convolutions, of_score, of_class = self._normalised()
        maps, all_maps = 2 * pairs - 1, []
        for layer, weight in zip(self.layers, convolutions, strict=False):
            maps = F.conv2d(maps, weight, layer.bias, stride=2, padding=1)  # type: ignore[arg-type]
            maps = F.leaky_relu(maps, 0.2)
            all_maps.append(maps)
        pooled = maps.sum(dim=(2, 3))
        match = (F.embedding(labels, of_class) * pooled).sum(dim=1)
        scores = F.linear(pooled, of_score, self.layers[-2].bias).squeeze(1)  # type: ignore[arg-type]
        return Judgement(all_maps, scores + match)

    def _normalised(self) -> Sequence[Tensor]:
        """Divide each weight by its largest singular value."""
        weights: list[Tensor] = [layer.weight for layer in self.layers]  # type: ignore[misc]
        rights = [self.get_buffer(f"right_{i}") for i in range(len(weights))]
        with torch.no_grad():
            lefts, new_rights, sigmas = _iterated(weights, rights)
            torch._foreach_copy_(rights, new_rights)
        return _Divided.apply(lefts, new_rights, sigmas, *weights)  # type: ignore[no-any-return]


def _iterated(
    weights: list[Tensor], rights: list[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Take a step towards the singular vectors: the left ones, the right ones, and the values."""
    matrices = [weight.flatten(1) for weight in weights]
    lefts, _ = _unit([m.mv(right) for m, right in zip(matrices, rights, strict=True)])
    # The product of a unit vector with a matrix is as long as the singular value it tends to.
    rights, sigmas = _unit([m.T.mv(left) for m, left in zip(matrices, lefts, strict=True)])
    return lefts, rights, sigmas


def _unit(vectors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Divide vectors by their lengths; them, and the lengths."""
    lengths = list(torch._foreach_norm(vectors))
    torch._foreach_clamp_min_(lengths, 1e-12)
    return list(torch._foreach_div(vectors, lengths)), lengths


class _Divided(torch.autograd.Function):
    """Weights divided by their largest singular values, left · W · right.

    What autograd would do with the formula, in half of the kernels.
    """

    @staticmethod
    def forward(
        context: Any,
        lefts: list[Tensor],
        rights: list[Tensor],
        sigmas: list[Tensor],
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the weights, each divided."""
        divided = torch._foreach_div(weights, sigmas)
        context.singular = lefts, rights, sigmas
        context.save_for_backward(*divided)
        return tuple(divided)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the weights: the singular value grows with left · right."""
        lefts, rights, sigmas = context.singular
        growths = [each.sum() for each in torch._foreach_mul(gradients, context.saved_tensors)]
        matrices = [
            gradient.flatten(1).addr(left, right, alpha=-1).view(gradient.shape)
            for gradient, left, right in zip(
                gradients, torch._foreach_mul(lefts, growths), rights, strict=True
            )
        ]
        return None, None, None, *torch._foreach_div(matrices, sigmas)


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
