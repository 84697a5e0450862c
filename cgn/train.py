"""One loop that trains a CGN, on any device, from a seed, and goes on where it was interrupted.

What is minimised is not here: see `cgn.losses`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgn import losses
from cgn.critic import Critic, EfficientNetFeatures
from cgn.images import Factors, ImageSet, to_images
from cgn.model import CGN, CGNConfig, Parts

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each loss of the generator counts; the names are those of the losses."""

    adversarial: float = 1.0
    style: float = 0.1
    mask_entropy: float = 0.1
    mask_area: float = 20.0
    mask_edge: float = 10.0
    mask_spread: float = 50.0
    background: float = 10.0

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Sum the terms by their weights.

        Raises:
            ValueError: If a loss has no weight, or a weight no loss.

        Example:
            >>> LossWeights().total({"style": torch.tensor(1.0)})  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ValueError: losses and weights differ in: adversarial, background, mask_area, ...
        """
        if odd := {each.name for each in fields(self)} ^ terms.keys():
            raise ValueError(f"losses and weights differ in: {', '.join(sorted(odd))}")
        return torch.stack([getattr(self, name) * term for name, term in terms.items()]).sum()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that fixes a training run, but for the images."""

    steps: int = 1_500
    batch_size: int = 64  # images, an even number
    learning_rate: float = 1e-3  # of the generator, falling to 0 over the last half
    critic_learning_rate: float = 1e-3  # the same
    seed: int = 0
    width: int = 24  # channels of generator and critic
    area_low: float = 0.06  # smallest object, as a share of the image area
    area_high: float = 0.28  # largest object
    spread_high: float = 0.09  # most scattered object, see `losses.mask_spread`
    tile_px: int = 32  # size of the textures' tile, which is repeated over the image
    ema_decay: float = 0.995  # of the averaged weights that sampling uses
    style_features: str = "critic"  # or "efficientnet-lite0"
    checkpoint_steps: int = 250  # steps between checkpoints
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.width, self.checkpoint_steps) < 1:
            raise ValueError("steps, batch_size, width and checkpoint_steps must be positive")
        if self.batch_size % 2:
            raise ValueError(f"batch_size must be even, got {self.batch_size}: images go in pairs")
        if not 0 <= self.area_low < self.area_high <= 1:
            raise ValueError(
                f"areas must rise within [0, 1], got {self.area_low} to {self.area_high}"
            )
        if self.style_features not in ("critic", "efficientnet-lite0"):
            raise ValueError(
                f"style_features must be critic or efficientnet-lite0, got {self.style_features!r}"
            )


# What differs from the defaults in each world; a new world starts from the defaults.
PRESETS = {
    "colored-mnist": TrainConfig(steps=800, tile_px=16),
    "double-colored-mnist": TrainConfig(tile_px=16),
    "wildlife-mnist": TrainConfig(steps=1_300),
    "openmoji-9": TrainConfig(steps=900, area_low=0.12, area_high=0.45, spread_high=0.11),
}


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Fix all randomness inside the block and leave the caller's untouched.

    Example:
        >>> with seeded(0) as generator:
        ...     first = torch.rand(1), torch.rand(1, generator=generator)
        >>> with seeded(0) as generator:
        ...     first == (torch.rand(1), torch.rand(1, generator=generator))
        True
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


