"""Colored, double-colored and wildlife MNIST, on the original's test digits and on MNIST's own.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from functools import partial

from benchmarks.core.calibration import calibration_scores
from benchmarks.core.clusters import Clustering
from benchmarks.core.scores import accuracy, worst_group
from benchmarks.core.suite import Suite, TrainingDomain
from benchmarks.worlds.mnists import (
    COLORED_MNIST,
    DOUBLE_COLORED_MNIST,
    WILDLIFE_MNIST,
    colored,
    double_colored,
    paint_split,
    wildlife,
)
from benchmarks.worlds.painting import SplitPainter


def paired_suite(
    world: TrainingDomain,
    paint: SplitPainter,
    question: str,
    *,
    split: str = "test",
    seeds: tuple[int, int] = (3, 4),
    embedded: bool = True,
    unit: str = "digit",
) -> Suite:
    """Build a suite whose test images are a split's shapes, painted biased and unbiased.

    Args:
        world: What classifiers are fitted on.
        paint: Its painter.
        question: Of the suite.
        split: Whose shapes are painted; any but "test" ends the suite's name.
        seeds: Of the biased and of the unbiased images.
        embedded: Whether the split can be painted without data of the user's.
        unit: What images of one id share, see `Clustering`.
    """
    name = world.name if split == "test" else f"{world.name}-{split}"
    chance = 1 / len(world.classes)
    return Suite(
        name=name,
        question=question,
        protocol=f"{name}@v1",
        clustering=Clustering(unit=unit),
        world=world,
        variants=lambda source: {
            "biased": paint(source, split, seed=seeds[0], correlation=1.0),
            "unbiased": paint(source, split, seed=seeds[1], correlation=None),
        },
        scores=(
            accuracy("unbiased", chance=chance),
            accuracy("biased", chance=chance),
            worst_group("unbiased", chance=chance),
        ),
        diagnostics=calibration_scores("unbiased", chance=chance),
        primary="unbiased_accuracy",
        standard="biased_accuracy",
        embedded=embedded,
    )


_PARTS = (
    (
        COLORED_MNIST,
        partial(paint_split, colored),
        "Does it read the digit when its colour no longer tells the class?",
    ),
    (
        DOUBLE_COLORED_MNIST,
        partial(paint_split, double_colored),
        "Does it read the digit when neither its colour nor the background's tells the class?",
    ),
    (
        WILDLIFE_MNIST,
        partial(paint_split, wildlife),
        "Does it read the digit when neither coat nor landscape tells the class?",
    ),
)

COLORED, DOUBLE_COLORED, WILDLIFE = (paired_suite(*parts) for parts in _PARTS)

# Scored with the same fits as the suites above: one world, MNIST's own test digits.
T10K = tuple(paired_suite(*parts, split="t10k", seeds=(7, 8), embedded=False) for parts in _PARTS)
