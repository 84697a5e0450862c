"""Images that classifiers are fitted to: those of worlds, of generators, and of the user.

Which sets a classifier sees is not here: the recipe says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.core.context import Progress, RunContext, Update
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import cache_dir, image_cache_dir, user_weights_dir
from benchmarks.data.rendered import training_cached
from cgn.counterfactuals.abduction import (
    real_image_counterfactuals_cached,
    segment_by_colour_cached,
)
from cgn.counterfactuals.recombination import recombine_cached
from cgn.counterfactuals.sampling import Weights, find_weights, sample_cached
from cgn.data.hub import hub_images
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import Preprocessing
from cgn.segmentation.files import masks_from_files, paths_of_masks
from cgn.training.gan import generated_cached
from cgn.training.small import PRESETS, TrainConfig

N_COUNTERFACTUALS = 20_000  # images in a counterfactual or generated training set
COUNTERFACTUALS_PER_IMAGE = (
    3  # counterfactuals of each real image in a training set, where there are many images
)
SWAP_FRACTION = (
    0.5  # share of counterfactuals of real images that borrow the surfaces of other real images
)
N_RECOMBINED = 20_000  # images in a set of recombined photographs
OWN_TEXTURE = 0.5  # share of them whose object keeps its own surface


def training_preset(world: TrainingDomain) -> TrainConfig:
    """Settings of the CGN of a world unless others are given, and of its GAN always."""
    return PRESETS.get(world.name, TrainConfig())


class TrainingSets:
    """Training sets of worlds; the last world's images stay in memory."""

    def __init__(self) -> None:
        self._of: tuple[TrainingDomain, DataSource] | None = None
        self._base: dict[str, ImageSet] = {}

    def load(
        self,
        world: TrainingDomain,
        source: DataSource,
        kinds: Set[str],
        seed: int,
        context: RunContext,
    ) -> tuple[dict[str, ImageSet], dict[str, int]]:
        """Read or make the sets of some kinds.

        Args:
            world: The world.
            source: Where its images come from.
            kinds: Names of sets.
            seed: Of the classifier; generators draw other images for each.
            context: Where generators run.

        Returns:
            All sets by name; and the seeds of generators by the name of the set that they drew.

        Raises:
            ValueError: If the source does not fit the world, or there is no CGN of its images.
        """
        if self._of != (world, source):
            self._of, self._base = (world, source), {}
        needed = {"biased"} if kinds - {"unbiased"} else set()
        for kind in sorted((needed | kinds & {"unbiased"}) - self._base.keys()):
            which: Literal["train", "unbiased"] = "train" if kind == "biased" else "unbiased"
            with context.progress.task(f"{world.name}: training images"):
                self._base[kind] = training_cached(world, which, source, image_cache_dir())
        return add_generated_sets(self._base, world, source, kinds, seed, context)


def add_generated_sets(
    fixed: Mapping[str, ImageSet],
    world: TrainingDomain,
    source: DataSource,
    kinds: Set[str],
    seed: int,
    context: RunContext,
) -> tuple[dict[str, ImageSet], dict[str, int]]:
    """Add the training sets that a generator draws for a seed.

    Args:
        fixed: The sets that are the same for every seed.
        world: The world.
        source: Where its images come from.
        kinds: Names of the sets that are needed.
        seed: Of the classifier.
        context: Where generators run.

    Returns:
        All sets by name; and the seeds of generators by the name of the set that they drew.

    Raises:
        ValueError: If there is no CGN of these images.
    """
    sets = dict(fixed)
    generators: dict[str, int] = {}
    if kinds & {"counterfactual", "abducted"}:
        weights = trained_cgn(world, source, sets["biased"], seed)
        generators |= dict.fromkeys(("counterfactual", "abducted"), weights.seed)
    if "counterfactual" in kinds:
        sets["counterfactual"] = counterfactuals(world, weights.path, seed, context)
    if "abducted" in kinds:
        sets["abducted"] = abducted(world, weights.path, sets["biased"], seed, context)
    if "recombined" in kinds:
        sets["recombined"] = recombined(world, sets["biased"], seed, context)
    if "generated" in kinds:
        sets["generated"] = generated(world, sets["biased"], seed, context)
        generators["generated"] = training_preset(world).seed
    return sets, generators


def trained_cgn(world: TrainingDomain, source: DataSource, biased: ImageSet, seed: int) -> Weights:
    """Find the CGN whose images are for a seed of the classifier.

    Args:
        world: The world.
        source: Where its images come from.
        biased: Its biased training images.
        seed: Of the classifier.

    Raises:
        ValueError: If there is none; the message has the command that trains one.
    """
    return find_weights(
        world.name, biased.sha256(), user_weights_dir(), source.name, source.correlation, seed=seed
    )


def require_cgn(world: TrainingDomain, source: DataSource, progress: Progress) -> None:
    """Find out now, not hours later at the third suite, that a CGN has to be trained first.

    Args:
        world: The world whose CGN it is.
        source: Where its images come from.
        progress: Shows it.

    Raises:
        ValueError: If there is no CGN of the world's training images.
    """
    with progress.task(f"{world.name}: training images"):
        biased = training_cached(world, "train", source, image_cache_dir())
    trained_cgn(world, source, biased, seed=0)