class Training:
    """A training run in progress: networks, optimisers, and what is needed to resume.

    Attributes:
        cgn: The generator that learns.
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
        self.critic = Critic(n_classes, image_size_px, config.width).to(self.device)
        self.style: nn.Module | None = None
        if config.style_features == "efficientnet-lite0":
            self.style = EfficientNetFeatures().to(self.device)
        self.cgn_adam = _adam(self.cgn, config.learning_rate)
        self.critic_adam = _adam(self.critic, config.critic_learning_rate)
        self.step = 0

    def advance(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Take one step of the generator and one of the critic.

        Args:
            images: Real images, (B, 3, H, W) in [0, 1], i and i + B/2 of one class.
            labels: Their classes, (B,) int64; the generated images get the same, so that style
                is compared within a class.
            generator: Decides the noise.

        Returns:
            The unweighted losses, each a scalar.
        """
        for adam, rate in (
            (self.cgn_adam, self.config.learning_rate),
            (self.critic_adam, self.config.critic_learning_rate),
        ):
            adam.param_groups[0]["lr"] = rate * min(1.0, 2 - 2 * self.step / self.config.steps)
        parts = self.cgn(Factors.tied(labels), generator)
        fake = parts.image()
        terms = self._generator_losses(parts, fake, images, labels)
        descend(self.cgn_adam, self.config.weights.total(terms))
        real_scores, fake_scores = (
            self.critic(batch, labels[: len(labels) // 2]) for batch in (images, fake.detach())
        )
        terms["critic"] = losses.critic_hinge(real_scores, fake_scores)
        descend(self.critic_adam, terms["critic"])
        self._average()
        self.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def _generator_losses(
        self, parts: Parts, fake: Tensor, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Compute what the generator minimises."""
        self.critic.requires_grad_(False)
        fake_features = self.critic.features(fake)
        scores = self.critic.scores(fake_features, labels[: len(labels) // 2])
        if self.style is not None:
            fake_features = self.style(fake)
        with torch.no_grad():
            real_features = (self.style or self.critic.features)(images)
        self.critic.requires_grad_(True)
        return {
            "adversarial": losses.adversarial(scores),
            # The coarsest maps see whole objects: their statistics would hold shape.
            "style": losses.style(fake_features[:2], real_features[:2]),
            "mask_entropy": losses.mask_entropy(parts.probability),
            "mask_area": losses.mask_area(parts.mask, self.config.area_low, self.config.area_high),
            "mask_edge": losses.mask_edge(parts.mask),
            "mask_spread": losses.mask_spread(parts.mask, self.config.spread_high),
            "background": losses.background(parts.background, images, labels),
        }

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
        return self.cgn, self.averaged, self.critic, self.cgn_adam, self.critic_adam

    def state(self, generator: torch.Generator) -> dict[str, Any]:
        """Return all that is needed to go on, bit for bit."""
        return {
            "step": self.step,
            "parts": [part.state_dict() for part in self._parts()],
            "generator": generator.get_state(),
            "torch": torch.get_rng_state(),
            "config": asdict(self.config),
        }

    def restore(self, state: dict[str, Any], generator: torch.Generator) -> None:
        """Take up a state.

        Raises:
            ValueError: If it was made under another config.
        """
        if state["config"] != asdict(self.config):
            raise ValueError(
                "the checkpoint was made with other settings; delete it to start anew, or repeat "
                "the settings it was made with"
            )
        for part, stored in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(stored)
        self.step = state["step"]
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])


def descend(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimiser step down a loss."""
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


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
        ValueError: If the checkpoint belongs to another config.
    """
    with seeded(config.seed) as generator:
        run = Training(n_classes, images.pixels.shape[-1], config, device)
        if checkpoint is not None and checkpoint.is_file():
            run.restore(torch.load(checkpoint, weights_only=True), generator)
        pixels = images.pixels.to(run.device)
        labels = images.factors.shape.to(run.device)
        while run.step < config.steps:
            index = draw_pairs(images.factors.shape, config.batch_size, generator).to(run.device)
            terms = run.advance(to_images(pixels[index]), labels[index], generator)
            if progress is not None:
                progress(run.step, config.steps, {k: v.item() for k, v in terms.items()})
            if checkpoint is not None and run.step % config.checkpoint_steps == 0:
                _write_checkpoint(run.state(generator), checkpoint)
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
    by_class = labels.argsort(stable=True)
    sizes = labels.bincount()
    first = torch.randint(len(labels), (n // 2,), generator=generator)
    place = (torch.rand(n // 2, generator=generator) * sizes[labels[first]]).long()
    begins = sizes.cumsum(0) - sizes
    return torch.cat([first, by_class[begins[labels[first]] + place]])


def _adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Return the optimiser of GANs: no memory of old directions."""
    return torch.optim.Adam(module.parameters(), learning_rate, betas=(0.0, 0.99))


def _write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    temporary.replace(path)
