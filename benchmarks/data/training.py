"""Images that classifiers are fitted to: those of a training domain, and those of generators."""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.core.context import Progress, RunContext, Update
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import image_cache_dir, user_weights_dir
from benchmarks.data.rendered import training_cached
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.recombination import decompose, recombine, segmented_store
from cgn.counterfactuals.sampling import Weights, find_weights, sample
from cgn.data.image_set import IMAGES, ImageSet
from cgn.io.cache import TENSOR, memo
from cgn.models.cgn import CGN
from cgn.segmentation.by_colour import segment_by_colour
from cgn.training.gan import gan_store, sample_gan, train_gan
from cgn.training.small import PRESETS, TrainConfig

N_COUNTERFACTUALS = 20_000  # images in a counterfactual or generated training set
COUNTERFACTUALS_PER_IMAGE = 3  # of each real image, where there are many
SWAP_FRACTION = 0.5  # counterfactuals of real images with the surfaces of other real images
N_RECOMBINED = 20_000  # images in a set of recombined photographs
OWN_TEXTURE = 0.5  # share of them whose object keeps its own surface

OF_CGN = ("counterfactual", "abducted")  # kinds of training sets that a CGN draws


@dataclass(frozen=True)
class Generation:
    """What generated training sets are drawn from; each is taken from the cache if it is there.

    Attributes:
        world: The training domain.
        biased: Its biased training images.
        seed: Of the images.
        context: Where generators run.
        weights: File of the domain's CGN, for the sets of `OF_CGN`.
    """

    world: TrainingDomain
    biased: ImageSet
    seed: int
    context: RunContext
    weights: Path | None = None

    def draw(self, kind: str) -> ImageSet:
        """Draw "counterfactual", "abducted", "recombined" or "generated" images."""
        return {
            "counterfactual": self.counterfactuals,
            "abducted": self.real_image_counterfactuals,
            "recombined": self.recombined,
            "generated": self.generated,
        }[kind]()

    def counterfactuals(self) -> ImageSet:
        """Sample counterfactual images of a CGN."""
        assert self.weights is not None
        with self._task("counterfactuals") as update:
            cgn, _ = CGN.load(self.weights)
            return memo(
                sample,
                cgn,
                N_COUNTERFACTUALS,
                seed=self.seed,
                device=self.context.device,
                progress=update,
                folder=self._folder,
                store=IMAGES,
                n_bytes=N_COUNTERFACTUALS * 4 * cgn.config.image_size_px**2,  # with masks
            )

    def real_image_counterfactuals(self) -> ImageSet:
        """Make counterfactuals of the training images."""
        assert self.weights is not None
        with self._task("counterfactuals of real images") as update:
            cgn, _ = CGN.load(self.weights)
            n = COUNTERFACTUALS_PER_IMAGE * max(N_COUNTERFACTUALS, len(self.biased))
            return memo(
                real_image_counterfactuals,
                cgn,
                self.biased,
                object_masks(self.biased, self._folder, self.context.device),
                n,
                seed=self.seed,
                swap_fraction=SWAP_FRACTION,
                device=self.context.device,
                progress=update,
                folder=self._folder,
                store=IMAGES,
                n_bytes=n * 4 * cgn.config.image_size_px**2,  # with masks
            )

    def recombined(self) -> ImageSet:
        """Join objects and backgrounds of the training images anew."""
        masks = self.biased.masks if self.world.masks_are_predicted else None
        with self._task("recombined images") as update:
            return recombined_images(
                self.biased,
                object_masks(self.biased, self._folder) if masks is None else masks > 0,
                N_RECOMBINED,
                n_classes=len(self.world.classes),
                seed=self.seed,
                device=self.context.device,
                folder=self._folder,
                progress=update,
            )

    def generated(self) -> ImageSet:
        """Sample images of a GAN that is trained as the domain's CGN is."""
        with self._task("GAN") as update:
            n_classes, config = len(self.world.classes), training_preset(self.world)
            height, width = self.biased.size_px
            gan = memo(
                train_gan,
                self.biased,
                n_classes,
                config,
                device=self.context.device,
                progress=update,
                folder=self.context.cache / "generated",
                store=gan_store(n_classes, width, config.width),
            )
            return memo(
                sample_gan,
                gan,
                N_COUNTERFACTUALS,
                seed=self.seed,
                device=self.context.device,
                folder=self.context.cache / "generated",
                store=IMAGES,
                n_bytes=N_COUNTERFACTUALS * 3 * height * width,
            )

    @property
    def _folder(self) -> Path:
        return self.context.cache / "counterfactuals"

    def _task(self, what: str) -> AbstractContextManager[Update]:
        return self.context.progress.task(f"{self.world.name}: {what}, seed {self.seed}")


