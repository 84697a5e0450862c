"""Trains a CGN from scratch, on any device, from a seed, and goes on where it was interrupted.

What is minimised is not here: see `cgn.losses`; nor is the loop itself: see `cgn.loop`.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn import losses
from cgn.abduction import ShapeEncoder, find_objects
from cgn.critic import Critic, EfficientNetFeatures
from cgn.images import Factors, ImageSet, draw_of_classes, to_images
from cgn.loop import Progress, Weights, advance_all, descend, resume, seeded, write_checkpoint
from cgn.mechanisms import ShapeMechanism
from cgn.model import CGN, CGNConfig, compose
from cgn.poses import measure, normalise
from cgn.ranges import require_in_range

LEAST_PX = 4  # an object that has less without its rim keeps the rim: a deviation needs some pixels


@dataclass(frozen=True, kw_only=True)
class LossWeights(Weights):
    """How much each loss of the generator counts; the names are those of the losses."""

    adversarial: float = 1.0
    style: float = 0.1
    mask_entropy: float = 0.1
    reconstruction: float = 10.0
    divergence: float = 0.01
    foreground: float = 10.0
    background: float = 10.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that fixes a training run, but for the images."""

    steps: int = 1_500
    batch_size: int = 64  # images, an even number
    learning_rate: float = 1e-3  # of the generator, falling to 0 over the last half
    critic_learning_rate: float = 1e-3  # the same
    seed: int = 0
    width: int = 24  # channels of generator and critic
    tile_px: int = 32  # size of the textures' tile, which is repeated over the image
    # Whether pixels where object and background meet are mixtures of both. They are of no surface,
    # and taken for it they come back as dark blots: nothing but the mask is learned from them.
    soft_edges: bool = False
    ema_decay: float = 0.995  # of the averaged weights that sampling uses
    # Or "efficientnet-lite0". After 300 steps on wildlife MNIST a classifier finds the textures of
    # both equally often (73.7 and 73.0 %, n = 2,000), but a step takes 1.3 times as long.
    style_features: str = "critic"
    checkpoint_steps: int = 250  # steps between checkpoints
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        require_in_range(self)
        if self.batch_size % 2:
            raise ValueError(f"batch_size must be even, got {self.batch_size}: images go in pairs")
        if self.style_features not in ("critic", "efficientnet-lite0"):
            raise ValueError(
                f"style_features must be critic or efficientnet-lite0, got {self.style_features!r}"
            )


# What differs from the defaults in each world; a new world starts from the defaults.
PRESETS = {
    "colored-mnist": TrainConfig(steps=800, tile_px=16, soft_edges=True),
    "double-colored-mnist": TrainConfig(steps=1_000, tile_px=16),
    "wildlife-mnist": TrainConfig(steps=1_300),
    "openmoji-9": TrainConfig(steps=900),
}


class Batch(NamedTuple):
    """Real images and what was found in them; or a whole training set.

    Attributes:
        images: (B, 3, H, W) in [0, 1], i and i + B/2 of one class; uint8 in a whole set. What is
            neither object nor background is black.
        labels: Their classes, (B,) int64.
        objects: Where there is nothing but object, (B, 1, H, W) in {0, 1}; bool in a whole set.
        backgrounds: Where there is nothing but background, the same.
        outlines: Where the objects are, without pose, (B, 1, S, S) in {0, 1}; bool in a whole set.
        poses: See `cgn.poses`, (B, 3).
    """

    images: Tensor
    labels: Tensor
    objects: Tensor
    backgrounds: Tensor
    outlines: Tensor
    poses: Tensor

    def take(self, index: Tensor) -> Batch:
        """Take some images of a whole set, as numbers."""
        images, labels, objects, backgrounds, outlines, poses = (each[index] for each in self)
        images = to_images(images).contiguous(memory_format=torch.channels_last)
        regions = objects.float(), backgrounds.float()
        return Batch(images, labels, *regions, outlines.float(), poses)


def prepare(images: ImageSet, canvas_px: int, *, soft_edges: bool = False) -> Batch:
    """Find the objects of a whole training set, and part their outlines from their poses."""
    labels = images.factors.shape
    masks = find_objects(images.pixels, labels)
    poses = measure(masks)
    objects, backgrounds, pixels = masks, ~masks, images.pixels
    if soft_edges:
        objects, backgrounds = _without_rim(objects), _without_rim(backgrounds)
        # Black on both sides, so that the critic cannot tell drawn edges by their hardness.
        pixels = pixels * (objects | backgrounds)
    outlines = normalise(masks, poses, canvas_px)
    return Batch(pixels, labels, objects, backgrounds, outlines, poses)


