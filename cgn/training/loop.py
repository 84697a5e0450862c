"""What all trainings share: the loop, the running mean of weights, seeds and GANs' optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cgn.io.schema import LOSS_WEIGHT, require

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
    indices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(indices):
        torch.default_generator.manual_seed(seed)
        for index in indices:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


class Run(Protocol):
    """A training run in progress."""

    step: int


def train_loop(
    run: Run,
    train_steps: Callable[[int], dict[str, Tensor]],
    steps: int,
    *,
    checkpoint_steps: int,
    save: Callable[[int], None],
    progress: Progress | None = None,
    at_once: int = 1,
) -> None:
    """Take all steps that are left: the one loop of all trainings.

    Args:
        run: What learns.
        train_steps: Takes a number of steps; returns the unweighted losses, each a scalar or one
            number for each step, (n,); nothing where they are not reported.
        steps: Steps in all.
        checkpoint_steps: Steps between calls of `save`.
        save: Called with steps done.
        progress: Called for each step with steps done, steps in all, and the losses.
        at_once: How many steps at most are taken before the host waits for the device.
    """
    while (done := run.step) < steps:
        due = checkpoint_steps - done % checkpoint_steps
        n = min(at_once, due, steps - done)
        losses = train_steps(n)
        if progress is not None:
            rows: list[list[float]] = [[]] * n
            if losses:
                rows = torch.stack(list(losses.values())).reshape(len(losses), -1).T.tolist()
            for step, row in enumerate(rows, done + 1):
                progress(step, steps, dict(zip(losses, row, strict=True)))
        if run.step % checkpoint_steps == 0:
            save(run.step)


class EMA:
    """The exponential moving average of some tensors.

    Attributes:
        averages: In the order of the tensors that they are of.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        averages: Iterable[Tensor],
        decay: float,
        *,
        warm_up: bool = False,
    ) -> None:
        """Name the tensors.

        Args:
            tensors: What changes.
            averages: Copies of them.
            decay: Share of the average that stays in each update.
            warm_up: Let it follow faster at first, so that the random beginning is forgotten; else
                the first update copies the tensors.
        """
        self.tensors, self.averages = list(tensors), list(averages)
        self._decay, self._warm_up = decay, warm_up

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the tensors after `step` earlier updates.

        Example:
            >>> weight, average = torch.tensor([0.0]), torch.tensor([1.0])
            >>> EMA([weight], [average], 0.75).update(step=1)
            >>> average
            tensor([0.7500])
        """
        first = 0.0 if step == 0 else 1.0
        decay = min(self._decay, (1 + step) / (10 + step) if self._warm_up else first)
        pairs = list(zip(self.averages, self.tensors, strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [t for _, t in floats], 1 - decay)
        for average, tensor in pairs:
            if not average.is_floating_point():  # counters of batch norms
                average.copy_(average * decay + tensor * (1 - decay))

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"averages": self.averages}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the averages."""
        for average, stored in zip(self.averages, state_dict["averages"], strict=True):
            average.copy_(stored)


class GANAdam(torch.optim.Adam):
    """Adam without momentum, as GANs take it, whose learning rate falls over the last half.

    On CUDA the rate is a tensor: in a graph a number would stay what it was.
    """

    def __init__(self, modules: Iterable[nn.Module], rate: float) -> None:
        parameters = [parameter for module in modules for parameter in module.parameters()]
        kind = parameters[0].device.type
        self.initial_rate = rate
        super().__init__(
            parameters,
            torch.tensor(rate, device=parameters[0].device) if kind == "cuda" else rate,
            betas=(0.0, 0.99),
            fused=kind in ("cpu", "cuda"),
            capturable=kind == "cuda",
        )

    def set_rate(self, step: int, steps: int) -> None:
        """Set the learning rate of a step, in place where a CUDA graph reads it."""
        rate = falling_rate(self.initial_rate, step, steps)
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the means; how they are computed depends on this device, not on the stored one."""
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        stored = zip(state_dict["param_groups"], own, strict=True)
        super().load_state_dict(state_dict | {"param_groups": [a | b for a, b in stored]})
        for group, settings in zip(self.param_groups, own, strict=True):
            group |= settings  # not a copy of the rate, which a CUDA graph may read

    def step_down(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        """Take one step down a loss; nothing but these parameters gets a gradient.

        Args:
            loss: A scalar.
            keep_graph: Whether another loss will use parts of the same graph.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters, retain_graph=keep_graph)
        self.step()


def falling_rate(rate: float, step: int, steps: int) -> float:
    """Return a learning rate that falls to 0 over the last half of the steps.

    Example:
        >>> [falling_rate(1.0, step, 8) for step in (0, 4, 6, 8)]
        [1.0, 1.0, 0.5, 0.0]
    """
    return rate * min(1.0, 2 - 2 * step / steps)
