"""Images that classifiers are fitted to: those of worlds, of generators, and of the user.

Which sets a classifier sees is not here: the recipe says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Set
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cli.progress import Progress, Update, bar
from benchmarks.cli.resolve import training_preset
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import cache_dir, image_cache_dir, user_weights_dir
from benchmarks.runner import RunContext, TestSet
from benchmarks.worlds.rendered import training_cached
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.recombination import decompose, recombine, segmented_store
from cgn.counterfactuals.sampling import Weights, find_weights, sample
from cgn.data.hub import hub_images
from cgn.data.image_files import image_folder
from cgn.data.image_set import IMAGES, ImageSet
from cgn.data.preprocessing import Preprocessing
from cgn.io.cache import TENSOR, memo
from cgn.models.cgn import CGN
from cgn.segmentation.by_colour import segment_by_colour
from cgn.segmentation.files import masks_from_files, paths_of_masks
from cgn.training.gan import gan_store, sample_gan, train_gan

N_COUNTERFACTUALS = 20_000  # images in a counterfactual or generated training set
COUNTERFACTUALS_PER_IMAGE = (
    3  # counterfactuals of each real image in a training set, where there are many images
)
SWAP_FRACTION = (
    0.5  # share of counterfactuals of real images that borrow the surfaces of other real images
)
N_RECOMBINED = 20_000  # images in a set of recombined photographs
OWN_TEXTURE = 0.5  # share of them whose object keeps its own surface


def base_sets(
    world: TrainingDomain, source: DataSource, kinds: Set[str], place: RunContext
) -> dict[str, ImageSet]:
    """Read the training sets that are the same for every seed.

    Args:
        world: The world.
        source: Where its images come from.
        kinds: Names of the sets that are needed; whatever is drawn needs "biased".
        place: Who is told how far it is.

    Returns:
        Those of "biased" and "unbiased" that are needed.

    Raises:
        ValueError: If the source does not fit the world.
    """
    sets: dict[str, ImageSet] = {}
    with bar(place.bars, f"{world.name}: training images"):
        if kinds - {"unbiased"}:
            sets["biased"] = training_cached(world, "train", source, image_cache_dir())
        if "unbiased" in kinds:
            sets["unbiased"] = training_cached(world, "unbiased", source, image_cache_dir())
    return sets


def add_generated_sets(
    fixed: Mapping[str, ImageSet],
    world: TrainingDomain,
    source: DataSource,
    kinds: Set[str],
    seed: int,
    place: RunContext,
) -> tuple[dict[str, ImageSet], dict[str, int]]:
    """Add the training sets that a generator draws for a seed.

    Args:
        fixed: Sets from `base_sets`.
        world: The world.
        source: Where its images come from.
        kinds: Names of the sets that are needed.
        seed: Of the classifier.
        place: Where generators run.

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
        sets["counterfactual"] = counterfactuals(world, weights.path, seed, place)
    if "abducted" in kinds:
        sets["abducted"] = abducted(world, weights.path, sets["biased"], seed, place)
    if "recombined" in kinds:
        sets["recombined"] = recombined(world, sets["biased"], seed, place)
    if "generated" in kinds:
        sets["generated"] = generated(world, sets["biased"], seed, place)
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


def require_cgn(exam: TestSet, bars: Progress) -> None:
    """Find out now, not hours later at the third suite, that a CGN has to be trained first.

    Args:
        exam: Of the world whose CGN it is.
        bars: The display.

    Raises:
        ValueError: If there is no CGN of the world's training images.
    """
    world, source = exam.suite.world, exam.source
    with bar(bars, f"{world.name}: training images"):
        biased = training_cached(world, "train", source, image_cache_dir())
    trained_cgn(world, source, biased, seed=0)


def counterfactuals(world: TrainingDomain, weights: Path, seed: int, place: RunContext) -> ImageSet:
    """Sample counterfactual images of a world, or take them from the cache.

    Args:
        world: The world.
        weights: File of its CGN.
        seed: Of the images.
        place: Where the CGN runs.
    """
    with bar(place.bars, f"{world.name}: counterfactuals, seed {seed}") as update:
        cgn, _ = CGN.load(weights)
        return memo(
            sample,
            cgn,
            N_COUNTERFACTUALS,
            seed=seed,
            device=place.device,
            progress=update,
            folder=cache_dir() / "counterfactuals",
            store=IMAGES,
            n_bytes=N_COUNTERFACTUALS * 4 * cgn.config.image_size_px**2,  # with masks
        )


