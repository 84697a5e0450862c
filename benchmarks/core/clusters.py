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


def sums_by(groups: pd.Index | pd.Series, table: pd.DataFrame) -> pd.DataFrame:
    """Sum the rows of a table by group, as pandas does and faster.

    Args:
        groups: Of each row, (N,).
        table: Numbers of one type, N rows.

    Returns:
        A table of sums, indexed by the groups in their order.

    Example:
        >>> sums_by(pd.Index([7, 5, 7]), pd.DataFrame({"hits": [1, 0, 1]}))["hits"].to_dict()
        {5: 0, 7: 2}
    """
    keys, values = groups.to_numpy(), table.to_numpy()
    if not (keys[1:] >= keys[:-1]).all():
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
    is_first = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    if not is_first.all():
        if not np.issubdtype(values.dtype, np.integer):
            return table.set_axis(pd.Index(groups)).groupby(level=0).sum()  # which rounds less
        starts = np.flatnonzero(is_first)
        keys, values = keys[starts], np.add.reduceat(values, starts)
    return pd.DataFrame(values, index=keys, columns=table.columns)
