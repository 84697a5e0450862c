"""The one loop that trains CGNs of both scales, and what is needed to interrupt it.

What is trained is not here: see `cgn.train` and `cgn.imagenet_training`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cgn.ranges import LOSS_WEIGHT, require

Progress = Callable[[int, int, dict[str, float]], None]


class Weights:
    """How much each loss counts: a frozen dataclass whose fields are the names of the losses."""

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            require(f"the weight of {name}", weight, LOSS_WEIGHT)

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Sum the terms by their weights; one of weight 0 may be missing.

        Raises:
            ValueError: If a loss has no weight, or a weight no loss.

        Example:
            >>> from cgn.train import LossWeights
            >>> LossWeights().total({"style": torch.tensor(1.0)})  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ValueError: losses and weights differ in: adversarial, background, divergence, ...
        """
        if odd := (self.active() - terms.keys()) | (terms.keys() - vars(self).keys()):
            raise ValueError(f"losses and weights differ in: {', '.join(sorted(odd))}")
        return torch.stack([getattr(self, name) * term for name, term in terms.items()]).sum()

    def active(self) -> set[str]:
        """Return the names of the losses that count."""
        return {name for name, weight in vars(self).items() if weight}


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


class Schedule(Protocol):
    """What the loop must know of a training's settings."""

    @property
    def steps(self) -> int:
        """How many in all."""

    @property
    def checkpoint_steps(self) -> int:
        """How many between checkpoints."""


class Run(Protocol):
    """A training run in progress, of either scale."""

    step: int

    @property
    def config(self) -> Schedule:
        """What fixes it."""

    def restore(self, state: dict[str, Any], generator: torch.Generator, sha256: str, /) -> None:
        """Take up a state."""


def resume(run: Run, generator: torch.Generator, sha256: str, checkpoint: Path | None) -> None:
    """Go on where a run was interrupted, if it was.

    Raises:
        ValueError: If the checkpoint belongs to another config or other images.
    """
    if checkpoint is not None and checkpoint.is_file():
        run.restore(torch.load(checkpoint, weights_only=True), generator, sha256)


def advance_all(
    run: Run,
    advance: Callable[[], dict[str, Tensor]],
    keep: Callable[[], None],
    progress: Progress | None = None,
) -> None:
    """Take all steps that are left: the one loop of both scales.

    Args:
        run: What learns.
        advance: Draws a batch and takes a step with it; returns the unweighted losses.
        keep: Called whenever a checkpoint is due.
        progress: Called after each step with steps done, steps in all, and the losses.
    """
    while run.step < run.config.steps:
        terms = advance()
        if progress is not None:
            progress(run.step, run.config.steps, {k: v.item() for k, v in terms.items()})
        if run.step % run.config.checkpoint_steps == 0:
            keep()


def descend(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimiser step down a loss."""
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    temporary.replace(path)
