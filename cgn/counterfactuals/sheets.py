"""Pictures of what a CGN draws, in PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import to_bytes
from cgn.io.writing import written
from cgn.models.cgn import CGN
from cgn.models.imagenet.cgn import ImageNetCGN

# Rows of the sheet: the authors' choice.
SHEET_CLASSES = (15, 251, 330, 382, 385, 483, 559, 751, 938, 947, 999)


def write_png(image: Tensor, path: Path) -> None:
    """Write one image, (3, H, W) in [0, 1], to a PNG file."""
    with written(path) as place:
        Image.fromarray(to_bytes(image).movedim(0, -1).numpy()).save(place, "png")


@torch.inference_mode()
def sheet(
    cgn: CGN | ImageNetCGN,
    path: Path,
    *,
    seed: int = 0,
    n_per_class: int = 4,
    classes: Sequence[int] | None = None,
) -> None:
    """Write a picture of what each mechanism draws.

    One row a class; from left to right blocks of `n_per_class` masks, foregrounds, backgrounds,
    images with all labels equal, and counterfactuals: the row's shape, anything else. `classes`
    are those that get a row; None for all.
    """
    from torchvision.utils import make_grid  # seconds to import

    generator = torch.Generator().manual_seed(seed)
    n_classes, device = cgn.config.n_classes, next(cgn.parameters()).device
    rows = torch.arange(n_classes) if classes is None else torch.tensor(classes)
    labels = rows.repeat_interleave(n_per_class)
    parts = cgn(Factors.aligned(labels.to(device)), generator)
    free = Factors.independent(len(labels), n_classes, generator)._replace(shape=labels)
    blocks = (
        parts.mask.expand(-1, 3, -1, -1),
        parts.foreground,
        parts.background,
        parts.image(),
        cgn(free.map(lambda label: label.to(device)), generator).image(),
    )
    grids = [make_grid(block.cpu(), nrow=n_per_class, padding=1, pad_value=1.0) for block in blocks]
    write_png(torch.cat(grids, dim=2), path)


def training_sheets(folder: Path) -> Callable[[ImageNetCGN, int], None]:
    """Return what draws a sheet of the CGN at each checkpoint, named by the step."""

    def draw(cgn: ImageNetCGN, step: int) -> None:
        sheet(cgn, folder / f"step{step:05}.png", n_per_class=1, classes=SHEET_CLASSES)

    return draw
