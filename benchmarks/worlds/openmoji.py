"""OpenMoji-9: ImageNet-9's classes drawn with a font, every factor known.

A glyph gives an object's outline and shading, a procedural texture its surface, another one its
background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.core.material import Material
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.worlds.glyphs import CLASSES, draw_glyphs
from benchmarks.worlds.scenes import IMAGE_SIZE_PX, draw_scene, render
from cgn.data.image_set import ImageSet

# As in ImageNet-9, whose dogs come from 116 classes of ImageNet and whose fish from 16.
TRAIN_COUNTS = (1200, 900, 800, 700, 650, 550, 500, 400, 300)


def require_embedded(source: DataSource) -> None:
    """Raise ValueError if a source names a folder, or a correlation below 1."""
    if source.correlation < 1:
        raise ValueError(
            f"OpenMoji-9 is drawn at correlation 1 alone, got {source.correlation}; lower ones are "
            "for the MNISTs"
        )
    if source.folder is not None:
        raise ValueError(
            f"OpenMoji-9 is drawn with an installed font and reads no folder, got {source.folder}; "
            "take the embedded data"
        )


def biased(counts: Sequence[int], rng: np.random.Generator) -> ImageSet:
    """Make images of the training glyphs whose texture and background follow the shape.

    Args:
        counts: Images of each class.
        rng: Decides glyphs, poses, crops and colours.
    """
    labels = torch.arange(len(CLASSES)).repeat_interleave(torch.tensor(counts))
    glyphs = draw_glyphs(labels, rng, held_out=False)
    return render(draw_scene(glyphs, labels, labels, rng), glyphs)


def train(source: DataSource) -> ImageSet:
    """Make the biased training set; its ids are glyphs."""
    require_embedded(source)
    return biased(TRAIN_COUNTS, np.random.default_rng(10))


def unbiased(source: DataSource, n_images: int = sum(TRAIN_COUNTS)) -> ImageSet:
    """Make images of the training glyphs with three independent uniform labels."""
    require_embedded(source)
    rng = np.random.default_rng(11)
    labels = rng.integers(len(CLASSES), size=(3, n_images))
    shapes, textures, backgrounds = torch.from_numpy(labels)
    glyphs = draw_glyphs(shapes, rng, held_out=False)
    return render(draw_scene(glyphs, textures, backgrounds, rng), glyphs)


OPENMOJI9 = TrainingDomain(
    name="openmoji-9",
    classes=CLASSES,
    image_size_px=IMAGE_SIZE_PX,
    train=train,
    unbiased=unbiased,
    material=Material(
        licence="https://creativecommons.org/licenses/by-sa/4.0/",
        citation="OpenMoji 17.0.0, https://openmoji.org, CC BY-SA 4.0.",
        collection="Drawings of the OpenMoji font, filled with procedural textures, on procedural "
        "backgrounds, rendered by a program in random poses.",
        biases="In training images texture and background follow the class; in the test images "
        "they are what the name of the set says. Classes have 4 to 14 drawings each.",
        limitations="82 drawings of nine classes: images of one drawing are not independent, and "
        "flat drawings are no photographs.",
    ),
)