def _without_rim(regions: Tensor) -> Tensor:
    """Take its outermost pixels from each region, (N, 1, H, W) bool, if enough are left."""
    deep = F.max_pool2d((~regions).float(), 3, stride=1, padding=1) == 0
    enough = deep.sum(dim=(2, 3), keepdim=True) >= LEAST_PX
    return torch.where(enough, deep, regions)


class Training:
    """A training run in progress: networks, optimisers, and what is needed to resume.

    Attributes:
        cgn: The generator that learns.
        encoder: Infers the shape's noise of real images.
        averaged: The running mean of its weights, which is what is kept in the end.
        critic: What it learns against.
        step: Steps done.
    """

    def __init__(
        self,
        n_classes: int,
        image_size_px: int,
        config: TrainConfig,
        device: torch.device | str,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        size = CGNConfig(
            n_classes=n_classes,
            image_size_px=image_size_px,
            width=config.width,
            tile_px=config.tile_px,
        )
        self.cgn = CGN(size).to(self.device)
        self.averaged = copy.deepcopy(self.cgn).requires_grad_(False)
        self.encoder = ShapeEncoder(
            n_classes, size.canvas_px, width=config.width, noise_size=size.noise_size
        ).to(self.device)
        self.critic = Critic(n_classes, image_size_px, config.width).to(self.device)
        # A step on a CPU takes 0.37 s instead of 0.40 (wildlife MNIST, one thread).
        for network in (self.cgn, self.encoder, self.critic):
            network.to(memory_format=torch.channels_last)
        self.style: nn.Module | None = None
        if config.style_features == "efficientnet-lite0":
            self.style = EfficientNetFeatures().to(self.device)
        self.cgn_adam = _adam([self.cgn, self.encoder], config.learning_rate)
        self.critic_adam = _adam([self.critic], config.critic_learning_rate)
        self.step = 0

    def advance(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Take one step of the generator and one of the critic.

        The generated images have the outlines and poses of the real ones, as far as the noise
        inferred from them says, and the same classes, so that style is compared within a class.

        Args:
            batch: Real images.
            generator: Decides the noise.

        Returns:
            The unweighted losses, each a scalar.
        """
        for adam, rate in (
            (self.cgn_adam, self.config.learning_rate),
            (self.critic_adam, self.config.critic_learning_rate),
        ):
            adam.param_groups[0]["lr"] = rate * min(1.0, 2 - 2 * self.step / self.config.steps)
        fake, terms = self._generate(batch, generator)
        descend(self.cgn_adam, self.config.weights.total(terms))
        pair_labels = batch.labels[: len(batch.labels) // 2]
        real_scores, fake_scores = (
            self.critic(images, pair_labels) for images in (batch.images, fake.detach())
        )
        terms["critic"] = losses.critic_hinge(real_scores, fake_scores)
        descend(self.critic_adam, terms["critic"])
        self._average()
        self.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def _generate(
        self, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw images like those of the batch; them, and what the generator minimises."""
        shape: ShapeMechanism = self.cgn.shape  # type: ignore[assignment]
        posterior = self.encoder(batch.outlines, batch.labels)
        outlines = shape.outline(posterior.sample(generator), batch.labels)
        probability = shape.place(outlines, batch.poses)
        parts = self.cgn(Factors.tied(batch.labels), generator, probability)
        # In the objects that were found, not in those just drawn: what tells real from fake is then
        # the textures alone.
        fake = compose(batch.objects, parts.foreground, batch.backgrounds * parts.background)
        return fake, self._appearance(fake, batch) | {
            "mask_entropy": losses.mask_entropy(probability),
            "reconstruction": losses.reconstruction(outlines, batch.outlines),
            "divergence": losses.divergence(*posterior),
            "foreground": losses.colours(
                parts.foreground, batch.images, batch.objects, batch.labels
            ),
            "background": losses.colours(
                parts.background, batch.images, batch.backgrounds, batch.labels
            ),
        }

    def _appearance(self, fake: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compute what the generator minimises in the eyes of the critic."""
        self.critic.requires_grad_(False)
        fake_features = self.critic.features(fake)
        scores = self.critic.scores(fake_features, batch.labels[: len(batch.labels) // 2])
        if self.style is not None:
            fake_features = self.style(fake)
        with torch.no_grad():
            real_features = (self.style or self.critic.features)(batch.images)
        self.critic.requires_grad_(True)
        return {
            "adversarial": losses.adversarial(scores),
            # The coarsest maps see whole objects: their statistics would hold shape.
            "style": losses.style(fake_features[:2], real_features[:2]),
        }

    @torch.no_grad()
    def remember(self, images: Batch, generator: torch.Generator) -> None:
        """Let the shape mechanism draw from codes and poses of training images from now on.

        Args:
            images: The whole training set.
            generator: Decides which images; each about as often as any other of its class.
        """
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

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones."""
        # Early on the mean would be full of the random beginning: let it follow faster.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.cgn.parameters()), 1 - decay
        )

    def _parts(self) -> tuple[nn.Module | torch.optim.Optimizer, ...]:
        """Return all that learns."""
        networks = self.cgn, self.averaged, self.encoder, self.critic
        return *networks, self.cgn_adam, self.critic_adam

    def state(self, generator: torch.Generator, train_sha256: str) -> dict[str, Any]:
        """Return all that is needed to go on, bit for bit, and the hash of the training set."""
        return {
            "step": self.step,
            "parts": [part.state_dict() for part in self._parts()],
            "generator": generator.get_state(),
            "torch": torch.get_rng_state(),
            "config": asdict(self.config),
            "train_sha256": train_sha256,
        }

    def restore(self, state: dict[str, Any], generator: torch.Generator, train_sha256: str) -> None:
        """Take up a state.

        Raises:
            ValueError: If it was made under another config or from other images.
        """
        if (state["config"], state.get("train_sha256")) != (asdict(self.config), train_sha256):
            raise ValueError(
                "the checkpoint was made with other settings or other images; delete it to start "
                "anew, or repeat the command it was made with"
            )
        for part, stored in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(stored)
        self.step = state["step"]
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])


