"""Colored, double-colored and wildlife MNIST, on the original's test digits and on MNIST's own.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from benchmarks.core.calibration import calibration_scores
from benchmarks.core.scores import accuracy, worst_group
from benchmarks.core.suite import Suite, TrainingDomain
from benchmarks.worlds.digits import Split
from benchmarks.worlds.mnists import (
    COLORED_MNIST,
    DOUBLE_COLORED_MNIST,
    WILDLIFE_MNIST,
    Painter,
    colored,
    double_colored,
    paint_split,
    wildlife,
)


def _suite(
    world: TrainingDomain,
    paint: Painter,
    question: str,
    split: Split = "test",
    seeds: tuple[int, int] = (3, 4),
) -> Suite:
    """Build a suite whose test images are a split's digits, painted biased and unbiased."""
    name = world.name if split == "test" else f"{world.name}-{split}"
    return Suite(
        name=name,
        question=question,
        protocol=f"{name}@v1",
        world=world,
        variants=lambda source: {
            "biased": paint_split(paint, source, split, seed=seeds[0], correlation=1.0),
            "unbiased": paint_split(paint, source, split, seed=seeds[1], correlation=None),
        },
        scores=(
            accuracy("unbiased", chance=0.1),
            accuracy("biased", chance=0.1),
            worst_group("unbiased", chance=0.1),
        ),
        diagnostics=calibration_scores("unbiased", chance=0.1),
        primary="unbiased_accuracy",
        standard="biased_accuracy",
        embedded=split == "test",
    )


_PARTS = (
    (COLORED_MNIST, colored, "Does it read the digit when its colour no longer tells the class?"),
    (
        DOUBLE_COLORED_MNIST,
        double_colored,
        "Does it read the digit when neither its colour nor the background's tells the class?",
    ),
    (
        WILDLIFE_MNIST,
        wildlife,
        "Does it read the digit when neither coat nor landscape tells the class?",
    ),
)

COLORED, DOUBLE_COLORED, WILDLIFE = (_suite(*parts) for parts in _PARTS)

# Scored with the same fits as the suites above: one world, MNIST's own test digits.
T10K = tuple(_suite(*parts, split="t10k", seeds=(7, 8)) for parts in _PARTS)
