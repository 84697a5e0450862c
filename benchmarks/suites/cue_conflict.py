"""cue-conflict: does a classifier decide by shape or by texture?

Objects of one class with the texture of another, drawn with OpenMoji-9, and as they were
published.

Source:
    Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019.
    https://arxiv.org/abs/1811.12231
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from benchmarks.core.calibration import calibration_scores
from benchmarks.core.clusters import Clustering
from benchmarks.core.scores import accuracy, neither_rate, shape_bias
from benchmarks.core.suite import DataSource, Protocol, Suite
from benchmarks.data.class_folders import folder_of, list_classes
from benchmarks.suites.decisions import (
    decide_cue_conflict,
    most_probable,
    most_probable_mapped,
    most_probable_sum,
)
from benchmarks.suites.imagenet9 import RESIZED
from benchmarks.worlds.glyphs import CLASSES, glyphs_in_turn
from benchmarks.worlds.imagenet import IMAGENET, SIZE_PX, classes_of
from benchmarks.worlds.openmoji import OPENMOJI9, require_embedded
from benchmarks.worlds.scenes import Layers, draw_scene, render
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import ImageSet
from cgn.models.cgn import compose

N_PER_PAIR = 12  # images of each ordered pair of different classes
N_AGREEING_PER_CLASS = 40
SEED = 30


def object_on_grey(layers: Layers) -> Tensor:
    """Draw the object on a plain grey, as bright as the background that it replaces.

    Differs: style transfer spreads the texture over the whole image; here the background shows
    no class at all, so that only shape and texture are in conflict.

    Example:
        >>> nothing, red = torch.zeros(1, 1, 2, 2), torch.tensor([0.9, 0, 0]).view(1, 3, 1, 1)
        >>> object_on_grey(Layers(nothing, red, red, nothing))[0, :, 0, 0]
        tensor([0.3000, 0.3000, 0.3000])
    """
    grey = layers.background.mean(dim=(1, 2, 3), keepdim=True)
    return compose(layers.mask, layers.foreground, grey.expand_as(layers.foreground))


def _draw(glyphs: Tensor, textures: Tensor, rng: np.random.Generator) -> ImageSet:
    """Render objects on greys of random brightness; ids are glyphs."""
    backgrounds = torch.from_numpy(rng.integers(len(CLASSES), size=len(glyphs)))
    scene = draw_scene(glyphs, textures, backgrounds, rng)
    factors = Factors(scene.factors.shape, textures, torch.full_like(glyphs, -1))
    return render(scene, glyphs, compositor=object_on_grey, factors=factors)


def variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the test sets; their ids are glyphs.

    Returns:
        `conflict`, every ordered pair of different classes equally often, and `agree`, whose
        shape and texture are of one class.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    n_others = len(CLASSES) - 1
    labels, glyphs = glyphs_in_turn(n_others * N_PER_PAIR)
    # Blocks, not turns: in turns, a class with four glyphs would pair each with few textures.
    step = 1 + torch.arange(n_others).repeat_interleave(N_PER_PAIR).repeat(len(CLASSES))
    agreeing, agreeing_glyphs = glyphs_in_turn(N_AGREEING_PER_CLASS)
    return {
        "conflict": _draw(glyphs, (labels + step) % len(CLASSES), rng),
        "agree": _draw(agreeing_glyphs, agreeing, rng),
    }


CHANCE = 1 / len(CLASSES)

CUE_CONFLICT = Suite(
    name="cue-conflict",
    question="When shape and texture disagree, which of them decides?",
    protocol="cue-conflict@openmoji-v2",
    predictions_protocol="cue-conflict@openmoji-v1",  # ranked by shape bias, narrower intervals
    clustering=Clustering(unit="drawing"),
    world=OPENMOJI9,
    variants=variants,
    scores=(
        shape_bias("conflict"),
        accuracy("conflict", chance=CHANCE, metric="shape_accuracy"),
        accuracy("conflict", chance=CHANCE, metric="texture_accuracy", factor="texture"),
        accuracy("agree", chance=CHANCE),
    ),
    diagnostics=calibration_scores("conflict", chance=CHANCE),
    primary="conflict_shape_accuracy",
)

STIMULUS = re.compile(r"([a-z]+)\d+-([a-z]+)\d+")


def official_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find the stimuli in `<shape>/<shape>n-<texture>m.png`, 224 px, as they are.

    Returns:
        `conflict`, whose shape and texture are of different classes, and `agree`.

    Raises:
        ValueError: If a class is missing, or a name is of another form.
    """
    classes = classes_of("cue_conflict")
    paths, labels = list_classes(folder_of(source, "cue-conflict"), classes)
    textures = []
    for path, label in zip(paths, labels.tolist(), strict=True):
        match = STIMULUS.fullmatch(path.stem)
        if match is None or match[1] != classes[label] or match[2] not in classes:
            raise ValueError(f"{path} is not called as a stimulus, like cat7-elephant1.png")
        textures.append(classes.index(match[2]))
    factors = Factors(labels, torch.tensor(textures), torch.full_like(labels, -1))
    ids = torch.arange(len(paths))
    images = ImageSet(FileReader(paths, SIZE_PX), factors, ids)
    agrees = factors.shape == factors.texture
    return {
        "conflict": images.select((~agrees).nonzero()[:, 0]),
        "agree": images.select(agrees.nonzero()[:, 0]),
    }


CUE_CONFLICT_OFFICIAL = Suite(
    name="cue-conflict-official",
    question=CUE_CONFLICT.question,
    protocol="cue-conflict@geirhos-avg-v2",
    predictions_protocol="cue-conflict@geirhos-avg-v1",  # ranked by shape bias
    clustering=Clustering(unit="pair of a shape and a texture"),
    world=IMAGENET,
    variants=official_variants,
    scores=(
        shape_bias("conflict"),
        accuracy("conflict", chance=1 / 16, metric="shape_accuracy"),
        accuracy("conflict", chance=1 / 16, metric="texture_accuracy", factor="texture"),
        neither_rate("conflict", chance=14 / 16),
        accuracy("agree", chance=1 / 16),
    ),
    primary=CUE_CONFLICT.primary,
    embedded=False,
    decision_rule=decide_cue_conflict,
    columns={
        "prediction_sum": most_probable_sum("cue_conflict"),
        "prediction_mapped": most_probable_mapped("cue_conflict"),
        "prediction_top1": most_probable("cue_conflict"),
    },
    protocols=(
        Protocol(
            name="cue-conflict@sum-v2",
            about="the highest sum of probabilities decides, which favours classes of many outputs",
            column="prediction_sum",
        ),
        Protocol(
            name="cue-conflict@argmax207-v2",
            about="the most probable of the 207 outputs of a class decides, as in ood-benchmarks",
            column="prediction_mapped",
        ),
        Protocol(
            name="cue-conflict@argmax1000-v2",
            about="the most probable output decides, and 793 of 1,000 count for no class",
            column="prediction_top1",
        ),
        Protocol(
            name="cue-conflict@cgn-paper-v2",
            predictions_protocol="cue-conflict@cgn-paper-v1",
            about="as the code of the CGN paper: resized to 256 px and cropped to 224",
            view=RESIZED,
        ),
    ),
    n_images={"conflict": 1_200, "agree": 80},
    data_folder="cue-conflict",
)
