"""What a suite is: fixed test variants, a protocol and scores; and what a world is.

The suites themselves stand in `benchmarks.SUITES`, how a score is computed in
`benchmarks.core.scores`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import pandas as pd
from torch import Tensor, nn

from benchmarks.core.clusters import EACH_ID, Clustering
from benchmarks.core.context import RunContext
from benchmarks.core.material import Material
from benchmarks.core.scores import Score
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import Preprocessing

DecisionRule = Callable[[Tensor], Tensor]
Column = Callable[[Tensor, Factors], Tensor]


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
        custom: Whether the folder holds other data than what was published, in its layout.

    Raises:
        ValueError: If the correlation is out of its range.
    """

    folder: Path | None = None
    textures: Path | None = None
    correlation: float = 1.0
    custom: bool = False

    def __post_init__(self) -> None:
        if not 0.1 < self.correlation <= 1:
            raise ValueError(f"the correlation must lie in (0.1, 1], got {self.correlation}")

    @property
    def name(self) -> str:
        """How rows of this source are marked: rows of different sources share no table."""
        digits = "embedded" if self.folder is None else "custom" if self.custom else "official"
        return digits if self.textures is None else f"{digits}+textures"


EMBEDDED = DataSource()
PART = "-part"  # ends the source of rows on a part of the official images


def format_model_id(model: str, correlation: float) -> str:
    """Name a model after the training images it saw, if they are not the usual ones.

    Args:
        model: Its plain name.
        correlation: As in `DataSource`.

    Example:
        >>> format_model_id("cgn", 0.99), format_model_id("cgn", 1.0)
        ('cgn@0.99', 'cgn')
    """
    return model if correlation == 1 else f"{model}@{correlation}"


def parse_model_id(model: str) -> tuple[str, float]:
    """Tell a model and the correlation of its training images from its name in results.

    Example:
        >>> parse_model_id("cgn@0.99"), parse_model_id("cgn-ensemble@0.9/shape")
        (('cgn', 0.99), ('cgn-ensemble/shape', 0.9))
        >>> parse_model_id("tv:vgg16@V1")
        ('tv:vgg16@V1', 1.0)
    """
    name, slash, head = model.partition("/")
    match = re.fullmatch(r"(.*)@(0?\.\d+)", name)
    plain, correlation = (match[1], float(match[2])) if match else (name, 1.0)
    return plain + slash + head, correlation


@dataclass(frozen=True, kw_only=True)
class TrainingDomain:
    """Training data shared by suites: what classifiers and the CGN are fitted on.

    Attributes:
        name: The world's name, also that of its CGN weights.
        classes: Names of the classes, in the order of their labels.
        image_size_px: Height and width of every image.
        train: The biased training set: all factors follow the label, as closely as the source says.
        unbiased: The training shapes with true, independent factors: what the oracle trains on.
        true_counterfactuals: True counterfactuals of the biased images at correlation 1, in the
            same order, by
            action: `do_texture` and `do_background` give every class the label of the next one.
            For measuring only; empty where they are not known.
        supports_correlation: Whether `train` takes a `DataSource.correlation` below 1.
        fingerprint: Hash of the user's raw material and of the code that makes images of it, under
            which they are kept; None for material that is read each time.
        is_official: Whether a source's folder holds what was published; its rows are marked
            `custom` where it does not.
        masks_are_predicted: Whether the masks of `train` were found in the images, so that models
            may be trained on them, and are not the truth.
        data_folder: Name of the official data's folder within the data folder; None if each suite
            has its own.
        official_files: What a user puts there, in words; empty if the images are drawn.
        takes_textures: Whether `DataSource.textures` counts.
        material: Where the embedded images come from; None if there are none.
    """

    name: str
    classes: tuple[str, ...]
    image_size_px: int
    train: Callable[[DataSource], ImageSet]
    unbiased: Callable[[DataSource], ImageSet]
    true_counterfactuals: Callable[[DataSource], dict[str, ImageSet]] = lambda source: {}
    supports_correlation: bool = False
    fingerprint: Callable[[DataSource], str] | None = None
    is_official: Callable[[DataSource], bool] = lambda source: True
    masks_are_predicted: bool = False
    data_folder: str | None = None
    official_files: str = ""
    takes_textures: bool = False
    material: Material | None = None


