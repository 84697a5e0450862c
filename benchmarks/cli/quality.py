"""Measures CGNs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from benchmarks.cli.progress import progress_bars
from benchmarks.cli.resolve import (
    resolve_device,
    resolve_one,
    source_for,
)
from benchmarks.cli.terminal import say
from benchmarks.core.context import Progress
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import (
    cache_dir,
    image_cache_dir,
)
from benchmarks.data.rendered import training_cached
from benchmarks.data.training import (
    object_masks,
    trained_cgn,
)
from benchmarks.suites import SUITES
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.sampling import (
    sample,
)
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
N_LESSONS = 45_000  # images that the check of counterfactuals is fitted to


def measure_imagenet(options: argparse.Namespace) -> dict[str, float]:
    """Measure how much the images of an ImageNet CGN look real, and its masks."""
    if options.weights is None:
        raise ValueError("--scale imagenet measures a file: name it with --weights")
    device, seed = resolve_device(options.device), options.seed
    cgn = load_imagenet_cgn(options.weights).for_sampling(truncation=options.truncation)
    size_px = cgn.config.image_size_px
    batch_size = options.batch_size
    with progress_bars() as bars:
        with bars.task("networks that judge"):
            inception = InceptionProbabilities().to(device)
            segment = None if options.no_segmenter else segmenter()
        with bars.task("images") as update:
            images = sample(
                cgn,
                options.n,
                seed=seed,
                aligned=True,
                batch_size=batch_size,
                device=device,
                progress=update,
            )
        with bars.task("quality"):
            scores = fidelity(images, inception, segment, batch_size=batch_size, device=device)
            if options.real is None:
                return scores
            real, _ = image_folder(options.real, Preprocessing(size_px, size_px))
            batches = ((x for x, _ in each.batches(batch_size)) for each in (images, real))
            return scores | distances(*batches, seed=seed, device=device)


def measured(
    cgn: CGN,
    world: TrainingDomain,
    source: DataSource,
    images: ImageSet,
    seed: int,
    device: torch.device,
    bars: Progress,
) -> dict[str, float]:
    """Measure a CGN's samples, and its counterfactuals of the world's training images."""
    unbiased = training_cached(world, "unbiased", source, image_cache_dir())
    # Digits have the same places in both sets: nobody who judges has seen those that are measured.
    true, real = (torch.arange(len(each)) % HELD_OUT == HELD_OUT - 1 for each in (unbiased, images))
    with bars.task(f"{world.name}: objects"):
        masks = object_masks(images, cache_dir() / "counterfactuals", device)
    others = images.select(~real), masks[~real]
    with bars.task(f"{world.name}: images for the check") as update:
        learned = verifier_training_set(
            cgn, *others, N_LESSONS, seed=seed, device=device, progress=update
        )
    judge = factor_classifier(FACTOR_CLASSIFIER, unbiased.select(~true), world, device, bars)
    check = factor_classifier(CHECK, learned, world, device, bars)
    judge, check = judge.to(device), check.to(device)
    judges = judge.heads, check.heads
    with bars.task(f"{world.name}: quality"):
        truth = unbiased.select(true)
        scores = accuracy(truth, judge.heads, device=device)
        known = images.factors.known
        scores |= quality(cgn, *judges, factors=known, seed=seed, device=device)
        drawn = sample(cgn, len(truth), seed=seed, device=device)
        scores |= coverage_and_diversity(drawn, truth, judge.backbone, device=device)
        if images.masks is None:
            return scores
        # The true counterfactuals are those of images that all follow their class.
        ways = world.true_counterfactuals(source) if source.correlation == 1 else {}
        true_counterfactuals = {action: each.select(real) for action, each in ways.items()}
        part = images.select(real), masks[real]
        abducted = abduction_quality(
            cgn, judge.heads, *part, true_counterfactuals, check.heads, seed=seed, device=device
        )
        made = real_image_counterfactuals(cgn, *part, len(truth), seed=seed, device=device)
        abducted |= coverage_and_diversity(made, truth, judge.backbone, device=device)
    return scores | {f"abducted_{name}": score for name, score in abducted.items()}


def factor_classifier(
    recipe: Recipe, images: ImageSet, world: TrainingDomain, device: torch.device, bars: Progress
) -> InvariantEnsemble:
    """Fit a network that names each factor, or take it from the cache."""
    with bars.task(f"{world.name}: {recipe.name} of the counterfactuals") as update:
        network, _ = fit_cached(
            recipe,
            dict.fromkeys(recipe.trains_on, images),
            n_classes=len(world.classes),
            seed=0,
            device=device,
            cache=cache_dir() / "classifiers",
            progress=update,
        )
    return as_ensemble(network)


def show_quality(scores: Mapping[str, float]) -> None:
    """Print the measures of a CGN."""
    for name, score in scores.items():
        say(f"{name:38} {score:7.4f}")


def measure_cgn(options: argparse.Namespace) -> None:
    """Print how good the counterfactuals of a world's CGN are."""
    if options.scale == "imagenet":
        show_quality(measure_imagenet(options))
        return
    suite = resolve_one(options.suite, SUITES, "suite")
    source, device = (
        source_for(suite, options),
        resolve_device(options.device),
    )
    world = suite.world
    with progress_bars() as bars:
        with bars.task(f"{world.name}: training images"):
            images = training_cached(world, "train", source, image_cache_dir())
        weights = options.weights or trained_cgn(world, source, images, options.seed).path
        cgn, _ = CGN.load(weights)
        scores = measured(cgn, world, source, images, options.seed, device, bars)
    show_quality(scores)
