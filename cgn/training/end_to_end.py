"""Trains a CGN end to end: its masks are learned from the critic alone, nothing is segmented.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, section on MNISTs: all three
    mechanisms learn from one critic. https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cgn import losses
from cgn.data.factors import ByClass
from cgn.data.image_set import ImageSet, to_images
from cgn.device.precision import training
from cgn.io.locks import locked_if
from cgn.models.cgn import CGN, CGNConfig, binarise, compose
from cgn.models.critic import Critic, packed
from cgn.models.poses import FILL
from cgn.training.adversarial import (
    AdversarialConfig,
    AdversarialTraining,
    draw_pairs,
    train_to_the_end,
)
from cgn.training.loop import Progress, Weights, seeded

END_TO_END = "end-to-end"  # the method, in names and headers of weights


@dataclass(frozen=True, kw_only=True)
class EndToEndWeights(Weights):
    """How much each loss of the generator counts; the names are those of the losses.

    Attributes:
        adversarial: Of how far the critic is from taking images for real.
        background: Of how far it is from taking the backgrounds' edges for real ones.
        style: Of the difference in texture to real images of the same labels.
        mask_area: Of objects that are smaller or larger than they may be.
        mask_edge: Of objects that reach the image's edge.
        mask_outline: Of long outlines, which specks have.
        mask_entropy: Of undecided masks.
    """

    adversarial: float = 1.0
    background: float = 1.0
    style: float = 0.1
    mask_area: float = 10.0
    mask_edge: float = 3.0
    mask_outline: float = 1.0
    mask_entropy: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig(AdversarialConfig):
    """Everything that fixes a training run, but for the images.

    Attributes:
        smallest_object: The least share of the image that an object takes.
        largest_object: The largest share of the image that an object takes.
        edge: Width of the image's edge as a share of its side: what is there is background, as a
            rule.
        weights: How much each loss counts.
    """

    batch_size: int = 128
    tile_px: int = 16
    smallest_object: float = 0.06
    largest_object: float = 0.5
    edge: float = 0.1
    weights: EndToEndWeights = field(default_factory=EndToEndWeights)


class StepNoise(NamedTuple):
    """The random numbers of a step; or of several, stacked.

    Attributes:
        image_index: Which real images, (B,) int64, i and i + B/2 of one class.
        units: Noise of shape, object and background, (3, B, Z).
        origins: Where the tiles of object and background begin, (2, B, 2) int64.
    """

    image_index: Tensor
    units: Tensor
    origins: Tensor


class EndToEndTraining(AdversarialTraining):
    """A run against the critic in which nothing is segmented."""

    def __init__(
        self, images: ImageSet, n_classes: int, config: EndToEndConfig, device: torch.device | str
    ) -> None:
        self.config = config
        size_px = images.size_px[1]
        size = CGNConfig(
            n_classes=n_classes,
            image_size_px=size_px,
            width=config.width,
            tile_px=config.tile_px,
            canvas_px=size_px,
            n_exemplars=1,
        )
        cgn = CGN(size)
        cgn.shape.get_buffer("poses")[..., 2] = FILL  # the canvas is the whole image
        critic = Critic(n_classes, size_px, config.width)
        super().__init__(cgn, critic, config, config.weights, device)
        self._pixels = images.pixels.to(self.device)
        self._labels = images.factors.shape.to(self.device)
        self._by_class = ByClass(images.factors.shape)
        self._edge_px = max(1, round(config.edge * size_px))
        inner = slice(self._edge_px, -self._edge_px)
        self._edge = torch.ones(size_px, size_px, device=self.device)
        self._edge[inner, inner] = 0

    def draw(self, generator: torch.Generator) -> StepNoise:
        """Draw the random numbers of the next step on the CPU."""
        n, of = self.config.batch_size, self.cgn.config
        return StepNoise(
            draw_pairs(self._by_class, n, generator),
            torch.randn(3, n, of.noise_size, generator=generator),
            torch.randint(of.tile_px, (2, n, 2), generator=generator),
        )

    def losses(self, *drawn: Tensor) -> dict[str, Tensor]:
        """Draw images of the classes of real ones, and compute the losses of both."""
        noise = StepNoise(*drawn)
        real, labels = to_images(self._pixels[noise.image_index]), self._labels[noise.image_index]
        shape, *surfaces = noise.units
        probability = self.cgn.shape(shape, labels)
        foreground, background = (
            mechanism(units, labels, origin)
            for mechanism, units, origin in zip(
                (self.cgn.texture, self.cgn.background), surfaces, noise.origins, strict=True
            )
        )
        # Half-transparent masks would let the textures draw the shape, and the roles swap.
        fake = compose(binarise(probability), foreground, background)
        # What is seen at the edge alone belongs to the background: it tells the roles apart.
        seen = [real, self._edge * real, fake, self._edge * background]
        pair_labels = labels[: len(labels) // 2]
        maps, scores = self.critic(torch.cat([packed(x) for x in seen]), pair_labels.repeat(4))
        real_scores, real_edges, fake_scores, fake_edges = scores.chunk(4)
        config = self.config
        return {
            "adversarial": losses.adversarial(fake_scores),
            "background": losses.adversarial(fake_edges),
            "style": losses.style(maps[:2]),
            "mask_area": losses.mask_area(
                probability, config.smallest_object, config.largest_object
            ),
            "mask_edge": losses.mask_edge(probability, self._edge_px),
            "mask_outline": losses.mask_outline(probability),
            "mask_entropy": losses.mask_entropy(probability),
            "critic": losses.critic_hinge(real_scores, fake_scores)
            + losses.critic_hinge(real_edges, fake_edges),
        }


def train_end_to_end(
    images: ImageSet,
    n_classes: int,
    config: EndToEndConfig,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> CGN:
    """Train a CGN on biased images without segmenting them; of their labels it sees the class.

    What tells shape from surface: a texture is stationary, for it repeats one tile from a random
    origin, and a mask is binary. What tells object from background: the object takes a share of
    the image that is bounded on both sides, and leaves the image's edge free.

    Args:
        images: The biased training set.
        n_classes: Number of classes.
        config: Everything else that fixes the run.
        device: Where it runs; the images lie there as bytes.
        checkpoint: File kept up to date during the run and resumed from if it is there.
        progress: Called after each step with steps done, steps in all, and the losses.

    Returns:
        The CGN with averaged weights, on the CPU. One seed gives the same weights on one CPU,
        interrupted or not; on CUDA it does not.

    Raises:
        ValueError: If the checkpoint belongs to another config or other images.
    """
    with locked_if(checkpoint), seeded(config.seed, device) as generator, training(device):
        run = EndToEndTraining(images, n_classes, config, device)
        train_to_the_end(
            run,
            config,
            generator,
            train_sha256=images.sha256(),
            checkpoint=checkpoint,
            progress=progress,
        )
    return run.averaged.cpu().eval()
