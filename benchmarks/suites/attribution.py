"""Which factor moves a classifier: its answers before and after one factor alone is changed.

For each world a suite of test images with independent factors, and of the same images with one
label changed and everything else, pose, crop and noise, held fixed.

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
from torch import Tensor

from benchmarks.core.scores import Score
from benchmarks.core.suite import Column, DataSource, Suite, TrainingDomain
from benchmarks.worlds.glyphs import CLASSES, glyphs_in_turn
from benchmarks.worlds.mnists import (
    COLORED_MNIST,
    DOUBLE_COLORED_MNIST,
    WILDLIFE_MNIST,
    colored,
    double_colored,
    interventions,
    wildlife,
)
from benchmarks.worlds.openmoji import OPENMOJI9, require_embedded
from benchmarks.worlds.scenes import draw_scene, render
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet

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
    """Average causal effect of a factor's class on the probability of that class.

    E[p(y) | do(factor = y)] - E[p(y) | do(factor is another class)], y what the factor was

    Args:
        factor: "shape", "texture" or "background".

    Returns:
        A score in [-1, 1]: 1 if the factor alone decides, 0 if it has no part in it.
    """
    return Score(
        variant=f"do_{factor}",
        metric="effect",
        count=lambda predictions: _a_pair(_losses(predictions, factor, factor)),
        higher_is_better=factor == "shape",
        chance=0.0,
        lowest=-1.0,
    )


def true_class_change(factor: str) -> Score:
    """How far the probability of the true class moves when one factor alone is changed.

    E|p(y) after - p(y) before|, y the shape's class before

    What one image gains another loses, so the mean of the change itself would be near 0 for
    texture and background whatever they do to the model.

    Args:
        factor: "shape", "texture" or "background". That shape moves it is good, that another
            factor does is not.

    Returns:
        A score in [0, 1]: 0 if the factor has no part in it.
    """
    return Score(
        variant=f"do_{factor}",
        metric="true_class_change",
        count=lambda predictions: _a_pair(_losses(predictions, factor, "shape").abs()),
        higher_is_better=factor == "shape",
        chance=0.0,
    )


def shape_share(factors: Sequence[str]) -> Score:
    """How much of all causal effect is that of shape.

    effect(shape) / (effect(shape) + effect(texture) + effect(background))

    Args:
        factors: Those of the world, "shape" among them.

    Returns:
        A score, 1 if shape alone decides, 0 if it has no part; chance can put it a little beyond
        either. NaN if no factor has an effect.
    """

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        losses = pd.DataFrame({f: _losses(predictions, f, f) for f in factors})
        return pd.DataFrame({"hits": losses["shape"], "images": losses.sum(axis=1)})

    return Score(
        variant="base",
        metric="shape_share",
        count=count,
        chance=np.nan,  # guessing follows no factor
        lowest=-np.inf,
        highest=np.inf,
    )


def probability_of(factor: str) -> Column:
    """Give the probability of the class that one of an image's factors is labelled with.

    Args:
        factor: "shape", "texture" or "background".

    Returns:
        From logits (B, C) and labels to (B,) in [0, 1], NaN where the label is unknown.

    Example:
        >>> logits, label = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1])
        >>> probability_of("shape")(logits, Factors.aligned(label))
        tensor([0.7500])
    """

    def column(logits: Tensor, labels: Factors) -> Tensor:
        label = getattr(labels, factor)[:, None]
        probabilities = logits.softmax(dim=1).gather(1, label.clamp(min=0))
        return probabilities.where(label >= 0, torch.nan)[:, 0]

    return column


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


def _losses(predictions: pd.DataFrame, changed: str, watched: str) -> pd.Series:
    """How much probability the class that a factor had loses when one is changed, by id.

    Raises:
        ValueError: If images are missing, or their probabilities.
    """
    column = f"p_{watched}"
    if column not in predictions:
        raise ValueError(f"these predictions lack {column}; run the model on the suite again")
    before, after = (
        (1000 * rows[column].astype(float)).round()  # as many digits as files keep
        for rows in _before_and_after(predictions, changed)
    )
    if (before.isna() | after.isna()).any():
        raise ValueError(f"the {watched} of some images is unknown")
    return (before - after) / 1000


def _a_pair(values: pd.Series) -> pd.DataFrame:
    """Let each pair of images count once."""
    return pd.DataFrame({"hits": values, "images": 1.0})


def openmoji_interventions(source: DataSource) -> dict[str, ImageSet]:
    """Draw OpenMoji-9 with independent factors, and again with one of them changed at a time.

    Returns:
        `base`, `do_shape`, `do_texture` and `do_background`, of equal size and in one order.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    labels, glyphs = glyphs_in_turn(N_PER_CLASS)
    n, n_classes = len(labels), len(CLASSES)
    textures, backgrounds = torch.from_numpy(rng.integers(n_classes, size=(2, n)))
    scene = draw_scene(glyphs, textures, backgrounds, rng)
    others = torch.from_numpy(rng.integers(1, n_classes, size=(2, n)))
    texture = scene.object_texture._replace(label=(textures + others[0]) % n_classes)
    background = scene.background_texture._replace(label=(backgrounds + others[1]) % n_classes)
    # Glyphs are in the order of their classes: half the set away is another class.
    scenes = {
        "base": scene,
        "do_shape": replace(scene, glyph=glyphs.roll(n // 2)),
        "do_texture": replace(scene, object_texture=texture),
        "do_background": replace(scene, background_texture=background),
    }
    return {name: render(each, torch.arange(n)) for name, each in scenes.items()}


def _suite(
    world: TrainingDomain,
    variants: Callable[[DataSource], dict[str, ImageSet]],
    factors: Sequence[str],
) -> Suite:
    """Build the suite of one world."""
    return Suite(
        name=f"attribution-{world.name}",
        question="Which factor changes the answer when it alone is changed?",
        protocol=f"attribution-{world.name}@v2",
        world=world,
        variants=variants,
        scores=(
            shape_share(factors),
            *(effect(factor) for factor in factors),
            *(flip_rate(factor) for factor in factors),
            *(true_class_change(factor) for factor in factors),
        ),
        primary="base_shape_share",
        reference_variant="base",
        columns={f"p_{factor}": probability_of(factor) for factor in FACTORS},
    )


ATTRIBUTIONS = (
    # Its background is black whatever the class.
    _suite(COLORED_MNIST, partial(interventions, colored), FACTORS[:2]),
    _suite(DOUBLE_COLORED_MNIST, partial(interventions, double_colored), FACTORS),
    _suite(WILDLIFE_MNIST, partial(interventions, wildlife), FACTORS),
    _suite(OPENMOJI9, openmoji_interventions, FACTORS),
)
