"""From predictions to scores with intervals.

Predictions are a table, one row an image: variant, id, shape, texture, background, prediction.
A `Score` reads such a table of one model, one seed and one suite, and gives an `Estimate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd


class Estimate(NamedTuple):
    """A value with its 95 % interval; fractions, never percent; n is the number of images."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a suite.

    Attributes:
        variant: The test variant it is read from, or the names joined by "-" if from several.
        metric: Its name among the scores of that variant.
        compute: From predictions to the estimate.
        higher_is_better: Which way is good.
        chance: What guessing gives.
    """

    variant: str
    metric: str
    compute: Callable[[pd.DataFrame], Estimate]
    higher_is_better: bool = True
    chance: float

    @property
    def key(self) -> str:
        """The score's column in a leaderboard."""
        return f"{self.variant}_{self.metric}"
