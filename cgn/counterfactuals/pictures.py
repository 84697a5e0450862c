"""Pictures of the ImageNet CGN while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cgn.counterfactuals.sampling import sheet
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
