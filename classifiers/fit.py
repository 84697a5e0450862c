"""One loop that fits every recipe, and a cache that spares the second fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cgn.cache import cache_key, open_or_make
from cgn.images import Factors, ImageSet, load_tensors, save_tensors, to_images
from cgn.loop import seeded
from cgn.model import weights_sha256
from classifiers.recipes import Recipe

PREDICTED_AT_ONCE = 500  # images

Progress = Callable[[int, int], None]


def fit(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    *,
    n_classes: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> nn.Module:
    """Fit a recipe to its training images.

    Args:
        recipe: Network, objective and schedule.
        sets: The image sets that the recipe names, and maybe others.
        n_classes: Number of classes.
        seed: Fixes the first weights and the order of the images; the caller's random state is
            left alone.
        device: Where it runs; bytes are moved there before they become floats.
        progress: Called after each step with steps done and steps in all.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ValueError: If a set that the recipe names is missing.
    """
    _require(recipe, sets)
    own = {name: sets[name] for name in recipe.trains_on}
    predictions: dict[str, Tensor] = {}
    if recipe.first is not None:
        first = fit(recipe.first, sets, n_classes=n_classes, seed=seed, device=device)
        predictions = {name: _classes(first, images, device) for name, images in own.items()}
    with seeded(seed) as generator:
        size_px = next(iter(own.values())).pixels.shape[-1]
        network = recipe.network(n_classes, size_px).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adamw = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        steps = recipe.steps_for(max(map(len, own.values())))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            adamw, recipe.learning_rate, total_steps=steps
        )
        streams = {
            name: endless(
                images,
                recipe.batch_size,
                generator,
                device,
                recipe.sampling(images.factors, predictions.get(name)),
            )
            for name, images in own.items()
        }
        for step in range(steps):
            batches = {name: next(stream) for name, stream in streams.items()}
            with torch.autocast("cuda", torch.bfloat16, enabled=batches_on_cuda(batches)):
                loss = recipe.objective(network, batches)
            adamw.zero_grad(set_to_none=True)
            loss.backward()
            adamw.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, steps)
    return network.cpu().eval()  # type: ignore[no-any-return]


def _require(recipe: Recipe, sets: Mapping[str, ImageSet]) -> None:
    """Refuse sets that lack one which the recipe names."""
    if missing := set(recipe.trains_on) - sets.keys():
        raise ValueError(f"{recipe.name} trains on {', '.join(sorted(missing))}, which is missing")


@torch.inference_mode()
def _classes(network: nn.Module, images: ImageSet, device: torch.device | str) -> Tensor:
    """Let a fitted network classify a set, (N,) int64 on the CPU."""
    network = network.to(device)
    batches = images.batches(PREDICTED_AT_ONCE, device=device)
    return torch.cat([network(batch).argmax(dim=1).cpu() for batch, _ in batches])


def batches_on_cuda(batches: Mapping[str, tuple[Tensor, Factors]]) -> bool:
    """Tell whether the batches lie on a CUDA device."""
    return next(iter(batches.values()))[0].is_cuda


def endless(
    images: ImageSet,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str,
    of_round: Tensor | None = None,
) -> Iterator[tuple[Tensor, Factors]]:
    """Go through a set again and again, each time in another order, in full batches.

    Args:
        images: The set; if a round is smaller than a batch, images repeat within the batch.
        batch_size: Images a batch.
        generator: Decides the order.
        device: Where the batches go.
        of_round: Indices of the images in one round, (M,) int64, maybe repeated; None for each
            image once.

    Yields:
        Images (B, 3, H, W) in [0, 1] and their labels.
    """
    if of_round is None:
        of_round = torch.arange(len(images))
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch_size:
            order = torch.randperm(len(of_round), generator=generator)
            queue = torch.cat([queue, of_round[order]])
        index, queue = queue[:batch_size], queue[batch_size:]
        factors = images.factors.map(lambda labels, i=index: labels[i].to(device))  # type: ignore[misc]
        batch = to_images(images.pixels[index].to(device))
        yield batch.contiguous(memory_format=torch.channels_last), factors


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
    size_px = sets[recipe.trains_on[0]].pixels.shape[-1]

    def open_(path: Path) -> nn.Module:
        tensors, _ = load_tensors(path)
        network = recipe.network(n_classes, size_px).eval()
        network.load_state_dict(tensors)
        return network

    def make(path: Path) -> None:
        network = fit(
            recipe, sets, n_classes=n_classes, seed=seed, device=device, progress=progress
        )
        save_tensors(path, network.state_dict(), {"recipe": repr(recipe), "seed": seed})

    network = open_or_make(cache / f"{recipe.name}-{key}.safetensors", open_, make)
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
    hashes = {name: sets[name].sha256() for name in recipe.trains_on}
    kind = torch.device(device).type
    parts = [_described(recipe), hashes, n_classes, seed, kind]
    return cache_key(parts, Path(__file__).parent.glob("*.py"))


def _described(recipe: Recipe | None) -> list[object]:
    """List all in a recipe that decides the weights, functions by their names."""
    if recipe is None:
        return []
    functions = (recipe.network, recipe.objective, recipe.sampling)
    made_of = [f"{function.__module__}.{function.__qualname__}" for function in functions]
    settings = (
        recipe.steps,
        recipe.epochs,
        recipe.batch_size,
        recipe.learning_rate,
        recipe.weight_decay,
    )
    return [recipe.name, made_of, settings, _described(recipe.first)]
