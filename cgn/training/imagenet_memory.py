"""How many images of the ImageNet CGN fit into one pass, and what is kept for their gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cgn.models.imagenet.cgn import ImageNetConfig

# Of a pass at 256 pixels and the published width, on an H100 that held 4.0, 9.9 and 30.3 GB at most
# with 1, 8 and 32 images: what each image takes, rounded up, and what it takes more if normalised
# maps are kept for the gradient instead of computed again, derived from their sizes.
BYTES_PER_IMAGE, KEPT_BYTES_PER_IMAGE = 900_000_000, 350_000_000
FROZEN_BYTES = 500_000_000  # the frozen networks, and what libraries need
BYTES_PER_WEIGHT = 22  # of a weight, its gradient, its three means and its bfloat16
USABLE = 0.92  # of the free memory: what is freed between blocks in use is lost


class PassPlan(NamedTuple):
    """How a process divides its share of a step into passes.

    Attributes:
        images: In a pass.
        checkpointed: Whether normalised maps are computed again for the gradient.
    """

    images: int
    checkpointed: bool


def free_bytes(device: torch.device) -> int | None:
    """Return how much more memory this process may take on a GPU; None where that is no limit."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def at_once(
    wanted: int, share: int, free: int | None, learning: int, config: ImageNetConfig
) -> PassPlan:
    """Choose how many images a pass takes.

    Args:
        wanted: How many; 0 takes the largest power of two that the memory allows.
        share: Images of a step that this process trains on.
        free: Free bytes before anything is placed; None takes one image at a time, and keeps as
            little as possible.
        learning: How many weights learn.
        config: Sizes of the networks.

    Example:
        >>> def of(gigabytes: int, wanted: int = 0) -> PassPlan:
        ...     return at_once(wanted, 2_048, gigabytes * 10**9, 168_000_000, ImageNetConfig())
        >>> of(80), of(16)
        (PassPlan(images=64, checkpointed=True), PassPlan(images=8, checkpointed=False))
        >>> of(80, 32), at_once(0, 2_048, None, 168_000_000, ImageNetConfig())
        (PassPlan(images=32, checkpointed=False), PassPlan(images=1, checkpointed=True))
    """
    if free is None:
        return PassPlan(min(wanted or 1, share), checkpointed=True)
    size = (config.image_size_px / 256) ** 2 * config.width / 128
    room = USABLE * free - BYTES_PER_WEIGHT * learning - FROZEN_BYTES

    def fits(images: int, bytes_each: int) -> bool:
        # A smaller last batch is not in the graph that the others share, whose memory stays taken.
        return (images + share % images) * bytes_each * size <= room

    images = 1
    while not wanted and 2 * images <= share and fits(2 * images, BYTES_PER_IMAGE):
        images *= 2
    images = min(wanted, share) if wanted else images
    return PassPlan(images, checkpointed=not fits(images, BYTES_PER_IMAGE + KEPT_BYTES_PER_IMAGE))
