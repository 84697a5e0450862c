"""Images that classifiers are fitted to: those of a training domain, and those of generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.core.progress import Tasks, silent
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.image_cache import training_cached
from benchmarks.data.paths import cache_dir, image_cache_dir, user_weights_dir
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
COUNTERFACTUALS_PER_IMAGE = 3  # of each real image, where there are many
SWAP_FRACTION = 0.5  # counterfactuals of real images with the surfaces of other real images
N_RECOMBINED = 20_000  # images in a set of recombined photographs
OWN_TEXTURE = 0.5  # share of them whose object keeps its own surface


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a generated training set is made of.

    Attributes:
        world: The training domain.
        biased: Its biased training images.
        seed: Of the images.
        device: Where generators run.
        weights: File of the domain's CGN, for the sets that need it.
        tasks: The display.
    """

    world: TrainingDomain
    biased: ImageSet
    seed: int
    device: torch.device
    weights: Path | None = None
    tasks: Tasks = silent

    @property
    def cgn(self) -> Path:
        """File of the CGN.

        Raises:
            ValueError: If there is none.
        """
        if self.weights is None:
            raise ValueError(f"counterfactuals of {self.world.name} need the weights of its CGN")
        return self.weights


def counterfactuals(g: Generation) -> ImageSet:
    """Sample counterfactual images of a CGN, or take them from the cache."""
    with g.tasks(f"{g.world.name}: counterfactuals, seed {g.seed}") as update:
        return sample_cached(
            g.cgn,
            N_COUNTERFACTUALS,
            seed=g.seed,
            device=g.device,
            cache=cache_dir() / "counterfactuals",
            progress=update,
        )


def abducted(g: Generation) -> ImageSet:
    """Make counterfactuals of real training images, or take them from the cache."""
    with g.tasks(f"{g.world.name}: counterfactuals of real images, seed {g.seed}") as update:
        return real_image_counterfactuals_cached(
            g.cgn,
            g.biased,
            COUNTERFACTUALS_PER_IMAGE * max(N_COUNTERFACTUALS, len(g.biased)),
            seed=g.seed,
            lent=SWAP_FRACTION,
            device=g.device,
            cache=cache_dir() / "counterfactuals",
            progress=update,
        )


def recombined(g: Generation) -> ImageSet:
    """Join parts of training images anew, or take the images from the cache."""
    folder = cache_dir() / "counterfactuals"
    masks = g.biased.masks if g.world.masks_are_predicted else None
    with g.tasks(f"{g.world.name}: recombined images, seed {g.seed}") as update:
        return recombine_cached(
            g.biased,
            segment_by_colour_cached(g.biased, folder) if masks is None else masks > 0,
            N_RECOMBINED,
            n_classes=len(g.world.classes),
            seed=g.seed,
            own_texture=OWN_TEXTURE,
            device=g.device,
            cache=folder,
            progress=update,
        )


def generated(g: Generation) -> ImageSet:
    """Sample images of a GAN that is trained as the CGN is, or take them from the cache."""
    with g.tasks(f"{g.world.name}: GAN, seed {g.seed}") as update:
        return generated_cached(
            g.biased,
            len(g.world.classes),
            training_preset(g.world),
            N_COUNTERFACTUALS,
            seed=g.seed,
            device=g.device,
            cache=cache_dir() / "generated",
            progress=update,
        )


GENERATORS: dict[str, Callable[[Generation], ImageSet]] = {
    "counterfactual": counterfactuals,
    "abducted": abducted,
    "recombined": recombined,
    "generated": generated,
}
"""Kinds of training sets that are drawn anew for each seed."""

OF_CGN = frozenset({"counterfactual", "abducted"})


def base_sets(
    world: TrainingDomain, source: DataSource, kinds: Set[str], tasks: Tasks = silent
) -> dict[str, ImageSet]:
    """Read the training sets that are the same for every seed.

    Args:
        world: The training domain.
        source: Where its images come from.
        kinds: Names of the sets that are needed; generated ones need "biased".
        tasks: The display.

    Returns:
        Those of "biased" and "unbiased" that are needed.

    Raises:
        ValueError: If the source does not fit the domain.
    """
    sets: dict[str, ImageSet] = {}
    with tasks(f"{world.name}: training images"):
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
    device: torch.device,
    tasks: Tasks = silent,
) -> tuple[dict[str, ImageSet], dict[str, int]]:
    """Add the training sets that a generator draws for a seed.

    Args:
        fixed: Sets from `base_sets`.
        world: The training domain.
        source: Where its images come from.
        kinds: Names of the sets that are needed.
        seed: Of the classifier.
        device: Where generators run.
        tasks: The display.

    Returns:
        All sets by name; and the seeds of generators by the name of the set that they drew.

    Raises:
        ValueError: If there is no CGN of these images.
    """
    sets, seeds = dict(fixed), dict[str, int]()
    weights = None
    if kinds & OF_CGN:
        cgn = trained_cgn(world, source, sets["biased"], seed)
        weights, seeds = cgn.path, dict.fromkeys(sorted(OF_CGN), cgn.seed)
    if "generated" in kinds:
        seeds["generated"] = training_preset(world).seed
    for kind in (name for name in GENERATORS if name in kinds):
        generation = Generation(
            world=world,
            biased=sets["biased"],
            seed=seed,
            weights=weights,
            device=device,
            tasks=tasks,
        )
        sets[kind] = GENERATORS[kind](generation)
    return sets, seeds


def trained_cgn(world: TrainingDomain, source: DataSource, biased: ImageSet, seed: int) -> Weights:
    """Find the CGN whose images are for a seed of the classifier.

    Raises:
        ValueError: If there is none; the message has the command that trains one.
    """
    return find_weights(
        world.name, biased.sha256(), user_weights_dir(), source.name, source.correlation, seed=seed
    )


def require_cgn(world: TrainingDomain, source: DataSource, tasks: Tasks = silent) -> None:
    """Raise ValueError now, and not hours later, if there is no CGN of a domain's images."""
    biased = base_sets(world, source, {"biased"}, tasks)["biased"]
    trained_cgn(world, source, biased, seed=0)


def training_preset(world: TrainingDomain) -> TrainConfig:
    """Settings of a domain's CGN where none are given, and of its GAN always."""
    return PRESETS.get(world.name, TrainConfig())
