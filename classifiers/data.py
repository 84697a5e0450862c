"""What each step of a fit sees: which images, how they are augmented, how they reach the device.

Source:
    Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020.
    https://arxiv.org/abs/1911.08731
    Liu et al., Just Train Twice, ICML 2021. https://arxiv.org/abs/2107.09044
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_images
from cgn.device.distributed import dist_info
from cgn.device.transfer import prefetch, sent
from classifiers.objectives.basic import Batches
from classifiers.objectives.debiasing import agrees

# From labels (N,) and the identification model's classes, (N,) int64 or None without one, to
# indices into the set, (M,) int64, in which an image may occur several times.
Sampling = Callable[[Factors, Tensor | None], Tensor]
# From images (B, 3, H, W) in [0, 1] and numbers (B, N_NUMBERS) in [0, 1) to images.
Augmentation = Callable[[Tensor, Tensor], Tensor]

# How often an error counts: the factor of the authors' command for Waterbirds, the paper's first
# data set. They choose it on validation images with group labels, which we do not have.
UPWEIGHT = 100
N_NUMBERS = 5  # random numbers for each image
MIN_CROP = 0.35  # share of the image's area
STEPS_AT_ONCE = 100  # steps whose random numbers are drawn, and sent to a GPU, together


def uniform(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Take each image once.

    Example:
        >>> uniform(Factors.aligned(torch.tensor([4, 2, 4])), None)
        tensor([0, 1, 2])
    """
    return torch.arange(len(factors.shape))


def balanced_environments(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Repeat images until those that agree with their class are as many as the others.

    Returns:
        Indices, (M,) int64; each image once if all are of one kind.

    Example:
        >>> shape, texture = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0])
        >>> balanced_environments(Factors(shape, texture, shape), None)
        tensor([3, 3, 3, 0, 1, 2])
    """
    return _balance(agrees(factors).long())


def balanced_groups(factors: Factors, predictions: Tensor | None) -> Tensor:
    """Repeat images until each group that exists is as large as the largest.

    The groups are, for each class, the images that agree with it, and the others.

    Source:
        Sagawa et al., group-balanced batches.

    Example:
        >>> shape, texture = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
        >>> balanced_groups(Factors(shape, texture, shape), None)
        tensor([2, 2, 0, 1, 3, 3])
    """
    return _balance(2 * factors.shape + agrees(factors).long())


def _balance(groups: Tensor) -> Tensor:
    """Cycle through each group until all have as many indices as the largest, (M,) int64."""
    members = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
    turns = torch.arange(max(map(len, members)))
    return torch.cat([index[turns % len(index)] for index in members])


def upweighted_errors(
    factors: Factors, predictions: Tensor | None, *, times: int = UPWEIGHT
) -> Tensor:
    """Take each image once, and those that the identification model got wrong several times.

    Raises:
        ValueError: If there was no identification model.

    Source:
        Liu et al., algorithm 1.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> upweighted_errors(Factors.aligned(labels), torch.tensor([0, 1, 0])).bincount()
        tensor([  1,   1, 100])
    """
    if predictions is None:
        raise ValueError(
            "errors are upweighted after an identification model; name one in the recipe"
        )
    counts = torch.where(predictions == factors.shape, 1, times)
    return torch.arange(len(counts)).repeat_interleave(counts)


def identity(images: Tensor, numbers: Tensor) -> Tensor:
    """Return images unchanged.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> identity(images, torch.rand(2, N_NUMBERS)) is images
        True
    """
    return images


def flip_and_crop(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirror half of the images, and stretch a random part of each to the size of the image.

    Args:
        images: (B, 3, H, W) in [0, 1].
        numbers: (B, N_NUMBERS) in [0, 1), drawn for the whole batch, so that processes that share
            a batch change each image as a single process would.

    Returns:
        (B, 3, H, W) in [0, 1]: bilinear crops of 35 to 100 % of the area, their sides in a ratio
        of 3:4 to 4:3.

    Source:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, with a larger smallest part.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 0.5)
        >>> round(flip_and_crop(images, torch.rand(1, N_NUMBERS)).std().item(), 5)
        0.0
    """
    area = MIN_CROP + (1 - MIN_CROP) * numbers[:, 1]
    ratio = (4 / 3) ** (2 * numbers[:, 2] - 1)
    across, down = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))
    sign = torch.where(numbers[:, 0] > 0.5, -1.0, 1.0)
    zero = torch.zeros_like(area)
    to_x, to_y = ((1 - side) * (2 * numbers[:, 3 + i] - 1) for i, side in enumerate((across, down)))
    rows = [torch.stack(row, dim=1) for row in ((sign * across, zero, to_x), (zero, down, to_y))]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    crops = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return crops.clamp(0, 1)


