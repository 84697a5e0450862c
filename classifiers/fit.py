"""One loop that fits every recipe, in one process or many, and a cache of what was fitted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.device.distributed import dist_info
from cgn.device.graphs import Captured
from cgn.device.precision import evaluating, supports_bfloat16, training
from cgn.io.cache import LIBRARIES, cache_key, open_or_make, sources, versions, weights_sha256
from cgn.io.locks import locked_if
from cgn.io.weights import load_tensors, misfit, save_tensors
from cgn.io.writing import require_room
from cgn.training.checkpoints import Checkpoint, Stateful
from cgn.training.loop import EMA, seeded, train_loop
from classifiers.data import Source, iterate_batches
from classifiers.held_out import hold_out, learn_join
from classifiers.networks.backbones import Backbone
from classifiers.networks.pretrained import pin_spec
from classifiers.networks.small import as_ensemble
from classifiers.objectives.basic import Batches, Objective
from classifiers.recipes import Recipe

PREDICTED_AT_ONCE = 500  # images
GRAPH_PX = 64  # of images: launches bound the fit of networks that look at smaller ones
CHECKPOINT_STEPS = 200  # steps between checkpoints

Progress = Callable[[int, int], None]


def fit(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    *,
    n_classes: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    keep: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """Fit a recipe to its training images.

    Under `torchrun`, once a process group is there, each process takes its share of each batch,
    and all end with the same weights: those of a single process, but for rounding, where no layer
    mixes the images of a batch (see `Recipe.frozen_norms`).

    Args:
        recipe: Network, objective and schedule.
        sets: The image sets that the recipe names, and maybe others; "biased" always counts for the
            number of steps.
        n_classes: Number of classes.
        seed: Fixes the first weights and the order of the images; the caller's random state is
            left alone.
        device: Where it runs; bytes are moved there before they become floats.
        progress: Called after each step with steps done and steps in all.
        checkpoint: File kept up to date during the fit and resumed from if it is there.
        keep: Called in the leading process with what is returned, before the checkpoint goes.

    Returns:
        The network on the CPU, in evaluation mode. One seed gives the same weights on one CPU,
        interrupted or not; where it computes in bfloat16, some networks' last bits may differ. On
        CUDA they differ from fit to fit, for gradients are added up in any order there.

    Raises:
        ValueError: If a set that the recipe names is missing, a batch cannot be shared evenly,
            or the checkpoint belongs to another fit.
    """
    _require(recipe, sets)
    own = {name: sets[name] for name in recipe.trains_on}
    steps = recipe.steps_for({name: len(images) for name, images in sets.items()})
    own, held_out = hold_out(own, seed) if recipe.nuisances else (own, {})
    predictions: dict[str, Tensor] = {}
    if recipe.identification_model is not None:
        first = fit(
            recipe.identification_model, sets, n_classes=n_classes, seed=seed, device=device
        )
        predictions = {name: _predict(first, images, device) for name, images in own.items()}
    sources = {
        name: Source(
            images,
            recipe.sampling(images.factors, predictions.get(name)),
            recipe.batch_size_of(name),
        )
        for name, images in own.items()
    }
    alone = locked_if(checkpoint if dist_info().is_main_process else None)
    with alone, seeded(seed, device) as generator, training(device):
        run = Fitting(recipe, n_classes, _size_px(own), steps, device)
        saved = Checkpoint(None, {}, "")
        if checkpoint is not None:
            key = _key(recipe, sets, n_classes=n_classes, seed=seed, device=device)
            require_room(checkpoint.parent, _checkpoint_bytes(run.network))
            saved = Checkpoint(checkpoint, run.parts(), f"{key} {weights_sha256(run.network)}")
            run.step = saved.resume()
        batches = iterate_batches(
            sources, recipe.augment, range(run.step, steps), generator, seed=seed, device=run.device
        )

        def train_steps(n: int) -> dict[str, Tensor]:
            for _ in range(n):
                run.train_step(next(batches))
            return {}

        def save(step: int) -> None:
            if dist_info().is_main_process:
                saved.save(step)

        try:
            train_loop(
                run,
                train_steps,
                steps,
                checkpoint_steps=CHECKPOINT_STEPS,
                save=save,
                progress=None if progress is None else lambda step, steps, _: progress(step, steps),
            )
        finally:
            saved.wait()
        network = run.averaged.eval()
        if recipe.nuisances:
            learn_join(as_ensemble(network), held_out, recipe.nuisances, device)
        network = network.cpu()
        if dist_info().is_main_process:
            if keep is not None:
                keep(network)
            saved.discard()
    return network


def _require(recipe: Recipe, sets: Mapping[str, ImageSet]) -> None:
    """Refuse sets that lack one which the recipe names."""
    if missing := set(recipe.trains_on) - sets.keys():
        raise ValueError(f"{recipe.name} trains on {', '.join(sorted(missing))}, which is missing")


@torch.inference_mode()
def _predict(network: nn.Module, images: ImageSet, device: torch.device | str) -> Tensor:
    """Let a fitted network classify a set, (N,) int64 on the CPU."""
    network = network.to(device)
    batches = images.batches(PREDICTED_AT_ONCE, device=device)
    with evaluating(device):
        return torch.cat([network(batch).argmax(dim=1) for batch, _ in batches]).cpu()


class Fitting:
    """A fit in progress.

    Attributes:
        recipe: What is fitted.
        network: The network that learns.
        device: Where.
        step: Steps done.
    """

    def __init__(
        self, recipe: Recipe, n_classes: int, size_px: int, steps: int, device: torch.device | str
    ) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.network: nn.Module = recipe.network(n_classes, size_px).to(
            self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.loss: nn.Module = Loss(self.network, recipe.objective)
        if distributed.is_initialized():
            if self.device.type == "cuda" and not recipe.frozen_norms:
                self.loss = nn.SyncBatchNorm.convert_sync_batchnorm(self.loss)
                self.network = self.loss.network  # type: ignore[assignment]
            self.loss = DistributedDataParallel(self.loss)
        self.optimiser, self.schedule = recipe.schedule(
            self.network.parameters(), recipe.learning_rate, recipe.weight_decay, steps
        )
        self.averaged, self.ema = self.network, None
        if recipe.ema_decay:
            self.averaged = copy.deepcopy(self.network)
            self.ema = EMA(_tensors(self.network), _tensors(self.averaged), recipe.ema_decay)
        self.step = 0
        # Larger images keep a GPU busy as it is, and several processes meet within a step.
        small = size_px <= GRAPH_PX and not distributed.is_initialized()
        self._differentiated = Captured(self._differentiate, record=small)

    def train_step(self, batches: Batches) -> None:
        """Take one step, whose gradients are a graph on CUDA if images are small."""
        self.network.train()
        if self.recipe.frozen_norms:
            freeze_norms(self.network)
        self._differentiated(
            *(tensor for images, factors in batches.values() for tensor in (images, *factors))
        )
        self.optimiser.step()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.step)
        self.step += 1

    def _differentiate(self, *tensors: Tensor) -> Tensor:
        """Compute gradients from the images and labels of each set in turn; return the loss."""
        sets = (tensors[start : start + 4] for start in range(0, len(tensors), 4))
        named = zip(self.recipe.trains_on, sets, strict=True)
        batches = {name: (images, Factors(*labels)) for name, (images, *labels) in named}
        kind = self.device.type
        low = self.recipe.bfloat16 and supports_bfloat16(self.device)
        # A graph would keep casts of weights as they were.
        with torch.autocast(kind, torch.bfloat16, enabled=low, cache_enabled=kind != "cuda"):
            loss: Tensor = self.loss(batches)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def parts(self) -> dict[str, Stateful]:
        """Return all that changes from step to step."""
        parts: dict[str, Stateful] = {
            "network": self.network,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }
        return parts if self.ema is None else parts | {"ema": self.ema}


def _tensors(network: nn.Module) -> list[Tensor]:
    """List weights and buffers."""
    return [*network.parameters(), *network.buffers()]


class Loss(nn.Module):
    """A network and what it minimises, as one module: what DDP synchronises is its forward pass."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batches: Batches) -> Tensor:
        """Return the objective, scalar."""
        return self.objective(self.network, batches)


