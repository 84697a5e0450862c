"""cue-conflict: does a classifier decide by shape or by texture?

Objects of one class with the texture of another. How they are drawn is not here: see
`benchmarks.worlds.openmoji`.

Source:
    Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019.
    https://arxiv.org/abs/1811.12231
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.core.scores import accuracy, shape_bias
from benchmarks.core.suite import DataSource, Suite
from benchmarks.worlds.openmoji import (
    CLASSES,
    OPENMOJI9,
    Layers,
    designs_in_turn,
    draw_scene,
    render,
    require_embedded,
)
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import compose

N_PER_PAIR = 12  # images of each ordered pair of different classes
N_AGREEING_PER_CLASS = 40
SEED = 30


def object_on_grey(layers: Layers) -> Tensor:
    """Finish on a plain grey, as bright as the scenery that it replaces.

    Differs: style transfer spreads the texture over the whole image; here the background shows
    no class at all, so that only shape and texture are in conflict.

    Example:
        >>> nothing, red = torch.zeros(1, 1, 2, 2), torch.tensor([0.9, 0, 0]).view(1, 3, 1, 1)
        >>> object_on_grey(Layers(nothing, red, red, nothing))[0, :, 0, 0]
        tensor([0.3000, 0.3000, 0.3000])
    """
    grey = layers.background.mean(dim=(1, 2, 3), keepdim=True)
    return compose(layers.mask, layers.foreground, grey.expand_as(layers.foreground))


def _draw(designs: Tensor, textures: Tensor, rng: np.random.Generator) -> ImageSet:
    """Render objects before greys of random brightness; ids are designs."""
    sceneries = torch.from_numpy(rng.integers(len(CLASSES), size=len(designs)))
    scene = draw_scene(designs, textures, sceneries, rng)
    factors = Factors(scene.factors.shape, textures, torch.full_like(designs, -1))
    return render(scene, designs, finish=object_on_grey, factors=factors)


def variants(source: DataSource) -> dict[str, ImageSet]:
    """Make the test sets; their ids are designs, `ALL_DESIGNS[id].unseen` if never trained on.

    Returns:
        `conflict`, every ordered pair of different classes equally often, and `agree`, whose
        shape and texture are of one class.
    """
    require_embedded(source)
    rng = np.random.default_rng(SEED)
    n_others = len(CLASSES) - 1
    labels, designs = designs_in_turn(n_others * N_PER_PAIR)
    # Blocks, not turns: in turns, a class with four designs would pair each with few textures.
    step = 1 + torch.arange(n_others).repeat_interleave(N_PER_PAIR).repeat(len(CLASSES))
    agreeing, agreeing_designs = designs_in_turn(N_AGREEING_PER_CLASS)
    return {
        "conflict": _draw(designs, (labels + step) % len(CLASSES), rng),
        "agree": _draw(agreeing_designs, agreeing, rng),
    }


CHANCE = 1 / len(CLASSES)

CUE_CONFLICT = Suite(
    name="cue-conflict",
    question="When shape and texture disagree, which of them decides?",
    protocol="cue-conflict@openmoji-v1",
    world=OPENMOJI9,
    variants=variants,
    scores=(
        shape_bias("conflict"),
        accuracy("conflict", chance=CHANCE, metric="shape_accuracy"),
        accuracy("conflict", chance=CHANCE, metric="texture_accuracy", factor="texture"),
        accuracy("agree", chance=CHANCE),
    ),
    primary="conflict_shape_bias",
)
