"""Official images in one folder a class: which they are, and what is wrong with a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.core.suite import DataSource
from cgn.data.listing import class_folders, hidden, list_images, some, warn_of_unread

# ImageNet's validation images as they are published, side by side.
FLAT_NAME = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG", re.IGNORECASE)
LOOKED_INTO = 20  # folders, for the one that is meant
AGAIN = "unpack the archive again, or name another folder"


def folder_of(source: DataSource, name: str) -> Path:
    """Find the user's folder, or the one of that name in it: both are common.

    Raises:
        ValueError: If the source names no folder.
    """
    if source.folder is None:
        raise ValueError("official ImageNet suites need a folder of data")
    inner = source.folder / name
    return inner if inner.is_dir() else source.folder


def list_classes(
    folder: Path, classes: Sequence[str], endings: tuple[str, ...] | None = None
) -> tuple[list[Path], Tensor]:
    """List the images of a folder of class folders; the log names the files that are left out.

    Args:
        folder: It holds one folder a class.
        classes: Their names, in the order of the labels.
        endings: How the names of the files end, in lower case; None for all images.

    Returns:
        The files, class by class and sorted within; and their labels, (N,) int64.

    Raises:
        ValueError: If a class has no folder or no image, there is a folder of no class, or two
            images differ in their ending alone.
    """
    if problem := misfit(folder, classes):
        raise ValueError(problem)
    paths, labels, others = [], [], []
    for label, name in enumerate(classes):
        listing = list_images(folder / name, endings=endings)
        if not listing.images:
            raise ValueError(
                f"{folder / name} has no image, it holds {some(p.name for p in listing.others)}; "
                "unpack the archive again"
            )
        paths += listing.images
        labels += [label] * len(listing.images)
        others += listing.others
    warn_of_unread(folder, others)
    return paths, torch.tensor(labels)


def misfit(folder: Path, classes: Sequence[str]) -> str:
    """Say what is wrong with a folder that should hold one folder a class, and what to do.

    Returns:
        A sentence; empty if all is well.
    """
    if not folder.is_dir():
        near = next(place for place in folder.parents if place.is_dir())
        return (
            f"there is no folder {folder}; {near} holds {some(names_in(near))}; name the folder of "
            "the unpacked archive"
        )
    names = {path.name for path in class_folders(folder)}
    missing, odd = [name for name in classes if name not in names], sorted(names - {*classes})
    if not missing and not odd:
        return ""
    if len(missing) < len(classes):
        states = []
        if missing:
            states.append(f"has no class folder {missing[0]!r} ({len(missing)} such)")
        if odd:
            states.append(f"has a folder of no class: {odd[0]!r} ({len(odd)} such)")
        return f"{folder} {' and '.join(states)}; {'move it away, or ' if odd else ''}{AGAIN}"
    return _without_class_folders(folder, classes, odd)


def _without_class_folders(folder: Path, classes: Sequence[str], odd: Sequence[str]) -> str:
    """Say what a folder is that has no class folder at all."""
    if any(FLAT_NAME.fullmatch(name) for name in names_in(folder)):
        return (
            f"{folder} holds ImageNet's validation images side by side, not in one folder a class; "
            "name it DATA/imagenet, and `bench.py data imagenet --folder DATA` sorts them"
        )
    for name in odd[:LOOKED_INTO]:
        if {*classes} <= {path.name for path in class_folders(folder / name)}:
            return f"{folder} holds the class folders in {name!r}; name that folder"
    return (
        f"{folder} has no class folder {classes[0]!r}, nor any of the other {len(classes) - 1}; it "
        f"holds {some(names_in(folder))}; {AGAIN}"
    )


def names_in(folder: Path) -> list[str]:
    """Names of the files and folders in a folder that are not hidden, sorted."""
    return sorted(path.name for path in folder.iterdir() if not hidden(path))
