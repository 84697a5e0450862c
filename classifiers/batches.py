"""What each step of a fit sees: which images, what is done to them, and how they reach the device.

Which images a round has is not here: see `classifiers.sampling`; nor how they are changed:
`classifiers.augmentation`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor, distributed

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_images
from cgn.device.distributed import dist_info
from cgn.device.transfer import sent
from classifiers.augmentation import N_NUMBERS
from classifiers.objectives.basic import Batches
from classifiers.recipes import Recipe

AHEAD = 2  # batches that are read before they are asked for
TOGETHER = 100  # steps that are drawn, and sent to a GPU, together

# For each set the images of a step, (B,) int64, and the numbers that change them, (B, N_NUMBERS).
Drawn = Mapping[str, tuple[Tensor, Tensor]]


def batches_of(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    predictions: Mapping[str, Tensor],
    steps: range,
    generator: torch.Generator,
    seed: int,
    device: torch.device,
) -> Iterator[Batches]:
    """Make the batches of a fit, each while the network learns from those before.

    A GPU has all it needs for it, indices of many steps and the images themselves: a step of sets
    that are `resident` there touches no host memory.

    Args:
        recipe: Which images, how many at once, and what is done to them.
        sets: Those that it trains on.
        predictions: By set, what the recipe's first network saw, if it has one.
        steps: Those that are left; they get what they get in an uninterrupted fit.
        generator: Decides the order.
        seed: Of how images are changed.
        device: Where they go.

    Yields:
        A batch of each set.

    Raises:
        ValueError: If processes cannot share a batch evenly.
    """
    there = {name: images.resident(device) for name, images in sets.items()}
    draws = _draws(recipe, sets, predictions, generator, torch.Generator().manual_seed(seed))
    left = (_shard(drawn) for drawn in islice(draws, steps.start, steps.stop))
    made = (_batches(recipe, there, drawn, device) for drawn in _sent(left, there, device))
    resident = all(images.factors.shape.is_cuda for images in there.values())
    return made if resident else _prefetch(made)


def _sent(
    drawn: Iterator[Drawn], sets: Mapping[str, ImageSet], device: torch.device
) -> Iterator[Drawn]:
    """Send what was drawn for many steps together: indices to the images, numbers to the device."""
    while several := list(islice(drawn, TOGETHER)):
        there = {}
        for name, images in sets.items():
            index, numbers = (
                torch.stack(each) for each in zip(*(d[name] for d in several), strict=True)
            )
            there[name] = sent(index, images.factors.shape.device), sent(numbers, device)
        for step in range(len(several)):
            yield {name: (index[step], numbers[step]) for name, (index, numbers) in there.items()}


def _prefetch(batches: Iterator[Batches]) -> Iterator[Batches]:
    """Make each batch while the one before is learned from."""
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(next, batches, None) for _ in range(AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, batches, None))
            yield batch


def _shard(drawn: Drawn) -> Drawn:
    """Return this process's share of what was drawn for all of them."""
    if not distributed.is_initialized():
        return drawn
    rank, n_processes = dist_info()
    for name, (index, _) in drawn.items():
        if len(index) % n_processes:
            raise ValueError(
                f"batches of {len(index)} {name} images cannot be shared evenly by {n_processes} "
                "processes; choose a multiple"
            )
    mine = slice(rank, None, n_processes)
    return {name: (index[mine], numbers[mine]) for name, (index, numbers) in drawn.items()}


def _draws(
    recipe: Recipe,
    sets: Mapping[str, ImageSet],
    predictions: Mapping[str, Tensor],
    generator: torch.Generator,
    changes: torch.Generator,
) -> Iterator[Drawn]:
    """Draw the images of one step after the other; which they are is the same in all processes."""
    streams = {
        name: infinite_sampler(
            recipe.sampling(images.factors, predictions.get(name)),
            recipe.batch_size_of(name),
            generator,
        )
        for name, images in sets.items()
    }
    while True:
        drawn = {name: next(stream) for name, stream in streams.items()}
        yield {
            name: (index, torch.rand(len(index), N_NUMBERS, generator=changes))
            for name, index in drawn.items()
        }


def _batches(
    recipe: Recipe, sets: Mapping[str, ImageSet], drawn: Drawn, device: torch.device
) -> dict[str, tuple[Tensor, Factors]]:
    """Read and augment what was drawn."""
    batches = {}
    for name, (index, numbers) in drawn.items():
        images, factors = fetch_batch(sets[name], index, device)
        batches[name] = recipe.augment(images, numbers), factors
    return batches


def fetch_batch(
    images: ImageSet, index: Tensor, device: torch.device | str
) -> tuple[Tensor, Factors]:
    """Take some images of a set, (B, 3, H, W) in [0, 1], and their labels to a device.

    Args:
        images: The set; it may be `resident` on the device.
        index: Which images, (B,) int64, where the set's labels are.
        device: Where they go.
    """
    factors = images.factors.map(lambda labels: sent(labels[index], device))
    batch = to_images(sent(images.read(index), device))
    return batch.contiguous(memory_format=torch.channels_last), factors


def infinite_sampler(
    of_round: Tensor, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Go through a set again and again, each time in another order, in full batches.

    Args:
        of_round: Indices of the images in one round, (M,) int64, maybe repeated; if they are fewer
            than a batch, images repeat within the batch.
        batch_size: Images a batch.
        generator: Decides the order.

    Yields:
        Indices, (B,) int64.
    """
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch_size:
            order = torch.randperm(len(of_round), generator=generator)
            queue = torch.cat([queue, of_round[order]])
        index, queue = queue[:batch_size], queue[batch_size:]
        yield index
