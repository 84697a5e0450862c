"""imagenet-a and imagenet-sketch, embedded and official, and ImageNet's validation images.

Does a classifier survive hard and drawn images?

Source:
    Hendrycks et al., Natural Adversarial Examples, CVPR 2021. https://arxiv.org/abs/1907.07174
    Wang et al., Learning Robust Global Representations by Penalizing Local Predictive Power,
    NeurIPS 2019. https://arxiv.org/abs/1905.13549
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.core.calibration import calibration_scores
from benchmarks.core.clusters import Clustering
from benchmarks.core.scores import accuracy, accuracy_of_classes, top_k_accuracy
from benchmarks.core.suite import DataSource, Protocol, Suite
from benchmarks.data.class_folders import folder_of, list_classes
from benchmarks.suites.decisions import (
    choose_of_200,
    choose_of_1000,
    decide_imagenet,
    decide_imagenet_a,
    rank,
)
from benchmarks.worlds.glyphs import CLASSES, draw_glyphs, glyphs_in_turn
from benchmarks.worlds.imagenet import IMAGENET, SIZE_PX, class_table, in_imagenet_a
from benchmarks.worlds.openmoji import OPENMOJI9, TRAIN_COUNTS, biased, require_embedded
from benchmarks.worlds.scenes import Layers, PoseRange, draw_scene, render
from cgn.data.factors import Factors
from cgn.data.image_files import FileReader
from cgn.data.image_set import ImageSet, concatenate
from cgn.data.preprocessing import IMAGENET as IMAGENET_PREPROCESSING

N_PER_CLASS = 150
N_POOL_PER_CONDITION = 8
N_HARD_PER_CLASS = 6  # conditions of each class that the hard set is drawn from
PROBE_COUNTS = tuple(count // 4 for count in TRAIN_COUNTS)
RIDGE = 1.0  # penalty on the squared weights of the probe
SIZES = (  # objects smaller than ever trained on, and of the usual size; both turned further
    PoseRange(diameter_px=(38.0, 48.0), rotation_degrees=45.0),
    PoseRange(diameter_px=(52.0, 61.0), rotation_degrees=45.0),
)
CHANCE = 1 / len(CLASSES)


def all_conditions() -> Tensor:
    """List what may make an image hard.

    Returns:
        Class of the object, class of the background and index into `SIZES`, (K, 3) int64.
    """
    classes = torch.arange(len(CLASSES))
    return torch.cartesian_prod(classes, classes, torch.arange(len(SIZES)))


def draw_conditions(conditions: Tensor, rng: np.random.Generator) -> ImageSet:
    """Draw one image for each row; its texture is of the object's class.

    Args:
        conditions: Rows as from `all_conditions`, (N, 3) int64.
        rng: Decides glyphs, poses, crops and colours.

    Returns:
        Images in the order of the rows, whose ids are glyphs.
    """
    sets, order = [], []
    for size, poses in enumerate(SIZES):
        rows = (conditions[:, 2] == size).nonzero()[:, 0]
        labels, backgrounds = conditions[rows, 0], conditions[rows, 1]
        glyphs = draw_glyphs(labels, rng, held_out=True)
        sets.append(render(draw_scene(glyphs, labels, backgrounds, rng, poses), glyphs))
        order.append(rows)
    return concatenate(sets).select(torch.cat(order).argsort())


def features(images: Tensor) -> Tensor:
    """Describe images plainly: an 8 x 8 thumbnail and a histogram of colours.

    Args:
        images: Images (B, 3, H, W) in [0, 1].

    Returns:
        Features (B, 257) float64; the last one is 1.

    Example:
        >>> white = features(torch.ones(1, 3, 64, 64))
        >>> white.shape, white[0, :192].min().item(), white[0, 192:-1].sum().item()
        (torch.Size([1, 257]), 1.0, 1.0)
    """
    exact = images.double()
    thumbnails = F.adaptive_avg_pool2d(exact, 8).flatten(1)
    levels = (exact * 4).long().clamp_max(3).flatten(2)
    bins = levels[:, 0] * 16 + levels[:, 1] * 4 + levels[:, 2]
    histograms = torch.zeros(len(images), 64, dtype=torch.float64)
    histograms.scatter_add_(1, bins, torch.full_like(bins, 1, dtype=torch.float64))
    ones = torch.ones(len(images), 1, dtype=torch.float64)
    return torch.cat([thumbnails, histograms / bins.shape[1], ones], dim=1)


def fit_probe(images: ImageSet) -> Tensor:
    """Fit a linear classifier of the plain features in closed form.

    W = (X^T X + RIDGE I)^-1 X^T Y, with Y one-hot

    Returns:
        Weights W, (257, C) float64: `features(x) @ W` are logits.
    """
    x = features(images.images())
    y = F.one_hot(images.factors.shape, len(CLASSES)).double()
    penalty = RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    return weights


def hard_conditions(
    probe_counts: Sequence[int] = PROBE_COUNTS, n_pool: int = N_POOL_PER_CONDITION
) -> Tensor:
    """Find, for every class, the conditions in which the probe is misled most.

    That is where its logit of the best wrong class leads that of the true one by most. The probe
    is fitted on images drawn like the training set and scored on a pool of its own; neither enters
    the test set, only the conditions do.

    Args:
        probe_counts: Images of each class that the probe is fitted on.
        n_pool: Images of each condition in the pool.

    Returns:
        Rows of `all_conditions`, `N_HARD_PER_CLASS` for each class in turn.
    """
    probe = fit_probe(biased(probe_counts, np.random.default_rng(40)))
    conditions = all_conditions()
    rows = conditions.repeat_interleave(n_pool, dim=0)
    pool = draw_conditions(rows, np.random.default_rng(41))
    logits = features(pool.images()) @ probe
    # Errors would tie: before a foreign background the probe is wrong nearly always.
    true = F.one_hot(pool.factors.shape, len(CLASSES)).bool()
    lead = logits.masked_fill(true, -torch.inf).amax(dim=1) - logits[true]
    misled = lead.view(len(CLASSES), -1, n_pool).mean(dim=2)
    worst = misled.argsort(dim=1, descending=True)[:, :N_HARD_PER_CLASS]
    per_class = conditions.view(len(CLASSES), -1, 3)
    return per_class[torch.arange(len(CLASSES))[:, None], worst].flatten(0, 1)


def hard_variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the test sets of imagenet-a; their ids are glyphs.

    Returns:
        `hard`, fresh images of the conditions that a plain probe gets wrong, and `clean`,
        as many images of each class as they usually look.
    """
    require_embedded(source)
    rows = hard_conditions().repeat_interleave(N_PER_CLASS // N_HARD_PER_CLASS, dim=0)
    hard = draw_conditions(rows, np.random.default_rng(42))
    labels, glyphs = glyphs_in_turn(N_PER_CLASS)
    scene = draw_scene(glyphs, labels, labels, np.random.default_rng(43))
    return {"hard": hard, "clean": render(scene, glyphs)}


def black_on_white(layers: Layers) -> Tensor:
    """Draw the lines of the glyph in black on white paper."""
    return (1 - layers.ink).expand_as(layers.foreground)


def sketch_variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the test set of imagenet-sketch, `sketch`; its ids are glyphs."""
    require_embedded(source)
    labels, glyphs = glyphs_in_turn(N_PER_CLASS)
    scene = draw_scene(glyphs, labels, labels, np.random.default_rng(44))
    unknown = torch.full_like(labels, -1)
    factors = Factors(labels, unknown, unknown)
    return {"sketch": render(scene, glyphs, compositor=black_on_white, factors=factors)}


def official_variants(
    variant: str, folder_name: str, wnids: Sequence[str]
) -> Callable[[DataSource], dict[str, ImageSet]]:
    """Make the function that finds a test set in wnid folders, prepared as ImageNet's.

    Args:
        variant: Name of the test set.
        folder_name: Name of its folder within the user's.
        wnids: Names of the class folders, in the order of the labels.
    """

    def variants(source: DataSource) -> dict[str, ImageSet]:
        paths, labels = list_classes(folder_of(source, folder_name), wnids)
        unknown = torch.full_like(labels, -1)
        reader = FileReader(paths, SIZE_PX, IMAGENET_PREPROCESSING)
        factors = Factors(labels, unknown, unknown)
        return {variant: ImageSet(reader, factors, torch.arange(len(paths)))}

    return variants


WNIDS = tuple(class_table()["wnid"])

IMAGENET_A = Suite(
    name="imagenet-a",
    question="Does the classifier recognise objects where a plain one is misled?",
    protocol="imagenet-a@openmoji-v2",
    predictions_protocol="imagenet-a@openmoji-v1",  # whose intervals were narrower
    clustering=Clustering(unit="drawing"),
    world=OPENMOJI9,
    variants=hard_variants,
    scores=(accuracy("hard", chance=CHANCE), accuracy("clean", chance=CHANCE)),
    diagnostics=calibration_scores("hard", chance=CHANCE),
    primary="hard_accuracy",
    standard="clean_accuracy",
)

IMAGENET_SKETCH = Suite(
    name="imagenet-sketch",
    question="Does the classifier recognise objects from their lines alone?",
    protocol="imagenet-sketch@openmoji-v2",
    predictions_protocol="imagenet-sketch@openmoji-v1",  # whose intervals were narrower
    clustering=Clustering(unit="drawing"),
    world=OPENMOJI9,
    variants=sketch_variants,
    scores=(accuracy("sketch", chance=CHANCE),),
    diagnostics=calibration_scores("sketch", chance=CHANCE, has_conflicts=False),
    primary="sketch_accuracy",
)

IMAGENET_A_OFFICIAL = Suite(
    name="imagenet-a-official",
    question=IMAGENET_A.question,
    protocol="imagenet-a@mask200-v1",
    clustering=Clustering(unit="photograph"),
    world=IMAGENET,
    variants=official_variants(
        "hard", "imagenet-a", [w for w, m in zip(WNIDS, in_imagenet_a().tolist(), strict=True) if m]
    ),
    scores=(accuracy("hard", chance=1 / 200),),
    diagnostics=calibration_scores("hard", chance=1 / 200, has_conflicts=False),
    primary="hard_accuracy",
    embedded=False,
    decision_rule=decide_imagenet_a,
    columns={"prediction_top1": choose_of_1000},
    protocols=(
        Protocol(
            name="imagenet-a@argmax1000-v1",
            about="all 1,000 outputs decide, though there are images of 200",
            column="prediction_top1",
        ),
    ),
    own_preprocessing=True,
    n_images={"hard": 7_500},
    data_folder="imagenet-a",
)

IMAGENET_SKETCH_OFFICIAL = Suite(
    name="imagenet-sketch-official",
    question=IMAGENET_SKETCH.question,
    protocol="imagenet-sketch@v1",
    clustering=Clustering(unit="sketch"),
    world=IMAGENET,
    variants=official_variants("sketch", "sketch", WNIDS),
    scores=(accuracy("sketch", chance=1 / 1_000), top_k_accuracy(5, "sketch", chance=5 / 1_000)),
    diagnostics=calibration_scores("sketch", chance=1 / 1_000, has_conflicts=False),
    primary="sketch_accuracy",
    embedded=False,
    decision_rule=decide_imagenet,
    columns={"rank": rank},
    own_preprocessing=True,
    n_images={"sketch": 50_889},
    data_folder="imagenet-sketch",
)

IMAGENET_VALIDATION = Suite(
    name="imagenet",
    question="Does the classifier recognise ordinary photographs?",
    protocol="imagenet@v1",
    clustering=Clustering(unit="photograph"),
    world=IMAGENET,
    variants=official_variants("validation", "val", WNIDS),
    scores=(
        accuracy("validation", chance=1 / 1_000),
        top_k_accuracy(5, "validation", chance=5 / 1_000),
        accuracy_of_classes(
            "validation",
            set(in_imagenet_a().nonzero()[:, 0].tolist()),
            metric="accuracy_on_imagenet_a_classes",
            column="prediction_of_200",
            chance=1 / 200,
        ),
    ),
    diagnostics=calibration_scores("validation", chance=1 / 1_000, has_conflicts=False),
    primary="validation_accuracy",
    embedded=False,
    decision_rule=decide_imagenet,
    columns={"rank": rank, "prediction_of_200": choose_of_200},
    own_preprocessing=True,
    n_images={"validation": 50_000},
)
