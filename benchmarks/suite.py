"""What a suite is: fixed test variants, a protocol and scores; and what a world is.

The suites themselves stand in `benchmarks.SUITES`, how a score is computed in
`benchmarks.scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """

    folder: Path | None = None
    textures: Path | None = None

    @property
    def name(self) -> str:
        """How rows of this source are marked: rows of different sources share no table."""
        digits = "embedded" if self.folder is None else "official"
        return digits if self.textures is None else f"{digits}+textures"


EMBEDDED = DataSource()


@dataclass(frozen=True, kw_only=True)
class World:
    """Training data shared by suites: what classifiers and the CGN are fitted on.

    Attributes:
        name: The world's name, also that of its CGN weights.
        classes: Names of the classes, in the order of their labels.
        image_size_px: Height and width of every image.
        train: The biased training set: all factors follow the label.
        unbiased: The training shapes with true, independent factors: what the oracle trains on.
    """

    name: str
    classes: tuple[str, ...]
    image_size_px: int
    train: Callable[[DataSource], ImageSet]
    unbiased: Callable[[DataSource], ImageSet]


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
    """

    name: str
    asks: str
    protocol: str
    world: World
    variants: Callable[[DataSource], dict[str, ImageSet]]
    scores: tuple[Score, ...]
    primary: str
    standard: str | None = None

    def __post_init__(self) -> None:
        keys = [score.key for score in self.scores]
        named = {self.primary} | ({self.standard} - {None})
        if len(set(keys)) != len(keys) or not named <= set(keys):
            raise ValueError(
                f"suite {self.name}: {sorted(map(str, named))} must be among its scores {keys}"
            )
