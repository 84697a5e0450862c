"""Images that classifiers are fitted to: those of worlds, of generators, and of the user.

Which sets a classifier sees is not here: the recipe says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Literal

from benchmarks.core.context import Progress, RunContext
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import image_cache_dir, user_weights_dir
from benchmarks.data.rendered import training_cached
from cgn.counterfactuals.abduction import (
    real_image_counterfactuals_cached,
    segment_by_colour_cached,
)
from cgn.counterfactuals.recombination import recombine_cached
from cgn.counterfactuals.sampling import Weights, find_weights, sample_cached
from cgn.data.image_set import ImageSet
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
