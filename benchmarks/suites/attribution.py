"""Which factor moves a classifier: its answers before and after factors are changed.

For each world a suite of test images in which all factors are of one class, and of the same images
with every combination of factors changed to other classes, and everything else, pose, crop and
noise, held fixed.

Source:
    Pearl, Causality, Cambridge University Press 2009 (interventions, average causal effect).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.core.clusters import Clustering
from benchmarks.core.suite import DataSource, Suite, TrainingDomain
from benchmarks.suites.factorial import BASE, COLUMNS, cell_name, cells, factorial_scores
from benchmarks.worlds.glyphs import CLASSES, draw_glyphs, glyphs_in_turn
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


def openmoji_interventions(source: DataSource) -> dict[str, ImageSet]:
    """Draw OpenMoji-9 with all factors of one class, and again with each combination changed.

    What a factor is changed to is uniform over the other classes, and over the glyphs of the class.

    Returns:
        The cells of the design by name, of equal size and in one order.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    labels, glyphs = glyphs_in_turn(N_PER_CLASS)
    n, n_classes = len(labels), len(CLASSES)
    scene = draw_scene(glyphs, labels, labels, rng)
    others = torch.from_numpy(rng.integers(1, n_classes, size=(3, n)))
    shapes, textures, backgrounds = (labels + others) % n_classes
    changes: dict[str, dict[str, Any]] = {
        "shape": {"glyph": draw_glyphs(shapes, rng, held_out=True)},
        "texture": {"object_texture": scene.object_texture._replace(label=textures)},
        "background": {"background_texture": scene.background_texture._replace(label=backgrounds)},
    }
    sets = {}
    for cell in cells(FACTORS):
        changed = scene
        for factor in cell:
            changed = replace(changed, **changes[factor])
        sets[cell_name(cell, FACTORS)] = render(changed, torch.arange(n))
    return sets


def glyphs_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the glyph that an image of OpenMoji-9 shows before anything is changed, (N,) int64."""
    return np.asarray(glyphs_in_turn(N_PER_CLASS)[1].numpy()[ids])


DIGIT = Clustering(unit="digit")
DRAWING = Clustering(unit="drawing", of=glyphs_of)


def _suite(
    world: TrainingDomain,
    variants: Callable[[DataSource], dict[str, ImageSet]],
    factors: Sequence[str],
    clustering: Clustering = DIGIT,
) -> Suite:
    """Build the suite of one world."""
    return Suite(
        name=f"attribution-{world.name}",
        question="Which factor changes the answer when it alone is changed?",
        protocol=f"attribution-{world.name}@v3",
        world=world,
        variants=variants,
        scores=factorial_scores(factors),
        primary="base_shape_share",
        reference_variant=BASE,
        columns=COLUMNS,
        clustering=clustering,
    )


ATTRIBUTIONS = (
    # Its background is black whatever the class.
    _suite(COLORED_MNIST, partial(interventions, colored), FACTORS[:2]),
    _suite(DOUBLE_COLORED_MNIST, partial(interventions, double_colored), FACTORS),
    _suite(WILDLIFE_MNIST, partial(interventions, wildlife), FACTORS),
    _suite(OPENMOJI9, openmoji_interventions, FACTORS, DRAWING),
)
