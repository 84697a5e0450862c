"""Pictures of the ImageNet CGN that a command asks for, and those of it while it is trained.

How each is laid out is not here: see `cgn.counterfactuals.sampling`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cgn.counterfactuals.sampling import combinations, interpolation, sheet, some_classes, write_png
from cgn.data.shards import SetConfig
from cgn.models.imagenet.cgn import ImageNetCGN

# Rows of the sheet: the authors' choice.
SHEET_CLASSES = (15, 251, 330, 382, 385, 483, 559, 751, 938, 947, 999)


def sheets(folder: Path) -> Callable[[ImageNetCGN, int], None]:
    """Draw a sheet of the CGN as it is at each checkpoint.

    Args:
        folder: Where they go, each named by its step.

    Returns:
        What to call with the CGN and the step.
    """

    def draw(cgn: ImageNetCGN, step: int) -> None:
        sheet(cgn, folder / f"step{step:05}.png", n_per_class=1, classes=SHEET_CLASSES)

    return draw


def draw_picture(
    cgn: ImageNetCGN,
    config: SetConfig,
    path: Path,
    *,
    combine: int | None = None,
    interpolate: str | None = None,
    to: int | None = None,
) -> None:
    """Draw combinations, or the way from one class to another.

    Args:
        cgn: What draws.
        config: Classes, truncation and seed.
        path: The PNG file.
        combine: How many shapes and textures to combine; None draws the way instead.
        interpolate: The factor that passes to another class, or "all".
        to: The class that it ends with.

    Raises:
        ValueError: If there is neither, or no such factor or class.
    """
    seed, truncation, n_classes = config.seed, config.truncation, cgn.config.n_classes
    if combine:
        classes = some_classes(config.classes, combine, n_classes, seed)
        combinations(cgn, classes, path, seed=seed, truncation=truncation)
        return
    if interpolate is None or to is None:
        raise ValueError("--interpolate needs --to, the class it ends with")
    begin = some_classes(config.classes, 1, n_classes, seed)
    images = interpolation(cgn, begin, interpolate, to, seed=seed, truncation=truncation)
    write_png(torch.cat(list(images), dim=2), path)
