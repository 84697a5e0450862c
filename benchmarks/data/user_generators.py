"""Generators of users: where they are loaded from, and what they must draw."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from cgn.counterfactuals.generators import FitGenerator
from cgn.data.image_set import ImageSet


def load_user_generator(spec: str, known: Iterable[str]) -> FitGenerator:
    """Load what fits a user's generator.

    Args:
        spec: Where it is, as path/to/file.py:NAME.
        known: Names of this package's generators, for the message.

    Raises:
        ValueError: If it is not there.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(
            f"unknown generator {spec!r}; there are {', '.join(known)}, and your own as "
            "path/to/file.py:NAME"
        )
    description = importlib.util.spec_from_file_location(path.stem, path)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    if not callable(fit := getattr(module, name, None)):
        raise ValueError(f"{path} has no function or class {name!r}")
    loaded: FitGenerator = fit
    return loaded


def require_drawn(
    images: ImageSet, n: int, name: str, size_px: tuple[int, int], n_classes: int
) -> None:
    """Refuse what a generator drew if it is no training set of the domain.

    Raises:
        ValueError: If there are more or fewer images, they are of another size, or a shape has no
            label of a class.
    """
    if len(images) != n or images.size_px != size_px:
        height, width = size_px
        raise ValueError(
            f"{name} drew {len(images):,} images of {images.size_px[0]} x {images.size_px[1]} "
            f"pixels, expected {n:,} of {height} x {width}"
        )
    shapes = images.factors.shape
    if shapes.min() < 0 or shapes.max() >= n_classes:
        raise ValueError(
            f"{name} drew images with shape labels from {int(shapes.min())} to "
            f"{int(shapes.max())}, expected 0 to {n_classes - 1}"
        )
