"""Measures the images and counterfactuals of CGNs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

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
from benchmarks.data.generators import choose_segmentation, trained_cgn
from benchmarks.data.paths import cache_dir, image_cache_dir
from benchmarks.data.rendered import training_cached
from cgn.counterfactuals.generators import Generator, SegmentingCGN, SupportsIntervention, Workspace
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import Preprocessing
from cgn.models.cgn import CGN
from cgn.models.imagenet.pretrained import load_imagenet_cgn
from cgn.quality.effectiveness import accuracy, coverage_and_diversity, sample_quality
from cgn.quality.fidelity import InceptionProbabilities, distances, fidelity, segmenter
from cgn.quality.intervention import Reference, free_counterfactuals, intervention_quality
from cgn.quality.verification import Classify, verifier_training_set
from classifiers.fit import fit_cached
from classifiers.networks.small import InvariantEnsemble, as_ensemble
from classifiers.recipes import CHECK, FACTOR_CLASSIFIER, Recipe

HELD_OUT = 10  # each so-many-th image is set apart to measure counterfactuals, for sets are sorted
N_MEASURED = 2_000  # counterfactuals whose labels are checked
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
        cgn, about = CGN.load(weights or trained_cgn(world, source, images, seed).path)
        method = str(about.get("method", ""))
        scores = measure(cgn, world, source, images, method, seed, chosen, progress)
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


@dataclass(frozen=True)
class Evaluation:
    """What the counterfactuals of a domain are held against; no network has seen any of it.

    Attributes:
        network: Names each factor; fitted on true images with independent factors.
        truth: True images with independent factors.
        images: Biased training images, whose counterfactuals are measured; their labels are those
            that a model is told.
        exact: True counterfactuals of these, by action; empty where they are not known.
    """

    network: InvariantEnsemble
    truth: ImageSet
    images: ImageSet
    exact: Mapping[str, ImageSet]


def is_held_out(images: ImageSet) -> Tensor:
    """Mark the images that counterfactuals are measured with, (N,) bool."""
    return torch.arange(len(images)) % HELD_OUT == HELD_OUT - 1


def load_evaluation(
    world: TrainingDomain,
    source: DataSource,
    images: ImageSet,
    device: torch.device,
    progress: Progress,
) -> Evaluation:
    """Fit the evaluation network of a domain, and set images apart.

    Args:
        world: The domain.
        source: Where its images come from.
        images: Its biased training images.
        device: Where the network is fitted.
        progress: Shows it.
    """
    unbiased = training_cached(world, "unbiased", source, image_cache_dir())
    # Digits have the same places in both sets: no evaluation network has seen what is measured.
    true, real = is_held_out(unbiased), is_held_out(images)
    network = factor_classifier(FACTOR_CLASSIFIER, unbiased.select(~true), world, device, progress)
    # The true counterfactuals are those of images that all follow their class.
    exact = world.true_counterfactuals(source) if source.correlation == 1 else {}
    factors = Factors.aligned(images.factors.shape).only(images.factors.known)
    return Evaluation(
        network,
        unbiased.select(true),
        replace(images, factors=factors).select(real),
        {action: each.select(real) for action, each in exact.items()},
    )


def generator_quality(
    generator: Generator,
    samples: ImageSet,
    evaluation: Evaluation,
    *,
    n_classes: int,
    uses_true_masks: bool = False,
    verifier: Classify | None = None,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Measure what a generator draws and, if it acts on real images, what becomes of these.

    Args:
        generator: The generator.
        samples: What it drew, as many images as are measured at least.
        evaluation: From `load_evaluation`.
        n_classes: Number of classes.
        uses_true_masks: Whether it is given the true masks of images.
        verifier: As for `sample_quality`.
        seed: Of the interventions.
        device: Where the evaluation network is.

    Returns:
        Scores by name, those of counterfactuals of real images as `abducted_<name>`.
    """
    network, truth, images = evaluation.network, evaluation.truth, evaluation.images

    def measure_set(drawn: ImageSet) -> dict[str, float]:
        measured, as_many = (drawn.select(slice(n)) for n in (N_MEASURED, len(truth)))
        scores = sample_quality(
            measured,
            network.heads,
            verifier,
            factors=truth.factors.known,
            n_classes=n_classes,
            device=device,
        )
        return scores | coverage_and_diversity(as_many, truth, network.backbone, device=device)

    scores = measure_set(samples)
    if not isinstance(generator, SupportsIntervention):
        return scores
    given = images if uses_true_masks else replace(images, masks=None)
    abducted = intervention_quality(
        generator,
        given,
        evaluation.exact,
        Reference(truth, network.backbone),
        true_masks=None if images.masks is None else images.masks > 0,
        n_classes=n_classes,
        seed=seed,
        device=device,
    )
    n = max(N_MEASURED, len(truth))
    free = free_counterfactuals(generator, given, n, n_classes=n_classes, seed=seed)
    abducted |= measure_set(free)
    return scores | {f"abducted_{name}": score for name, score in abducted.items()}


def measure(
    cgn: CGN,
    world: TrainingDomain,
    source: DataSource,
    images: ImageSet,
    method: str,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """Measure a CGN's samples, and its counterfactuals of the world's training images."""
    evaluation = load_evaluation(world, source, images, device, progress)
    folder, n_classes = cache_dir() / "counterfactuals", len(world.classes)
    segmentation = choose_segmentation(cgn, method, seed=seed, folder=folder, device=device)
    with progress.task(f"{world.name}: objects"):
        masks = segmentation(images)
    others = ~is_held_out(images)
    with progress.task(f"{world.name}: images for the verifier") as update:
        verifier_images = verifier_training_set(
            cgn,
            images.select(others),
            masks[others],
            N_VERIFIER,
            seed=seed,
            device=device,
            progress=update,
        )
    verifier = factor_classifier(CHECK, verifier_images, world, device, progress)
    generator = SegmentingCGN(cgn, Workspace(device, folder), segmentation)
    with progress.task(f"{world.name}: quality"):
        samples = generator.sample(max(N_MEASURED, len(evaluation.truth)), seed=seed)
        return accuracy(evaluation.truth, evaluation.network.heads, device=device) | (
            generator_quality(
                generator,
                samples,
                evaluation,
                n_classes=n_classes,
                verifier=verifier.heads,
                seed=seed,
                device=device,
            )
        )


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
