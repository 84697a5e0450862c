"""Trains a CGN from scratch, on any device, from a seed, and resumes where it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn import losses
from cgn.data.factors import ByClass
from cgn.data.image_set import ImageSet, to_images
from cgn.device.precision import training
from cgn.io.locks import locked_if
from cgn.models.cgn import CGN, CGNConfig
from cgn.models.critic import Critic, packed
from cgn.models.encoder import ShapeEncoder
from cgn.models.mechanisms import ShapeMechanism
from cgn.models.poses import measure, normalise
from cgn.segmentation.by_colour import segment_by_colour
from cgn.training.adversarial import (
    AdversarialConfig,
    AdversarialTraining,
    draw_pairs,
    train_to_the_end,
)
from cgn.training.checkpoints import Stateful
from cgn.training.loop import Progress, Weights, seeded

Module = TypeVar("Module", bound=nn.Module)

LEAST_PX = 4  # an object that has less without its rim keeps the rim: a deviation needs some pixels


@dataclass(frozen=True, kw_only=True)
class LossWeights(Weights):
    """How much each loss of the generator counts; the names are those of the losses.

    Attributes:
        adversarial: Of how far the critic is from taking images for real.
        style: Of the difference in texture to real images of the same labels.
        mask_entropy: Of undecided masks.
        reconstruction: Of the difference of drawn outlines to those they are inferred from.
        divergence: Of inferred noise from a normal distribution.
        foreground: Of the colours of textures.
        background: Of the colours of backgrounds.
    """

    adversarial: float = 1.0
    style: float = 0.1
    mask_entropy: float = 0.1
    reconstruction: float = 10.0
    divergence: float = 0.01
    foreground: float = 10.0
    background: float = 10.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(AdversarialConfig):
    """Everything that fixes a training run, but for the images.

    Attributes:
        soft_edges: Whether pixels where object and background meet are mixtures of both, from
            which nothing but the mask is learned.
        weights: How much each loss counts.
    """

    soft_edges: bool = False
    weights: LossWeights = field(default_factory=LossWeights)


# What differs from the defaults in each world; a new world starts from the defaults.
PRESETS = {
    "colored-mnist": TrainConfig(steps=800, tile_px=16, soft_edges=True),
    "double-colored-mnist": TrainConfig(steps=1_000, tile_px=16),
    "wildlife-mnist": TrainConfig(steps=1_300),
    "openmoji-9": TrainConfig(steps=900),
}


class Batch(NamedTuple):
    """Real images and their segmentation; or a whole training set, in bytes and bool.

    Attributes:
        images: (B, 3, H, W) in [0, 1], i and i + B/2 of one class; pixels that are neither object
            nor background are black.
        labels: Their classes, (B,) int64.
        regions: Where only object is, and only background, (2, B, 1, H, W) in {0, 1}.
        outlines: Where the objects are, without pose, (B, 1, S, S) in {0, 1}.
        poses: See `cgn.models.poses`, (B, 3).
    """

    images: Tensor
    labels: Tensor
    regions: Tensor
    outlines: Tensor
    poses: Tensor

    def take(self, index: Tensor) -> Batch:
        """Take some images of a whole set, in float32."""
        images, labels, outlines, poses = (
            each[index] for each in (self.images, self.labels, self.outlines, self.poses)
        )
        images = to_images(images).contiguous(memory_format=torch.channels_last)
        return Batch(images, labels, self.regions[:, index].float(), outlines.float(), poses)


def prepare(
    images: ImageSet,
    canvas_px: int,
    *,
    soft_edges: bool = False,
    device: torch.device | str = "cpu",
) -> Batch:
    """Segment a whole training set, and separate outlines from poses; the result is on the CPU.

    Args:
        images: The set.
        canvas_px: Height and width of the outlines.
        soft_edges: As in `TrainConfig`.
        device: Where objects are segmented.
    """
    labels = images.factors.shape
    masks = segment_by_colour(images.pixels, labels, device=device)
    poses = measure(masks)
    objects, backgrounds, pixels = masks, ~masks, images.pixels
    if soft_edges:
        objects, backgrounds = _without_rim(objects), _without_rim(backgrounds)
        # Black on both sides, so that the critic cannot tell drawn edges by their hardness.
        pixels = pixels * (objects | backgrounds)
    outlines = normalise(masks, poses, canvas_px)
    return Batch(pixels, labels, torch.stack([objects, backgrounds]), outlines, poses)


def _without_rim(regions: Tensor) -> Tensor:
    """Remove the outermost pixels of each region, (N, 1, H, W) bool, if enough remain."""
    deep = F.max_pool2d((~regions).float(), 3, stride=1, padding=1) == 0
    enough = deep.sum(dim=(2, 3), keepdim=True) >= LEAST_PX
    return torch.where(enough, deep, regions)


class StepNoise(NamedTuple):
    """The random numbers of a step; or of several, stacked.

    Attributes:
        image_index: Which images, (B,) int64, i and i + B/2 of one class.
        outlines: Noise of the shapes around what was inferred, (B, Z).
        units: Noise of object and background, (2, B, Z).
        origins: Where their tiles begin, (2, B, 2) int64.
    """

    image_index: Tensor
    outlines: Tensor
    units: Tensor
    origins: Tensor


class Training(AdversarialTraining):
    """A run against the critic in which objects are segmented first.

    Attributes:
        images: The whole training set, on the run's device.
        encoder: Infers the shape's noise of real images.
    """

    def __init__(
        self, images: Batch, n_classes: int, config: TrainConfig, device: torch.device | str
    ) -> None:
        size = CGNConfig(
            n_classes=n_classes,
            image_size_px=images.images.shape[-1],
            width=config.width,
            tile_px=config.tile_px,
            canvas_px=images.outlines.shape[-1],
        )
        cgn = CGN(size)
        self.encoder = ShapeEncoder(
            n_classes, size.canvas_px, width=config.width, noise_size=size.noise_size
        )
        critic = Critic(n_classes, size.image_size_px, config.width)
        super().__init__(cgn, critic, config, config.weights, device, self.encoder)
        self.images = Batch(*(each.to(self.device) for each in images))
        self._batch_size, self._by_class = config.batch_size, ByClass(images.labels)

    def draw(self, generator: torch.Generator) -> StepNoise:
        """Draw the random numbers of the next step on the CPU."""
        n = self._batch_size
        index = draw_pairs(self._by_class, n, generator)
        of = self.cgn.config
        outlines, *units = torch.randn(3, n, of.noise_size, generator=generator)
        origins = torch.randint(of.tile_px, (2, n, 2), generator=generator)
        return StepNoise(index, outlines, torch.stack(units), origins)

    def losses(self, *drawn: Tensor) -> dict[str, Tensor]:
        """Draw images like real ones, and compute the losses of generator and critic.

        The generated images have the outlines and poses of the real ones, as far as the noise
        inferred from them says, and the same classes, so that style is compared within a class.
        """
        noise = StepNoise(*drawn)
        batch = self.images.take(noise.image_index)
        shape: ShapeMechanism = self.cgn.shape  # type: ignore[assignment]
        posterior = self.encoder(batch.outlines, batch.labels)
        outlines = shape.outline(posterior.sample(noise.outlines), batch.labels)
        probability = shape.place(outlines, batch.poses)
        textures = torch.stack(
            [
                mechanism(units, batch.labels, origin)
                for mechanism, units, origin in zip(
                    (self.cgn.texture, self.cgn.background), noise.units, noise.origins, strict=True
                )
            ]
        )
        # In the segmented objects, not in the drawn ones: only textures tell real from fake then.
        fake = (batch.regions * textures).sum(dim=0)
        pairs = torch.cat([packed(batch.images), packed(fake)])
        maps, scores = self.critic(pairs, batch.labels)  # halves of real and of drawn images
        real_scores, fake_scores = scores.chunk(2)
        foreground, background = losses.colours(textures, batch.images, batch.regions, batch.labels)
        return {
            "adversarial": losses.adversarial(fake_scores),
            # The coarsest maps see whole objects: their statistics would hold shape.
            "style": losses.style(maps[:2]),
            "mask_entropy": losses.mask_entropy(probability),
            "reconstruction": losses.reconstruction(outlines, batch.outlines),
            "divergence": losses.divergence(*posterior),
            "foreground": foreground,
            "background": background,
            "critic": losses.critic_hinge(real_scores, fake_scores),
        }

    @torch.no_grad()
    def store_exemplars(self, generator: torch.Generator) -> None:
        """Give the shape mechanism codes and poses of random training images to draw from."""
        images = self.images
        shape: ShapeMechanism = self.averaged.shape  # type: ignore[assignment]
        for label in images.labels.unique().tolist():
            of_class = (images.labels == label).nonzero()[:, 0].cpu()
            turns = -(-shape.codes.shape[1] // len(of_class))
            order = [torch.randperm(len(of_class), generator=generator) for _ in range(turns)]
            index = of_class[torch.cat(order)[: shape.codes.shape[1]]].to(self.device)
            outlines = images.outlines[index].float()
            mean, deviation = self.encoder(outlines, images.labels[index])
            shape.codes[label], shape.deviations[label] = mean, deviation
            shape.poses[label] = images.poses[index]

    def parts(self) -> dict[str, Stateful]:
        """Return all that changes from step to step."""
        return super().parts() | {"encoder": self.encoder}


def train(
    images: ImageSet,
    n_classes: int,
    config: TrainConfig,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> CGN:
    """Train a CGN on biased images; of their labels it sees the class alone.

    Args:
        images: The biased training set.
        n_classes: Number of classes.
        config: Everything else that fixes the run.
        device: Where it runs; the batches are moved there as bytes.
        checkpoint: File kept up to date during the run and resumed from if it is there.
        progress: Called after each step with steps done, steps in all, and the losses.

    Returns:
        The CGN with averaged weights, on the CPU. One seed gives the same weights on one CPU,
        interrupted or not; on CUDA it does not, for gradients of what is looked up are added up
        in any order there.

    Raises:
        ValueError: If the checkpoint belongs to another config or other images.
    """
    with locked_if(checkpoint), seeded(config.seed, device) as generator, training(device):
        soft_edges = config.soft_edges
        prepared = prepare(images, CGNConfig.canvas_px, soft_edges=soft_edges, device=device)
        run = Training(prepared, n_classes, config, device)
        train_to_the_end(
            run,
            config,
            generator,
            train_sha256=images.sha256(),
            checkpoint=checkpoint,
            progress=progress,
        )
        run.store_exemplars(generator)
    return run.averaged.cpu().eval()
