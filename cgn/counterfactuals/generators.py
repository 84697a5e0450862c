"""What draws counterfactuals, behind one protocol: networks, copy and paste, a user's own.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021.
    https://arxiv.org/abs/2101.06046
    Xiao et al., Noise or Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021
    (objects pasted before other backgrounds). https://arxiv.org/abs/2006.09994
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cgn.counterfactuals.abduction import intervene, real_image_counterfactuals
from cgn.counterfactuals.recombination import SegmentedImages, recombine, repaint
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import IMAGES, ImageSet
from cgn.io.cache import memo
from cgn.models.cgn import CGN
from cgn.segmentation.by_colour import segment_by_colour


class Generator(Protocol):
    """Draws images whose labels of shape, texture and background are independent."""

    def sample(self, n: int, *, seed: int) -> ImageSet:
        """Draw `n` images with the labels that they were made with; the seed fixes them."""


@runtime_checkable
class SupportsSegmentation(Protocol):
    """A generator that tells where the objects of real images are."""

    def segment(self, images: ImageSet) -> Tensor:
        """Return where the objects are, (N, 1, H, W) bool."""


@runtime_checkable
class SupportsIntervention(Protocol):
    """A generator that gives real images another texture or background."""

    def intervene(self, images: ImageSet, factors: Factors, *, seed: int) -> ImageSet:
        """Make the counterfactuals of images.

        Args:
            images: The images, and the labels that their factors have now.
            factors: What to make of them, each (N,) int64; the shape's are those of the images.
            seed: Fixes what chance decides.

        Returns:
            As many images, in the same order. Where no label changes, the generator is asked for
            the image itself.
        """


class FitGenerator(Protocol):
    """A function, or a class whose constructor does it, that fits a generator."""

    def __call__(
        self, images: ImageSet, n_classes: int, *, seed: int, device: torch.device
    ) -> Generator:
        """Fit a generator to biased images.

        Args:
            images: The biased training set, without masks.
            n_classes: Number of classes.
            seed: Of the fit.
            device: Where it runs, and later the generator.
        """


Task = Callable[[], AbstractContextManager[Callable[[int, int], None]]]


def silent() -> AbstractContextManager[Callable[[int, int], None]]:
    """Show no progress."""
    return nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class Workspace:
    """Where a generator works.

    Attributes:
        device: Where images are drawn.
        folder: Where sets that were drawn are kept.
        task: Shows drawing while its context is open; what it yields is called with images done
            and images in all.
    """

    device: torch.device
    folder: Path
    task: Task = silent


@dataclass(frozen=True, eq=False)
class CGNGenerator:
    """A CGN that only samples.

    Attributes:
        cgn: Its mechanisms draw the images.
        work: Where.
    """

    cgn: CGN
    work: Workspace

    def sample(self, n: int, *, seed: int) -> ImageSet:
        """Draw samples, or open those that the folder holds."""
        with self.work.task() as update:
            return memo(
                sample,
                self.cgn,
                n,
                seed=seed,
                device=self.work.device,
                progress=update,
                folder=self.work.folder,
                store=IMAGES,
                n_bytes=_n_bytes(self.cgn, n),
            )


@dataclass(frozen=True, eq=False)
class SegmentingCGN(CGNGenerator):
    """A CGN that also acts on real images.

    Attributes:
        segmentation: Finds the objects of images, (N, 1, H, W) bool.
    """

    segmentation: Callable[[ImageSet], Tensor]

    def segment(self, images: ImageSet) -> Tensor:
        """Find the objects."""
        return self.segmentation(images)

    def intervene(self, images: ImageSet, factors: Factors, *, seed: int) -> ImageSet:
        """Let the mechanisms draw the textures and backgrounds whose labels change."""
        return intervene(
            self.cgn,
            images,
            self.segment(images),
            factors,
            generator=torch.Generator().manual_seed(seed),
            device=self.work.device,
        )


@dataclass(frozen=True, eq=False)
class AbductingCGN(SegmentingCGN):
    """A CGN that draws counterfactuals of its training images.

    Attributes:
        images: The training images.
        masks: Where their objects were found, (N, 1, H, W) bool.
        swap_fraction: Share of the counterfactuals that take surface and background from other
            training images.
    """

    images: ImageSet
    masks: Tensor
    swap_fraction: float

    def sample(self, n: int, *, seed: int) -> ImageSet:
        """Make counterfactuals of training images, or open those that the folder holds."""
        with self.work.task() as update:
            return memo(
                real_image_counterfactuals,
                self.cgn,
                self.images,
                self.masks,
                n,
                seed=seed,
                swap_fraction=self.swap_fraction,
                device=self.work.device,
                progress=update,
                folder=self.work.folder,
                store=IMAGES,
                n_bytes=_n_bytes(self.cgn, n),
            )


@dataclass(frozen=True, eq=False)
class Paste:
    """Copy and paste: parts of different training images, joined without a network.

    An object keeps its outline, gets a mirrored square of another object as its texture, and is
    pasted onto the inpainted background of a third image.

    Attributes:
        segmented: The training images, taken apart.
        n_classes: Number of classes.
        work: Where images are composed.
        true_masks: Whether the objects of images are where their true masks say; else they are
            segmented by colour.
        own_texture: Share of the samples whose object keeps its own surface.
        only_usable: Whether a class in which no object was found is an error; else its images give
            their parts as they are, and the samples are as bad.
    """

    segmented: SegmentedImages
    n_classes: int
    work: Workspace
    true_masks: bool = False
    own_texture: float = 0.0
    only_usable: bool = False

    def sample(self, n: int, *, seed: int) -> ImageSet:
        """Join parts of training images, or open what the folder holds.

        A factor that the training images have no label of has none here either.
        """
        height, width = self.segmented.images.size_px
        with self.work.task() as update:
            images = memo(
                recombine,
                self.segmented,
                n,
                n_classes=self.n_classes,
                seed=seed,
                own_texture=self.own_texture,
                only_usable=self.only_usable,
                device=self.work.device,
                progress=update,
                folder=self.work.folder,
                store=IMAGES,
                n_bytes=4 * n * height * width,  # with masks
            )
        return replace(images, factors=images.factors.only(self.segmented.images.factors.known))

    def segment(self, images: ImageSet) -> Tensor:
        """Open the true masks, or find the objects by colour.

        Raises:
            ValueError: If true masks are asked for and not known.
        """
        if not self.true_masks:
            return segment_by_colour(images.pixels, images.factors.shape, device=self.work.device)
        if images.masks is None:
            raise ValueError("the true masks of these images are not known")
        return images.masks > 0

    def intervene(self, images: ImageSet, factors: Factors, *, seed: int) -> ImageSet:
        """Give images the textures and backgrounds of training images."""
        return repaint(
            self.segmented,
            images,
            self.segment(images),
            factors,
            seed=seed,
            only_usable=self.only_usable,
            device=self.work.device,
        )


def _n_bytes(cgn: CGN, n: int) -> int:
    """Bytes of a set of images with masks."""
    return 4 * n * cgn.config.image_size_px**2
