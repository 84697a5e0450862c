"""Which generators there are, how each is fitted to a training domain, and what sets they draw."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.core.context import Progress, RunContext, Update
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.paths import data_folder, image_cache_dir, user_weights_dir
from benchmarks.data.rendered import training_cached
from benchmarks.data.user_generators import load_user_generator, require_drawn
from cgn.counterfactuals.generators import (
    AbductingCGN,
    CGNGenerator,
    Generator,
    Paste,
    SegmentingCGN,
    Workspace,
)
from cgn.counterfactuals.recombination import decompose, segmented_store
from cgn.counterfactuals.sampling import Weights, find_weights
from cgn.data.factors import Factors
from cgn.data.image_set import IMAGES, ImageSet
from cgn.io.cache import TENSOR, memo
from cgn.models.cgn import CGN, load_released
from cgn.segmentation.by_colour import segment_by_colour
from cgn.training.end_to_end import END_TO_END
from cgn.training.gan import GAN, gan_store, sample_gan, train_gan
from cgn.training.segmenter import segment_by_synthesis
from cgn.training.small import PRESETS, TrainConfig

N_COUNTERFACTUALS = 20_000  # images in a generated training set
COUNTERFACTUALS_PER_IMAGE = 3  # of each real image, where there are many
SWAP_FRACTION = 0.5  # counterfactuals of real images with the surfaces of other real images
OWN_TEXTURE = 0.5  # share of the recombined photographs whose object keeps its own surface
RELEASED = "cgn-mnist-weights"  # the data set of the weights that the original authors published


@dataclass(frozen=True)
class Generation:
    """What generators are fitted to, and generated training sets drawn from.

    Attributes:
        world: The training domain.
        source: Where its images come from.
        biased: Its biased training images.
        seed: Of the generator, where it is fitted here, and of the images.
        context: Where generators run; what they made is taken from its cache if it is there.
        fitted: Generators that are fitted already, by name and seed.
    """

    world: TrainingDomain
    source: DataSource
    biased: ImageSet
    seed: int
    context: RunContext
    fitted: dict[tuple[str, int], Generator] = field(default_factory=dict)

    def draw(self, kind: str) -> ImageSet:
        """Draw a set of a kind of `GENERATED_SETS`, or of a user's generator.

        Raises:
            ValueError: If there is no such generator of the domain, or it draws something else.
        """
        name, n = GENERATED_SETS.get(kind, kind), N_COUNTERFACTUALS
        if kind in ABDUCTED:
            n = COUNTERFACTUALS_PER_IMAGE * max(n, len(self.biased))
        images = self.generator(name).sample(n, seed=self.seed)
        require_drawn(images, n, name, self.biased.size_px, len(self.world.classes))
        return images

    def generator(self, name: str) -> Generator:
        """Fit a generator of `GENERATORS`, or a user's, unless it is fitted already.

        Raises:
            ValueError: If there is no such generator of the domain.
        """
        key = name, self.seed
        if key not in self.fitted:
            fit = GENERATORS[name].fit if name in GENERATORS else partial(_fit_user, spec=name)
            self.fitted[key] = fit(self)
        return self.fitted[key]

    def generator_seed(self, name: str) -> int | None:
        """Return the seed of the generator that is taken; None if it has none."""
        return GENERATORS[name].seed(self) if name in GENERATORS else self.seed

    @property
    def folder(self) -> Path:
        """Where sets and masks are kept."""
        return self.context.cache / "counterfactuals"

    def workspace(self, what: str) -> Workspace:
        """Where a generator works, and how its work is shown."""
        return Workspace(self.context.device, self.folder, partial(self.task, what))

    def task(self, what: str) -> AbstractContextManager[Update]:
        """Show a task while the context is open."""
        return self.context.progress.task(f"{self.world.name}: {what}, seed {self.seed}")

    def masks(self) -> Tensor:
        """Where the objects of the training images are, as far as models may know.

        Returns:
            (N, 1, H, W) bool.
        """
        if self.world.masks_are_predicted and self.biased.masks is not None:
            return self.biased.masks > 0
        return object_masks(self.biased, self.folder, self.context.device)


@dataclass(frozen=True)
class GeneratorEntry:
    """A generator that a name stands for.

    Attributes:
        fit: Fits it, or loads its weights.
        seed: Returns the seed that its weights were trained with, None if it has none; a
            ValueError if there are no weights.
        uses_true_masks: Whether it is given the true masks of images, which no rival knows.
    """

    fit: Callable[[Generation], Generator]
    seed: Callable[[Generation], int | None] = lambda generation: None
    uses_true_masks: bool = False


def fit_cgn(generation: Generation, *, method: str = "") -> SegmentingCGN:
    """Load the CGN of a domain's images that a method trained."""
    cgn, segmentation = _load_cgn(generation, method)
    return SegmentingCGN(cgn, generation.workspace("counterfactuals"), segmentation)