def object_masks(images: ImageSet, folder: Path, device: torch.device | str = "cpu") -> Tensor:
    """Find the objects of training images by colour, or open the masks that the folder holds.

    Returns:
        (N, 1, H, W) bool.
    """
    pixels, labels = images.pixels, images.factors.shape
    return memo(segment_by_colour, pixels, labels, device=device, folder=folder, store=TENSOR)


def recombined_images(
    images: ImageSet,
    masks: Tensor,
    n: int,
    *,
    n_classes: int,
    seed: int,
    folder: Path,
    device: torch.device | str = "cpu",
    progress: Update,
) -> ImageSet:
    """Join parts of images anew, or open the images that the folder holds.

    Args:
        images: Real images.
        masks: Where their objects are, (N, 1, H, W) bool.
        n: Number of counterfactuals.
        n_classes: Classes there are.
        seed: Of what is joined with what.
        folder: Where results are kept.
        device: Where images are composed.
        progress: Called with images done and images in all.
    """
    store = segmented_store(images, masks)
    return memo(
        recombine,
        memo(decompose, images, masks, progress=progress, folder=folder, store=store),
        n,
        n_classes=n_classes,
        seed=seed,
        own_texture=OWN_TEXTURE,
        device=device,
        progress=progress,
        folder=folder,
        store=IMAGES,
        n_bytes=n * 3 * images.size_px[0] * images.size_px[1],
    )


class TrainingSets:
    """Training sets of domains; the images of the last one stay in memory.

    Args:
        part: Chooses the images of a domain's own sets that are used, and from which generators
            draw; without it all are.
    """

    def __init__(self, part: Callable[[ImageSet], ImageSet] = lambda images: images) -> None:
        self._part = part
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
            world: The training domain.
            source: Where its images come from.
            kinds: "biased", "unbiased", and what `Generation.draw` knows.
            seed: Of the classifier; generators draw other images for each.
            context: Where generators run.

        Returns:
            All sets by name; and the seeds of generators by the name of the set that they drew.

        Raises:
            ValueError: If the source does not fit the domain, or there is no CGN of its images.
        """
        if self._of != (world, source):
            self._of, self._base = (world, source), {}
        needed = {"biased"} if kinds - {"unbiased"} else set()
        for kind in sorted((needed | kinds & {"unbiased"}) - self._base.keys()):
            which: Literal["train", "unbiased"] = "train" if kind == "biased" else "unbiased"
            with context.progress.task(f"{world.name}: training images"):
                images = training_cached(world, which, source, image_cache_dir())
                self._base[kind] = self._part(images)
        sets, seeds = dict(self._base), dict[str, int]()
        drawn = sorted(kinds - {"biased", "unbiased"})
        if not drawn:
            return sets, seeds
        weights = None
        if kinds & {*OF_CGN}:
            cgn = trained_cgn(world, source, sets["biased"], seed)
            weights, seeds = cgn.path, dict.fromkeys(OF_CGN, cgn.seed)
        if "generated" in kinds:
            seeds["generated"] = training_preset(world).seed
        generation = Generation(world, sets["biased"], seed, context, weights)
        return sets | {kind: generation.draw(kind) for kind in drawn}, seeds


def trained_cgn(world: TrainingDomain, source: DataSource, biased: ImageSet, seed: int) -> Weights:
    """Find the CGN whose images are for a seed of the classifier.

    Raises:
        ValueError: If there is none; the message has the command that trains one.
    """
    return find_weights(
        world.name, biased.sha256(), user_weights_dir(), source.name, source.correlation, seed=seed
    )


def require_cgn(world: TrainingDomain, source: DataSource, progress: Progress) -> None:
    """Raise ValueError now, and not hours later, if there is no CGN of a domain's images."""
    with progress.task(f"{world.name}: training images"):
        biased = training_cached(world, "train", source, image_cache_dir())
    trained_cgn(world, source, biased, seed=0)


def training_preset(world: TrainingDomain) -> TrainConfig:
    """Settings of a domain's CGN where none are given, and of its GAN always."""
    return PRESETS.get(world.name, TrainConfig())
