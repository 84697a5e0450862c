"""Which factor moves a classifier: its answers before and after one factor alone is changed.

For each world a suite of test images with independent factors, and of the same images with one
label changed and everything else, pose, crop and noise, held fixed. How images are drawn is not
here: see `benchmarks.mnists` and `benchmarks.openmoji`.

Source:
    Pearl, Causality, Cambridge University Press 2009 (interventions, average causal effect).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from benchmarks.mnists import (
    COLORED,
    DOUBLE_COLORED,
    WILDLIFE,
    colored,
    double_colored,
    interventions,
    wildlife,
)
from benchmarks.openmoji import (
    CLASSES,
    OPENMOJI9,
    designs_in_turn,
    draw_scene,
    render,
    require_embedded,
)
from benchmarks.scores import Score
from benchmarks.suite import DataSource, Suite, World
from cgn.images import Factors, ImageSet

N_PER_CLASS = 120  # images of OpenMoji-9 before anything is changed
SEED = 50
FACTORS = Factors._fields


def flip_rate(factor: str) -> Score:
    """Share of images whose prediction changes when one factor alone is changed.

    Args:
        factor: "shape", "texture" or "background". That shape changes it is good, that another
            factor does is not.
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        before, after = _before_and_after(predictions, factor)
        flipped = before["prediction"] != after["prediction"]
        return pd.DataFrame({"hits": flipped.astype(int), "images": 1})

    return Score(
        variant=f"do_{factor}",
        metric="flip_rate",
        count=count,
        higher_is_better=factor == "shape",
        chance=0.0,
    )


def effect(factor: str) -> Score:
    """Average causal effect of a factor's class on the decision for that class.

    P(decision is y | do(factor = y)) - P(decision is y | do(factor is another class))

    Args:
        factor: "shape", "texture" or "background".

    Returns:
        A score in [-1, 1]: 1 if the factor alone decides, 0 if it has no part in it.
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        return pd.concat(_decisions_for(predictions, factor), axis=1)

    return Score(
        variant=f"do_{factor}",
        metric="effect",
        count=count,
        higher_is_better=factor == "shape",
        chance=0.0,
        lowest=-1.0,
    )


def shape_share(factors: Sequence[str]) -> Score:
    """How much of all causal effect on decisions is that of shape.

    effect(shape) / (effect(shape) + effect(texture) + effect(background))

    Args:
        factors: Those of the world, "shape" among them.

    Returns:
        A score, 1 if shape alone decides, 0 if it has no part; chance can put it a little beyond
        either. NaN if no factor has an effect.
        Its `n` counts the decisions that followed a factor, less those that did so without it.
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        effects = {}
        for factor in factors:
            before, after = _decisions_for(predictions, factor)
            effects[factor] = before["hits"] - after["hits"]
        return pd.DataFrame({"hits": effects["shape"], "images": pd.DataFrame(effects).sum(axis=1)})

    return Score(
        variant="base",
        metric="shape_share",
        count=count,
        chance=np.nan,  # guessing follows no factor
        lowest=-np.inf,
        highest=np.inf,
    )


def _before_and_after(predictions: pd.DataFrame, factor: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the images as they were and with one factor changed, by id.

    Raises:
        ValueError: If images are missing.
    """
    before, after = (
        predictions[predictions["variant"] == variant].set_index("id").sort_index()
        for variant in ("base", f"do_{factor}")
    )
    if before.empty or not before.index.equals(after.index):
        raise ValueError(f"base and do_{factor} are not predictions on the same objects")
    return before, after


def _decisions_for(predictions: pd.DataFrame, factor: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Whether decisions are for the class that the factor had before, before and after."""
    before, after = _before_and_after(predictions, factor)
    first, second = (
        pd.DataFrame({"hits": (rows["prediction"] == before[factor]).astype(int), "images": 1})
        for rows in (before, after)
    )
    return first, second


def openmoji_interventions(source: DataSource) -> dict[str, ImageSet]:
    """Draw OpenMoji-9 with independent factors, and again with one of them changed at a time.

    Returns:
        `base`, `do_shape`, `do_texture` and `do_background`, of equal size and in one order.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    labels, designs = designs_in_turn(N_PER_CLASS)
    n, n_classes = len(labels), len(CLASSES)
    textures, backgrounds = torch.from_numpy(rng.integers(n_classes, size=(2, n)))
    scene = draw_scene(designs, textures, backgrounds, rng)
    others = torch.from_numpy(rng.integers(1, n_classes, size=(2, n)))
    surface = scene.surface._replace(label=(textures + others[0]) % n_classes)
    scenery = scene.scenery._replace(label=(backgrounds + others[1]) % n_classes)
    # Designs are in the order of their classes: half the set away is another class.
    scenes = {
        "base": scene,
        "do_shape": replace(scene, design=designs.roll(n // 2)),
        "do_texture": replace(scene, surface=surface),
        "do_background": replace(scene, scenery=scenery),
    }
    return {name: render(each, torch.arange(n)) for name, each in scenes.items()}


def _suite(
    world: World, variants: Callable[[DataSource], dict[str, ImageSet]], factors: Sequence[str]
) -> Suite:
    """Build the suite of one world."""
    return Suite(
        name=f"attribution-{world.name}",
        asks="Which factor changes the answer when it alone is changed?",
        protocol=f"attribution-{world.name}@v1",
        world=world,
        variants=variants,
        scores=(
            shape_share(factors),
            *(effect(factor) for factor in factors),
            *(flip_rate(factor) for factor in factors),
        ),
        primary="base_shape_share",
    )


ATTRIBUTIONS = {
    suite.name: suite
    for suite in (
        # Its background is black whatever the class.
        _suite(COLORED.world, partial(interventions, colored), ("shape", "texture")),
        _suite(DOUBLE_COLORED.world, partial(interventions, double_colored), FACTORS),
        _suite(WILDLIFE.world, partial(interventions, wildlife), FACTORS),
        _suite(OPENMOJI9, openmoji_interventions, FACTORS),
    )
}
