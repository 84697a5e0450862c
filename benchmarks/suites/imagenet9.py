"""in9: does a classifier decide by the object or by what is behind it?

The eight variants of ImageNet-9, drawn with OpenMoji-9, and as they were published.

Source:
    Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds in Object
    Recognition, ICLR 2021. https://arxiv.org/abs/2006.09994
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.core.calibration import calibration_scores
from benchmarks.core.clusters import Clustering
from benchmarks.core.scores import accuracy, paired_difference
from benchmarks.core.suite import DataSource, InputOverride, Protocol, Suite
from benchmarks.data.class_folders import folder_of, list_classes
from benchmarks.suites.decisions import decide_in9, in9_outputs, most_probable_mapped
from benchmarks.worlds.glyphs import CLASSES, glyphs_in_turn
from benchmarks.worlds.imagenet import IMAGENET, SIZE_PX, classes_of
from benchmarks.worlds.openmoji import OPENMOJI9, require_embedded
from benchmarks.worlds.scenes import (
    Layers,
    RenderStyle,
    draw_background_texture,
    draw_scene,
    object_on_background,
    render,
    render_each,
)
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import IMAGENET as IMAGENET_PREPROCESSING
from cgn.models.cgn import compose

N_PER_CLASS = 135
ID_STRIDE = 1000  # id = glyph * ID_STRIDE + number of the foreground within its class
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
    """Draw the object on black, as in only_fg."""
    return compose(layers.mask, layers.foreground, torch.zeros_like(layers.background))


def black_silhouette(layers: Layers) -> Tensor:
    """Draw a black object, whose outline still shows, as in no_fg."""
    return compose(layers.mask, torch.zeros_like(layers.foreground), layers.background)


def black_box(layers: Layers) -> Tensor:
    """Draw a black box over the object, as in only_bg_b."""
    return layers.background * ~box_of(layers.mask)


def tiled_box(layers: Layers) -> Tensor:
    """Draw background over the object, as in only_bg_t."""
    return tile_over(layers.background, box_of(layers.mask))


def variants(source: DataSource, n_per_class: int = N_PER_CLASS) -> dict[str, ImageSet]:
    """Make the eight test sets of the same foregrounds, which have the same ids.

    The shape label is always the class that accuracy asks for, even where no object is visible; a
    texture or a background that is not visible has the label -1. Images of held-out glyphs are
    those with `GLYPHS[id // ID_STRIDE].held_out`.

    Returns:
        By the official names, sets of equal size in the same order.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    labels, glyphs = glyphs_in_turn(n_per_class)
    ids = glyphs * ID_STRIDE + torch.arange(n_per_class).repeat(len(CLASSES))
    scene = draw_scene(glyphs, labels, labels, rng)
    unknown = torch.full_like(labels, -1)

    object_hidden = Factors(labels, unknown, labels)
    own = {
        "original": RenderStyle(object_on_background, scene.factors),
        "only_bg_b": RenderStyle(black_box, object_hidden),
        "only_bg_t": RenderStyle(tiled_box, object_hidden),
        "no_fg": RenderStyle(black_silhouette, object_hidden),
        "only_fg": RenderStyle(object_on_black, Factors(labels, labels, unknown)),
    }
    others = {
        "mixed_same": labels,
        "mixed_rand": torch.from_numpy(rng.integers(len(CLASSES), size=len(labels))),
        "mixed_next": (labels + 1) % len(CLASSES),
    }
    return render_each(scene, ids, own) | {
        name: render(
            replace(scene, background_texture=draw_background_texture(backgrounds, rng)), ids
        )
        for name, backgrounds in others.items()
    }


CHANCE = 1 / len(CLASSES)