def fit_abducting_cgn(
    generation: Generation, *, swap_fraction: float = SWAP_FRACTION, method: str = ""
) -> AbductingCGN:
    """Load the CGN of a domain's images, to draw counterfactuals of these."""
    cgn, segmentation = _load_cgn(generation, method)
    with generation.task("masks"):
        masks = segmentation(generation.biased) if method else generation.masks()
    work = generation.workspace("counterfactuals of real images")
    return AbductingCGN(cgn, work, segmentation, generation.biased, masks, swap_fraction)


def _load_cgn(generation: Generation, method: str) -> tuple[CGN, Callable[[ImageSet], Tensor]]:
    """Load a CGN, and how objects are found in the images that it is for."""
    cgn, _ = CGN.load(_weights(generation, method).path)
    seed, folder = generation.seed, generation.folder
    return cgn, choose_segmentation(
        cgn, method, seed=seed, folder=folder, device=generation.context.device
    )


def choose_segmentation(
    cgn: CGN, method: str, *, seed: int, folder: Path, device: torch.device
) -> Callable[[ImageSet], Tensor]:
    """Choose how objects are found: by colour, or as a CGN trained end to end has taught.

    Args:
        cgn: The CGN.
        method: What trained it, as in the header of its weights.
        seed: Of the network that learns from its samples.
        folder: Where masks are kept.
        device: Where images are looked at.

    Returns:
        From images to where their objects are, (N, 1, H, W) bool.
    """
    if method != END_TO_END:
        return partial(object_masks, folder=folder, device=device)
    return partial(
        memo, segment_by_synthesis, cgn, seed=seed, folder=folder, device=device, store=TENSOR
    )


def load_released_cgn(generation: Generation) -> CGNGenerator:
    """Load the weights that the original authors published for a domain.

    Raises:
        ValueError: If they published none, or they have not been fetched.
    """
    cgn = load_released(released_weights(generation))
    return CGNGenerator(cgn, generation.workspace("samples of published weights"))


def released_weights(generation: Generation) -> Path:
    """Find the weights that the original authors published for a domain.

    Raises:
        ValueError: If they published none, or they have not been fetched.
    """
    path = data_folder() / RELEASED / f"{generation.world.name}.pth"
    if not path.is_file():
        raise ValueError(
            f"there are no published weights {path}; `data {RELEASED}` fetches those of the three "
            "MNISTs, and no others were published"
        )
    return path


def _seed_of_released(generation: Generation) -> None:
    """Require the published weights, whose seed nobody knows."""
    released_weights(generation)


def fit_paste(
    generation: Generation, *, true_masks: bool = False, own_texture: float = 0.0
) -> Paste:
    """Take a domain's images apart, to join their parts anew.

    Raises:
        ValueError: If true masks are asked for and not known.
    """
    world, biased = generation.world, generation.biased
    if true_masks and (biased.masks is None or world.masks_are_predicted):
        raise ValueError(f"the true masks of the training images of {world.name} are not known")
    masks = biased.masks > 0 if true_masks and biased.masks is not None else generation.masks()
    work = generation.workspace("recombined images")
    paste = paste_parts(biased, masks, len(world.classes), work)
    only_usable = world.masks_are_predicted  # of drawn images, failing is a result
    return replace(paste, true_masks=true_masks, own_texture=own_texture, only_usable=only_usable)


def paste_parts(images: ImageSet, masks: Tensor, n_classes: int, work: Workspace) -> Paste:
    """Take images apart by masks, (N, 1, H, W) bool, or open what the folder holds of them."""
    store = segmented_store(images, masks)
    with work.task() as update:
        segmented = memo(decompose, images, masks, progress=update, folder=work.folder, store=store)
    return Paste(segmented, n_classes, work)


@dataclass(frozen=True, eq=False)
class GANGenerator:
    """A GAN without factors: the labels of its images all follow the class.

    Attributes:
        gan: What draws.
        work: Where.
    """

    gan: GAN
    work: Workspace

    def sample(self, n: int, *, seed: int) -> ImageSet:
        """Draw images of uniformly drawn classes."""
        return memo(
            sample_gan,
            self.gan,
            n,
            seed=seed,
            device=self.work.device,
            folder=self.work.folder,
            store=IMAGES,
            n_bytes=3 * n * self.gan.size_px**2,
        )


