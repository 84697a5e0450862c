"""Draw counterfactual images with a bundled CGN and show how each one is composed.

Run `python examples/draw_counterfactuals.py cgn.png`.

Each row gives the three mechanisms their labels, joins what they draw, and then keeps the shape
while the other two labels change. The picture in the README comes from this script.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks import get_suite
from cgn.counterfactuals.sampling import SHIPPED
from cgn.data.factors import Factors
from cgn.models.cgn import CGN, compose

CLASSES = get_suite("in9").world.classes
DOG, BIRD, VEHICLE, REPTILE, CARNIVORE, INSECT, INSTRUMENT, PRIMATE, FISH = range(9)
ROWS = [  # shape, texture, background
    (BIRD, BIRD, BIRD),
    (DOG, FISH, BIRD),
    (INSTRUMENT, CARNIVORE, REPTILE),
    (VEHICLE, REPTILE, INSECT),
]
N_MORE = 3  # further counterfactuals of a row's shape
TITLES = ["shape m", "texture f", "background b", "m f + (1 - m) b"]


def main(out: Path) -> None:
    cgn, _ = CGN.load(SHIPPED / "openmoji-9.safetensors")
    cgn.eval()
    generator = torch.Generator().manual_seed(6)
    figure = Figure(figsize=(9.2, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(4, N_MORE), wspace=0.04)[0]
    left.suptitle("three mechanisms, composed", fontsize=10)
    right.suptitle("the same shape, all else changed", fontsize=10)
    axes = np.hstack([half.subplots(len(ROWS), n) for half, n in ((left, 4), (right, N_MORE))])
    for row, labels in zip(axes, ROWS, strict=True):
        with torch.inference_mode():
            parts = cgn(Factors(*torch.tensor(labels).view(3, 1)), generator)
            other = cgn(Factors.independent(N_MORE, len(CLASSES), generator), generator)
            more = compose(parts.mask, other.foreground, other.background)
        mask = parts.mask.expand(-1, 3, -1, -1)
        images = torch.cat([mask, parts.foreground, parts.background, parts.image(), more])
        for place, image in zip(row, images, strict=True):
            place.imshow(image.movedim(0, -1).numpy(), interpolation="nearest")
            place.set(xticks=[], yticks=[])
        for place, label in zip(row, labels, strict=False):
            place.set_xlabel(CLASSES[label].replace("_", " "), fontsize=8, labelpad=2)
    for place, title in zip(axes[0], TITLES, strict=False):
        place.set_title(title, fontsize=9)
    figure.savefig(out, dpi=96)
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "counterfactuals.png"))
