"""Measures the images and counterfactuals of CGNs."""

from __future__ import annotations

from typing import Literal

import torch

from benchmarks.cli.arguments import (
    Device,
    OneSuite,
    ReadFile,
    ReadFolder,
    TrainingData,
    resolve_device,
)
from benchmarks.cli.output import Output
from benchmarks.core.context import Progress
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import cache_dir, image_cache_dir
from benchmarks.data.rendered import training_cached
from benchmarks.data.training import object_masks, trained_cgn
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.sampling import sample
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import Preprocessing
from cgn.models.cgn import CGN
from cgn.models.imagenet.pretrained import load_imagenet_cgn
from cgn.quality.effectiveness import abduction_quality, accuracy, coverage_and_diversity, quality
from cgn.quality.fidelity import InceptionProbabilities, distances, fidelity, segmenter
from cgn.quality.verification import verifier_training_set
from classifiers.fit import fit_cached
from classifiers.networks.small import InvariantEnsemble, as_ensemble
from classifiers.recipes import CHECK, FACTOR_CLASSIFIER, Recipe

HELD_OUT = 10  # each so-many-th image is set apart to measure counterfactuals, for sets are sorted
N_VERIFIER = 45_000  # images that the verifier of counterfactuals is fitted to


def measure_cgn(
    *,
    suite: OneSuite,
    weights: ReadFile | None = None,
    seed: int = 0,
    data: TrainingData = TrainingData(),
    device: Device = "auto",
    output: Output = Output(),
) -> None:
    """Print how good the counterfactuals of a world's CGN are.

    Args:
        suite: A suite of the world.
        weights: Of the CGN; without it those that `run` takes for this data.
        seed: Of the images.
    """
    source, chosen, world = data.source(suite), resolve_device(device), suite.world
    with output.progress() as progress:
        with progress.task(f"{world.name}: training images"):
            images = training_cached(world, "train", source, image_cache_dir())
        cgn, _ = CGN.load(weights or trained_cgn(world, source, images, seed).path)
        scores = measure(cgn, world, source, images, seed, chosen, progress)
    output.numbers(scores)


def measure_imagenet(
    *,
    weights: ReadFile,
    n: int = 2_000,
    truncation: float = 0.5,
    seed: int = 0,
    batch_size: int = 16,
    real: ReadFolder | None = None,
    no_segmenter: bool = False,
    device: Device = "auto",
    suite: Literal["in9"] = "in9",
    output: Output = Output(),
) -> None:
    """Print how much the images of an ImageNet CGN look real, and how good its masks are.

    Args:
        weights: Of the CGN.
        n: Images.
        truncation: Of the noise, in (0, 1].
        seed: Of the images.
        batch_size: Images at once.
        real: Folder CLASS/*.JPEG of real images, for FID and KID.
        no_segmenter: Leave out the network that looks for objects, and its scores.
        suite: There is only one.
    """
    chosen = resolve_device(device)
    cgn = load_imagenet_cgn(weights).for_sampling(truncation=truncation)
    size_px = cgn.config.image_size_px
    with output.progress() as progress:
        with progress.task("evaluation networks"):
            inception = InceptionProbabilities().to(chosen)
            segment = None if no_segmenter else segmenter()
        with progress.task("images") as update:
            images = sample(
                cgn,
                n,
                seed=seed,
                aligned=True,
                batch_size=batch_size,
                device=chosen,
                progress=update,
            )
        with progress.task("quality"):
            scores = fidelity(images, inception, segment, batch_size=batch_size, device=chosen)
            if real is not None:
                reals, _ = image_folder(real, Preprocessing(size_px, size_px))
                batches = ((x for x, _ in each.batches(batch_size)) for each in (images, reals))
                scores |= distances(*batches, seed=seed, device=chosen)
    output.numbers(scores)


def measure(
    cgn: CGN,
    world: TrainingDomain,
    source: DataSource,
    images: ImageSet,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """Measure a CGN's samples, and its counterfactuals of the world's training images."""
    unbiased = training_cached(world, "unbiased", source, image_cache_dir())
    # Digits have the same places in both sets: no evaluation network has seen what is measured.
    true, real = (torch.arange(len(each)) % HELD_OUT == HELD_OUT - 1 for each in (unbiased, images))
    with progress.task(f"{world.name}: objects"):
        masks = object_masks(images, cache_dir() / "counterfactuals", device)
    others = images.select(~real), masks[~real]
    with progress.task(f"{world.name}: images for the verifier") as update:
        verifier_images = verifier_training_set(
            cgn, *others, N_VERIFIER, seed=seed, device=device, progress=update
        )
    fits = (FACTOR_CLASSIFIER, unbiased.select(~true)), (CHECK, verifier_images)
    judge, check = (factor_classifier(*each, world, device, progress) for each in fits)
    with progress.task(f"{world.name}: quality"):
        truth = unbiased.select(true)
        scores = accuracy(truth, judge.heads, device=device)
        known = images.factors.known
        scores |= quality(cgn, judge.heads, check.heads, factors=known, seed=seed, device=device)
        drawn = sample(cgn, len(truth), seed=seed, device=device)
        scores |= coverage_and_diversity(drawn, truth, judge.backbone, device=device)
        if images.masks is None:
            return scores
        # The true counterfactuals are those of images that all follow their class.
        exact = world.true_counterfactuals(source) if source.correlation == 1 else {}
        true_counterfactuals = {action: each.select(real) for action, each in exact.items()}
        part = images.select(real), masks[real]
        abducted = abduction_quality(
            cgn, judge.heads, *part, true_counterfactuals, check.heads, seed=seed, device=device
        )
        drawn = real_image_counterfactuals(cgn, *part, len(truth), seed=seed, device=device)
        abducted |= coverage_and_diversity(drawn, truth, judge.backbone, device=device)
    return scores | {f"abducted_{name}": score for name, score in abducted.items()}


def factor_classifier(
    recipe: Recipe,
    images: ImageSet,
    world: TrainingDomain,
    device: torch.device,
    progress: Progress,
) -> InvariantEnsemble:
    """Fit a network that names each factor, or take it from the cache."""
    with progress.task(f"{world.name}: {recipe.name} of the counterfactuals") as update:
        network, _ = fit_cached(
            recipe,
            dict.fromkeys(recipe.trains_on, images),
            n_classes=len(world.classes),
            seed=0,
            device=device,
            cache=cache_dir() / "classifiers",
            progress=update,
        )
    return as_ensemble(network).to(device)
