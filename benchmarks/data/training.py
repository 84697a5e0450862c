"""Images that classifiers are fitted to: those of a training domain, and those of generators."""

from __future__ import annotations

from collections.abc import Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.core.context import Progress, RunContext, Update
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
            return sample_cached(
                self.weights,
                N_COUNTERFACTUALS,
                seed=self.seed,
                device=self.context.device,
                cache=self._folder,
                progress=update,
            )

    def real_image_counterfactuals(self) -> ImageSet:
        """Make counterfactuals of the training images."""
        assert self.weights is not None
        with self._task("counterfactuals of real images") as update:
            return real_image_counterfactuals_cached(
                self.weights,
                self.biased,
                COUNTERFACTUALS_PER_IMAGE * max(N_COUNTERFACTUALS, len(self.biased)),
                seed=self.seed,
                lent=SWAP_FRACTION,
                device=self.context.device,
                cache=self._folder,
                progress=update,
            )

    def recombined(self) -> ImageSet:
        """Join objects and backgrounds of the training images anew."""
        masks = self.biased.masks if self.world.masks_are_predicted else None
        with self._task("recombined images") as update:
            return recombine_cached(
                self.biased,
                segment_by_colour_cached(self.biased, self._folder) if masks is None else masks > 0,
                N_RECOMBINED,
                n_classes=len(self.world.classes),
                seed=self.seed,
                own_texture=OWN_TEXTURE,
                device=self.context.device,
                cache=self._folder,
                progress=update,
            )

    def generated(self) -> ImageSet:
        """Sample images of a GAN that is trained as the domain's CGN is."""
        with self._task("GAN") as update:
            return generated_cached(
                self.biased,
                len(self.world.classes),
                training_preset(self.world),
                N_COUNTERFACTUALS,
                seed=self.seed,
                device=self.context.device,
                cache=self.context.cache / "generated",
                progress=update,
            )

    @property
    def _folder(self) -> Path:
        return self.context.cache / "counterfactuals"

    def _task(self, what: str) -> AbstractContextManager[Update]:
        return self.context.progress.task(f"{self.world.name}: {what}, seed {self.seed}")


class TrainingSets:
    """Training sets of domains; the images of the last one stay in memory."""

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
                self._base[kind] = training_cached(world, which, source, image_cache_dir())
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