def freeze_norms(network: nn.Module) -> None:
    """Let batch norms use the statistics they came with, and keep them.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm2d(3)).train()
        >>> freeze_norms(network)
        >>> network[0].training, network.training
        (False, True)
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _checkpoint_bytes(network: nn.Module) -> int:
    """How much a checkpoint takes at least: weights, and what the optimiser keeps of each."""
    return 2 * sum(weight.nbytes for weight in network.parameters())


def _size_px(sets: Mapping[str, ImageSet]) -> int:
    """Return the height and width of the images."""
    return next(iter(sets.values())).size_px[1]


def fit_cached(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    *,
    n_classes: int,
    seed: int,
    cache: Path,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[nn.Module, str]:
    """Fit a recipe, or take up the weights of an earlier fit to the very same things.

    Args:
        recipe: As for `fit`, and so are the other arguments.
        sets: Their hashes, the recipe, the seed, the kind of device and this package's code are
            the key.
        n_classes: Number of classes.
        seed: As for `fit`.
        cache: Folder for the weights.
        device: As for `fit`.
        progress: As for `fit`; not called when the weights are there.

    Returns:
        The network on the CPU, in evaluation mode, and the sha256 of its weights.

    Raises:
        ValueError: If a set is missing.
    """
    _require(recipe, sets)
    key = _key(recipe, sets, n_classes=n_classes, seed=seed, device=device)
    size_px = _size_px({name: sets[name] for name in recipe.trains_on})
    path = cache / f"{recipe.name}-{key}.safetensors"

    def open_(path: Path) -> nn.Module:
        tensors, _ = load_tensors(path)
        network = recipe.network(n_classes, size_px).eval()
        if problem := misfit(network, tensors):
            raise ValueError(f"{path} holds other weights: {problem}")
        network.load_state_dict(tensors)
        return network

    def save(network: nn.Module) -> None:
        save_tensors(path, network.state_dict(), {"recipe": repr(recipe), "seed": seed})

    def make(path: Path) -> None:
        fit(
            recipe,
            sets,
            n_classes=n_classes,
            seed=seed,
            device=device,
            progress=progress,
            checkpoint=path.with_suffix(".checkpoint"),
            keep=save,
        )

    network = open_or_make(path, open_, make)
    return network, weights_sha256(network)


def _key(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    *,
    n_classes: int,
    seed: int,
    device: torch.device | str,
) -> str:
    """Hash all that decides the weights."""
    shown = {name: sets[name].fingerprint() for name in recipe.trains_on}
    kind = torch.device(device).type, supports_bfloat16(device)
    steps = _all_steps(recipe, {name: len(images) for name, images in sets.items()})
    parts = [_described(recipe), steps, shown, n_classes, seed, kind, versions(*LIBRARIES)]
    return cache_key(parts, sources("classifiers.fit"))


def _all_steps(recipe: Recipe, n_images: Mapping[str, int]) -> list[int]:
    """Count the optimiser steps of a recipe, then those of its identification model."""
    first = recipe.identification_model
    return [recipe.steps_for(n_images), *(_all_steps(first, n_images) if first else ())]


def _described(recipe: Recipe | None) -> list[object]:
    """List all in a recipe that decides the weights."""
    if recipe is None:
        return []
    made_of: tuple[Callable[..., Any], ...] = (
        recipe.network,
        recipe.objective,
        recipe.sampling,
        recipe.schedule,
        recipe.augment,
    )
    settings = (
        recipe.nuisances,
        recipe.batch_size,
        recipe.ratio,
        recipe.learning_rate,
        recipe.weight_decay,
        recipe.ema_decay,
        recipe.frozen_norms,
        recipe.bfloat16,
    )
    return [
        recipe.name,
        [_named(each) for each in made_of],
        settings,
        _described(recipe.identification_model),
    ]


def _named(function: Callable[..., Any]) -> str:
    """Name a function or a class; describe what is no more than its settings."""
    if isinstance(function, Backbone):
        return f"{function!r} {pin_spec(function.spec)}"
    if isinstance(function, partial):
        return f"{_named(function.func)} {function.keywords}"
    if not hasattr(function, "__qualname__"):
        return repr(function)
    return f"{function.__module__}.{function.__qualname__}"
