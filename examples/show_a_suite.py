"""Draw a contact sheet of a suite's test images, a row for each variant.

Run `python examples/show_a_suite.py in9 in9.png`.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from benchmarks import get_suite
from benchmarks.core.suite import EMBEDDED

N_IMAGES = 10  # of each variant, evenly spaced


def main(name: str, out: Path) -> None:
    variants = get_suite(name).variants(EMBEDDED)
    figure = Figure(figsize=(N_IMAGES, 1.15 * len(variants)), layout="constrained")
    axes = figure.subplots(len(variants), 1, squeeze=False)[:, 0]
    for place, (variant, images) in zip(axes, variants.items(), strict=True):
        chosen = torch.linspace(0, len(images) - 1, N_IMAGES).long()
        grid = make_grid(images.images(chosen), nrow=N_IMAGES, padding=1, pad_value=1.0)
        place.imshow(grid.movedim(0, -1).numpy(), interpolation="nearest")
        place.set(xticks=[], yticks=[], ylabel=variant)
    figure.savefig(out, dpi=80)
    print(f"wrote {out}")


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["in9", "in9.png"]
    main(arguments[0], Path(arguments[1]))