def fit_gan(generation: Generation) -> GANGenerator:
    """Train a GAN as long as the domain's CGN, or take it from the cache."""
    world, folder = generation.world, generation.context.cache / "generated"
    n_classes = len(world.classes)
    config = replace(training_preset(world), seed=generation.seed)
    with generation.task("GAN") as update:
        gan = memo(
            train_gan,
            generation.biased,
            n_classes,
            config,
            device=generation.context.device,
            progress=update,
            folder=folder,
            store=gan_store(n_classes, generation.biased.size_px[1], config.width),
        )
    return GANGenerator(gan, Workspace(generation.context.device, folder))


def _weights(generation: Generation, method: str = "") -> Weights:
    """Find the weights of a CGN trained by a method."""
    return trained_cgn(
        generation.world, generation.source, generation.biased, generation.seed, method
    )


def _of_cgn(fit: Callable[..., Generator], method: str = "", **settings: float) -> GeneratorEntry:
    """Return the entry of a generator that a CGN trained by a method draws for."""
    return GeneratorEntry(
        partial(fit, method=method, **settings),
        lambda generation: _weights(generation, method).seed,
    )


GENERATORS = {
    "paste": GeneratorEntry(fit_paste),
    "paste:true-masks": GeneratorEntry(partial(fit_paste, true_masks=True), uses_true_masks=True),
    "paste:own-texture": GeneratorEntry(partial(fit_paste, own_texture=OWN_TEXTURE)),
    "cgn": _of_cgn(fit_cgn),
    "cgn-abduct": _of_cgn(fit_abducting_cgn),
    "cgn-abduct:drawn": _of_cgn(fit_abducting_cgn, swap_fraction=0.0),
    "cgn-abduct:borrowed": _of_cgn(fit_abducting_cgn, swap_fraction=1.0),
    "cgn-end-to-end": _of_cgn(fit_cgn, END_TO_END),
    "cgn-end-to-end-abduct": _of_cgn(fit_abducting_cgn, END_TO_END),
    "cgn-released": GeneratorEntry(load_released_cgn, _seed_of_released),
    "gan": GeneratorEntry(fit_gan, lambda generation: generation.seed),
}

# Kinds of training sets, each with the generator that draws it.
ABDUCTED = {
    "abducted": "cgn-abduct",
    "abducted:drawn": "cgn-abduct:drawn",
    "abducted:borrowed": "cgn-abduct:borrowed",
    "abducted:end-to-end": "cgn-end-to-end-abduct",
}
GENERATED_SETS = {
    "counterfactual": "cgn",
    "end-to-end": "cgn-end-to-end",
    "released": "cgn-released",
    "pasted": "paste",
    "pasted:true-masks": "paste:true-masks",
    "recombined": "paste:own-texture",
    "generated": "gan",
} | ABDUCTED
# Kinds whose generators do not come with the package: a user trains or fetches them.
NOT_BUNDLED = {"end-to-end", "abducted:end-to-end", "released"}


def _fit_user(generation: Generation, *, spec: str) -> Generator:
    """Fit a user's generator; what it is shown of the images is what rivals are told."""
    labels = generation.biased.factors
    factors = Factors.aligned(labels.shape).only(labels.known)
    images = replace(generation.biased, factors=factors, masks=None)
    fit, n_classes = load_user_generator(spec, GENERATORS), len(generation.world.classes)
    with generation.task(spec):
        return fit(images, n_classes, seed=generation.seed, device=generation.context.device)


def object_masks(images: ImageSet, folder: Path, device: torch.device | str = "cpu") -> Tensor:
    """Find the objects of training images by colour, or open the masks that the folder holds.

    Returns:
        (N, 1, H, W) bool.
    """
    pixels, labels = images.pixels, images.factors.shape
    return memo(segment_by_colour, pixels, labels, device=device, folder=folder, store=TENSOR)


def trained_cgn(
    world: TrainingDomain, source: DataSource, biased: ImageSet, seed: int, method: str = ""
) -> Weights:
    """Find the CGN whose images are for a seed of the classifier.

    Raises:
        ValueError: If there is none; the message has the command that trains one.
    """
    return find_weights(
        world.name,
        biased.sha256(),
        user_weights_dir(),
        source.name,
        source.correlation,
        seed=seed,
        method=method,
    )


def require_cgn(world: TrainingDomain, source: DataSource, progress: Progress) -> None:
    """Raise ValueError now, and not hours later, if there is no CGN of a domain's images."""
    with progress.task(f"{world.name}: training images"):
        biased = training_cached(world, "train", source, image_cache_dir())
    trained_cgn(world, source, biased, seed=0)


def training_preset(world: TrainingDomain) -> TrainConfig:
    """Settings of a domain's CGN where none are given, and of its GAN always."""
    return PRESETS.get(world.name, TrainConfig())