def train(
    images: ImageSet,
    n_classes: int,
    config: TrainConfig,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> CGN:
    """Train a CGN on biased images; from their labels it is told the class and nothing else.

    Args:
        images: The biased training set.
        n_classes: Number of classes.
        config: Everything else that fixes the run.
        device: Where it runs; the batches are moved there as bytes.
        checkpoint: File kept up to date during the run and resumed from if it is there.
        progress: Called after each step with steps done, steps in all, and the losses.

    Returns:
        The CGN with averaged weights, on the CPU. One seed gives the same weights on one CPU,
        interrupted or not.

    Raises:
        ValueError: If the checkpoint belongs to another config or other images.
    """
    train_sha256 = images.sha256()
    with seeded(config.seed) as generator:
        run = Training(n_classes, images.pixels.shape[-1], config, device)
        resume(run, generator, train_sha256, checkpoint)
        found = prepare(images, run.cgn.config.canvas_px, soft_edges=config.soft_edges)
        found = Batch(*(each.to(run.device) for each in found))

        def advance() -> dict[str, Tensor]:
            index = draw_pairs(images.factors.shape, config.batch_size, generator).to(run.device)
            return run.advance(found.take(index), generator)

        def keep() -> None:
            if checkpoint is not None:
                write_checkpoint(run.state(generator, train_sha256), checkpoint)

        advance_all(run, advance, keep, progress)
        run.remember(found, generator)
    return run.averaged.cpu().eval()


def draw_pairs(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw images with replacement, the second half of the classes of the first.

    Args:
        labels: Classes of all images, (N,) int64.
        n: How many to draw, even.
        generator: Decides which.

    Returns:
        Indices, (n,) int64; those at i and i + n/2 have one class.

    Example:
        >>> labels = torch.tensor([1, 0, 1, 0])
        >>> drawn = labels[draw_pairs(labels, 6, torch.Generator().manual_seed(0))]
        >>> drawn[:3].equal(drawn[3:])
        True
    """
    first = torch.randint(len(labels), (n // 2,), generator=generator)
    return torch.cat([first, draw_of_classes(labels, labels[first], generator)])


def _adam(modules: list[nn.Module], learning_rate: float) -> torch.optim.Adam:
    """Return the optimiser of GANs: no memory of old directions."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.Adam(parameters, learning_rate, betas=(0.0, 0.99))
