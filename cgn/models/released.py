"""The mechanisms of the original MNIST CGN, for its published weights.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, and the authors' code.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgn.models.mechanisms import roll

N_CLASSES, EMBEDDING_SIZE, NOISE_SIZE, SIZE_PX = 10, 10, 32, 32


def _stem(*layers: nn.Module) -> nn.Sequential:
    """Return layers after the first 64 maps of 8 x 8, numbered as in the released file."""
    linear = nn.Linear(NOISE_SIZE + EMBEDDING_SIZE, 64 * 8 * 8)
    return nn.Sequential(linear, nn.Unflatten(1, (64, 8, 8)), *layers)


class ReleasedShape(nn.Module):
    """The original shape mechanism: its mask is clamped, not binary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CLASSES, EMBEDDING_SIZE)
        self.layers = _stem(
            nn.InstanceNorm2d(64),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.InstanceNorm2d(32),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 1, 3, padding=1, bias=False),
            nn.BatchNorm2d(1),
            nn.LeakyReLU(0.2),
            nn.InstanceNorm2d(1),
        )

    def forward(self, noise: Tensor, labels: Tensor, exemplars: Tensor | None = None) -> Tensor:
        """Draw masks, (B, 1, 32, 32) in [0.0001, 0.9999], from u (B, 32) and y (B,) int64."""
        maps: Tensor = self.layers(torch.cat([noise, self.embedding(labels)], dim=1))
        return maps.clamp(1e-4, 1 - 1e-4)


class ReleasedTexture(nn.Module):
    """The original texture mechanism: one for the foreground, another for the background."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CLASSES, EMBEDDING_SIZE)
        self.layers = _stem(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor, labels: Tensor, origin: Tensor | None = None) -> Tensor:
        """Draw textures, (B, 3, 32, 32) in [0, 1], beginning at an origin, (B, 2) int64."""
        maps: Tensor = self.layers(torch.cat([noise, self.embedding(labels)], dim=1))
        texture = (maps + 1) / 2
        return texture if origin is None else roll(texture, origin)


def rename(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a released file the names they have in our CGN.

    Args:
        released: The authors' state dict; its one embedding serves all three mechanisms.

    Raises:
        ValueError: If it is no state dict of the original MNIST CGN.
    """
    parts = {"f_shape": "shape", "f_text1": "texture", "f_text2": "background"}
    renamed: dict[str, Tensor] = {}
    for name, tensor in released.items():
        part, _, rest = name.partition(".")
        if name == "label_emb.weight":
            renamed |= {f"{own}.embedding.weight": tensor for own in parts.values()}
        elif part in parts:
            renamed[f"{parts[part]}.layers.{rest}"] = tensor
        else:
            raise ValueError(f"{name!r} is no tensor of the original MNIST CGN")
    return renamed
