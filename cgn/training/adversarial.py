"""What both trainings of a small CGN share: steps against a critic, averages, checkpoints."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cgn.data.factors import ByClass
from cgn.device.graphs import Captured
from cgn.device.transfer import sent
from cgn.io.schema import require_in_range
from cgn.models.cgn import CGN
from cgn.models.critic import Critic
from cgn.training.checkpoints import Checkpoint, Stateful
from cgn.training.loop import EMA, GANAdam, Progress, Weights, train_loop

Module = TypeVar("Module", bound=nn.Module)

AT_ONCE = 50  # steps on CUDA before the host waits: what they need is drawn and sent together


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """What the configs of both trainings have in common.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images in a step, an even number.
        learning_rate: Of the generator, falling to 0 over the last half.
        critic_learning_rate: Of the critic, falling alike.
        seed: Of all random numbers.
        width: Channels of generator and critic.
        tile_px: Size of the textures' tile in pixels, which is repeated over the image.
        ema_decay: Of the averaged weights that sampling uses.
        checkpoint_steps: Steps between checkpoints.
    """

    steps: int = 1_500
    batch_size: int = 64
    learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    seed: int = 0
    width: int = 24
    tile_px: int = 32
    ema_decay: float = 0.995
    checkpoint_steps: int = 250

    def __post_init__(self) -> None:
        require_in_range(self)
        if self.batch_size % 2:
            raise ValueError(f"batch_size must be even, got {self.batch_size}: images go in pairs")


class AdversarialTraining(ABC):
    """A training run in progress: networks, optimisers, and what is needed to resume.

    On CUDA a step is a graph: no host memory is touched and nothing is waited for inside of it.

    Attributes:
        cgn: The generator that learns.
        averaged: The running mean of its weights, which is what is kept in the end.
        critic: What it learns against.
        step: Steps done.
    """

    def __init__(
        self,
        cgn: CGN,
        critic: Critic,
        config: AdversarialConfig,
        weights: Weights,
        device: torch.device | str,
        *others: nn.Module,
    ) -> None:
        """Put networks in place.

        Args:
            cgn: The generator.
            critic: What it learns against.
            config: Everything else that fixes the run.
            weights: How much each loss of the generator counts.
            device: Where it runs.
            others: Networks that learn what the generator learns.
        """
        self.device = torch.device(device)
        self.cgn, self.critic = placed(cgn, self.device), placed(critic, self.device)
        self.averaged = copy.deepcopy(self.cgn).requires_grad_(False)
        learners = [self.cgn, *(placed(other, self.device) for other in others)]
        self.cgn_adam = GANAdam(learners, config.learning_rate)
        self.critic_adam = GANAdam([self.critic], config.critic_learning_rate)
        self.ema = EMA(
            self.cgn.parameters(), self.averaged.parameters(), config.ema_decay, warm_up=True
        )
        self.steps, self.step = config.steps, 0
        self._weights = weights
        self._loss_names = (*vars(weights), "critic")
        self._learned = Captured(self._learn)

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Draw the random numbers of the next step on the CPU."""

    @abstractmethod
    def losses(self, *noise: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted losses of a step, "critic" among them, from what `draw` drew."""

    def train_steps(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Take several steps; return the unweighted losses of each, (n,).

        Whatever they need is drawn before and sent to the device at once.
        """
        drawn = [self.draw(generator) for _ in range(n)]
        stacked = [sent(torch.stack(each), self.device) for each in zip(*drawn, strict=True)]
        curves = [self.train_step(*noise) for noise in zip(*stacked, strict=True)]
        return {name: torch.stack([terms[name] for terms in curves]) for name in self._loss_names}

    def train_step(self, *noise: Tensor) -> dict[str, Tensor]:
        """Take one step of the generator and one of the critic.

        Args:
            noise: From `draw`, on the run's device.

        Returns:
            The unweighted losses, each a scalar.
        """
        for adam in (self.cgn_adam, self.critic_adam):
            adam.set_rate(self.step, self.steps)
        # The next step writes to the same memory.
        terms = self._learned(*noise).clone()
        self.ema.update(self.step)
        self.step += 1
        return dict(zip(self._loss_names, terms, strict=True))

    def _learn(self, *noise: Tensor) -> Tensor:
        """Take a step but for the average; return the losses in the order of their names."""
        terms = self.losses(*noise)
        of_generator = {name: term for name, term in terms.items() if name != "critic"}
        self.cgn_adam.step_down(self._weights.total(of_generator), keep_graph=True)
        self.critic_adam.step_down(terms["critic"])
        return torch.stack([terms[name].detach() for name in self._loss_names])

    def parts(self) -> dict[str, Stateful]:
        """Return all that changes from step to step."""
        return {
            "cgn": self.cgn,
            "critic": self.critic,
            "ema": self.ema,
            "cgn_adam": self.cgn_adam,
            "critic_adam": self.critic_adam,
        }


def train_to_the_end(
    run: AdversarialTraining,
    config: AdversarialConfig,
    generator: torch.Generator,
    *,
    train_sha256: str,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    """Take all steps that are left of a run, from its checkpoint on if there is one.

    Args:
        run: What learns.
        config: What it was made with.
        generator: Decides the noise of all steps.
        train_sha256: Of the training images.
        checkpoint: File kept up to date during the run.
        progress: Called after each step with steps done, steps in all, and the losses.

    Raises:
        ValueError: If the checkpoint belongs to another config or other images.
    """
    origin: dict[str, Any] = {"config": asdict(config), "train_sha256": train_sha256}
    saved = Checkpoint(checkpoint, run.parts(), origin, generator)
    run.step = saved.resume()
    try:
        train_loop(
            run,
            partial(run.train_steps, generator=generator),
            config.steps,
            checkpoint_steps=config.checkpoint_steps,
            save=saved.save,
            progress=progress,
            at_once=AT_ONCE if run.device.type == "cuda" else 1,
        )
    finally:
        saved.wait()


def placed(module: Module, device: torch.device) -> Module:
    """Move a network to a device, channels last in memory.

    A step of the CGN on a CPU takes 0.37 s instead of 0.40 (wildlife MNIST, one thread).
    """
    return module.to(device).to(memory_format=torch.channels_last)


def draw_pairs(images: ByClass, n: int, generator: torch.Generator) -> Tensor:
    """Draw images with replacement, the second half of the classes of the first.

    Args:
        images: All of them.
        n: How many to draw, even.
        generator: Decides which.

    Returns:
        Indices, (n,) int64; those at i and i + n/2 have one class.

    Example:
        >>> labels = torch.tensor([1, 0, 1, 0])
        >>> drawn = labels[draw_pairs(ByClass(labels), 6, torch.Generator().manual_seed(0))]
        >>> drawn[:3].equal(drawn[3:])
        True
    """
    first = torch.randint(len(images.classes), (n // 2,), generator=generator)
    return torch.cat([first, images.draw(images.classes[first], generator)])
