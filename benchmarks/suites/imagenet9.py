"""in9: does a classifier decide by the object or by what is behind it?

The eight variants of ImageNet-9 for OpenMoji-9. How objects and backgrounds are drawn is not
here: see `benchmarks.worlds.openmoji`.

Source:
    Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds in Object
    Recognition, ICLR 2021. https://arxiv.org/abs/2006.09994
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.core.scores import accuracy, paired_difference
from benchmarks.core.suite import DataSource, Suite
from benchmarks.worlds.openmoji import (
    CLASSES,
    OPENMOJI9,
    Layers,
    Look,
    designs_in_turn,
    draw_scene,
    draw_scenery,
    natural,
    render,
    render_each,
    require_embedded,
)
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import compose

N_PER_CLASS = 135
ID_STRIDE = 1000  # id = design * ID_STRIDE + number of the foreground within its class
SEED = 20


def box_of(masks: Tensor) -> Tensor:
    """Mark the bounding box of each object, (B, 1, H, W) bool.

    Args:
        masks: Where the objects are, (B, 1, H, W); anything above 0 counts.

    Example:
        >>> mask = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
        >>> box_of(mask.view(1, 1, 3, 4)).int().view(3, 4)
        tensor([[0, 1, 1, 1],
                [0, 1, 1, 1],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    rows, columns = _span((masks > 0).any(dim=3)), _span((masks > 0).any(dim=2))
    return rows[:, :, :, None] & columns[:, :, None, :]


def _span(occupied: Tensor) -> Tensor:
    """Fill a row of flags (..., L) from the first that is set to the last."""
    after_first = occupied.cumsum(-1) > 0
    before_last = occupied.flip(-1).cumsum(-1).flip(-1) > 0
    return after_first & before_last


def tile_over(images: Tensor, box: Tensor) -> Tensor:
    """Cover each box with copies of the widest strip of the image beside it.

    Args:
        images: Images (B, 3, H, W).
        box: Where to cover, (B, 1, H, W) bool: one box an image, not all of the image.

    Returns:
        Images (B, 3, H, W) whose pixels in the box come from outside of it.

    Example:
        >>> row = torch.tensor([[1, 2, 9, 9, 9, 9]]).expand(3, 1, 1, 6)
        >>> box = torch.tensor([0, 0, 1, 1, 1, 1], dtype=torch.bool).expand(3, 1, 1, 6)
        >>> tile_over(row, box)[0, 0]
        tensor([[1, 2, 1, 2, 1, 2]])
    """
    rows, columns = box.any(dim=3)[:, 0].int(), box.any(dim=2)[:, 0].int()
    (above, below), (left, right) = _margins(rows), _margins(columns)
    widths = torch.stack([above, below, left, right])
    width, side = widths.max(dim=0)
    vertical, at_end = side < 2, side % 2 == 1
    row = _wrap(rows.shape[1], width, at_end & vertical, vertical)
    column = _wrap(columns.shape[1], width, at_end & ~vertical, ~vertical)
    batch = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(images.shape[1])[:, None, None]
    tiled = images[batch, channel, row[:, None, :, None], column[:, None, None, :]]
    return torch.where(box, tiled, images)


def _margins(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Free places before and after the flags that are set, each (B,)."""
    return occupied.argmax(dim=1), occupied.flip(1).argmax(dim=1)


def _wrap(length: int, width: Tensor, at_end: Tensor, tiled: Tensor) -> Tensor:
    """Indices 0 … length - 1, those of tiled axes folded into the strip at one end, (B, L)."""
    index = torch.arange(length)
    start = torch.where(at_end, length - width, 0)[:, None]
    folded = start + (index - start) % width[:, None]
    return torch.where(tiled[:, None], folded, index)


def object_on_black(layers: Layers) -> Tensor:
    """Finish as in only_fg: nothing behind the object."""
    return compose(layers.mask, layers.foreground, torch.zeros_like(layers.background))


def silhouette_blacked(layers: Layers) -> Tensor:
    """Finish as in no_fg: a black object, whose outline still shows."""
    return compose(layers.mask, torch.zeros_like(layers.foreground), layers.background)


def box_blacked(layers: Layers) -> Tensor:
    """Finish as in only_bg_b: a black box where the object is."""
    return layers.background * ~box_of(layers.mask)


def box_tiled(layers: Layers) -> Tensor:
    """Finish as in only_bg_t: background where the object is."""
    return tile_over(layers.background, box_of(layers.mask))


def variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the eight test sets: the same foregrounds, told apart by their ids.

    The shape label is always the class that accuracy asks for, also where no object is left to
    see; a texture or a background that is not to be seen is labelled -1. Images of designs that
    were never trained on are those with `ALL_DESIGNS[id // ID_STRIDE].unseen`.

    Returns:
        By the official names, sets of equal size in the same order.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    labels, designs = designs_in_turn(N_PER_CLASS)
    ids = designs * ID_STRIDE + torch.arange(N_PER_CLASS).repeat(len(CLASSES))
    scene = draw_scene(designs, labels, labels, rng)
    unknown = torch.full_like(labels, -1)

    object_hidden = Factors(labels, unknown, labels)
    own = {
        "original": Look(natural, scene.factors),
        "only_bg_b": Look(box_blacked, object_hidden),
        "only_bg_t": Look(box_tiled, object_hidden),
        "no_fg": Look(silhouette_blacked, object_hidden),
        "only_fg": Look(object_on_black, Factors(labels, labels, unknown)),
    }
    others = {
        "mixed_same": labels,
        "mixed_rand": torch.from_numpy(rng.integers(len(CLASSES), size=len(labels))),
        "mixed_next": (labels + 1) % len(CLASSES),
    }
    return render_each(scene, ids, own) | {
        name: render(replace(scene, scenery=draw_scenery(backgrounds, rng)), ids)
        for name, backgrounds in others.items()
    }


CHANCE = 1 / len(CLASSES)

IN9 = Suite(
    name="in9",
    question="When the background changes, does the classifier still see the object?",
    protocol="in9@openmoji-v1",
    world=OPENMOJI9,
    variants=variants,
    scores=(
        accuracy("mixed_rand", chance=CHANCE),
        accuracy("original", chance=CHANCE),
        accuracy("mixed_same", chance=CHANCE),
        accuracy("mixed_next", chance=CHANCE),
        paired_difference("mixed_same", "mixed_rand", metric="bg_gap"),
        accuracy("mixed_rand", chance=CHANCE, metric="background_decisions", factor="background"),
        accuracy("only_fg", chance=CHANCE),
        accuracy("no_fg", chance=CHANCE),
        replace(accuracy("only_bg_b", chance=CHANCE), higher_is_better=False),
        replace(accuracy("only_bg_t", chance=CHANCE), higher_is_better=False),
    ),
    primary="mixed_rand_accuracy",
    standard="original_accuracy",
)