def abducted(
    world: TrainingDomain, weights: Path, biased: ImageSet, seed: int, place: RunContext
) -> ImageSet:
    """Make counterfactuals of a world's training images, or take them from the cache.

    Args:
        world: The world.
        weights: File of its CGN.
        biased: The training images.
        seed: Of the interventions.
        place: Where the CGN runs.
    """
    with bar(place.bars, f"{world.name}: counterfactuals of real images, seed {seed}") as update:
        cgn, _ = CGN.load(weights)
        n = COUNTERFACTUALS_PER_IMAGE * max(N_COUNTERFACTUALS, len(biased))
        return memo(
            real_image_counterfactuals,
            cgn,
            biased,
            object_masks(biased, place.device),
            n,
            seed=seed,
            swap_fraction=SWAP_FRACTION,
            device=place.device,
            progress=update,
            folder=cache_dir() / "counterfactuals",
            store=IMAGES,
            n_bytes=n * 4 * cgn.config.image_size_px**2,  # with masks
        )


def object_masks(images: ImageSet, device: torch.device | str = "cpu") -> Tensor:
    """Find the objects of a training set by colour, or take the masks from the cache.

    Returns:
        (N, 1, H, W) bool.
    """
    return memo(
        segment_by_colour,
        images.pixels,
        images.factors.shape,
        device=device,
        folder=cache_dir() / "counterfactuals",
        store=TENSOR,
    )


def recombined(world: TrainingDomain, biased: ImageSet, seed: int, place: RunContext) -> ImageSet:
    """Join parts of a world's training images anew, or take the images from the cache.

    Args:
        world: The world.
        biased: The training images.
        seed: Of what is joined with what.
        place: Where it is done.
    """
    predicted = biased.masks if world.masks_are_predicted else None
    masks = object_masks(biased) if predicted is None else predicted > 0
    with bar(place.bars, f"{world.name}: recombined images, seed {seed}") as update:
        n_classes = len(world.classes)
        return recombined_images(biased, masks, N_RECOMBINED, n_classes, seed, place.device, update)


def recombined_images(
    images: ImageSet,
    masks: Tensor,
    n: int,
    n_classes: int,
    seed: int,
    device: torch.device | str,
    update: Update,
) -> ImageSet:
    """Join parts of images anew, or take the results from the cache.

    Args:
        images: Real images.
        masks: Where their objects are, (N, 1, H, W) bool.
        n: Number of counterfactuals.
        n_classes: Classes there are.
        seed: Of what is joined with what.
        device: Where it is done.
        update: Called with images done and images in all.
    """
    folder = cache_dir() / "counterfactuals"
    store = segmented_store(images, masks)
    segmented = memo(decompose, images, masks, progress=update, folder=folder, store=store)
    return memo(
        recombine,
        segmented,
        n,
        n_classes=n_classes,
        seed=seed,
        own_texture=OWN_TEXTURE,
        device=device,
        progress=update,
        folder=folder,
        store=IMAGES,
        n_bytes=n * 3 * images.size_px[0] * images.size_px[1],
    )


def generated(world: TrainingDomain, biased: ImageSet, seed: int, place: RunContext) -> ImageSet:
    """Sample images of a GAN trained on a world as its CGN is, or take them from the cache.

    Args:
        world: The world.
        biased: The training images.
        seed: Of the images.
        place: Where the GAN is trained and run.
    """
    with bar(place.bars, f"{world.name}: GAN, seed {seed}") as update:
        folder, config, size_px = cache_dir() / "generated", training_preset(world), biased.size_px
        gan = memo(
            train_gan,
            biased,
            len(world.classes),
            config,
            device=place.device,
            progress=update,
            folder=folder,
            store=gan_store(len(world.classes), size_px[1], config.width),
        )
        return memo(
            sample_gan,
            gan,
            N_COUNTERFACTUALS,
            seed=seed,
            device=place.device,
            folder=folder,
            store=IMAGES,
            n_bytes=N_COUNTERFACTUALS * 3 * size_px[0] * size_px[1],
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
    n = options.n_counterfactuals
    return recombined_images(images, masks, n, n_classes, seed, "cpu", update)