@dataclass(frozen=True, kw_only=True)
class InputOverride:
    """How a network is shown a suite's images, where a protocol has it otherwise than the suite.

    Attributes:
        name: Marks the predictions made so, in the names of their files.
        preprocessing: How all networks' images are resized and cropped; None as in the suite.
        normalisation: Mean and deviation by channel that take the place of the network's own; None
            leaves it its own.
    """

    name: str
    preprocessing: Preprocessing | None = None
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Another way to score a suite that is in use, or tells how much its own way matters.

    Attributes:
        name: As it stands in results.
        about: What it does otherwise.
        column: Which decisions count, a column of the predictions.
        view: How images are shown; None as the suite itself does.
        predictions_protocol: As in `Suite`, for a protocol with a view.
        batch_size: If given, images are counted as if the last batch had been full, and what it
            lacks as misread.
    """

    name: str
    about: str
    column: str = "prediction"
    view: InputOverride | None = None
    predictions_protocol: str | None = None
    batch_size: int | None = None

    def adjust(self, score: Score) -> Score:
        """Compute a score as this protocol does.

        Example:
            >>> from benchmarks.core.scores import accuracy
            >>> seen = pd.DataFrame({"variant": "v", "id": range(6), "shape": 1, "prediction": 1})
            >>> by_fours = Protocol(name="p", about="", batch_size=4)
            >>> by_fours.adjust(accuracy("v", chance=0.5)).compute(seen).value  # 6 of 8
            0.75
        """

        def count(predictions: pd.DataFrame) -> pd.DataFrame:
            decided = predictions.assign(prediction=predictions[self.column])
            counts = score.count(decided)
            if self.batch_size is None:
                return counts
            n_images = int(predictions["variant"].eq(score.variant.partition("-")[0]).sum())
            misread = np.tile([0, 1], (-n_images % self.batch_size, counts.shape[1] // 2))
            return pd.DataFrame(np.vstack([counts.to_numpy(), misread]))

        return replace(score, count=count)


class Evaluation(Interface):
    """A suite's own way to get predictions, where what is seen next depends on what was answered.

    It runs in one process, and keeps what it has found itself.
    """

    def __call__(
        self, test: TestSet, module: nn.Module, name: str, context: RunContext
    ) -> tuple[pd.DataFrame, float]:
        """Evaluate a module, shown as `name`; predictions, and images per second."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A question, the images that ask it, and the scores that answer it.

    Attributes:
        name: Name on the command line and in results.
        question: The question in one sentence.
        protocol: Version of everything that can move a number; rows of different protocols are
            never compared.
        world: What the suite's own classifiers are trained on.
        variants: The test sets by name; the same source gives the same bytes everywhere.
        scores: What is computed from the predictions.
        diagnostics: Further scores under its own protocol, which explain and rank nothing: models
            are not compared by them, and the protocol's version does not depend on them.
        primary: Key of the score that ranks the leaderboard.
        standard: Key of the score on ordinary images, which the primary one is held against;
            None if the suite has none.
        embedded: Whether its test images can be made without any data of the user's.
        decision_rule: From ImageNet logits (B, 1000) to how much speaks for each of the suite's
            classes, (B, C) or more columns in [0, 1]; the largest decides. None where logits are of
            the world's classes themselves.
        own_preprocessing: Whether images are resized and cropped as each model asks for.
        n_images: How many images the official variants have, by name; empty if it does not matter.
        reference_variant: The variant in which objects are as they were before the others changed
            them, in the same order. None if nothing is changed.
        columns: What else predictions say of each image, by name, see
            `benchmarks.records.predictions`: from logits (B, C) and labels to numbers (B,). The
            labels are the image's own, or, if `reference_variant` is given, those that its object
            has there.
        fingerprint: As in `TrainingDomain`, for the variants.
        protocols: Other ways to score the suite.
        view: How images are shown if not as the above says.
        class_outputs: One of ImageNet's outputs for each class of the suite that a network may
            know by name, where any of them decides for the class.
        predictions_protocol: The protocol under which the predictions are kept that are scored
            here; None if it is `protocol`. An older one if only scores or intervals have changed
            since, so that its predictions need no model to be scored anew.
        clustering: Which test images depend on one another, because they show the same object.
    """

    name: str
    question: str
    protocol: str
    world: TrainingDomain
    variants: Callable[[DataSource], dict[str, ImageSet]]
    scores: tuple[Score, ...]
    diagnostics: tuple[Score, ...] = ()
    primary: str
    standard: str | None = None
    embedded: bool = True
    decision_rule: Callable[[Tensor], Tensor] | None = None
    own_preprocessing: bool = False
    n_images: Mapping[str, int] = field(default_factory=dict)
    reference_variant: str | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    fingerprint: Callable[[DataSource], str] | None = None
    protocols: tuple[Protocol, ...] = ()
    view: InputOverride | None = None
    class_outputs: Mapping[str, int] = field(default_factory=dict)
    predictions_protocol: str | None = None
    evaluation: Evaluation | None = None
    data_folder: str | None = None
    clustering: Clustering = EACH_ID

    @property
    def all_scores(self) -> tuple[Score, ...]:
        """Its scores, then the diagnostics."""
        return (*self.scores, *self.diagnostics)

    @property
    def official_folder(self) -> str:
        """Name of the folder of its official data within the data folder."""
        return self.data_folder or self.world.data_folder or self.name

    @property
    def official(self) -> bool:
        """Whether it asks networks with ImageNet's 1,000 outputs about images of the user's."""
        return self.decision_rule is not None

    def with_protocol(self, name: str) -> Suite:
        """Return the suite as another of its protocols has it.

        Args:
            name: The protocol; the suite's own gives the suite itself.

        Raises:
            ValueError: If it has no such protocol.
        """
        if name == self.protocol:
            return self
        known = {protocol.name: protocol for protocol in self.protocols}
        if name not in known:
            raise ValueError(
                f"{self.name} has no protocol {name!r}, only {', '.join(self.protocol_names)}"
            )
        chosen = known[name]
        same_view = [each for each in self.protocols if each.view == chosen.view]
        kept_as = same_view[0].predictions_protocol or same_view[0].name
        return replace(
            self,
            protocol=name,
            scores=tuple(chosen.adjust(score) for score in self.scores),
            diagnostics=(),
            view=chosen.view,
            predictions_protocol=self.kept_as if chosen.view is None else kept_as,
        )

    @property
    def protocol_names(self) -> list[str]:
        """Its own protocol, then the others."""
        return [self.protocol, *(protocol.name for protocol in self.protocols)]

    @property
    def kept_as(self) -> str:
        """The protocol that its predictions are kept as."""
        return self.predictions_protocol or self.protocol

    @property
    def view_name(self) -> str:
        """Name of its view; empty if images are shown as the suite itself does."""
        return self.view.name if self.view else ""

    def compatible_protocols(self, name: str, columns: Iterable[str] | None = None) -> list[Suite]:
        """Return the suite under each protocol that the same predictions can be scored under.

        Args:
            name: The protocol under which they are kept.
            columns: What they say of each image; None for all that is ever said.
        """
        needs = {protocol.name: protocol.column for protocol in self.protocols}
        every = [self.with_protocol(each) for each in self.protocol_names]
        return [
            suite
            for suite in every
            if suite.kept_as == name
            and (columns is None or needs.get(suite.protocol, "prediction") in columns)
        ]

    def __post_init__(self) -> None:
        for name in ("scores", "diagnostics"):
            own = (replace(score, clustering=self.clustering) for score in getattr(self, name))
            object.__setattr__(self, name, tuple(own))
        keys = [score.key for score in self.all_scores]
        named = {self.primary} | ({self.standard} - {None})
        if len(set(keys)) != len(keys) or not named <= set(keys):
            raise ValueError(
                f"suite {self.name}: {sorted(map(str, named))} must be among its scores {keys}"
            )


@dataclass(frozen=True)
class TestSet:
    """A suite with its test images read and hashed, under one of its protocols.

    Attributes:
        suite: The suite under its own protocol.
        source: Where the images come from.
        variants: Image sets by name.
        data_sha256: Hash of all of them; empty in processes that write no rows.
        protocol: Name and version of the protocol.
    """

    suite: Suite
    source: DataSource
    variants: dict[str, ImageSet]
    data_sha256: str
    protocol: str

    @property
    def shown(self) -> Suite:
        """The suite under the protocol."""
        return self.suite.with_protocol(self.protocol)

    @property
    def source_name(self) -> str:
        """Name of the source in rows; rows on a part of the official images have another."""
        counts = {name: len(images) for name, images in self.variants.items()}
        whole = not self.suite.n_images or counts == self.suite.n_images
        return self.source.name if whole else f"{self.source.name}{PART}"