IN9 = Suite(
    name="in9",
    question="When the background changes, does the classifier still see the object?",
    protocol="in9@openmoji-v2",
    predictions_protocol="in9@openmoji-v1",  # whose intervals took each image for a drawing
    clustering=Clustering(unit="drawing", of=lambda ids: ids // ID_STRIDE),
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
    diagnostics=calibration_scores("mixed_rand", chance=CHANCE),
    primary="mixed_rand_accuracy",
    standard="original_accuracy",
)

IN9_CLASSES = tuple(classes_of("in9"))
IN9_VARIANTS = tuple(dict.fromkeys(v for s in IN9.scores for v in s.variants))
# The object comes first in a name, in the mixed variants followed by what is behind it.
FOREGROUND = re.compile(r"(?:fg_)?(n\d+(?:_\d+)?)")
BACKGROUND = re.compile(r"_bg_(\d\d)_")


def official_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find the eight variants in `bg_challenge/<variant>/val/<class>`, 224 px, as they are.

    Returns:
        By name, images whose ids tell their foregrounds. Labels are as in the embedded suite; the
        background of mixed_rand is known where the file's name has it.

    Raises:
        ValueError: If a variant or a class is missing, or a file's name has no foreground.
    """
    folder = folder_of(source, "bg_challenge")
    numbers: dict[str, int] = {}
    sets: dict[str, ImageSet] = {}
    for variant in IN9_VARIANTS:
        paths, labels = list_classes(folder / variant / "val", IN9_CLASSES)
        ids = []
        for path in paths:
            match = FOREGROUND.match(path.stem)
            if match is None:
                raise ValueError(f"{path} does not begin with an ImageNet wnid, as in n02085620_1")
            ids.append(numbers.setdefault(match[1], len(numbers)))
        sets[variant] = ImageSet(
            FileReader(paths, SIZE_PX), _visible_factors(variant, paths, labels), torch.tensor(ids)
        )
    return sets


def _visible_factors(variant: str, paths: Sequence[Path], labels: Tensor) -> Factors:
    """Labels of what is visible; -1 where nothing is, or it is not known."""
    unknown = torch.full_like(labels, -1)
    has_object = not variant.startswith(("only_bg", "no_fg"))
    texture = labels if has_object else unknown
    if variant == "only_fg":
        return Factors(labels, texture, unknown)
    if variant == "mixed_next":
        return Factors(labels, texture, (labels + 1) % len(IN9_CLASSES))
    if variant == "mixed_rand":
        matches = [BACKGROUND.search(path.stem) for path in paths]
        return Factors(labels, texture, torch.tensor([int(m[1]) if m else -1 for m in matches]))
    return Factors(labels, texture, labels)


RESIZED = InputOverride(name="resize256", preprocessing=IMAGENET_PREPROCESSING)

IN9_OFFICIAL = Suite(
    name="in9-official",
    question=IN9.question,
    protocol="in9@madry-v1",
    clustering=Clustering(unit="foreground"),
    world=IMAGENET,
    variants=official_variants,
    # Not every name in mixed_rand says which class the background is of.
    scores=tuple(score for score in IN9.scores if score.metric != "background_decisions"),
    primary=IN9.primary,
    standard=IN9.standard,
    embedded=False,
    decision_rule=decide_in9,
    columns={"prediction_mapped": most_probable_mapped("in9")},
    protocols=(
        Protocol(
            name="in9@argmax370-v1",
            about="only the 370 outputs that count for a class decide",
            column="prediction_mapped",
        ),
        Protocol(
            name="in9@resize256-v1",
            about="images are resized to 256 px and cropped to 224, as in Whac-A-Mole and "
            "SubpopBench",
            view=RESIZED,
        ),
        Protocol(
            name="in9@cgn-paper-v1",
            about="as the code of the CGN paper: normalised with ImageNet-9's own mean and "
            "deviation, and divided by the images of full batches of 32",
            # Of ImageNet-9's own training images, for networks trained on ImageNet.
            view=InputOverride(
                name="in9-normalised",
                normalisation=((0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575)),
            ),
            batch_size=32,
        ),
    ),
    n_images=dict.fromkeys(IN9_VARIANTS, 4_050),
    data_folder="in9",
    class_outputs=in9_outputs(),
)
