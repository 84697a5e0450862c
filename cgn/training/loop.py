"""The one loop that trains CGNs of both scales, and what is needed to interrupt it.

What is trained is not here: see `cgn.training.small` and `cgn.training.imagenet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cgn.io.schema import LOSS_WEIGHT, require
from cgn.io.weights import read_checkpoint, restoring
from cgn.io.writing import written

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
            >>> from cgn.training.small import LossWeights
            >>> LossWeights().total({"style": torch.tensor(1.0)})  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ValueError: losses and weights differ in: adversarial, background, divergence, ...
        """
        if odd := (self.active() - terms.keys()) | (terms.keys() - vars(self).keys()):
            raise ValueError(f"losses and weights differ in: {', '.join(sorted(odd))}")
        losses = torch.stack(list(terms.values()))
        return losses @ _vector(tuple(getattr(self, name) for name in terms), losses.device)

    def active(self) -> set[str]:
        """Return the names of the losses that count."""
        return {name for name, weight in vars(self).items() if weight}


@lru_cache(maxsize=16)
def _vector(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Put numbers on a device, once: copying from host memory would end a CUDA graph."""
    return torch.tensor(numbers, device=device)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[torch.Generator]:
    """Fix the randomness of the CPU and one device inside the block; leave the caller's untouched.

    Example:
        >>> with seeded(0) as generator:
        ...     first = torch.rand(1), torch.rand(1, generator=generator)
        >>> with seeded(0) as generator:
        ...     first == (torch.rand(1), torch.rand(1, generator=generator))
        True
    """
    device = torch.device(device)
    of = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(of):
        torch.default_generator.manual_seed(seed)
        for index in of:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
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
        state = read_checkpoint(checkpoint, ("config", "step", "generator", "torch"))
        with restoring(checkpoint):
            run.restore(state, generator, sha256)


def train_loop(
    run: Run,
    train_step: Callable[[int], dict[str, Tensor]],
    keep: Callable[[], None],
    progress: Progress | None = None,
    *,
    at_once: int = 1,
) -> None:
    """Take all steps that are left: the one loop of both scales.

    Args:
        run: What learns.
        train_step: Takes as many steps as it is told; returns the unweighted losses, each a scalar
            or one number a step, (n,).
        keep: Called whenever a checkpoint is due.
        progress: Called for each step with steps done, steps in all, and the losses.
        at_once: How many steps at most are taken before anyone waits for the device.
    """
    while (done := run.step) < run.config.steps:
        due = run.config.checkpoint_steps - done % run.config.checkpoint_steps
        curves = train_step(min(at_once, due, run.config.steps - done))
        if progress is not None:
            values = torch.stack(list(curves.values())).reshape(len(curves), -1)
            for step, terms in enumerate(values.T.tolist(), done + 1):
                progress(step, run.config.steps, dict(zip(curves, terms, strict=True)))
        if run.step % run.config.checkpoint_steps == 0:
            keep()


def adam_of_gans(modules: Iterable[nn.Module], rate: float) -> torch.optim.Adam:
    """Make the optimiser of GANs: no memory of old directions."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    kind = parameters[0].device.type
    return torch.optim.Adam(
        parameters,
        # In a CUDA graph a number would stay what it was.
        torch.tensor(rate, device=parameters[0].device) if kind == "cuda" else rate,
        betas=(0.0, 0.99),
        fused=kind in ("cpu", "cuda"),
        capturable=kind == "cuda",
    )


def falling_rate(rate: float, step: int, steps: int) -> float:
    """Return a learning rate that falls to 0 over the last half of the steps.

    Example:
        >>> [falling_rate(1.0, step, 8) for step in (0, 4, 6, 8)]
        [1.0, 1.0, 0.5, 0.0]
    """
    return rate * min(1.0, 2 - 2 * step / steps)


def set_rate(adam: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where a CUDA graph reads it."""
    for group in adam.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_adam(adam: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up an optimiser's means; how it computes with them is a matter of the device."""
    ours = [{k: v for k, v in group.items() if k != "params"} for group in adam.param_groups]
    groups = [stored | own for stored, own in zip(state["param_groups"], ours, strict=True)]
    adam.load_state_dict(state | {"param_groups": groups})
    for group, own in zip(adam.param_groups, ours, strict=True):
        group |= own  # not a copy of the rate, which a CUDA graph may read


def optimizer_step(adam: torch.optim.Optimizer, loss: Tensor, *, keep_graph: bool = False) -> None:
    """Take one step of an optimiser down a loss; nothing else gets a gradient.

    Args:
        adam: The optimiser.
        loss: A scalar.
        keep_graph: Whether another loss will use parts of the same graph.
    """
    parameters = [each for group in adam.param_groups for each in group["params"]]
    adam.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters, retain_graph=keep_graph)
    adam.step()


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state as a whole or not at all."""
    with written(path) as place:
        torch.save(state, place)