AUGMENTATIONS: dict[str, Augmentation] = {"none": identity, "crop": flip_and_crop}


class Source(NamedTuple):
    """Where the images of one set come from in each step.

    Attributes:
        images: The set.
        round_: Indices of the images in one round, (M,) int64, maybe repeated.
        batch_size: Images in a step, over all processes.
    """

    images: ImageSet
    round_: Tensor
    batch_size: int


# For each set the images of a step, (B,) int64, and the numbers that change them, (B, N_NUMBERS).
Draw = Mapping[str, tuple[Tensor, Tensor]]


def iterate_batches(
    sources: Mapping[str, Source],
    augment: Augmentation,
    steps: range,
    generator: torch.Generator,
    *,
    seed: int,
    device: torch.device,
) -> Iterator[Batches]:
    """Read and augment the batches of a fit, each while the network learns from those before.

    A step of sets that are `resident` on a GPU touches no host memory.

    Args:
        sources: By set.
        augment: How images are changed.
        steps: The steps that are left; they see what they would in an uninterrupted fit.
        generator: Decides the order.
        seed: Decides the numbers for `augment`.
        device: Where the batches go.

    Raises:
        ValueError: If processes cannot share a batch evenly.
    """
    sets = {name: source.images.resident(device) for name, source in sources.items()}
    draws = _draw_steps(sources, generator, torch.Generator().manual_seed(seed))
    own = map(_shard, islice(draws, steps.start, steps.stop))

    def read(draw: Draw) -> Batches:
        batches = {}
        for name, (index, numbers) in draw.items():
            images, factors = fetch_batch(sets[name], index, device)
            batches[name] = augment(images, numbers), factors
        return batches

    on_device = _send_draws(own, sets, device)
    if all(images.factors.shape.is_cuda for images in sets.values()):
        return map(read, on_device)
    return prefetch(read, on_device)


def _draw_steps(
    sources: Mapping[str, Source], generator: torch.Generator, numbers: torch.Generator
) -> Iterator[Draw]:
    """Draw the images of one step after the other, the same in all processes."""
    streams = {
        name: infinite_sampler(source.round_, source.batch_size, generator)
        for name, source in sources.items()
    }
    while True:
        indices = {name: next(stream) for name, stream in streams.items()}
        yield {
            name: (index, torch.rand(len(index), N_NUMBERS, generator=numbers))
            for name, index in indices.items()
        }


def _shard(draw: Draw) -> Draw:
    """Return this process's share of a step."""
    rank, n_processes = dist_info()
    for name, (index, _) in draw.items():
        if len(index) % n_processes:
            raise ValueError(
                f"batches of {len(index)} {name} images cannot be shared evenly by {n_processes} "
                "processes; choose a multiple"
            )
    own = slice(rank, None, n_processes)
    return {name: (index[own], numbers[own]) for name, (index, numbers) in draw.items()}


def _send_draws(
    draws: Iterator[Draw], sets: Mapping[str, ImageSet], device: torch.device
) -> Iterator[Draw]:
    """Send many steps together: indices to where the images are, numbers to the device."""
    while several := list(islice(draws, STEPS_AT_ONCE)):
        on_device = {}
        for name, images in sets.items():
            index, numbers = (
                torch.stack(steps) for steps in zip(*(d[name] for d in several), strict=True)
            )
            on_device[name] = sent(index, images.factors.shape.device), sent(numbers, device)
        for step in range(len(several)):
            yield {
                name: (index[step], numbers[step]) for name, (index, numbers) in on_device.items()
            }


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
    round_: Tensor, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Go through a set again and again, each time in another order, in full batches.

    Args:
        round_: Indices of the images in one round, (M,) int64; if they are fewer than a batch,
            images repeat within the batch.
        batch_size: B.
        generator: Decides the order.

    Yields:
        Indices, (B,) int64.

    Example:
        >>> batches = infinite_sampler(torch.arange(4), 2, torch.Generator().manual_seed(0))
        >>> sorted((next(batches).tolist() + next(batches).tolist()))
        [0, 1, 2, 3]
    """
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch_size:
            order = torch.randperm(len(round_), generator=generator)
            queue = torch.cat([queue, round_[order]])
        index, queue = queue[:batch_size], queue[batch_size:]
        yield index
