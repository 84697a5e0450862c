"""tiny-in9 and in9-64px: ImageNet-9's questions about real photographs of 64 pixels.

`tiny-in9` lays the objects of Tiny ImageNet's photographs over other backgrounds; `in9-64px` asks
the same classifiers about ImageNet-9's own images, made as small.

Source:
    Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds in Object
    Recognition, ICLR 2021. https://arxiv.org/abs/2006.09994
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.core.clusters import Clustering
from benchmarks.core.scores import accuracy, paired_difference
from benchmarks.core.suite import DataSource, Suite
from benchmarks.suites import imagenet9
from benchmarks.suites.imagenet9 import CHANCE, IN9, IN9_CLASSES, IN9_OFFICIAL, tile_over
from benchmarks.worlds.photographs import NAME, SIZE_PX, TINY_IN9, fingerprint, photographs
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.data.preprocessing import Preprocessing
from cgn.models.cgn import compose

LARGEST_BOX = 0.9  # share of the image: beyond, nothing is left to make a background of
SMALLEST_MASK = 0.04  # share of the image
SEED = 30
CODE = (Path(__file__), Path(imagenet9.__file__))


def variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the four test sets from the validation part."""
    return with_other_backgrounds(*photographs(source, "val"))


def with_other_backgrounds(images: ImageSet, boxes: Tensor) -> dict[str, ImageSet]:
    """Lay objects over backgrounds of other images: the same objects, told apart by ids.

    Images are left out whose box leaves no room for a background, or whose object was not found.
    Backgrounds are tiled as in ImageNet-9, and not inpainted as those of the recombined training
    images are: an artefact of the one is not to be recognised in the other.

    Args:
        images: Photographs with masks.
        boxes: Their objects' boxes, (N, 4) int64.

    Returns:
        By ImageNet-9's names, sets of equal size in the same order.

    Raises:
        ValueError: If the images have no masks.
    """
    if images.masks is None:
        raise ValueError("objects are laid over other backgrounds by their masks; there are none")
    box = inside(boxes)
    share = images.masks.flatten(1).float().mean(dim=1) / 255
    usable = (box.flatten(1).float().mean(dim=1) <= LARGEST_BOX) & (share >= SMALLEST_MASK)
    images, box = images.select(usable), box[usable]
    labels = images.factors.shape
    rng = np.random.default_rng(SEED)
    tiled = tile_over(images.pixels, box)
    same = another_of_class(labels, labels, rng)
    classes = torch.from_numpy(rng.integers(len(IN9_CLASSES), size=len(labels)))
    random = another_of_class(labels, classes, rng)
    unknown = torch.full_like(labels, -1)
    return {
        "original": replace(images, masks=None),
        "mixed_same": _before(images, tiled[same], labels),
        "mixed_rand": _before(images, tiled[random], classes),
        "only_bg_t": ImageSet(tiled, Factors(labels, unknown, labels), images.ids),
    }


def inside(boxes: Tensor) -> Tensor:
    """Mark boxes (N, 4) in images of 64 pixels, (N, 1, 64, 64) bool.

    Example:
        >>> inside(torch.tensor([[0, 0, 1, 2]])).sum()
        tensor(6)
    """
    first, last = boxes[:, :2, None], boxes[:, 2:, None]
    index = torch.arange(SIZE_PX)
    column, row = ((index >= first) & (index <= last)).unbind(dim=1)
    return (row[:, :, None] & column[:, None, :])[:, None]


def another_of_class(labels: Tensor, wanted: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw for each image another image of the wanted class.

    Args:
        labels: Classes of the images, (N,) int64.
        wanted: Classes of the images that are drawn, (N,) int64.
        rng: Decides which.

    Returns:
        Indices, (N,) int64; none is its own.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> another_of_class(labels, labels, np.random.default_rng(0))
        tensor([1, 0, 3, 2])
    """
    drawn = torch.empty_like(labels)
    for label in wanted.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        here = (wanted == label).nonzero()[:, 0]
        place = torch.from_numpy(rng.integers(len(members), size=len(here)))
        # Whoever drew themselves takes one of the others, all alike.
        shift = torch.from_numpy(rng.integers(1, max(2, len(members)), size=len(here)))
        own = members[place] == here
        drawn[here] = members[torch.where(own, (place + shift) % len(members), place)]
    return drawn


def _before(images: ImageSet, backgrounds: Tensor, classes: Tensor) -> ImageSet:
    """Lay the objects of images over backgrounds (N, 3, H, W) uint8 of these classes."""
    assert images.masks is not None
    parts = (to_images(each) for each in (images.masks, images.pixels, backgrounds))
    factors = images.factors._replace(background=classes)
    return ImageSet(to_bytes(compose(*parts)), factors, images.ids)


def small_in9_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find ImageNet-9's variants and make them 64 pixels a side.

    Raises:
        ValueError: If there is no `bg_challenge` in the folder nor in one within it.
    """
    folder = source.folder
    places = [] if folder is None else [folder, *sorted(folder.iterdir())]
    found = [place for place in places if (place / "bg_challenge").is_dir()]
    if not found:
        raise ValueError(
            f"in9-64px needs ImageNet-9's bg_challenge, and {NAME} for training, in one folder; "
            f"it is not in {folder or 'no folder'} nor one folder below"
        )
    sets = imagenet9.official_variants(replace(source, folder=found[0]))
    small = Preprocessing(SIZE_PX, SIZE_PX)
    resized = {}
    for name, images in sets.items():
        # So small, all of them fit into memory, and each model need not decode them again.
        resized[name] = ImageSet(images.prepared(small).pixels, images.factors, images.ids)
    return resized


NATURAL = (
    Suite(
        name=NAME,
        question="When the background of a photograph changes, is the object still seen?",
        protocol="tiny-in9@grabcut-v1",
        clustering=Clustering(unit="photograph"),
        world=TINY_IN9,
        variants=variants,
        scores=(
            accuracy("mixed_rand", chance=CHANCE),
            accuracy("original", chance=CHANCE),
            accuracy("mixed_same", chance=CHANCE),
            paired_difference("mixed_same", "mixed_rand", metric="bg_gap"),
            accuracy(
                "mixed_rand", chance=CHANCE, metric="background_decisions", factor="background"
            ),
            replace(accuracy("only_bg_t", chance=CHANCE), higher_is_better=False),
        ),
        diagnostics=IN9.diagnostics,
        primary=IN9.primary,
        standard=IN9.standard,
        embedded=False,
        fingerprint=lambda source: fingerprint(source, *CODE),
    ),
    Suite(
        name="in9-64px",
        question="The same, on ImageNet-9's own images, made as small as those of tiny-in9",
        protocol="in9@madry-64px-v1",
        clustering=IN9_OFFICIAL.clustering,
        world=TINY_IN9,
        variants=small_in9_variants,
        scores=IN9_OFFICIAL.scores,
        diagnostics=IN9.diagnostics,
        primary=IN9.primary,
        standard=IN9.standard,
        embedded=False,
        n_images=IN9_OFFICIAL.n_images,
    ),
)
