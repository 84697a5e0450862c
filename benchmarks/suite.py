"""What a suite is: fixed test variants, a protocol and scores; and what a world is.

The suites themselves stand in `benchmarks.SUITES`, how a score is computed in
`benchmarks.scores`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from benchmarks.scores import Score
from cgn.images import ImageSet


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where the raw material of a world comes from.

    Attributes:
        folder: The user's folder in the official layout; None for the data that comes with the
            installed packages.
        textures: A folder with `object/*.jpg` and `background/*.jpg`, for wildlife MNIST; None
            for procedural textures.
        correlation: How closely texture and background follow the class in the training images,
            rho in (0.1, 1]: each of them on its own is of the image's class with probability rho,
            else of one of the other classes, all alike. At 1 nothing but the class decides;
            at 0.1, with ten classes, nothing but chance would. Test images do not depend on it.

    Raises:
        ValueError: If the correlation is out of its range.
    """

    folder: Path | None = None
    textures: Path | None = None
    correlation: float = 1.0

    def __post_init__(self) -> None:
        if not 0.1 < self.correlation <= 1:
            raise ValueError(f"the correlation must lie in (0.1, 1], got {self.correlation}")

    @property
    def name(self) -> str:
        """How rows of this source are marked: rows of different sources share no table."""
        digits = "embedded" if self.folder is None else "official"
        return digits if self.textures is None else f"{digits}+textures"


EMBEDDED = DataSource()


def marked(model: str, correlation: float) -> str:
    """Name a model after the training images it saw, if they are not the usual ones.

    Args:
        model: Its plain name.
        correlation: As in `DataSource`.

    Example:
        >>> marked("cgn", 0.99), marked("cgn", 1.0)
        ('cgn@0.99', 'cgn')
    """
    return model if correlation == 1 else f"{model}@{correlation}"


def unmarked(model: str) -> tuple[str, float]:
    """Tell a model and the correlation of its training images from its name in results.

    Example:
        >>> unmarked("cgn@0.99"), unmarked("cgn-ensemble@0.9/shape"), unmarked("tv:vgg16@V1")
        (('cgn', 0.99), ('cgn-ensemble/shape', 0.9), ('tv:vgg16@V1', 1.0))
    """
    name, slash, head = model.partition("/")
    match = re.fullmatch(r"(.*)@(0?\.\d+)", name)
    plain, correlation = (match[1], float(match[2])) if match else (name, 1.0)
    return plain + slash + head, correlation


@dataclass(frozen=True, kw_only=True)
class World:
    """Training data shared by suites: what classifiers and the CGN are fitted on.

    Attributes:
        name: The world's name, also that of its CGN weights.
        classes: Names of the classes, in the order of their labels.
        image_size_px: Height and width of every image.
        train: The biased training set: all factors follow the label, as closely as the source says.
        unbiased: The training shapes with true, independent factors: what the oracle trains on.
        exact: True counterfactuals of the biased images at correlation 1, in the same order, by
            action: `do_texture` and `do_background` give every class the label of the next one.
            For measuring only; empty where they are not known.
        correlates: Whether `train` takes a `DataSource.correlation` below 1.
        fingerprint: Hash of the user's raw material and of the code that makes images of it, under
            which they are kept; None for material that is read each time.
        masks_found: Whether the masks of `train` were found in the images, so that models may be
            trained on them, and are not the truth.
    """

    name: str
    classes: tuple[str, ...]
    image_size_px: int
    train: Callable[[DataSource], ImageSet]
    unbiased: Callable[[DataSource], ImageSet]
    exact: Callable[[DataSource], dict[str, ImageSet]] = lambda source: {}
    correlates: bool = False
    fingerprint: Callable[[DataSource], str] | None = None
    masks_found: bool = False


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A question, the images that ask it, and the scores that answer it.

    Attributes:
        name: Name on the command line and in results.
        asks: The question in one sentence.
        protocol: Version of everything that can move a number; rows of different protocols are
            never compared.
        world: What the suite's own classifiers are trained on.
        variants: The test sets by name; the same source gives the same bytes everywhere.
        scores: What is computed from the predictions.
        primary: Key of the score that ranks the leaderboard.
        standard: Key of the score on ordinary images, which the primary one is held against;
            None if the suite has none.
        embedded: Whether its test images can be made without any data of the user's.
        decide: From ImageNet logits (B, 1000) to how much speaks for each of the suite's classes,
            (B, C) or more columns in [0, 1]; the largest decides. None where logits are of the
            world's classes themselves.
        own_preprocessing: Whether images are resized and cropped as each model asks for.
        n_images: How many images the official variants have, by name; empty if it does not matter.
        unchanged: The variant in which objects are as they were before the others changed them,
            in the same order: predictions then also tell how probable each image makes the
            classes that its object has there. None if nothing is changed.
        fingerprint: As in `World`, for the variants.
    """

    name: str
    asks: str
    protocol: str
    world: World
    variants: Callable[[DataSource], dict[str, ImageSet]]
    scores: tuple[Score, ...]
    primary: str
    standard: str | None = None
    embedded: bool = True
    decide: Callable[[Tensor], Tensor] | None = None
    own_preprocessing: bool = False
    n_images: Mapping[str, int] = field(default_factory=dict)
    unchanged: str | None = None
    fingerprint: Callable[[DataSource], str] | None = None

    def __post_init__(self) -> None:
        keys = [score.key for score in self.scores]
        named = {self.primary} | ({self.standard} - {None})
        if len(set(keys)) != len(keys) or not named <= set(keys):
            raise ValueError(
                f"suite {self.name}: {sorted(map(str, named))} must be among its scores {keys}"
            )