def counterfactuals(
    world: TrainingDomain, weights: Path, seed: int, context: RunContext
) -> ImageSet:
    """Sample counterfactual images of a world, or take them from the cache.

    Args:
        world: The world.
        weights: File of its CGN.
        seed: Of the images.
        context: Where the CGN runs.
    """
    with context.progress.task(f"{world.name}: counterfactuals, seed {seed}") as update:
        return sample_cached(
            weights,
            N_COUNTERFACTUALS,
            seed=seed,
            device=context.device,
            cache=context.cache / "counterfactuals",
            progress=update,
        )


def abducted(
    world: TrainingDomain, weights: Path, biased: ImageSet, seed: int, context: RunContext
) -> ImageSet:
    """Make counterfactuals of a world's training images, or take them from the cache.

    Args:
        world: The world.
        weights: File of its CGN.
        biased: The training images.
        seed: Of the interventions.
        context: Where the CGN runs.
    """
    with context.progress.task(
        f"{world.name}: counterfactuals of real images, seed {seed}"
    ) as update:
        return real_image_counterfactuals_cached(
            weights,
            biased,
            COUNTERFACTUALS_PER_IMAGE * max(N_COUNTERFACTUALS, len(biased)),
            seed=seed,
            lent=SWAP_FRACTION,
            device=context.device,
            cache=context.cache / "counterfactuals",
            progress=update,
        )


def recombined(world: TrainingDomain, biased: ImageSet, seed: int, context: RunContext) -> ImageSet:
    """Join parts of a world's training images anew, or take the images from the cache.

    Args:
        world: The world.
        biased: The training images.
        seed: Of what is joined with what.
        context: Where it is done.
    """
    folder = context.cache / "counterfactuals"
    found = biased.masks if world.masks_are_predicted else None
    with context.progress.task(f"{world.name}: recombined images, seed {seed}") as update:
        return recombine_cached(
            biased,
            segment_by_colour_cached(biased, folder) if found is None else found > 0,
            N_RECOMBINED,
            n_classes=len(world.classes),
            seed=seed,
            own_texture=OWN_TEXTURE,
            device=context.device,
            cache=folder,
            progress=update,
        )


def generated(world: TrainingDomain, biased: ImageSet, seed: int, context: RunContext) -> ImageSet:
    """Sample images of a GAN trained on a world as its CGN is, or take them from the cache.

    Args:
        world: The world.
        biased: The training images.
        seed: Of the images.
        context: Where the GAN is trained and run.
    """
    with context.progress.task(f"{world.name}: GAN, seed {seed}") as update:
        return generated_cached(
            biased,
            len(world.classes),
            training_preset(world),
            N_COUNTERFACTUALS,
            seed=seed,
            device=context.device,
            cache=context.cache / "generated",
            progress=update,
        )


def real_images(options: argparse.Namespace) -> tuple[ImageSet, tuple[str, ...]]:
    """Find the images that `bench.py fit` is given.

    Args:
        options: `images`, `split` and `size`, as on the command line.

    Returns:
        The images, and the names of their classes.

    Raises:
        ValueError: If there are none.
    """
    preprocessing = Preprocessing(round(options.size * 256 / 224), options.size)
    if options.images.startswith("hub:"):
        return hub_images(options.images.removeprefix("hub:"), options.split, preprocessing)
    return image_folder(Path(options.images), preprocessing)


def own_masks(options: argparse.Namespace, images: ImageSet, n_classes: int) -> Tensor:
    """Read the masks that `bench.py fit` is given.

    Args:
        options: `images`, `masks` and `size`, as on the command line.
        images: From `real_images`.
        n_classes: Classes there are; a mask may hold their labels.

    Returns:
        Where the objects are, (N, 1, H, W) bool; some masks may be empty.

    Raises:
        ValueError: If the images are not files, a mask cannot be read, or all are empty.
    """
    if not images.paths:
        raise ValueError(
            "masks go with a folder of images; for a set of the hub name a file with "
            "--counterfactuals"
        )
    paths = paths_of_masks(images.paths, Path(options.images), options.masks)
    masks = masks_from_files(
        paths, options.size, images.reader.preprocessing, n_labels=n_classes, images=images.paths
    )
    if not masks.any():
        raise ValueError(f"all masks in {options.masks} are empty, {paths[0].name!r} the first")
    return masks


def counterfactuals_of(
    options: argparse.Namespace,
    images: ImageSet,
    masks: Tensor | None,
    n_classes: int,
    seed: int,
    update: Update,
) -> ImageSet:
    """Read the counterfactuals that `bench.py fit` is given, or recombine images by their masks.

    Args:
        options: `counterfactuals` and `n_counterfactuals`, as on the command line.
        images: From `real_images`.
        masks: From `own_masks`; None if counterfactuals are given.
        n_classes: Classes there are.
        seed: Of what is joined with what.
        update: Called with images done and images in all.

    Raises:
        ValueError: If the counterfactuals cannot be read, or are of other classes or another size.
    """
    if masks is None:
        made = ImageSet.load(options.counterfactuals)
        low, high = (int(end) for end in torch.stack([*made.factors]).aminmax())
        size = made.size_px
        if low < 0 or high >= n_classes or size != (options.size, options.size):
            raise ValueError(
                f"{options.counterfactuals} holds images of {size[1]} x {size[0]} pixels with "
                f"labels from {low} to {high}; expected {options.size} x {options.size} and labels "
                f"from 0 to {n_classes - 1}, for the images have {n_classes} classes"
            )
        return made
    return recombine_cached(
        images,
        masks,
        options.n_counterfactuals,
        n_classes=n_classes,
        seed=seed,
        own_texture=OWN_TEXTURE,
        cache=cache_dir() / "counterfactuals",
        progress=update,
    )
