"""Which test images depend on one another: those that show the same object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """How a suite's test images fall into clusters of dependent ones.

    Attributes:
        unit: What the images of a cluster share, in a word: "digit", "drawing", "photograph".
        of: From the ids of images to their clusters, both (N,) int64; None if images of the same
            cluster have the same id.
    """

    unit: str
    of: Callable[[Ids], Ids] | None = None

    def clusters(self, ids: pd.Index | pd.Series) -> pd.Index:
        """Return the cluster of each id.

        Example:
            >>> drawings = Clustering(unit="drawing", of=lambda ids: ids // 1000)
            >>> drawings.clusters(pd.Index([7000, 7001, 8000])).tolist()
            [7, 7, 8]
        """
        return pd.Index(ids if self.of is None else self.of(np.asarray(ids)))


EACH_ID = Clustering(unit="object")
