"""From an outline back to the noise that it was drawn from.

Source:
    Pearl, Causality, Cambridge University Press 2009 (abduction).
    Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014.
    https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Posterior(NamedTuple):
    """Normal distributions of the shape's noise u, given an outline.

    Attributes:
        mean: (B, Z), any real numbers.
        deviation: Their standard deviations, (B, Z), above 0.
    """

    mean: Tensor
    deviation: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Draw u, (B, Z), from standard normal noise, (B, Z)."""
        return self.mean + self.deviation * noise


class ShapeEncoder(nn.Module):
    """Infers the noise u of the shape mechanism from an outline and its class."""

    def __init__(self, n_classes: int, canvas_px: int, *, width: int, noise_size: int) -> None:
        super().__init__()
        widths = [1, width]
        while canvas_px // 2 ** (len(widths) - 1) > 4:
            widths.append(min(2 * widths[-1], 4 * width))
        side = canvas_px // 2 ** (len(widths) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.mix = nn.Linear(widths[-1] * side**2, 4 * width)
        self.embedding = nn.Embedding(n_classes, 4 * width)
        self.last = nn.Linear(4 * width, 2 * noise_size)

    def forward(self, outlines: Tensor, labels: Tensor) -> Posterior:
        """Infer u from outlines (B, 1, S, S) in [0, 1] and classes y, (B,) int64."""
        maps = 2 * outlines - 1
        for convolution in self.convolutions:
            maps = F.leaky_relu(convolution(maps), 0.2)
        features = F.leaky_relu(self.mix(maps.flatten(1)) + self.embedding(labels), 0.2)
        mean, log_variance = self.last(features).chunk(2, dim=1)
        # Beyond these a single step of the optimiser could overflow.
        return Posterior(mean, (0.5 * F.hardtanh(log_variance, -8, 4)).exp())
